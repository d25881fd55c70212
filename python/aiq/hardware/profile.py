"""Hardware profiles: one YAML file per machine, read into a frozen, validated `Hardware`.

A profile called ``my_board`` is the file ``my_board.yaml`` in the first of these folders that has
it: those named by the environment variable ``AIQ_HW_PROFILES``, the user's configuration folder,
and the folder of profiles that aiq ships.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from aiq import files
from aiq.errors import HardwareError
from aiq.formats import DType
from aiq.hardware import runtime_profile, strictyaml
from aiq.hardware.runtime_profile import RuntimeProfile

SCHEMA = "aiq/hw-profile/v1"
MAX_BYTES = 256 * 1024
"""A larger file is not a profile."""


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
    """

    level: str
    size_kib: float
    read_gbps: float


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
    parallel_efficiency: Mapping[str, float] = field(default_factory=dict)
    runtimes: Mapping[str, RuntimeProfile] = field(default_factory=dict)

    @property
    def dram_gbps(self) -> float:
        """Bandwidth of the farthest level in GB/s."""
        return self.memory[-1].read_gbps

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
        if path.suffix not in {".yaml", ".yml"}:
            path = _find(str(source))
        return parse(_read(path), str(path))

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


def to_dict(hardware: Hardware) -> dict[str, Any]:
    """Return a profile as plain lists and dictionaries, for JSON."""
    return {
        "name": hardware.name,
        "description": hardware.description,
        "threads": hardware.threads,
        "peak_gflops": dict(hardware.peak_gflops),
        "memory": [asdict(level) for level in hardware.memory],
        "provenance": dict(hardware.provenance),
        "parallel_efficiency": dict(hardware.parallel_efficiency),
        "runtimes": {
            name: runtime_profile.to_document(profile)
            for name, profile in hardware.runtimes.items()
        },
    }


def to_yaml(hardware: Hardware) -> str:
    """Return a profile as the text of its file."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "name": hardware.name,
        "description": hardware.description,
        "provenance": dict(hardware.provenance),
        "threads": hardware.threads,
        "compute": {dtype: {"peak_gflops": value} for dtype, value in hardware.peak_gflops.items()},
        "memory": [asdict(level) for level in hardware.memory],
    }
    for key in ("parallel_efficiency", "runtimes"):
        if getattr(hardware, key):
            document[key] = to_dict(hardware)[key]
    return strictyaml.dump(document)


def builtin_folder() -> Path:
    """Return the folder of the profiles that aiq ships."""
    return Path(str(resources.files("aiq") / "hw_profiles"))


def folders() -> tuple[Path, ...]:
    """Return the folders searched for profiles, first match wins."""
    named = os.environ.get("AIQ_HW_PROFILES", "")
    user = [Path(p) for p in named.split(os.pathsep) if p]
    return (*user, platformdirs.user_config_path("aiq") / "hw_profiles", builtin_folder())


def available() -> dict[str, Path]:
    """Return name -> file of every profile that `Hardware.load` finds by name, sorted by name."""
    found: dict[str, Path] = {}
    for folder in reversed(folders()):
        found |= {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return dict(sorted(found.items()))


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
    failure = best_match(_validator().iter_errors(document), key=lambda e: -len(e.absolute_path))
    if failure is not None:
        raise HardwareError(f"{file}: {_explain(failure)}")
    hardware = Hardware(
        name=document["name"],
        description=document["description"],
        threads=document["threads"],
        peak_gflops=MappingProxyType(
            {dtype: float(peak["peak_gflops"]) for dtype, peak in document["compute"].items()}
        ),
        memory=tuple(
            MemoryLevel(level["level"], float(level["size_kib"]), float(level["read_gbps"]))
            for level in document["memory"]
        ),
        provenance=MappingProxyType(document["provenance"]),
        parallel_efficiency=MappingProxyType(document.get("parallel_efficiency", {})),
        runtimes=MappingProxyType(
            {
                name: runtime_profile.from_document(name, section)
                for name, section in document.get("runtimes", {}).items()
            }
        ),
    )
    _check_hierarchy(hardware, file)
    return hardware


def _find(name: str) -> Path:
    profiles = available()
    if name not in profiles:
        raise HardwareError(
            f"There is no hardware profile {name!r}; use one of {', '.join(profiles)}, or the "
            "path of a .yaml file, or put the file into a folder named by AIQ_HW_PROFILES."
        )
    return profiles[name]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise HardwareError(
            f"{path}: cannot be read ({error.strerror}); give the path of a profile, or a name "
            "that `aiq profiles` lists."
        ) from None
    if len(raw) > MAX_BYTES:
        raise HardwareError(
            f"{path}: is larger than {MAX_BYTES // 1024} KiB; no profile needs that."
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise HardwareError(f"{path}: is not UTF-8 text; save the profile as UTF-8.") from None


def _check_hierarchy(hardware: Hardware, file: str) -> None:
    """Farther levels are larger and slower; anything else is a slip of the pen."""
    for index, (near, far) in enumerate(zip(hardware.memory, hardware.memory[1:], strict=False)):
        if near.size_kib >= far.size_kib:
            raise HardwareError(
                f"{file}: memory.{index}.size_kib is {near.size_kib:g} ({near.level}), expected "
                f"less than the {far.size_kib:g} of the level after it ({far.level})."
            )
        if near.read_gbps < far.read_gbps:
            raise HardwareError(
                f"{file}: memory.{index}.read_gbps is {near.read_gbps:g} ({near.level}), expected "
                f"at least the {far.read_gbps:g} of the level after it ({far.level})."
            )


@cache
def _validator() -> Draft202012Validator:
    schema = json.loads((builtin_folder() / "schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema)


def _explain(failure: ValidationError) -> str:
    """One sentence for a broken rule of the schema: key, what was found, what is expected."""
    path = [str(part) for part in failure.absolute_path]
    rule: Any = failure.validator_value
    instance: Any = failure.instance
    found = json.dumps(instance, default=str)
    found = found if len(found) <= 60 else found[:57] + "..."
    match failure.validator:
        case "required":
            missing = next(key for key in rule if key not in instance)
            return f"key {'.'.join([*path, missing])} is missing; add it."
        case "additionalProperties":
            schema: Any = failure.schema
            known = schema["properties"]
            extra = next(key for key in instance if key not in known)
            names = ", ".join(known)
            return f"key {'.'.join([*path, extra])} is unknown, expected one of {names}."
    expected = {
        "type": f"of type {rule}",
        "const": f"{rule!r}",
        "enum": f"one of {rule}",
        "exclusiveMinimum": f"greater than {rule}",
        "minimum": f"at least {rule}",
        "maximum": f"at most {rule}",
        "pattern": f"text that matches {rule}",
        "minItems": f"at least {rule} entries",
        "maxItems": f"at most {rule} entries",
        "minLength": f"at least {rule} characters",
        "maxLength": f"at most {rule} characters",
    }.get(str(failure.validator), f"what {failure.validator} {rule} asks")
    return f"{'.'.join(path) or 'the document'} is {found}, expected {expected}."
