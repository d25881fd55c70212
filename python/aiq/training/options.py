"""The options of training: names, defaults, and what is refused."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from aiq import names
from aiq.errors import InputError
from aiq.evaluate.metrics import main_output
from aiq.planning import checks

Groups = list[dict[str, Any]]

OPTIMIZERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
}

WARM_UP = 0.05
"""Share of training in which the learning rate rises: Adam's first steps know little."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: min(1.0, done / WARM_UP) * (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: min(1.0, done / WARM_UP) * (1 - done),
    "constant": lambda done: 1.0,
}
"""Name -> function of the share of training that is done, 0 to 1: factor of the learning rate."""

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a network is trained; `aiq.finetune` explains the options.

    Attributes
    ----------
    epochs
        Number of passes over the data.
    lr
        Largest learning rate.
    optimizer
        ``adam``, ``sgd``, or a function of groups of parameters that returns an optimiser.
    schedule
        ``cosine``, ``linear``, ``constant``, or a function of the share of training that is done.
    loss
        Function of the model's output and the targets; ``None`` for the cross-entropy.
    weight_decay
        Decay of weights; biases and scales do not decay.
    seed
        Seed of the random draws in each epoch.
    """

    epochs: int = 1
    lr: float = 1e-3
    optimizer: str | Callable[[Groups], torch.optim.Optimizer] = "adam"
    schedule: str | Callable[[float], float] = "cosine"
    loss: Loss | None = None
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole_number("epochs", self.epochs, "a number of epochs")
        if not self.epochs:
            raise InputError("epochs is 0; give at least one.")
        checks.seed(self.seed)
        checks.positive("lr", self.lr)
        checks.not_negative("weight_decay", self.weight_decay)
        for argument, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            value = getattr(self, argument)
            if not callable(value) and value not in known:
                advice = names.advice(str(value), list(known))
                raise InputError(f"{argument} is {value!r}; {advice}, or give a function.")
        if self.loss is not None and not callable(self.loss):
            raise InputError(
                f"loss is {self.loss!r}; give a function of the model's output and the targets, or "
                "None for the cross-entropy."
            )

    def factor(self, done: float) -> float:
        """Return the factor of the learning rate after a share of training, 0 to 1."""
        chosen = self.schedule
        found: object = (chosen if callable(chosen) else SCHEDULES[chosen])(done)
        if not isinstance(found, int | float) or not math.isfinite(found):
            raise InputError(f"schedule returned {found!r:.50}; return a finite factor of lr.")
        return float(found)

    def make_optimizer(self, groups: Groups) -> torch.optim.Optimizer:
        """Return the optimiser of groups of parameters."""
        chosen = self.optimizer
        made = (chosen if callable(chosen) else OPTIMIZERS[chosen])(groups)
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(
                f"optimizer returned {made!r}; return a torch.optim.Optimizer of the groups."
            )
        return made

    def loss_of(self, output: Any, targets: Any) -> Tensor:  # noqa: ANN401
        """Return the loss of a batch."""
        try:
            found: object = (self.loss if callable(self.loss) else softmax_loss)(output, targets)
        except Exception as error:  # the user's code, or targets that do not fit the output
            said = str(error).strip().split("\n", 1)[0].rstrip(".")
            raise InputError(
                f"The loss raised {type(error).__name__} ({said}); give targets that fit what the "
                "model returns, or a loss that takes them."
            ) from error
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.requires_grad:
            raise InputError(
                "The loss is no single number with a gradient; return a tensor that is computed "
                "from the model's output, such as a mean over the batch."
            )
        return found.reshape(())

    def identity(self) -> tuple[object, ...]:
        """Return what distinguishes two trainings; functions are told apart by their names."""
        chosen = (self.optimizer, self.schedule, self.loss)
        return (
            *(self.epochs, self.lr, self.weight_decay, self.seed),
            *(getattr(x, "__qualname__", type(x).__name__) if callable(x) else x for x in chosen),
        )


def softmax_loss(output: Any, targets: Tensor) -> Tensor:  # noqa: ANN401
    """Return the mean cross-entropy in nats.

    Parameters
    ----------
    output
        Output of a model, of which the first floating-point tensor holds logits: (..., C).
    targets
        Classes, (...), of which -100 does not count; or probabilities of the classes, (..., C).
    """
    logits = main_output(output)
    rows = logits.reshape(-1, logits.shape[-1])
    if targets.is_floating_point():
        return cross_entropy(rows, targets.reshape(rows.shape))
    return cross_entropy(rows, targets.reshape(-1).long())


def checkpoint_path(value: object) -> Path | None:
    """Return the path of a checkpoint, or ``None``.

    Raises
    ------
    InputError
        If it is no path.
    """
    if value is None or isinstance(value, Path):
        return value
    if isinstance(value, str) and value:
        return Path(value)
    raise InputError(f"checkpoint is {value!r}; give the path of a file, or None.")
