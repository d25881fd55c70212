"""The rounded weights of a network whose activations are not rounded, as files hold them."""

from collections.abc import Sequence

from aiq.graph import Trace
from aiq.graph.export import Inputs
from aiq.quantize.fold import fold
from aiq.quantize.moments import second_moments
from aiq.quantize.operands import has_bias
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe


def weight_only(trace: Trace, calibration: Sequence[Inputs]) -> tuple[Trace, Simulator]:
    """Return a folded trace, and its simulation in formats that round weights only.

    Parameters
    ----------
    trace
        The trace of a model.
    calibration
        Inputs for which biases make up for rounded weights; read only if layers have biases, or if
        the trace rounds weights by data.
    """
    folded = fold(trace)
    statistics = observe(folded, calibration) if has_bias(folded) else {}
    moments = second_moments(folded, calibration)
    return folded, Simulator(folded, statistics, moments=moments)
