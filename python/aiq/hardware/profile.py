"""Hardware profiles: one YAML file per machine, read into a frozen, validated `Hardware`.

A profile called ``my_board`` is the file ``my_board.yaml`` in the first of these folders that has
it: those named by the environment variable ``AIQ_HW_PROFILES``, the user's configuration folder,
the user's cache folder, and the folder of profiles that aiq ships.
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
from aiq.hardware.energy import Energy
from aiq.hardware.runtime_profile import RuntimeProfile

SCHEMA = "aiq/hw-profile/v1"


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """One level of the memory hierarchy; its numbers are sums over all threads.

    Attributes
    ----------
    level
        Name of the level, for example ``L2``.
    size_kib
        Capacity in KiB.
    read_gbps
        Sustained read bandwidth in decimal gigabytes per second.
    spec_gbps
        Highest bandwidth in GB/s that the hardware allows, if `read_gbps` is measured.
    formula
        Derivation of `spec_gbps`, or of `read_gbps` if there is no `spec_gbps`: for example
        ``12 channels x 4.8 GT/s x 8 byte``.
    """

    level: str
    size_kib: float
    read_gbps: float
    spec_gbps: float | None = None
    formula: str | None = None


@dataclass(frozen=True, slots=True)
class Specification:
    """The peak of a dtype that the hardware allows.

    Attributes
    ----------
    isa
        Instructions or units that compute in the dtype.
    spec_gflops
        Highest possible peak in GFLOP/s (GOP/s for integers), if `Hardware.peak_gflops` is
        measured.
    formula
        Derivation of `spec_gflops`, or of the peak if there is no `spec_gflops`: for example
        ``96 cores x 2.4 GHz x 32 FLOP/cycle``.
    """

    isa: str | None = None
    spec_gflops: float | None = None
    formula: str | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine as the cost models see it.

    Attributes
    ----------
    name, description
        Name of the profile, and one line on the machine.
    threads
        Number of threads for which every number below holds.
    peak_gflops
        Dense peak per compute dtype in GFLOP/s (GOP/s for integers); 1 multiply-accumulate = 2.
    memory
        Memory levels from the nearest to the farthest.
    provenance
        Origin of the numbers: method, date, sources.
    specification
        Compute dtype -> highest possible peak, for the dtypes of which the profile has one.
    parallel_efficiency
        Speed-up over one thread divided by `threads`, for each compute dtype and for ``DRAM``;
        empty if it was not measured.
    runtimes
        Runtime -> its calibrated section; empty if no runtime was calibrated.
    energy
        Energy of operations and of memory, or ``None`` if the profile states none.
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
    energy: Energy | None = None

    @property
    def dram_gbps(self) -> float:
        """Read bandwidth of the farthest memory level in GB/s."""
        return self.memory[-1].read_gbps

    @property
    def measured_on(self) -> Mapping[str, Any]:
        """The machine of the measurements (`aiq.machine.describe`); empty for a data sheet."""
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
        """Return the profile that is called `source`, or that is in the file `source`.

        Parameters
        ----------
        source
            A name such as ``"xeon_2vcpu"``, a path that ends in ``.yaml`` or ``.yml``, or a
            `Hardware`, which is returned as it is.

        Raises
        ------
        HardwareError
            If there is no such profile, or the file is not a valid profile; the message names the
            file, the key and what is expected.
        """
        if isinstance(source, Hardware):
            return source
        path = Path(source)
        if path.suffix in {".yaml", ".yml"}:
            return parse_profile(library.read_profile(path), str(path))
        return validate(library.find(str(source)))

    def save(self, path: "str | Path") -> None:
        """Write the profile to `path` as YAML, atomically.

        Raises
        ------
        HardwareError
            If the profile is not valid; nothing is written then.
        """
        text = to_yaml(self)
        parse_profile(text, str(path))
        files.write_atomic(path, text)


def validate(path: "str | Path") -> Hardware:
    """Return the profile in the file `path`, whose name must be that of the profile.

    Raises
    ------
    HardwareError
        For the same reasons as `Hardware.load`, and if the names of profile and file differ.
    """
    name = library.profile_name(Path(path))
    found = parse_profile(library.read_profile(Path(path)), str(path))
    if found.name != name:
        raise HardwareError(f"{path}: name is {found.name!r}, expected that of the file, {name!r}.")
    return found


def parse_profile(text: str, file: str) -> Hardware:
    """Return the profile in `text`; errors call it `file`.

    Raises
    ------
    HardwareError
        If the text is not YAML, breaks the schema, or states impossible numbers.
    """
    try:
        document = strictyaml.parse_yaml(text)
    except strictyaml.StrictError as error:
        hint = "" if str(error).endswith(".") else "; see docs/profiles.md for its shape."
        raise HardwareError(f"{file}: {error}{hint}") from None
    schema.check_document(document, file)
    compute = document["compute"]
    return Hardware(
        name=document["name"],
        description=document["description"],
        threads=int(document["threads"]),  # a whole number may be written 2.0
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
        energy=Energy.read(document.get("energy")),
    )


def to_document(hardware: Hardware) -> dict[str, Any]:
    """Return a profile as the plain data of its file, without empty parts."""
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
        "energy": {} if hardware.energy is None else hardware.energy.to_document(),
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
