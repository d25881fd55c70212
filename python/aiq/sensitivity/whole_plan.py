"""A look at a plan as a whole, on few samples: what it will lose on all of them.

The sum of the drops of a plan's layers is off by a fifth or so, as their errors enlarge and cancel
one another. The divergence of the whole network in the plan's formats is not; it takes a few
hundred samples to tell, where a drop of accuracy takes thousands, and times the drop per nat it is
a drop.
"""

from collections.abc import Mapping

from aiq.drops import DropTable
from aiq.errors import InputError
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import Format
from aiq.sensitivity.drop_scale import FEWEST_SAMPLES

PRECISION = 0.1
"""Relative standard error of the divergence at which a look ends."""

ERROR = 0.2
"""Relative standard error of a drop seen so: of the divergence, and of what a nat costs."""


def look(evaluator: Evaluator, drops: DropTable, formats: Mapping[str, Format]) -> float:
    """Return the accuracy drop of a plan, as a fraction, predicted by a look at the whole.

    Parameters
    ----------
    evaluator
        Of the model on data; the first few hundred samples are used.
    drops
        Of the same model: what a nat of divergence costs is read from it.
    formats
        The plan: layer name -> format; layers not named stay float32.

    Raises
    ------
    InputError
        If the drops do not come from divergences, as those estimated without data do.
    """
    if drops.drop_per_nat is None:
        raise InputError(
            "These drops do not say what a nat of divergence costs, so a look tells nothing; "
            "measure or estimate them on data."
        )
    return drops.drop_per_nat * divergence(evaluator, formats)


def divergence(evaluator: Evaluator, formats: Mapping[str, Format]) -> float:
    """Return the divergence of a plan in nats, to a tenth of itself."""
    return evaluator.evaluate(formats, _seen).kl


def _seen(evaluation: Evaluation) -> bool:
    wanted = PRECISION * evaluation.kl
    return evaluation.samples >= FEWEST_SAMPLES and evaluation.kl_error <= wanted
