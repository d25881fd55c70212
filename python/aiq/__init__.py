"""Arithmetic-intensity-aware quantisation: which layers to quantise, to what, on your machine.

>>> import aiq
>>> plan = aiq.search(model, hw="xeon_2vcpu", data=loader)  # doctest: +SKIP
"""

from aiq import userpath

if userpath.is_started_as_module():  # before an import could find a file in the current folder
    userpath.leave_out_current_folder()

from aiq._core import __version__
from aiq.deploy import compare, deploy, export, load
from aiq.formats import Format
from aiq.graph import extract
from aiq.hardware import Hardware
from aiq.plan import Plan
from aiq.search import search

__all__ = [
    "Format",
    "Hardware",
    "Plan",
    "__version__",
    "compare",
    "deploy",
    "export",
    "extract",
    "load",
    "search",
]
