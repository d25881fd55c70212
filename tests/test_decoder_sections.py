"""Sections of decoders that were edited by hand, and numbers that no table can hold."""

import copy

import numpy as np
import pytest

from aiq.calibrate import calibrate
from aiq.cost import CostTable
from aiq.cost.several import several
from aiq.cost.table import Level
from aiq.errors import HardwareError, InputError
from aiq.formats import REFERENCE
from aiq.graph import Decode
from aiq.hardware import Hardware, profile, schema
from aiq.hardware.sections import DECODERS, GGUF, owner, prices_tokens, section


@pytest.fixture(scope="module")
def shipped():
    """The document of a shipped profile with one section, that of decoders in OpenVINO."""
    document = profile.to_document(Hardware.load("epyc_zen4_1thread"))
    found = document["runtimes"]["openvino_decoder"]
    return document | {"runtimes": {"openvino_decoder": found}}


def first(section):
    return section["products"]["w4g32"][0]


EDITS = {
    "no products": (lambda s: s.pop("products"), r"products\.fp32 is missing"),
    "no float32": (lambda s: s["products"].pop("fp32"), r"products\.fp32 is missing"),
    "no attention": (lambda s: s.pop("attention"), r"attention is missing"),
    "no token": (lambda s: s["products"]["w4g32"].pop(0), r"rows 64, expected 1 and other"),
    "no query": (lambda s: s["attention"].pop(0), r"attention has the rows 64, 512, expected 1"),
    "rows twice": (lambda s: first(s).update(rows=64), r"rows 64, 64, expected 1 and other"),
    "elements twice": (
        lambda s: first(s)["rates"][0].update(elements=first(s)["rates"][1]["elements"]),
        r"w4g32\.0\.rates has elements twice",
    ),
    "negative": (lambda s: first(s)["rates"][0].update(read_gbps=-1), "greater than 0"),
    "text": (lambda s: first(s)["rates"][0].update(read_gbps="fast"), "expected a number"),
    "no rows": (lambda s: first(s).pop("rows"), r"w4g32\.0\.rows is missing"),
    "unknown format": (lambda s: s["products"].update(q4_k=[first(s)]), "q4_k.*such as fp32"),
    "empty": (lambda s: s["products"].update(w4g32=[]), "at least 1 entries"),
    "too fast": (lambda s: first(s)["rates"][0].update(read_gbps=1e9), "of the nearest memory"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_section_of_decoders_that_was_edited_is_refused(shipped, name):
    edit, words = EDITS[name]
    document = copy.deepcopy(shipped)
    schema.check_document(document, "mine.yaml")
    edit(document["runtimes"]["openvino_decoder"])
    with pytest.raises(HardwareError, match=f"^mine.yaml: .*{words}"):
        schema.check_document(document, "mine.yaml")


def test_every_section_of_decoders_belongs_to_a_runtime():
    for runtime, name in {**DECODERS, GGUF: GGUF}.items():
        assert section(runtime, decodes=True) == name
        assert owner(name) == runtime
        assert prices_tokens(name)
    assert not any(prices_tokens(name) for name in (*DECODERS, "inductor", None))


def test_times_past_sixty_four_bits_are_refused():
    cost = np.array([[2**40]])
    table = CostTable(Level.CALIBRATED, ("a",), (REFERENCE,), cost, fixed=0, flops=1)
    assert several([(1, table), (2**22, table)]).cost[0, 0] == 2**40 + 2**62
    with pytest.raises(InputError, match="longer than a hundred days"):
        several([(1, table), (2**23, table)])


@pytest.mark.parametrize("tokens", [2**24 + 1, 10**30, True, "9" * 100])
def test_a_workload_of_too_many_tokens_is_refused(tokens):
    with pytest.raises(InputError, match="at most 16777216") as error:
        Decode(prompt=tokens)
    assert len(str(error.value)) < 150


@pytest.mark.parametrize("kept", [{"prompt": 8}, {"prompt": 8, "tokens": 8, "more": 8}, [8, 8]])
def test_a_workload_that_a_plan_should_not_keep_is_refused(kept):
    assert Decode.of({"prompt": 8, "tokens": 4}) == Decode(8, 4)
    with pytest.raises(InputError, match=r"give aiq\.Decode"):
        Decode.of(kept)


def test_a_section_is_measured_with_the_threads_of_its_profile():
    known = Hardware.load("xeon_2vcpu")
    with pytest.raises(InputError, match="hold for 2 threads, and 1 are to be measured"):
        calibrate("llamacpp", add_to=known, threads=1, force=True)
