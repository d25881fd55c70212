"""Tables of hardware profiles."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aiq.formats import KERNEL_DTYPES
from aiq.hardware import Hardware, Pair, RuntimeProfile, Specification
from aiq.text import FittedTable, count, table


def profiles(found: Iterable[Hardware]) -> FittedTable:
    """Return a list of hardware profiles, one row each; narrow terminals show fewer columns."""
    columns = ("<profile", "threads", *KERNEL_DTYPES, "GB/s", "<runtimes", "<description")
    rows = tuple(
        (
            profile.name,
            str(profile.threads),
            *(_gflops(profile.peak_gflops.get(dtype)) for dtype in KERNEL_DTYPES),
            f"{profile.dram_gbps:g}",
            " ".join(profile.runtimes) or "-",
            profile.description,
        )
        for profile in found
    )
    title = "Hardware profiles: peaks in GFLOP/s, memory in GB/s, calibrated runtimes"
    return FittedTable(title, columns, rows, ("<description", "bf16", "threads"))


def profile(hardware: Hardware) -> RenderableType:
    """Return one hardware profile: roofs, ridge points, runtimes, sources."""
    peaks = []
    for dtype, gflops in hardware.peak_gflops.items():
        allowed = hardware.specification.get(dtype, Specification())
        ridge = f"{gflops / hardware.dram_gbps:.1f}"
        spec = _rate(allowed.spec_gflops)
        peaks.append((dtype, _rate(gflops), spec, ridge, allowed.isa or "-", allowed.formula or ""))
    levels = [
        (
            level.level,
            _size(level.size_kib),
            f"{level.read_gbps:g} GB/s",
            "-" if level.spec_gbps is None else f"{level.spec_gbps:g} GB/s",
            level.formula or "",
        )
        for level in hardware.memory
    ]
    columns = ["<dtype", "peak", "spec", "ridge, OP per DRAM byte", "<units", "<formula"]
    sources = [f"  {source}" for source in hardware.provenance["sources"]]
    method, date = hardware.provenance["method"], hardware.provenance["date"]
    return Group(
        Text(f"{hardware.name}: {hardware.description}\n{hardware.threads} threads"),
        table("", columns, peaks),
        table("", ["<memory", "size", "read", "spec", "<formula"], levels),
        *(_runtime(runtime) for runtime in hardware.runtimes.values()),
        Text("\n".join([f"\n{method}, {date}:", *sources])),
    )


def pairs(title: str, names: tuple[str, str], found: Iterable[Pair]) -> Table:
    """Return the numbers of two machines side by side, with their ratio."""
    rows = (
        (
            pair.key,
            "-" if pair.first is None else f"{pair.first:g}",
            "-" if pair.second is None else f"{pair.second:g}",
            "-" if pair.ratio is None else f"{pair.ratio:.2f}x",
        )
        for pair in found
    )
    return _unbroken(table(title, ["<", *names, "ratio"], rows))


def _runtime(runtime: RuntimeProfile) -> RenderableType:
    """Return what a runtime makes of the machine: formats, kernels, and how well they fit."""
    formats = "  ".join(
        f"{name} {entry.support}" + ("" if name == entry.runs_as else f" (as {entry.runs_as})")
        for name, entry in runtime.formats.items()
    )
    fit = runtime.fit
    head = (
        f"\n{runtime.name} ({runtime.version}): {runtime.run_overhead_us:g} us a run\n"
        f"formats  {formats}\n"
        f"fit      {fit.samples} programs, error {100 * fit.mape:.1f} %, noise "
        f"{100 * fit.noise:.1f} %, nine of ten within {fit.low:.2f}x to {fit.high:.2f}x"
    )
    kernels = [
        (
            f"{op} {dtype}",
            f"{kernel.start_us:g} us",
            f"{100 * kernel.compute:.0f} %",
            f"{100 * kernel.memory:.0f} %",
            f"{kernel.output_ns:g} ns",
        )
        for op, by_dtype in runtime.kernels.items()
        for dtype, kernel in by_dtype.items()
    ]
    conversions = [
        (key, f"{k.start_us:g} us", "-", f"{100 * k.memory:.0f} %", f"{k.output_ns:g} ns")
        for key, k in runtime.boundaries.items()
    ]
    columns = ["<kernel", "start", "of peak", "of bandwidth", "per element"]
    return Group(Text(head), table("", columns, [*kernels, *conversions]))


def _unbroken(result: Table) -> Table:
    """Let only the last column be broken into lines."""
    for column in result.columns[:-1]:
        column.no_wrap = True
    return result


def _size(kib: float) -> str:
    for factor, unit in ((2**30, "TiB"), (2**20, "GiB"), (2**10, "MiB")):
        if kib >= factor:
            return f"{kib / factor:.3g} {unit}"
    return f"{kib:.3g} KiB"


def _gflops(peak: float | None) -> str:
    return "-" if peak is None else f"{peak:.3g}" if peak < 1000 else f"{peak:.0f}"


def _rate(gflops: float | None) -> str:
    return "-" if gflops is None else f"{count(1e9 * gflops)}OP/s"
