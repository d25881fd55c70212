"""Runtimes: what executes a plan for real."""

from aiq.runtimes.base import Compiled, Mismatch, Runtime, Support, available, get, names
from aiq.runtimes.save import save

__all__ = ["Compiled", "Mismatch", "Runtime", "Support", "available", "get", "names", "save"]
