"""Arithmetic-intensity-aware quantisation: which layers to quantise, to what, on your machine.

>>> import aiq
>>> plan = aiq.search(model, hw="xeon_2vcpu", data=loader)  # doctest: +SKIP

Names are loaded when they are first used: ``import aiq`` and ``aiq.solver`` need no PyTorch.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from aiq import userpath

if userpath.is_started_as_module():  # before an import could find a file in the current folder
    userpath.leave_out_current_folder()

from aiq._core import __version__

if TYPE_CHECKING:
    from aiq.comparison import compare
    from aiq.deployment import deploy, export, load
    from aiq.formats import Format
    from aiq.graph import Decode, extract
    from aiq.hardware import Hardware
    from aiq.plan import Plan
    from aiq.plan.channel_plan import ChannelPlan
    from aiq.planning.channels import search_channels
    from aiq.planning.search import search
    from aiq.training.alternate import finetune_search
    from aiq.training.finetune import finetune
    from aiq.training.options import TrainingOptions

__all__ = [
    "ChannelPlan",
    "Decode",
    "Format",
    "Hardware",
    "Plan",
    "TrainingOptions",
    "__version__",
    "compare",
    "deploy",
    "export",
    "extract",
    "finetune",
    "finetune_search",
    "load",
    "search",
    "search_channels",
]

_HOMES = {
    "ChannelPlan": "aiq.plan.channel_plan",
    "Decode": "aiq.graph",
    "Format": "aiq.formats",
    "Hardware": "aiq.hardware",
    "Plan": "aiq.plan",
    "TrainingOptions": "aiq.training.options",
    "compare": "aiq.comparison",
    "deploy": "aiq.deployment",
    "export": "aiq.deployment",
    "extract": "aiq.graph",
    "finetune": "aiq.training.finetune",
    "finetune_search": "aiq.training.alternate",
    "load": "aiq.deployment",
    "search": "aiq.planning.search",
    "search_channels": "aiq.planning.channels",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any name of the package
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
