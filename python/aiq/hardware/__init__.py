"""Hardware profiles: what a machine can do, and what its runtimes make of it."""

from aiq.hardware.library import MAX_BYTES, available, builtin_folder, folders
from aiq.hardware.profile import (
    Hardware,
    MemoryLevel,
    Specification,
    parse,
    to_document,
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
    "Specification",
    "available",
    "builtin_folder",
    "folders",
    "parse",
    "to_document",
    "to_yaml",
]
