"""Hardware profiles: one YAML file per machine, read into a frozen, validated `Hardware`.

A profile called ``my_board`` is the file ``my_board.yaml`` in the first of these folders that has
it: those named by the environment variable ``AIQ_HW_PROFILES``, the user's configuration folder,
and the folder of profiles that aiq ships.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiq import files
from aiq.errors import HardwareError
from aiq.formats import DType
from aiq.hardware import library, runtime_profile, schema, strictyaml
from aiq.hardware.runtime_profile import RuntimeProfile

SCHEMA = "aiq/hw-profile/v1"


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """One level of the memory hierarchy, all threads together.

    Attributes
    ----------
    level
        Its name, for example ``L2``.
    size_kib
        Capacity in KiB.
    read_gbps
        Sustained read bandwidth in decimal gigabytes per second.
    spec_gbps
        What the hardware allows at most, in GB/s, where `read_gbps` is measured.
    formula
        Where `spec_gbps` (else `read_gbps`) comes from: ``12 channels x 4.8 GT/s x 8 byte``.
    """

    level: str
    size_kib: float
    read_gbps: float
    spec_gbps: float | None = None
    formula: str | None = None


@dataclass(frozen=True, slots=True)
class Specification:
    """What the hardware allows in a dtype.

    Attributes
    ----------
    isa
        Instructions or units that compute it.
    spec_gflops
        Peak in GFLOP/s (GOP/s for integers), where `Hardware.peak_gflops` is measured.
    formula
        Where `spec_gflops` (else the peak) comes from: ``96 cores x 2.4 GHz x 32 FLOP/cycle``.
    """

    isa: str | None = None
    spec_gflops: float | None = None
    formula: str | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a cost model needs to know of a machine.

    Attributes
    ----------
    name, description
        How profiles are called and told apart.
    threads
        Threads for which every number below holds.
    peak_gflops
        Dense peak per compute dtype in GFLOP/s (GOP/s for integers); 1 multiply-accumulate = 2.
    memory
        Levels from the nearest to the farthest.
    provenance
        How the numbers came about: method, date, sources.
    specification
        Compute dtype -> what the hardware allows, where the profile says it.
    parallel_efficiency
        Speed-up over one thread divided by `threads`, per compute dtype and for ``DRAM``, where
        that was measured.
    runtimes
        Runtime -> what it makes of the machine, where that was calibrated.
    """

    name: str
    description: str
    threads: int
    peak_gflops: Mapping[str, float]
    memory: tuple[MemoryLevel, ...]
    provenance: Mapping[str, Any]
    specification: Mapping[str, Specification] = field(default_factory=dict)
    parallel_efficiency: Mapping[str, float] = field(default_factory=dict)
    runtimes: Mapping[str, RuntimeProfile] = field(default_factory=dict)

    @property
    def dram_gbps(self) -> float:
        """Bandwidth of the farthest level in GB/s."""
        return self.memory[-1].read_gbps

    @property
    def measured_on(self) -> Mapping[str, Any]:
        """The machine that it was measured on (`aiq.machine.describe`); empty where on none."""
        found: Mapping[str, Any] = self.provenance.get("machine", {})
        return found

    def peak(self, dtype: DType) -> float:
        """Return the peak of arithmetic in `dtype`, in GFLOP/s.

        Raises
        ------
        HardwareError
            If the profile does not list the dtype.
        """
        try:
            return self.peak_gflops[dtype.name]
        except KeyError:
            raise HardwareError(
                f"Hardware profile {self.name!r} has no peak for {dtype.name}; add "
                f"compute.{dtype.name}.peak_gflops, or leave out the formats that compute in it."
            ) from None

    @classmethod
    def load(cls, source: "str | Path | Hardware") -> "Hardware":
        """Return the profile called `source`, or read from the file `source`.

        Parameters
        ----------
        source
            A name such as ``"xeon_2vcpu"``, a path that ends in ``.yaml`` or ``.yml``, or a
            `Hardware`, which is returned as it is.

        Raises
        ------
        HardwareError
            If there is no such profile, or the file is not a valid one; the message names file,
            key and what is expected.
        """
        if isinstance(source, Hardware):
            return source
        path = Path(source)
        if path.suffix in {".yaml", ".yml"}:
            return parse(library.read(path), str(path))
        return validate(library.find(str(source)))

    def save(self, path: "str | Path") -> None:
        """Write the profile to `path` as YAML, atomically.

        Raises
        ------
        HardwareError
            If it is not a valid profile; then nothing is written.
        """
        text = to_yaml(self)
        parse(text, str(path))
        files.write_atomic(path, text)


def validate(path: "str | Path") -> Hardware:
    """Return the profile in the file `path`, which must be called like it.

    Raises
    ------
    HardwareError
        As `Hardware.load`, and if name and file differ.
    """
    name = library.name_of(Path(path))
    found = parse(library.read(Path(path)), str(path))
    if found.name != name:
        raise HardwareError(f"{path}: name is {found.name!r}, expected that of the file, {name!r}.")
    return found


def parse(text: str, file: str) -> Hardware:
    """Turn the text of a profile into a `Hardware`; `file` is what error messages call it.

    Raises
    ------
    HardwareError
        If the text is not YAML, breaks the schema, or is impossible.
    """
    try:
        document = strictyaml.parse(text)
    except strictyaml.StrictError as error:
        hint = "" if str(error).endswith(".") else "; see hw_profiles/README.md for its shape."
        raise HardwareError(f"{file}: {error}{hint}") from None
    schema.check(document, file)
    compute = document["compute"]
    return Hardware(
        name=document["name"],
        description=document["description"],
        threads=int(document["threads"]),  # YAML has whole numbers with a fraction too: 2.0
        peak_gflops=MappingProxyType({d: float(p["peak_gflops"]) for d, p in compute.items()}),
        memory=tuple(MemoryLevel(**_floats(level)) for level in document["memory"]),
        provenance=MappingProxyType(document["provenance"]),
        specification=MappingProxyType(
            {
                dtype: Specification(**_floats(rest))
                for dtype, peak in compute.items()
                if (rest := {key: peak[key] for key in peak if key != "peak_gflops"})
            }
        ),
        parallel_efficiency=MappingProxyType(_floats(document.get("parallel_efficiency", {}))),
        runtimes=MappingProxyType(
            {
                name: runtime_profile.from_document(name, section)
                for name, section in document.get("runtimes", {}).items()
            }
        ),
    )


def to_document(hardware: Hardware) -> dict[str, Any]:
    """Return a profile as the plain data of its file; what is empty is left out."""
    compute = {
        dtype: {"peak_gflops": peak, **_given(hardware.specification.get(dtype, Specification()))}
        for dtype, peak in hardware.peak_gflops.items()
    }
    document = {
        "schema": SCHEMA,
        "name": hardware.name,
        "description": hardware.description,
        "provenance": dict(hardware.provenance),
        "threads": hardware.threads,
        "compute": compute,
        "memory": [_given(level) for level in hardware.memory],
        "parallel_efficiency": dict(hardware.parallel_efficiency),
        "runtimes": {
            name: runtime_profile.to_document(profile)
            for name, profile in hardware.runtimes.items()
        },
    }
    return {key: value for key, value in document.items() if value != {}}


def to_yaml(hardware: Hardware) -> str:
    """Return a profile as the text of its file."""
    return strictyaml.dump(to_document(hardware))


def _given(entry: MemoryLevel | Specification) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if value is not None}


def _floats(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return `entry` with whole numbers as floats, so that equal profiles compare equal."""
    return {key: float(v) if isinstance(v, int) else v for key, v in entry.items()}
