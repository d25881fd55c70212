"""Measure this machine: its roofs, and what a runtime makes of them."""

import datetime
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from aiq import machine, runtimes
from aiq.calibrate import chains, programs, roofs
from aiq.calibrate.fit import ALIKE, PRIOR, Coefficients, Prior, fit
from aiq.calibrate.samples import Sample, Store, default_path
from aiq.errors import Interrupted
from aiq.hardware import Hardware, MemoryLevel
from aiq.hardware.runtime_profile import KernelProfile, RuntimeProfile
from aiq.measure import Call
from aiq.progress import Progress
from aiq.runtimes import Runtime

__all__ = ["Difference", "anchor", "calibrate", "compare", "fitted", "open_store", "quick"]

NAME = "this_machine"
_LARGEST_KIB = 256 * 1024  # of a working set: beyond the last cache that a process gets
_COUNT = 20  # programs of each operator class and format
_LIMIT = 480.0  # seconds after which no more programs are timed
_ANCHOR = "chain/fp32/5"  # some milliseconds: of less, waking threads is too much
_QUIET = 0.25  # quantile of the anchor's times that the profile holds for


def quick(progress: Progress | None = None) -> Hardware:
    """Return the roofs of this machine for PyTorch's present thread count, in a few seconds.

    Parameters
    ----------
    progress
        Called with ``("measure this machine", steps done, steps in all)``.

    Returns
    -------
    Hardware
        Called ``this_machine``: the peak of each dtype that has a kernel here (float32 always),
        and the memory levels found. It has no section for a runtime.
    """
    found = _roofs(torch.get_num_threads(), progress or _silent)
    return _hardware(found, machine.describe(), NAME)


def calibrate(
    runtime: str = "inductor",
    *,
    name: str = NAME,
    threads: int | None = None,
    samples: str | Path | None = None,
    add_to: Hardware | None = None,
    count: int = _COUNT,
    limit: float = _LIMIT,
    again: bool = False,
    progress: Progress | None = None,
) -> Hardware:
    """Measure this machine and a runtime; takes some minutes, and can be killed and called again.

    The roofs with one and with all threads; then random chains of layers (`aiq.calibrate.chains`,
    no known network) in every format that the runtime has kernels for, one format throughout and
    mixed, timed whole and, where the runtime has a profiler, layer by layer; then a fit of the
    coefficients of `aiq.cost.calibrated_table` to all these times.

    Parameters
    ----------
    runtime
        Name of the runtime.
    name
        Name of the profile.
    threads
        Threads to measure with; all that the process may use by default.
    samples
        File that keeps what was measured so far. Default: one in the user's cache folder, named
        after machine, versions and threads.
    add_to
        Profile that gets the runtime's section; its roofs are taken, not measured again.
    count
        Programs of each operator class and format: fewer are faster and fit worse.
    limit
        Seconds after which this call times no more programs, if it has come to one of each operator
        class and format; calling it again goes on.
    again
        Time those of earlier calls too, and take the mean of all passes, for less noise.
    progress
        Called with what is going on, steps done, and steps in all.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime is not installed.
    InputError
        If `samples` holds something else, or samples of another machine.
    Interrupted
        On Ctrl-C, a KeyboardInterrupt that says what is kept.
    """
    engine = runtimes.get(runtime)
    report = progress or _silent
    with machine.threads(threads) as used:
        host = machine.describe()
        store = open_store(engine, samples, count)
        try:
            if add_to is None:
                if "roofs" not in store.values:
                    store.set("roofs", _roofs_by_threads(used, report))
                hardware = _hardware(store.values["roofs"], host, name)
            else:
                hardware = add_to
            ticks = machine.cpu_ticks()
            _measure_programs(engine, count, limit, store, report, again=again)
        except KeyboardInterrupt:
            raise Interrupted(
                f"{len(store.samples)} times are kept in {store.path}; the same call goes on "
                "from there."
            ) from None
        # Of all calls: the last one may find everything timed.
        stolen = max(
            store.values.get("steal", 0.0), machine.steal(ticks, machine.cpu_ticks()) or 0.0
        )
        store.set("steal", stolen)
    report("fit", 0, 1)
    section = fitted(engine, store.samples.values(), store.noise, hardware)
    report("fit", 1, 1)
    assert section.fit is not None
    sources = [
        *(s for s in hardware.provenance["sources"] if not s.startswith(f"{runtime}: ")),
        f"{runtime}: {section.fit.samples} random chains, {used} threads, steal {stolen:.3f}",
    ]
    return replace(
        hardware,
        runtimes=MappingProxyType({**hardware.runtimes, runtime: section}),
        provenance=MappingProxyType({**hardware.provenance, "sources": sources}),
    )


def open_store(engine: Runtime, path: str | Path | None = None, count: int = _COUNT) -> Store:
    """Return what was measured so far with the threads now in force; see `calibrate`."""
    signature = {
        "runtime": f"{engine.name} {engine.version}",
        "threads": torch.get_num_threads(),
        "count": count,
        "machine": machine.describe(),
    }
    return Store(default_path(signature) if path is None else path, signature)


def fitted(
    engine: Runtime,
    samples: Collection[Sample],
    noise: float,
    hardware: Hardware,
    prior: Prior = PRIOR,
) -> RuntimeProfile:
    """Return the section of a profile that `samples` make; see `aiq.calibrate.fit.fit`."""
    quiet = float(np.quantile([s.anchor for s in samples if s.is_whole], _QUIET))
    levelled = [replace(s, seconds=s.seconds * quiet / s.anchor) for s in samples]
    return _section(engine, fit(levelled, hardware, noise, programs.needed(engine), prior), quiet)


def _measure_programs(
    engine: Runtime, count: int, limit: float, store: Store, report: Progress, *, again: bool
) -> None:
    """Fill `store` with programs and the noise of their times."""
    formats = [fmt.name for fmt in programs.native(engine)]
    names, least = chains.names(formats, count), len(chains.names(formats, 1))
    stage = f"time chains in {engine.name}"
    began = time.monotonic()
    beside = anchor(engine)
    for first in range(0, len(names), programs.BUNDLE):
        report(stage, first, len(names))
        if first >= least and time.monotonic() - began > limit:
            break
        bundle = names[first : first + programs.BUNDLE]
        wanted = [name for name in bundle if again or name not in store.samples]
        if wanted:
            found, noise = programs.samples(engine, wanted, beside)
            store.set("noise", {**store.values.get("noise", {}), str(first): noise})
            store.add(found)
    report(stage, len(names), len(names))


def anchor(runtime: Runtime) -> Call:
    """Compile the program whose time says how fast the machine is just now (`Fit.anchor_us`)."""
    (part,) = programs.compile_programs(runtime, [chains.program(_ANCHOR)])
    return part.run


def _section(engine: Runtime, found: Coefficients, quiet: float) -> RuntimeProfile:
    kernels: dict[str, dict[str, KernelProfile]] = {}
    for key, kernel in found.kernels.items():
        op, _, dtype = key.partition(".")
        if dtype:
            kernels.setdefault(op, {})[dtype] = kernel
    everything = found.kernels.get("elementwise")
    if everything is not None:
        floats = [fmt.name for fmt in programs.native(engine) if not fmt.quantizes_activations]
        for op in ALIKE:
            kernels[op] = dict.fromkeys(floats, everything)
    return RuntimeProfile(
        name=engine.name,
        version=engine.version,
        run_overhead_us=float(f"{found.run * 1e6:.4g}"),
        formats=MappingProxyType(programs.realisations(engine)),
        kernels=MappingProxyType({op: MappingProxyType(ds) for op, ds in sorted(kernels.items())}),
        boundaries=MappingProxyType(
            {
                key: replace(kernel, compute=1.0)
                for key, kernel in found.kernels.items()
                if "_to_" in key
            }
        ),
        fuses=programs.FUSES.get(engine.name, ()),
        fit=replace(found.fit, anchor_us=_short(quiet * 1e6)),
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """A number of a profile beside what this machine shows."""

    key: str
    profile: float
    here: float

    @property
    def ratio(self) -> float:
        """What is measured here over what the profile says."""
        return self.here / self.profile


def compare(hardware: Hardware, progress: Progress | None = None) -> tuple[Difference, ...]:
    """Measure the roofs here with the profile's threads and set them beside the profile's.

    Raises
    ------
    InputError
        If the profile holds for more threads than this process may use.
    """
    with machine.threads(hardware.threads):
        here = quick(progress)
    peaks = [
        Difference(f"compute.{dtype}.peak_gflops", peak, here.peak_gflops[dtype])
        for dtype, peak in hardware.peak_gflops.items()
        if dtype in here.peak_gflops
    ]
    levels = [
        Difference(f"memory.{level.level}.read_gbps", level.read_gbps, _bandwidth(here, level))
        for level in hardware.memory
    ]
    return (*peaks, *levels)


def _bandwidth(here: Hardware, level: MemoryLevel) -> float:
    """Return the bandwidth here of the working sets that `level` holds."""
    holds = [found for found in here.memory if found.size_kib >= 0.66 * level.size_kib]
    return (holds or here.memory[-1:])[0].read_gbps


def _roofs_by_threads(threads: int, report: Progress) -> dict[str, Any]:
    """Measure with all threads, and with one to see how well they share the work."""
    found = _roofs(threads, report)
    if threads > 1:
        with machine.threads(1):
            alone = _roofs(1, report)
        found["parallel_efficiency"] = {
            **{
                dtype: _short(peak / threads / alone["peaks"][dtype])
                for dtype, peak in found["peaks"].items()
            },
            "DRAM": _short(found["gbps"][-1] / threads / alone["gbps"][-1]),
        }
    return found


def _roofs(threads: int, report: Progress) -> dict[str, Any]:
    """Return peaks by dtype and bandwidth by working set, as JSON takes them."""
    sizes = roofs.working_sets(threads, _LARGEST_KIB)
    stage, total = "measure this machine", len(roofs.DTYPES) + len(sizes)
    report(stage, 0, total)
    peaks = {}
    for done, dtype in enumerate(roofs.DTYPES):
        rate = roofs.peak_gflops(dtype)
        if rate is not None:
            peaks[dtype] = _short(rate)
        report(stage, done + 1, total)
    speeds = []
    for done, kib in enumerate(sizes):
        speeds.append(_short(roofs.read_gbps(kib, threads)))
        report(stage, len(roofs.DTYPES) + done + 1, total)
    return {"threads": threads, "peaks": peaks, "kib": sizes, "gbps": speeds}


def _hardware(found: Mapping[str, Any], host: Mapping[str, Any], name: str) -> Hardware:
    sweep = roofs.Sweep(tuple(found["kib"]), tuple(found["gbps"]))
    limits = "".join(f", {key}={value}" for key, value in host.get("limits", {}).items())
    what = f"{host['cpu']}, {found['threads']} threads{limits}"
    return Hardware(
        name=name,
        description=f"{what}, as measured by aiq calibrate.",
        threads=found["threads"],
        peak_gflops=MappingProxyType(dict(found["peaks"])),
        memory=roofs.levels(sweep, (host["memory_gib"] or 16) * 2**20),
        provenance=MappingProxyType(_provenance(host)),
        parallel_efficiency=MappingProxyType(dict(found.get("parallel_efficiency", {}))),
    )


def _provenance(host: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": "measured",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "sources": [
            "peaks: fastest of PyTorch's matrix products of 512x512, best of many",
            "memory: sums over working sets from 8 KiB a thread to 256 MiB, each thread its share",
        ],
        "machine": dict(host),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
