"""The accuracy of plans on data."""

from aiq.evaluate.evaluator import Evaluation, Evaluator

__all__ = ["Evaluation", "Evaluator"]
