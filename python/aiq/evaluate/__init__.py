"""The accuracy of plans on data."""

from aiq.evaluate.evaluation import Evaluation
from aiq.evaluate.evaluator import Evaluator

__all__ = ["Evaluation", "Evaluator"]
