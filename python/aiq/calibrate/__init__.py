"""Measure this machine: its roofs, and how fast a runtime is on it."""

from aiq.calibrate.calibration import anchor, calibrate, fitted, open_store
from aiq.calibrate.this_machine import compare, quick

__all__ = ["anchor", "calibrate", "compare", "fitted", "open_store", "quick"]
