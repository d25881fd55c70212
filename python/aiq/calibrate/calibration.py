"""Calibrate a runtime on this machine: time synthetic programs and fit the cost model to them."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from aiq import machine, quiet, runtimes
from aiq.calibrate import chains, products, programs, roofs
from aiq.calibrate.decoders import DecoderRuntime, measure_decoders
from aiq.calibrate.fit import ALIKE, PRIOR, Coefficients, Prior, fit
from aiq.calibrate.samples import Sample, Store, default_path
from aiq.calibrate.this_machine import NAME, as_hardware, quick, quiet_roofs, roofs_by_threads
from aiq.errors import InputError, Interrupted, RuntimeUnavailableError
from aiq.hardware import Hardware
from aiq.hardware.runtime_profile import KernelProfile, RuntimeProfile
from aiq.hardware.sections import DECODERS, owner, prices_tokens
from aiq.measure import Call
from aiq.names import advice
from aiq.progress import Progress, silent
from aiq.runtimes import Runtime, placement

_COUNT = 20  # programs of each operator class and format
_LIMIT = 480.0  # seconds after which no further program is timed
_ANCHOR = "chain/fp32/5"  # takes some milliseconds, so that waking the threads does not matter
_QUIET = 0.25  # this quantile of the anchor's times counts as that of an idle machine


@dataclass(frozen=True, slots=True)
class _Effort:
    """How many programs a calibration times, for how long, and whether on a busy machine."""

    count: int
    limit: float
    again: bool
    force: bool


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
    force: bool = False,
    progress: Progress | None = None,
) -> Hardware:
    """Measure this machine and a runtime in some minutes; a killed call goes on when repeated.

    The roofs are measured with one thread and with all threads. Then random chains of layers
    (`aiq.calibrate.chains`; none is a known network) are timed in every format for which the
    runtime has kernels, whole and, where the runtime has a profiler, layer by layer. So are matrix
    products with few rows, in formats that the runtime packs (`aiq.calibrate.products`). Last, the
    coefficients of `aiq.cost.calibrated_table` are fitted to all these times.

    Parameters
    ----------
    runtime
        Name of the runtime, or of its section for decoders: ``llamacpp``, ``openvino_decoder`` or
        ``onnxruntime_decoder``. Those are timed as whole decoders (`aiq.calibrate.decoders`).
    name
        Name of the profile.
    threads
        Threads to measure with; by default those of `add_to`, or else all that the process may
        use.
    samples
        File that keeps the times. By default it is in the user's cache folder, and its name
        depends on machine, versions and threads.
    add_to
        Profile that gets the section of the runtime; its roofs are not measured again.
    count
        Programs of each operator class and format. Fewer take less time and fit worse.
    limit
        Seconds after which this call times no further program, once it has timed one of each
        operator class and format. The next call goes on from there.
    again
        Whether to time the programs of earlier calls again and take the mean, for less noise.
    force
        Whether to measure on a busy machine, too. Otherwise the call waits for a quiet one, and
        times again what was timed while other processes used the processors.
    progress
        Called with the name of the stage, the steps done and the steps in all.

    Returns
    -------
    Hardware
        The profile, with a section for the runtime.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime is not installed.
    InputError
        If `samples` is another kind of file, or holds times of another machine, or `add_to` holds
        for another number of threads.
    BusyMachineError
        If other processes use the processors for longer than a minute. What was timed before is
        kept.
    Interrupted
        On Ctrl-C: a KeyboardInterrupt whose message says what is kept.
    """
    report = progress or silent
    if add_to is not None:
        threads = _threads_of(add_to, threads)
    if prices_tokens(runtime):
        decoders = _decoders(runtime)
        with machine.threads(threads) as used:
            hardware = add_to or quick(report, name=name, force=force)
            return _with_decoders(hardware, decoders, used, report, force=force)
    engine = runtimes.get(runtime)
    with machine.threads(threads) as used:
        store = open_store(engine, samples, count, force=force)
        try:
            effort = _Effort(count, limit, again, force)
            hardware = add_to or _measured_hardware(store, name, used, report, effort)
            ticks = machine.cpu_ticks()
            _measure_programs(engine, effort, store, report)
            if "products" not in store.values or again:
                timed, _ = quiet.during(
                    lambda: products.time_products(engine, report), force=force, progress=report
                )
                store.set("products", timed)
        except KeyboardInterrupt:
            raise Interrupted(
                f"{len(store.samples)} times are kept in {store.path}; the same call goes on "
                "from there."
            ) from None
        # The largest share of all calls: the last call may find every program timed.
        stolen = machine.steal(ticks, machine.cpu_ticks()) or 0.0
        store.set("steal", max(store.values.get("steal", 0.0), stolen))
    report("fit", 0, 1)
    section = fitted(engine, store.samples.values(), store.noise, hardware)
    section = replace(section, products=products.fit_products(store.values["products"]))
    report("fit", 1, 1)
    return with_section(hardware, section, used, store.values["steal"])


def _threads_of(profile: Hardware, threads: int | None) -> int:
    """Return the threads for which a profile holds, of which a section must have as many."""
    if threads is not None and threads != profile.threads:
        raise InputError(
            f"All numbers of profile {profile.name!r} hold for {profile.threads} threads, and "
            f"{threads} are to be measured; leave threads out, or make another profile."
        )
    return profile.threads


def check_calibration(names: Iterable[str], threads: int | None) -> None:
    """Check, before anything is measured, that runtimes can be calibrated with some threads.

    Raises
    ------
    RuntimeUnavailableError
        If there is no such runtime, or one is not installed.
    InputError
        If this process may not use so many threads.
    """
    known = [*runtimes.names(), placement.GGUF, *DECODERS.values()]
    for name in names:
        if name not in known:
            raise RuntimeUnavailableError(f"Unknown runtime {name!r}; {advice(name, known)}.")
        if prices_tokens(name):
            _decoders(name)
        else:
            runtimes.get(name)
    with machine.threads(threads):
        pass


def _decoders(name: str) -> DecoderRuntime:
    """Return a runtime of decoders, if the packages for that are installed."""
    try:
        if name == placement.GGUF:
            from aiq.calibrate import llamacpp  # noqa: PLC0415

            return llamacpp.llama_cpp()
        from aiq.calibrate import folders  # noqa: PLC0415

        return folders.folder_runtime(owner(name))
    except ModuleNotFoundError as error:
        also = " xllamacpp" if name == placement.GGUF else ""
        raise RuntimeUnavailableError(
            f"Calibrating {name} needs the package {error.name}: `pip install 'aiq[llm]'{also}`."
        ) from error


def _with_decoders(
    hardware: Hardware, runtime: DecoderRuntime, threads: int, report: Progress, *, force: bool
) -> Hardware:
    """Add the section of a runtime of decoders."""
    ticks = machine.cpu_ticks()
    section = measure_decoders(runtime, hardware, threads, report, force=force)
    stolen = machine.steal(ticks, machine.cpu_ticks()) or 0.0
    return with_section(hardware, section, threads, stolen)


def _measured_hardware(
    store: Store, name: str, threads: int, report: Progress, effort: _Effort
) -> Hardware:
    if "roofs" not in store.values:
        found = quiet_roofs(threads, report, roofs_by_threads, force=effort.force)
        store.set("roofs", found)
    return as_hardware(store.values["roofs"], machine.describe(), name)


def with_section(
    hardware: Hardware, section: RuntimeProfile, threads: int, steal: float
) -> Hardware:
    """Return a profile with the section of a runtime, and with the source of its numbers."""
    others = [s for s in hardware.provenance["sources"] if not s.startswith(f"{section.name}: ")]
    how = f"{section.fit.samples} random networks, {threads} threads, steal {steal:.3f}"
    source = f"{section.name}: {how}"
    return replace(
        hardware,
        runtimes=MappingProxyType({**hardware.runtimes, section.name: section}),
        provenance=MappingProxyType({**hardware.provenance, "sources": [*others, source]}),
    )


def open_store(
    engine: Runtime, path: str | Path | None = None, count: int = _COUNT, *, force: bool = False
) -> Store:
    """Return the times measured so far with PyTorch's present thread count; see `calibrate`."""
    signature = {
        **({"forced": True} if force else {}),  # never mixed with those of a quiet machine
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
    """Fit the section of a runtime to timed programs.

    Parameters
    ----------
    engine
        The runtime.
    samples
        Programs and layers with their times.
    noise
        Relative difference between two times of the same program (`aiq.calibrate.fit.fit`).
    hardware
        Profile with the roofs of the machine.
    prior
        Prior of the fit.

    Returns
    -------
    RuntimeProfile
        The section, for the speed that the machine has without other load.
    """
    quiet = float(np.quantile([s.anchor for s in samples if s.is_whole], _QUIET))
    levelled = [replace(s, seconds=s.seconds * quiet / s.anchor) for s in samples]
    return _section(engine, fit(levelled, hardware, noise, programs.needed(engine), prior), quiet)


def _measure_programs(engine: Runtime, effort: _Effort, store: Store, report: Progress) -> None:
    """Time the programs that `store` lacks, and keep them there with the noise of their times."""
    formats = [fmt.name for fmt in programs.native(engine)]
    names = chains.program_names(formats, effort.count)
    least = len(chains.program_names(formats, 1))
    stage = f"time chains in {engine.name}"
    began = time.monotonic()
    beside = anchor(engine)
    for first in range(0, len(names), programs.BUNDLE):
        report(stage, first, len(names))
        if first >= least and time.monotonic() - began > effort.limit:
            break
        bundle = names[first : first + programs.BUNDLE]
        wanted = [name for name in bundle if effort.again or name not in store.samples]
        if wanted:
            found, noise = programs.samples(
                engine, wanted, beside, force=effort.force, progress=report
            )
            store.set("noise", {**store.values.get("noise", {}), str(first): noise})
            store.add(found)
    report(stage, len(names), len(names))


def anchor(runtime: Runtime) -> Call:
    """Compile the program whose time shows the present speed of the machine (`Fit.anchor_us`)."""
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
        fuses=tuple(str(op) for op in engine.fuses),
        fit=replace(found.fit, anchor_us=roofs.four_digits(quiet * 1e6)),
    )
