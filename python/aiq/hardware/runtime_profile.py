"""The section of a runtime in a profile: the coefficients of the calibrated cost model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from aiq.errors import HardwareError
from aiq.formats import Format
from aiq.formats import parse as parse_format
from aiq.hardware import products
from aiq.hardware.products import Product


@dataclass(frozen=True, slots=True)
class Correction:
    """The factor on the time of a kernel that depends on the shape of the layer.

    The factor is ``exp(sum of coefficient x feature)``, fitted to random chains of layers, with the
    features of `aiq.cost.shape`.

    Attributes
    ----------
    terms
        Feature -> coefficient.
    range
        Feature, or `aiq.cost.shape.WORK` -> lowest and highest value in the calibration. A feature
        outside its range counts as the nearer end. A layer of more work counts as one with fewer
        rows.
    """

    terms: Mapping[str, float]
    range: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class KernelProfile:
    """The time of a kernel of one operator class in one dtype.

    It is ``start_us + FLOPs / (compute peak) + bytes / (memory bandwidth) + output_ns elements
    written``, times the correction for the layer's shape.

    Attributes
    ----------
    start_us
        Microseconds before the first operation.
    compute
        Share of the peak of the dtype that the kernel reaches.
    memory
        Share of the bandwidth of the memory level that the kernel reaches. It is above 1 if
        arithmetic hides the reads.
    output_ns
        Nanoseconds for each element written; for poolings, for each element read.
    correction
        Factor for the shape of the layer; ``None`` if the shape does not matter.
    """

    start_us: float
    memory: float
    output_ns: float
    compute: float = 1.0
    correction: Correction | None = None


@dataclass(frozen=True, slots=True)
class Realisation:
    """What a runtime does when it is asked for a format.

    Attributes
    ----------
    support
        ``native``, ``dequant`` (weights stored small, computed wide), ``emulated`` or ``none``.
    runs_as
        Name of the format whose kernels it runs.
    """

    support: str
    runs_as: str


@dataclass(frozen=True, slots=True)
class Fit:
    """The errors of the model on the programs of the calibration.

    Attributes
    ----------
    samples
        Number of programs that were timed.
    noise
        Relative difference between two times of the same program.
    mape
        Mean absolute relative error on programs left out of the fit, 0.05 = 5 %.
    low, high
        5 % and 95 % quantiles of measured over predicted time, on programs left out.
    anchor_us
        Microseconds of one run of the program `aiq.calibrate.anchor` at the speed of the machine
        for which the profile holds; ``None`` in profiles of calibrations without an anchor.
    """

    samples: int
    noise: float
    mape: float
    low: float
    high: float
    anchor_us: float | None = None


@dataclass(frozen=True, slots=True)
class RuntimeProfile:
    """One runtime on one machine.

    Attributes
    ----------
    name, version
        Name of the runtime, and versions of the software.
    run_overhead_us
        Microseconds of a run in addition to its kernels.
    formats
        Format -> what the runtime does when it is asked for the format. The keys are ``fp32``,
        ``bf16``, ``w8a8``, and ``wN`` or ``wNaM`` for all others.
    kernels
        Operator class -> compute dtype -> kernel.
    boundaries
        Conversion, such as ``fp32_to_int8`` -> kernel that converts a tensor without FLOPs.
    fuses
        Operator classes without weights that the runtime fuses with each other and with the
        conversions of their inputs and outputs.
    fit
        Errors of the model.
    products
        Name of a format -> measured matrix products with few rows; empty in profiles of
        calibrations that did not time them.
    attention
        Measured attention to a cache: the keys and values of a query are the elements, of two bytes
        each, and the rows are queries. Empty like `products`.
    """

    name: str
    version: str
    run_overhead_us: float
    formats: Mapping[str, Realisation]
    kernels: Mapping[str, Mapping[str, KernelProfile]]
    boundaries: Mapping[str, KernelProfile]
    fuses: tuple[str, ...]
    fit: Fit
    products: Mapping[str, tuple[Product, ...]] = field(default_factory=dict)
    attention: tuple[Product, ...] = ()

    def executed(self, fmt: Format) -> Format:
        """Return the format in which the runtime executes a layer of format `fmt`.

        That is `fmt` itself if weights are only stored in fewer bits and computed wide, otherwise
        the format whose kernels run.

        Raises
        ------
        HardwareError
            If the runtime cannot run the format.
        """
        found = self._realisation(fmt)
        if found is None:
            raise HardwareError(
                f"Runtime {self.name} has no {fmt} in its profile; leave {fmt} out, or add "
                f"runtimes.{self.name}.formats.{fmt}."
            )
        if found.support == "dequant":
            return fmt
        kernel = parse_format(found.runs_as)
        is_mixed = fmt.kernel != fmt and kernel.quantizes_activations
        return parse_format(f"{kernel}{fmt.between.name}") if is_mixed else kernel

    def runs(self, fmt: Format) -> bool:
        """Whether the runtime can run `fmt`, one way or another."""
        return self._realisation(fmt) is not None

    def _realisation(self, fmt: Format) -> Realisation | None:
        found = self.formats.get(fmt.kernel.name)
        if found is None and fmt.quantizes_weights:
            found = self.formats.get("wNaM" if fmt.quantizes_activations else "wN")
        if fmt.kernel != fmt and not self.runs(parse_format(fmt.between.name)):
            return None
        return None if found is None or found.support == "none" else found

    def kernel(self, op: str, dtype: str) -> KernelProfile:
        """Return the kernel of an operator class in a compute dtype.

        Raises
        ------
        HardwareError
            If the profile lacks the kernel; the message names the key to add.
        """
        found = self.kernels.get(op, {}).get(dtype)
        if found is None:
            raise HardwareError(
                f"The profile of runtime {self.name} has no kernel for {op} in {dtype}; add "
                f"runtimes.{self.name}.kernels.{op}.{dtype}, or calibrate again."
            )
        return found

    def boundary(self, source: str, target: str) -> KernelProfile:
        """Return the kernel that converts a tensor from one storage dtype to another.

        Raises
        ------
        HardwareError
            If the profile lacks the kernel; the message names the key to add.
        """
        key = f"{source}_to_{target}"
        if key not in self.boundaries:
            raise HardwareError(
                f"The profile of runtime {self.name} has no boundary {key}; add "
                f"runtimes.{self.name}.boundaries.{key}, or calibrate again."
            )
        return self.boundaries[key]


def from_document(name: str, document: Mapping[str, Any]) -> RuntimeProfile:
    """Return the section of the runtime `name`, from a document that satisfies the schema."""
    return RuntimeProfile(
        name=name,
        version=document["version"],
        run_overhead_us=float(document["run_overhead_us"]),
        formats=_map(document["formats"], lambda entry: Realisation(**entry)),
        kernels=_map(document["kernels"], lambda by_dtype: _map(by_dtype, _kernel)),
        boundaries=_map(document["boundaries"], lambda entry: KernelProfile(**entry)),
        fuses=tuple(document["fuses"]),
        fit=Fit(**document["fit"]),
        products=_map(document.get("products", {}), products.from_document),
        attention=products.from_document(document.get("attention", ())),
    )


def to_document(profile: RuntimeProfile) -> dict[str, Any]:
    """Return a runtime section as plain data, as `from_document` takes it."""
    document = {
        "version": profile.version,
        "run_overhead_us": profile.run_overhead_us,
        "formats": {name: asdict(entry) for name, entry in profile.formats.items()},
        "kernels": {
            op: {dtype: _kernel_document(kernel) for dtype, kernel in by_dtype.items()}
            for op, by_dtype in profile.kernels.items()
        },
        "boundaries": {key: _conversion(kernel) for key, kernel in profile.boundaries.items()},
        "fuses": list(profile.fuses),
        "fit": {key: value for key, value in asdict(profile.fit).items() if value is not None},
    }
    if profile.products:
        measured = profile.products.items()
        document["products"] = {name: products.to_document(found) for name, found in measured}
    if profile.attention:
        document["attention"] = products.to_document(profile.attention)
    return document


def _kernel(entry: Mapping[str, Any]) -> KernelProfile:
    found = entry.get("correction")
    if found is None:
        return KernelProfile(**entry)
    limits = _map(found["range"], tuple)
    return KernelProfile(
        **{**entry, "correction": Correction(MappingProxyType(found["terms"]), limits)}
    )


def _kernel_document(kernel: KernelProfile) -> dict[str, Any]:
    document = {
        **_conversion(kernel),
        "compute": kernel.compute,
    }
    if kernel.correction is not None:
        limits = {name: list(pair) for name, pair in kernel.correction.range.items()}
        document["correction"] = {"terms": dict(kernel.correction.terms), "range": limits}
    return document


def _conversion(kernel: KernelProfile) -> dict[str, Any]:
    return {
        "start_us": kernel.start_us,
        "memory": kernel.memory,
        "output_ns": kernel.output_ns,
    }


def _map(document: Mapping[str, Any], build: Any) -> Mapping[str, Any]:  # noqa: ANN401
    return MappingProxyType({key: build(value) for key, value in document.items()})
