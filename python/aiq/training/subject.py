"""What is trained and on what data, and how accurate it is afterwards."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from aiq.deployment import Deployment, prepare
from aiq.errors import InputError, type_of
from aiq.evaluate import Evaluation, Evaluator, metrics
from aiq.evaluate.confidence import drop_limit
from aiq.graph.export import Inputs
from aiq.plan import Accuracy, Plan
from aiq.plan.channel_plan import NO_KERNELS, ChannelPlan
from aiq.runtimes import placement
from aiq.runtimes.absorbed import absorbs


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is trained, on what, and how it is judged.

    Attributes
    ----------
    plan, model
        The plan and the model.
    data
        Batches of inputs and targets, which can be read again.
    validation, calibration
        Batches on which accuracy is measured, and activations are observed; ``None`` for none, and
        for the first batches of `data`.
    example_inputs
        Arguments of one call, or ``None`` for those of the plan.
    """

    plan: Plan
    model: nn.Module
    data: Iterable[Any]
    validation: Iterable[Any] | None = None
    calibration: Iterable[Any] | None = None
    example_inputs: Inputs | None = None

    def ready(self) -> Deployment:
        """Return the exported model and the inputs on which activations are observed.

        Raises
        ------
        InputError
            If the plan is for another model.
        """
        return prepare(self.plan, self.model, self.data, self.example_inputs, self.calibration)

    @property
    def runtime(self) -> str | None:
        """Name of the plan's runtime."""
        return None if self.plan.workload is None else self.plan.workload.runtime

    def check(self) -> None:
        """Raise `InputError` if the plan cannot be trained, before any work is done."""
        if isinstance(self.plan, ChannelPlan):
            raise InputError(NO_KERNELS)
        if not isinstance(self.plan, Plan):
            raise InputError(
                f"plan is {type_of(self.plan)}; give one from aiq.search, or aiq.Plan.load(path)."
            )
        if self.runtime == placement.GGUF:
            raise InputError(
                "The plan is for llama.cpp, whose kernels choose the scales of activations while "
                "they run; training takes plans for the other runtimes."
            )
        metric = self.plan.provenance.get("metric", "top1")
        if self.validation is not None and metric not in metrics.NAMES:
            raise InputError(
                f"The plan was searched with a metric of your own ({metric}), which it does not "
                "keep; leave validation out, and evaluate the trained model yourself."
            )


def judge(subject: Subject, start: Deployment, baseline: Evaluation | None) -> Accuracy:
    """Return the accuracy of a trained plan on the validation data, beside that of float32.

    Parameters
    ----------
    subject
        The trained plan and model.
    start
        The model before training.
    baseline
        Evaluation of the float32 network; ``None`` for that of the model before training.
    """
    assert subject.validation is not None, "the caller has checked that there is data"
    options: dict[str, Any] = {
        "calibration": start.calibration,
        "metric": subject.plan.provenance.get("metric", "top1"),
        "absorbs": absorbs(subject.runtime),
    }
    if baseline is None:
        baseline = Evaluator(start.traced, subject.validation, **options).baseline
    evaluator = Evaluator(subject.ready().traced, subject.validation, **options)
    found = evaluator.evaluate(subject.plan.formats)
    found = replace(found, baseline=baseline.scores)
    confidence = float(subject.plan.provenance.get("confidence", 0.95))
    return Accuracy(
        plan=found.accuracy,
        baseline=float(found.baseline.mean()),
        samples=found.samples,
        drop_limit=drop_limit(found, confidence),
        confidence=confidence,
    )
