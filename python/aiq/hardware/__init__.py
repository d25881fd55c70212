"""Hardware profiles: what a machine can do, and what its runtimes make of it."""

from aiq.hardware.profile import (
    MAX_BYTES,
    Hardware,
    MemoryLevel,
    available,
    builtin_folder,
    folders,
    parse,
    to_dict,
    to_yaml,
)
from aiq.hardware.runtime_profile import Fit, Kernel, Realisation, RuntimeProfile

__all__ = [
    "MAX_BYTES",
    "Fit",
    "Hardware",
    "Kernel",
    "MemoryLevel",
    "Realisation",
    "RuntimeProfile",
    "available",
    "builtin_folder",
    "folders",
    "parse",
    "to_dict",
    "to_yaml",
]
