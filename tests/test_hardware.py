"""Hardware profiles: what loads, how a bad one is refused, and what the schema says."""

import json
import math
import re
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiq import hardware
from aiq.cost import shape
from aiq.errors import HardwareError
from aiq.formats import parse as parse_format
from aiq.graph import Op
from aiq.hardware import Hardware, strictyaml

README = (Path(__file__).parent.parent / "docs" / "profiles.md").read_text()
SCHEMA = json.loads((hardware.builtin_folder() / "schema.json").read_text())
NAMES = sorted(path.stem for path in hardware.builtin_folder().glob("*.yaml"))

MACHINE = """
schema: aiq/hw-profile/v1
name: toy
description: A machine with every key.
provenance:
  method: mixed
  date: 2026-01-31
  sources: [none]
  machine: {cpu: Toy, cores: 2, isa: [avx2], packages: {torch: "2.15"}, hypervisor: null}
threads: 2
compute:
  fp32: {peak_gflops: 90, spec_gflops: 96, isa: avx, formula: 2 cores x 3 GHz x 16 FLOP/cycle}
  int8: {peak_gflops: 400}
memory:
  - {level: L2, size_kib: 64, read_gbps: 100}
  - {level: DRAM, size_kib: 1e6, read_gbps: 9, spec_gbps: 9.6, formula: 1.2 GT/s x 8 byte}
parallel_efficiency: {fp32: 0.97, DRAM: 0.6}
runtimes:
  inductor:
    version: "torch 2.15"
    run_overhead_us: 7
    formats:
      fp32: {support: native, runs_as: fp32}
      bf16: {support: none, runs_as: fp32}
      wN: {support: dequant, runs_as: fp32}
    kernels:
      conv:
        fp32: {start_us: 2, compute: 0.5, memory: 0.5, output_ns: 1}
        int8: {start_us: 4, compute: 0.2, memory: 1, output_ns: 0}
    boundaries: {fp32_to_int8: {start_us: 10, memory: 1, output_ns: 0}}
    fuses: [pool, layout]
    fit: {samples: 10, noise: 0.01, mape: 0.05, low: 0.9, high: 1.2}
"""


def refusal(text):
    """Return the message with which `text` is refused: one line that starts with the file."""
    with pytest.raises(HardwareError) as error:
        hardware.parse_profile(text, "bad.yaml")
    message = str(error.value)
    assert message.startswith("bad.yaml: ")
    assert message.endswith(".")
    assert message.isprintable()
    assert len(message) < 500
    return message


def test_builtin_profile_has_the_measured_roofs():
    xeon = Hardware.load("xeon_2vcpu_roofs")
    assert xeon.threads == 2
    assert xeon.peak_gflops == {"fp32": 480, "bf16": 7240, "int8": 14100}
    assert xeon.dram_gbps == 32.7
    assert xeon.peak(parse_format("w4a8").compute) == 14100


def test_the_machines_people_ask_for_are_there():
    assert len(NAMES) >= 14
    assert {
        "xeon_2vcpu", "xeon_2vcpu_roofs", "xeon_sapphire_rapids", "xeon_icelake", "epyc_genoa",
        "graviton3", "raspberry_pi_5", "apple_m1", "t4", "l4", "a100", "h100", "rtx_4090",
        "jetson_orin_nano", "cortex_m7",
    } <= set(NAMES)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_profile_is_valid_and_named_after_its_file(name):
    profile = Hardware.load(name)
    assert profile.name == name
    assert hardware.parse_profile(hardware.to_yaml(profile), name) == profile
    measured = profile.provenance["method"] == "measured" and profile.runtimes
    for dtype in profile.peak_gflops:
        assert measured or profile.specification[dtype].formula, f"no derivation of {dtype}"


def test_a_profile_survives_saving_whole(tmp_path):
    toy = hardware.parse_profile(MACHINE, "toy.yaml")
    assert toy.specification["fp32"].spec_gflops == 96
    assert toy.specification["fp32"].isa == "avx"
    assert toy.memory[1].spec_gbps == 9.6
    assert toy.provenance["date"] == "2026-01-31"
    assert toy.runtimes["inductor"].fuses == ("pool", "layout")
    toy.save(tmp_path / "toy.yaml")
    assert Hardware.load(tmp_path / "toy.yaml") == toy
    document = hardware.to_document(toy)
    assert json.loads(json.dumps(document)) == document
    assert document["runtimes"]["inductor"]["formats"]["wN"]["support"] == "dequant"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("read_gbps: 100", "read_gbps: -1", ["memory.0.read_gbps", "-1", "greater than 0"]),
        ("read_gbps: 100", "read_gbps: 5", ["memory.0.read_gbps", "at least the 9"]),
        ("size_kib: 64,", "size_kib: 9e9,", ["memory.0.size_kib", "less than the 1e+06"]),
        ("level: L2", "level: DRAM", ["memory.0.level", "twice"]),
        ("threads: 2", "threads: two", ["threads", '"two"', "a whole number"]),
        ("threads: 2", "threads: true", ["threads", "true", "a whole number"]),
        ("threads: 2", "threads: 0", ["threads", "at least 1"]),
        ("threads: 2\n", "", ["key threads is missing"]),
        ("peak_gflops: 90", "peak: 90", ["compute.fp32.peak", "unknown", "peak_gflops"]),
        ("peak_gflops: 90", "peak_gflops: 90 G", ["compute.fp32.peak_gflops", "without a unit"]),
        ("peak_gflops: 90", "peak_gflops: 110", ["compute.fp32.peak_gflops", "at most the 96"]),
        ("x 16 FLOP", "x 32 FLOP", ["compute.fp32.formula", "192", "96 of spec_gflops"]),
        ("2 cores x 3", "two cores x 3", ["compute.fp32.formula", "96 cores x 2.4 GHz"]),
        ("1.2 GT/s", "2 GT/s", ["memory.1.formula", "16", "9.6 of spec_gbps"]),
        ("int8: {peak", "fp64: {peak", ["compute.fp64", "unknown", "bf16"]),
        ("  int8: {peak_gflops: 400}\n", "", ["kernels.conv.int8", "compute.int8.peak_gflops"]),
        ("runs_as: fp32}\n      bf16", "runs_as: bf16}\n      bf16", ["formats.fp32", "bf16.peak"]),
        ("fp32: {peak", "fp16: {peak", ["compute.fp32 is missing"]),
        ("conv:", "convolution:", ["convolution", "expected one of", "pointwise"]),
        ("[pool, layout]", "[pool, relu]", ["fuses.1", "relu", "activation"]),
        ("support: dequant", "support: maybe", ["formats.wN.support", "emulated"]),
        ("fp32: 0.97", "L2: 0.97", ["parallel_efficiency", "L2", "DRAM"]),
        ("2026-01-31", "2026-02-31", ["provenance.date", "day of the calendar"]),
        ("2026-01-31", "31.1.2026", ["provenance.date", "a date like 2026-11-21"]),
        ("name: toy", "name: My Toy", ["name", "My Toy", "lower case letters"]),
        ("name: toy", 'name: "toy\\n"', ["name", "lower case letters"]),
        ("A machine with", '"\\e[31mA machine with', ["not YAML"]),
        ("description: A machine with every key.", 'description: "\\e[2J"', ["text on one line"]),
        ("description: A machine with every key.", 'description: "\\ud800"', ["text on one line"]),
        ("threads: 2", "threads: 2\nthreads: 2", ["repeats the key 'threads'"]),
        ("threads: 2", "threads: [2", ["not YAML"]),
        ("  method", "\tmethod", ["not YAML", "line 6", "cannot start any token"]),
        ("sources: [none]", "sources:\n    - clock: data sheet", ["sources.0", "in quotes"]),
        ("threads: 2", "threads: 2\n2: 3", ["key 2", "expected a word"]),
        ("threads: 2", 'threads: 2\n"a\\nb": 3', ["key 'a\\nb' is unknown"]),
        ("threads: 2", f"threads: 2\n{'k' * 900}: 3", ["kkk", "unknown"]),
        ("threads: 2", f"threads: {'9' * 9000}", ["20 digits"]),
        ("hw-profile/v1", "hw-profile/v9", ["schema", "aiq/hw-profile/v1"]),
        ("peak_gflops: 90", "peak_gflops: .nan", ["finite"]),
        ("peak_gflops: 90", "peak_gflops: .inf", ["finite"]),
        ("peak_gflops: 90", "peak_gflops: 1e999", ["finite"]),
        ("threads: 2", "threads: &x 2\nagain: *x", ["alias"]),
        ("threads: 2", "threads: !!python/name:os.system 2", ["tag"]),
        ("threads: 2", "threads: !!timestamp 2", ["tag"]),
    ],
)
def test_a_bad_profile_is_one_sentence_with_file_and_key(old, new, words):
    assert old in MACHINE
    message = refusal(MACHINE.replace(old, new, 1))
    for word in words:
        assert word in message


LAUGHS = "a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "just words", "a: " * 5, "\x00", "--- 1\n--- 2", LAUGHS, "[" * 20_000,
        "- " * 9_000, "{a: " * 20_000, "? " * 20_000, "a:\n" * 20_000, "!!set {a, b}",
        "&a [*a]", "%TAG ! tag:yaml.org,2002:python/\n---\n!name:os.system 1", "'" + "x" * 100_000,
        "\n".join(f"k{i}: {i}" for i in range(20_000)), "1" * 200_000, "<<: {schema: x}",
    ],
    ids=lambda text: f"{text[:12]!r}-{len(text)}",
)  # fmt: skip
def test_hostile_text_is_refused_at_once(text):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def outcome(text):
    """Return the profile in `text`, or the message with which it is refused."""
    try:
        return hardware.parse_profile(text, "f.yaml")
    except HardwareError as error:
        return str(error)


def test_half_a_profile_is_refused():
    optional = range(MACHINE.index("\n  - {level: DRAM"), MACHINE.index("\nruntimes:") + 1)
    for end in range(0, len(MACHINE) - 1, 3):
        found = outcome(MACHINE[:end])
        if isinstance(found, str):
            assert "\n" not in found
        else:  # without what may be left out it is whole
            assert end in optional
            assert not found.runtimes


LINES = MACHINE.splitlines()


@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(LINES) - 1),
            st.sampled_from(["delete", "repeat", "swap", "insert", "value"]),
            st.text(max_size=12)
            | st.sampled_from(["{", "]", ": ", "*a", "&a ", "!!x ", "- ", "~"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_happens_to_the_text_it_loads_or_is_refused_in_one_line(edits):
    lines = list(LINES)
    for at, edit, text in edits:
        index = at % len(lines)
        match edit:
            case "delete":
                del lines[index]
            case "repeat":
                lines.insert(index, lines[index])
            case "swap":
                lines[index], lines[-1] = lines[-1], lines[index]
            case "insert":
                lines[index] += text
            case "value":
                lines[index] = lines[index].partition(":")[0] + ": " + text
    found = outcome("\n".join(lines))
    if isinstance(found, str):
        assert found.startswith("f.yaml: ")
        assert found.isprintable()
    else:
        assert outcome(hardware.to_yaml(found)) == found


@given(text=st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_at_all_is_refused_in_one_line(text):
    assert "\n" not in refusal(text)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(
        ["1e3", "no", "2026-11-21", "0x10", "1_000", "~", ".inf", "12:30", "", "null"]
    ),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children, max_size=4)
    ),
    max_leaves=12,
)


@given(document=plain)
def test_plain_data_survives_yaml(document):
    again = strictyaml.parse_yaml(strictyaml.dump(document))
    assert again == document
    assert json.dumps(again) == json.dumps(document)  # 1, 1.0 and True are equal, but differ


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0), ("-.5", -0.5), ("010", 10), ("+3", 3), ("no", "no"), ("true", True),
        ("2026-11-21", "2026-11-21"), ("12:30", "12:30"), ("1_000", "1_000"), ("~", None),
    ],
)  # fmt: skip
def test_scalars_mean_what_yaml_1_2_says(text, value):
    assert strictyaml.parse_yaml(f"a: {text}") == {"a": value}


def test_what_prints_badly_is_refused():
    for text in (
        MACHINE.replace("A machine", "A \u202emachine"),
        MACHINE.replace("A machine", "A\u200bmachine"),
        MACHINE.replace("      bf16: {support", '      "bf16\\n": {support'),
        MACHINE.replace("runs_as: fp32", 'runs_as: "fp32\\n"', 1),
    ):
        assert text != MACHINE
        refusal(text)
    assert (
        type(hardware.parse_profile(MACHINE.replace("threads: 2", "threads: 2.0"), "x").threads)
        is int
    )


def test_missing_dtype_names_the_key_to_add():
    toy = hardware.parse_profile(MACHINE, "toy.yaml")
    with pytest.raises(HardwareError, match=r"compute\.bf16\.peak_gflops"):
        toy.peak(parse_format("bf16").compute)


def numbers(schema, name=""):
    """Yield the name and the description of every number that a profile may hold."""
    if schema.get("type") in {"number", "integer"}:
        yield name, schema.get("description", "")
    for key, part in schema.get("properties", {}).items():
        yield from numbers(part, key)
    for part in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(part, dict):
            yield from numbers(part, name)


def test_units_stand_in_the_keys_and_every_key_is_explained():
    found = dict(pair for part in (SCHEMA, *SCHEMA["$defs"].values()) for pair in numbers(part))
    bare = {key for key in found if not re.search(r"_(gflops|gbps|kib|us|ns|pj)$", key)}
    assert bare == {  # counts and shares have none
        "threads", "parallel_efficiency", "samples",
        "compute", "memory", "noise", "mape", "low", "high", "terms", "range",
        "rows", "elements",
    }  # fmt: skip
    for key in found:
        assert f"`{key}" in README or f".{key}" in README or f", `{key}`" in README, key


def test_the_schema_knows_the_operators_of_the_graph():
    known = SCHEMA["$defs"]["operator"]["enum"]
    assert known[: len(Op)] == [str(op) for op in Op]  # then the finer kinds of `aiq.cost.pieces`


PLAIN = "int8: {start_us: 4, compute: 0.2, memory: 1, output_ns: 0}"
CORRECTED = MACHINE.replace(
    PLAIN,
    PLAIN[:-1]
    + """, correction: {terms: {rows: 0.1, taps: 0.2},
          range: {rows: [0, 7], width: [0, 9], inputs: [0, 9], outputs: [0, 9], groups: [0, 0],
                  taps: [0, 6], stride: [0, 2], inputs_16: [0, 1], outputs_16: [0, 1],
                  inputs_4: [0, 1], outputs_4: [0, 1], padding: [0, 4], fused: [0, 1],
                  work: [9, 30]}}}""",
)


def test_the_schema_knows_the_features_of_shapes():
    found = hardware.parse_profile(CORRECTED, "toy.yaml")
    limits = found.runtimes["inductor"].kernels["conv"]["int8"].correction.range
    assert list(limits) == [*shape.FEATURES, shape.WORK]
    earlier = hardware.parse_profile(CORRECTED.replace("fused: [0, 1],", ""), "toy.yaml")
    assert "fused" not in earlier.runtimes["inductor"].kernels["conv"]["int8"].correction.range


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("padding: [0, 4], ", "", r"correction\.range\.padding is missing"),
        ("work: [9, 30]", "speed: [9, 30]", r"correction\.range is .*, expected"),
        ("work: [9, 30]", "work: [30, 9]", r"range\.work is \[30, 9\], expected the lower value"),
        ("work: [9, 30]", "work: [9]", r"range\.work is .*, expected at least 2"),
        ("rows: 0.1", "lines: 0.1", r"correction\.terms is .*, expected"),
        ("taps: 0.2", '"rows*taps": 0.2', r"correction\.terms is .*, expected"),  # of old profiles
    ],
)
def test_half_a_correction_is_refused(old, new, words):
    assert old in CORRECTED
    with pytest.raises(HardwareError, match=words):
        hardware.parse_profile(CORRECTED.replace(old, new), "toy.yaml")


def test_a_formula_is_the_product_of_its_numbers():
    assert hardware.schema.product("96 cores x 2.4 GHz x 32 FLOP/cycle") == pytest.approx(7372.8)
    assert math.isclose(hardware.schema.product("5"), 5)
