"""Hardware profiles: the limits of a machine, and the speed of its runtimes."""

from aiq.hardware.compare import Pair, side_by_side
from aiq.hardware.energy import Energy
from aiq.hardware.library import builtin_folder, folders, profile_files, profile_name
from aiq.hardware.profile import (
    Hardware,
    MemoryLevel,
    Specification,
    parse_profile,
    to_document,
    to_yaml,
    validate,
)
from aiq.hardware.runtime_profile import Fit, KernelProfile, RuntimeProfile

__all__ = [
    "Energy",
    "Fit",
    "Hardware",
    "KernelProfile",
    "MemoryLevel",
    "Pair",
    "RuntimeProfile",
    "Specification",
    "builtin_folder",
    "folders",
    "parse_profile",
    "profile_files",
    "profile_name",
    "side_by_side",
    "to_document",
    "to_yaml",
    "validate",
]
