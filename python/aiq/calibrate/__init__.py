"""Measure this machine: its roofs, and how fast a runtime is on it."""

from aiq.calibrate.brief_calibration import brief
from aiq.calibrate.calibration import anchor, calibrate, check_calibration, fitted, open_store
from aiq.calibrate.choice import AUTO, Choice, choose, own_path
from aiq.calibrate.this_machine import compare_roofs, quick

__all__ = [
    "AUTO",
    "Choice",
    "anchor",
    "brief",
    "calibrate",
    "check_calibration",
    "choose",
    "compare_roofs",
    "fitted",
    "open_store",
    "own_path",
    "quick",
]
