"""Predict the accuracy drop of a whole plan from a few samples.

The sum of the drops of a plan's layers is wrong by about a fifth, because the errors of layers
enlarge and cancel one another. The divergence of the whole network in the plan's formats has no
such error. A few hundred samples suffice to measure it, where a drop of accuracy takes thousands.
Its product with the drop per nat predicts the drop.
"""

from collections.abc import Mapping

from aiq.drops import DropTable
from aiq.errors import InputError
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import Format
from aiq.sensitivity.drop_scale import FEWEST_SAMPLES

PRECISION = 0.1
"""Relative standard error of the divergence at which the measurement stops."""


def predict_drop(evaluator: Evaluator, drops: DropTable, formats: Mapping[str, Format]) -> float:
    """Return the accuracy drop of a plan, as a fraction, predicted from a few samples.

    Parameters
    ----------
    evaluator
        Evaluator of the model on data; its first few hundred samples are used.
    drops
        Drop table of the same model, from which the drop per nat of divergence is read.
    formats
        The plan: layer name -> format. Layers that are not named stay float32.

    Raises
    ------
    InputError
        If the drops do not come from divergences, as those estimated without data do.
    """
    if drops.drop_per_nat is None:
        raise InputError(
            "This drop table has no drop per nat of divergence, so it predicts no whole plan; "
            "measure or estimate the drops on data."
        )
    return drops.drop_per_nat * divergence(evaluator, formats)


def divergence(evaluator: Evaluator, formats: Mapping[str, Format]) -> float:
    """Return the divergence of a plan in nats, with a relative standard error of `PRECISION`."""
    return evaluator.evaluate(formats, _precise).kl


def _precise(evaluation: Evaluation) -> bool:
    wanted = PRECISION * evaluation.kl
    return evaluation.samples >= FEWEST_SAMPLES and evaluation.kl_error <= wanted
