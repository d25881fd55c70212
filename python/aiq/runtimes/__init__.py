"""Runtimes: what executes a plan for real."""

from aiq.runtimes.base import Runtime, Support
from aiq.runtimes.program import Compiled, Mismatch
from aiq.runtimes.registry import available, for_file, get, names

__all__ = [
    "Compiled",
    "Mismatch",
    "Runtime",
    "Support",
    "available",
    "for_file",
    "get",
    "names",
]
