"""Ratios that no hardware reaches: a profile with one was measured while others used the machine.

The operations per cycle are those of en.wikipedia.org/wiki/AVX-512#VNNI,
en.wikipedia.org/wiki/Advanced_Matrix_Extensions and developer.arm.com (dot products, matrix
multiplication): for each operation of a float32 multiply-add, so many of a narrower one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from aiq.formats import REFERENCE, parse

FASTER: Mapping[str, Mapping[str, float]] = {
    "int8": {"amx_int8": 32, "i8mm": 8, "avx512_vnni": 4, "avx_vnni": 4, "dotprod": 4, "avx2": 2},
    "bf16": {"amx_bf16": 16, "avx512_bf16": 2, "bf16": 4, "avx2": 1},
    "fp16": {"avx512_fp16": 2, "avx2": 1},
}
"""Dtype -> instructions -> operations per operation in float32. Without any of them: `ANY`."""

ANY = 32.0
"""Operations in a narrower dtype per operation in float32 on any accelerator of today."""

SLACK = 2.5
"""Factor by which measured ratios may be larger, as float32 may reach under half of its peak."""

SLOWEST = 0.25
"""Least ratio of a dtype with instructions of its own to float32."""

MOST_REUSE, LEAST_REUSE = 256.0, 0.25
"""Float32 operations per byte of the farthest memory: an RTX 4090 has 82, a Cortex-M7 has 2."""

MOST_NEARER = 256.0
"""Ratio of the bandwidths of the nearest and the farthest memory."""

MOST_PEAK, MOST_GBPS = 512.0, 1000.0
"""GFLOP/s and GB/s of a processor's thread: 64 FLOP and 128 bytes a cycle at under 8 GHz."""

ATTENTION, CACHE_BITS = "attention", 16
"""Key of the rates of keys and values in a section, and bits of their elements."""

MOST_EFFICIENCY = 1.25
"""Speed-up per thread: above 1 only because a single thread was disturbed."""


def problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each ratio in the document of a profile that no hardware reaches."""
    machine = document["provenance"].get("machine") or {}
    isa = machine.get("isa")
    fp32, memory = document["compute"]["fp32"]["peak_gflops"], document["memory"]
    for dtype, peak in document["compute"].items():
        if dtype == "fp32":
            continue
        ratio = peak["peak_gflops"] / fp32
        known = [FASTER[dtype][name] for name in isa or () if name in FASTER[dtype]]
        most = SLACK * (max(known) if known else ANY)
        native = "limits" not in machine and (isa is None or known != [1])
        if not (SLOWEST if native else 0.0) <= ratio <= most:
            yield _wrong(f"compute.{dtype}.peak_gflops", ratio, "times that of fp32", most)
    reuse = fp32 / memory[-1]["read_gbps"]
    if not LEAST_REUSE <= reuse <= MOST_REUSE:
        yield _wrong("compute.fp32.peak_gflops", reuse, "FLOP per byte of the memory", MOST_REUSE)
    nearer = memory[0]["read_gbps"] / memory[-1]["read_gbps"]
    if nearer > MOST_NEARER:
        yield _wrong("memory.0.read_gbps", nearer, "times that of the farthest level", MOST_NEARER)
    if isa is not None:  # a processor, whose threads are those of programs
        threads = document["threads"]
        if fp32 / threads > MOST_PEAK:
            yield _wrong("compute.fp32.peak_gflops", fp32 / threads, "a thread", MOST_PEAK)
        if memory[0]["read_gbps"] / threads > MOST_GBPS:
            gbps = memory[0]["read_gbps"] / threads
            yield _wrong("memory.0.read_gbps", gbps, "a thread", MOST_GBPS)
    for key, share in document.get("parallel_efficiency", {}).items():
        if share > MOST_EFFICIENCY:
            yield _wrong(f"parallel_efficiency.{key}", share, "", MOST_EFFICIENCY)
    for name, runtime in document.get("runtimes", {}).items():
        peaks = {dtype: peak["peak_gflops"] for dtype, peak in document["compute"].items()}
        yield from _rates(name, runtime, peaks, memory[0]["read_gbps"])


def most_gbps(
    name: str, rows: int, bits: float, peaks: Mapping[str, float], nearest: float
) -> float:
    """Return the GB/s at which hardware can read what a product with so many rows multiplies by.

    Each element is read from the nearest memory, and multiplied and added once for each row.

    Parameters
    ----------
    name
        Name of a format of weights, or ``attention``.
    rows
        Rows of the product.
    bits
        Bits of an element.
    peaks
        Dtype -> GFLOP/s. Weights in float32 are multiplied in it, rounded ones in any dtype, and
        keys and values in any floating-point one.
    nearest
        Bandwidth of the nearest memory in GB/s.
    """
    without = {ATTENTION: {"int8"}, REFERENCE.name: {*peaks} - {"fp32"}}.get(name, set())
    gflops = max(peak for dtype, peak in peaks.items() if dtype not in without)
    return min(nearest, gflops * bits / (16 * rows))


def _rates(
    name: str, runtime: Mapping[str, Any], peaks: Mapping[str, float], nearest: float
) -> Iterator[str]:
    """Yield rates of weights, keys and values that are faster than the hardware, in GB/s."""
    measured = {
        f"products.{fmt}": (fmt, found) for fmt, found in runtime.get("products", {}).items()
    }
    measured[ATTENTION] = ATTENTION, runtime.get(ATTENTION, ())
    for key, (kind, found) in measured.items():
        bits = CACHE_BITS if kind == ATTENTION else parse(kind).stored_bits
        for i, entry in enumerate(found):
            most = most_gbps(kind, entry["rows"], bits, peaks, nearest)
            for j, rate in enumerate(entry["rates"]):
                if rate["read_gbps"] > SLACK * most:
                    where = f"runtimes.{name}.{key}.{i}.rates.{j}.read_gbps"
                    of_what = f"times the {most:.3g} of the nearest memory and of the peaks"
                    again = f"delete runtimes.{name}, and calibrate that section again"
                    yield _wrong(where, rate["read_gbps"] / most, of_what, SLACK, again)


def _wrong(
    key: str,
    value: float,
    of_what: str,
    most: float,
    advice: str = "measure again while nothing else runs",
) -> str:
    said = f"{key} is {value:.3g} {of_what}".rstrip()
    return (
        f"{said}, expected {'more' if value <= most else f'at most {most:g}'}, because no hardware "
        f"is like that; {advice}."
    )
