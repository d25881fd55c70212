"""Rates of prompts in calibrations of decoders: what timings do not determine is not stated."""

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
from test_decoder_times import timed

from aiq.calibrate import decoders
from aiq.calibrate.decoder_fit import fitted_section
from aiq.cost.products import product_seconds
from aiq.formats import parse
from aiq.hardware import Hardware, plausible, profile
from aiq.hardware.sections import DECODERS, GGUF

MACHINE = Hardware.load("xeon_2vcpu")
RATE = {"fp32": 2e9, "w4g32": 0.6e9, "w8g32": 1e9}  # bytes of all matrices a second, at a prompt
WIDEST = max(sizes.hidden for sizes in decoders.SIZES)


def prompts(slower=None):
    """Return timed decoders whose matrices are read at `RATE` by a prompt.

    The decoder of some width takes `slower` times as long, as if others used the machine then.
    """
    found = []
    for t in timed():
        body, head = sum(t.matrices[:-1]), t.matrices[-1]
        read, factor = body * t.bits / 8 / RATE[t.format], (slower or {}).get(t.sizes.hidden, 1.0)
        once = t.seconds[1] * head / sum(t.matrices)  # the output layer reads one row
        seconds, eight = factor * (read + once), factor * (8.1 * read + once)
        long = t.long and {1: t.long[1], 512: [eight]}
        found.append(replace(t, rounds={1: t.rounds[1], 64: [seconds] * 2}, long=long))
    return found


def rates(section):
    """Return format -> bytes a second at a prompt, for a small and a large matrix."""
    return {
        name: tuple(1e9 * rate for _, rate in products[-1].rates)
        for name, products in section.products.items()
    }


LARGEST = max(max(t.matrices[:-1]) for t in timed())


def test_the_rates_of_prompts_are_found():
    for name, found in rates(fitted_section(GGUF, "1", prompts(), MACHINE)).items():
        assert found == pytest.approx((RATE[name],) * 2, rel=0.1)


@pytest.mark.parametrize("factor", [0.3, 0.5, 0.7, 1.5, 2.0])
def test_matrices_larger_than_all_that_were_timed_are_as_fast_as_the_largest(factor):
    """One decoder was timed in another hour, so that large matrices seem to be fast or slow."""
    section = fitted_section(GGUF, "1", prompts({WIDEST: factor}), MACHINE)
    for name, found in rates(section).items():
        assert all(rate <= 2.1 * RATE[name] * max(1, 1 / factor) for rate in found)
        read = partial(product_seconds, section.products[name], 64, width=4)
        assert read(elements=64 * LARGEST) == pytest.approx(64 * read(elements=LARGEST))


@pytest.mark.parametrize("name", RATE)
def test_a_prompt_in_no_time_is_fitted_as_fast_as_the_machine_can_be(name):
    times = [
        replace(t, rounds={1: t.rounds[1], 64: [1e-6, 1e-6]}) if t.format == name else t
        for t in prompts()
    ]
    hardware = replace(MACHINE, runtimes={GGUF: fitted_section(GGUF, "1", times, MACHINE)})
    again = profile.parse_profile(profile.to_yaml(hardware), "found.yaml")
    bits = parse(name).stored_bits
    gflops = MACHINE.peak_gflops["fp32"] if name == "fp32" else max(MACHINE.peak_gflops.values())
    for rate in rates(again.runtimes[GGUF])[name]:
        assert rate / (bits / 8) * 2 * 64 <= 1e9 * plausible.SLACK * gflops


def test_attention_multiplies_no_faster_than_the_matrices_of_a_prompt():
    """The long prompt took as long as eight short ones, so that nothing is left for attention."""
    times = [
        replace(t, long=t.long and {1: t.long[1], 512: [8 * t.seconds[64]]}) for t in prompts()
    ]
    section = fitted_section(GGUF, "1", times, MACHINE)
    products = 1e9 * RATE["w4g32"] / (4.5 / 8) / 1e9  # elements a second, at 64 rows
    for found in section.attention[1:]:
        for _, gbps in found.rates:
            assert gbps * 1e9 / 2 * found.rows <= 1.1 * products * 64


def test_shipped_profiles_price_a_longer_prompt_as_more_work():
    """A matrix of 1,000 rows takes at least what the peak of the machine allows."""
    hardware = Hardware.load("epyc_zen4_1thread")
    for section, elements in product((GGUF, *DECODERS.values()), (2**20, 2**24, 2**30)):
        for name, found in hardware.runtimes[section].products.items():
            seconds = product_seconds(found, 1024, elements, parse(name).stored_bits / 8)
            peaks = hardware.peak_gflops
            peak = peaks["fp32"] if name == "fp32" else max(peaks.values())
            assert seconds >= 2 * 1024 * elements / (1.02e9 * peak)
