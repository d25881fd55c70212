"""Hardware profiles: what loads, where it is looked for, and how a bad one is refused."""

import pytest

from aiq import hardware
from aiq.errors import HardwareError
from aiq.formats import parse as parse_format
from aiq.hardware import Hardware

TEXT = (hardware.builtin_folder() / "xeon_2vcpu.yaml").read_text()


def test_builtin_profile_has_the_measured_roofs():
    xeon = Hardware.load("xeon_2vcpu")
    assert xeon.threads == 2
    assert xeon.peak_gflops == {"fp32": 480, "bf16": 7240, "int8": 14100}
    assert xeon.dram_gbps == 32.7
    assert xeon.peak(parse_format("w4a8").compute) == 14100


@pytest.mark.parametrize("name", sorted(hardware.available()))
def test_every_shipped_profile_is_valid_and_named_after_its_file(name):
    assert Hardware.load(name).name == name


def test_load_by_path_and_pass_through(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("name: xeon_2vcpu", "name: mine"))
    mine = Hardware.load(path)
    assert mine.name == "mine"
    assert Hardware.load(str(path)) == mine
    assert Hardware.load(mine) is mine


def test_users_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "xeon_2vcpu.yaml").write_text(TEXT.replace("read_gbps: 32.7", "read_gbps: 20"))
    (tmp_path / "board.yaml").write_text(TEXT.replace("name: xeon_2vcpu", "name: board"))
    monkeypatch.setenv("AIQ_HW_PROFILES", str(tmp_path))
    assert Hardware.load("xeon_2vcpu").dram_gbps == 20
    assert Hardware.load("board").name == "board"
    assert hardware.available()["board"] == tmp_path / "board.yaml"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("read_gbps: 939", "read_gbps: -1", ["memory.0.read_gbps", "-1", "greater than 0"]),
        ("read_gbps: 939", "read_gbps: 10", ["memory.0.read_gbps", "at least the 351"]),
        ("size_kib: 96,", "size_kib: 9600,", ["memory.0.size_kib", "less than the 4096"]),
        ("threads: 2", "threads: two", ["threads", '"two"', "integer"]),
        ("threads: 2", "threads: 0", ["threads", "at least 1"]),
        ("threads: 2\n", "", ["key threads is missing"]),
        ("peak_gflops: 480", "peak: 480", ["compute.fp32.peak", "unknown", "peak_gflops"]),
        ("bf16:", "fp64:", ["compute.fp64", "unknown", "bf16"]),
        ("fp32: {", "fp16: {", ["compute.fp32 is missing"]),
        ("threads: 2", "threads: 2\nthreads: 2", ["repeats the key threads"]),
        ("threads: 2", "threads: [2", ["not YAML"]),
        ("threads: 2", "threads: 2\n2: 3", ["key 2", "expected a word"]),
        ("hw-profile/v1", "hw-profile/v9", ["schema", "aiq/hw-profile/v1"]),
        ("peak_gflops: 480", "peak_gflops: .nan", ["finite"]),
        ("peak_gflops: 480", "peak_gflops: .inf", ["finite"]),
        ("threads: 2", "threads: &x 2\nagain: *x", ["alias"]),
        ("threads: 2", "threads: !!python/name:os.system 2", ["not YAML"]),
    ],
)
def test_bad_profile_is_one_sentence_with_file_and_key(old, new, words):
    assert old in TEXT
    with pytest.raises(HardwareError) as error:
        hardware.parse(TEXT.replace(old, new), "bad.yaml")
    message = str(error.value)
    assert message.startswith("bad.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "text", ["", "[]", "just words", "[" * 20_000, "a: " * 5, "\x00", "- " * 9_000]
)
def test_not_a_profile_at_all(text):
    with pytest.raises(HardwareError, match=r"^f\.yaml: "):
        hardware.parse(text, "f.yaml")


def test_unknown_name_lists_what_there_is():
    with pytest.raises(HardwareError, match=r"no hardware profile 'cray'; use one of .*xeon_2vcpu"):
        Hardware.load("cray")


def test_unreadable_files(tmp_path):
    with pytest.raises(HardwareError, match="cannot be read"):
        Hardware.load(tmp_path / "none.yaml")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (hardware.MAX_BYTES + 1))
    with pytest.raises(HardwareError, match="larger than"):
        Hardware.load(huge)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HardwareError, match="UTF-8"):
        Hardware.load(binary)


def test_missing_dtype_names_the_key_to_add():
    xeon = hardware.parse(
        TEXT.replace("  int8: {peak_gflops: 14100, isa: amx_int8}\n", ""), "x.yaml"
    )
    with pytest.raises(HardwareError, match=r"compute\.int8\.peak_gflops"):
        xeon.peak(parse_format("w8a8").compute)
