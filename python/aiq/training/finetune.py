"""Train the fake-quantised network of a plan, so that fewer bits do with less accuracy drop."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aiq import bars, files
from aiq.data.reading import arranged, read_batches, reiterable
from aiq.deployment import Deployment
from aiq.errors import DataError, InputError, Interrupted, type_of
from aiq.evaluate import Evaluation
from aiq.fingerprint import Fingerprint
from aiq.formats import REFERENCE, WeightRounding
from aiq.graph.export import Inputs
from aiq.plan import Plan
from aiq.progress import Progress, silent
from aiq.quantize.fold import fold
from aiq.quantize.statistics import observe
from aiq.runtimes.absorbed import absorbs
from aiq.runtimes.calibration import calibration_batches
from aiq.training.checkpoint import TrainingState, load_state
from aiq.training.network import TrainableNetwork
from aiq.training.options import Groups, Loss, TrainingOptions, checkpoint_path
from aiq.training.subject import Subject, judge
from aiq.training.writing import Place, places_in, with_trained


@dataclass(frozen=True, slots=True, eq=False)
class Finetuned:
    """A network that was trained with its plan.

    Attributes
    ----------
    model
        The trained model, in evaluation mode. Its weights are rounded to the plan's formats, and
        its batch norms are folded into them and change nothing any more.
    plan
        The plan, with the scales that were learned. It belongs to this model.
    losses
        Mean loss of each epoch.
    """

    model: nn.Module
    plan: Plan
    losses: tuple[float, ...]


@bars.shows_progress
def finetune(
    plan: Plan,
    model: nn.Module,
    data: Iterable[Any],
    *,
    validation: Iterable[Any] | None = None,
    calibration: Iterable[Any] | None = None,
    example_inputs: Inputs | None = None,
    epochs: int = 1,
    lr: float = 1e-3,
    optimizer: str | Callable[[Groups], torch.optim.Optimizer] = "adam",
    schedule: str | Callable[[float], float] = "cosine",
    loss: Loss | None = None,
    weight_decay: float = 0.0,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    progress: bars.Shown = "bar",
) -> Finetuned:
    """Train `model` with every layer rounded as it is in `plan`.

    Gradients pass through the rounding by the straight-through estimator, and the scales of weights
    and activations are learned with everything else (LSQ, Esser et al. 2020, arXiv 1902.08153);
    they start from the scales with which the plan was judged. The network that is trained is the
    one that runs: in evaluation mode, with batch norms folded into the weights before them, and
    rounded where the kernels of the plan's runtime round. Weights and biases of convolutions and
    linear layers are trained, float32 ones too; all other parameters stay as they are.

    Parameters
    ----------
    plan
        The plan, from `aiq.search`, or from an earlier training with the model that it returned.
    model
        The module that was searched; it is not changed.
    data
        Batches of ``(inputs, targets)``, read once each epoch; a ``DataLoader`` may shuffle them.
        Random draws of PyTorch in it are seeded for each epoch, those of other libraries are not.
    validation
        Batches like those in `data`, which are not trained on. On them the accuracy of the trained
        plan is measured, beside that of `model` in float32. Without them it is not known.
    calibration
        Batches on which activations are observed for the scales at the start. Default: the first
        512 samples of `data`.
    example_inputs
        Arguments of one call, see `aiq.deploy`.
    epochs
        Number of passes over `data`.
    lr
        Largest learning rate. Scales change by about this share of themselves in a step of Adam.
    optimizer
        ``adam``, ``sgd`` (with Nesterov's momentum of 0.9), or a function of groups of parameters
        that returns a ``torch.optim.Optimizer``.
    schedule
        ``cosine`` and ``linear`` let the learning rate rise in the first twentieth of the training
        and then fall to zero, ``constant`` keeps it; or a function of the share of training that is
        done, 0 to 1, that returns a factor.
    loss
        Function of what the model returns and of the targets; it returns one number. Default: the
        mean cross-entropy. Its targets are classes, or probabilities of all classes.
    weight_decay
        Decay of the weights, as the optimiser defines it.
    checkpoint
        File that is written after each epoch, atomically. If it exists, training goes on from
        there, with the same result bit for bit as without a break on the same machine.
    seed
        Seed of the random draws in the epochs.
    progress
        Called with the stage, the steps done and the steps in all.

    Returns
    -------
    Finetuned
        The trained model, and its plan with the learned scales. `aiq.deploy`, `aiq.compare` and
        `aiq.export` take the two as they take any model and plan.

    Raises
    ------
    InputError
        If the plan is for another model, an option is not what it should be, the checkpoint is
        that of another training, or the loss is NaN or infinite.
    DataError
        If there are no batches, or they have no targets.
    GraphError
        If layers share weights, or the model cannot be copied.
    Interrupted
        On Ctrl-C, a KeyboardInterrupt: its `trained` is what was reached until then.
    """
    options = TrainingOptions(
        epochs=epochs,
        lr=lr,
        optimizer=optimizer,
        schedule=schedule,
        loss=loss,
        weight_decay=weight_decay,
        seed=seed,
    )
    file = checkpoint_path(checkpoint)
    subject = Subject(
        plan,
        model,
        reiterable(data),
        None if validation is None else reiterable(validation, "validation"),
        None if calibration is None else reiterable(calibration, "calibration"),
        example_inputs,
    )
    return train(subject, options, file, None, progress if callable(progress) else silent)


def train(
    subject: Subject,
    options: TrainingOptions,
    checkpoint: Path | None,
    baseline: Evaluation | None,
    progress: Progress,
) -> Finetuned:
    """Return the trained network.

    Parameters
    ----------
    subject
        What is trained.
    options
        How it is trained.
    checkpoint
        File that is written after each epoch, or ``None``.
    baseline
        Evaluation of the float32 network with which the trained one is compared; ``None`` for that
        of the model as it is given.
    progress
        Called with the stage, the steps done and the steps in all.
    """
    subject.check()
    if checkpoint is not None:
        files.check_target(checkpoint)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(mode=False):
        torch.manual_seed(options.seed)
        progress("export the model", 0, 1)
        ready = subject.ready()
        progress("export the model", 1, 1)
        training = _Training(subject, ready, options, progress)
        try:
            with torch.enable_grad():
                training.run(checkpoint)
            return training.result(baseline, judged=True)
        except KeyboardInterrupt:
            raise _interrupted(training, options.epochs, checkpoint) from None


class _Training:
    """The state of one training."""

    def __init__(
        self, subject: Subject, ready: Deployment, options: TrainingOptions, progress: Progress
    ) -> None:
        self._subject, self._ready, self._options = subject, ready, options
        self._progress = progress
        folded = fold(ready.traced)
        self._places: dict[str, Place] = places_in(subject.model, ready.traced, folded)
        rule = absorbs(subject.runtime)
        with torch.no_grad():
            batches = calibration_batches(ready.calibration, folded)
            formats = {layer.name: REFERENCE for layer in folded.graph.quantizable}
            statistics = observe(folded, batches, rule)
            self._network = TrainableNetwork(
                folded, statistics, formats | subject.plan.formats, rule
            )
        self._steps = _count(subject.data)
        self.losses: tuple[float, ...] = ()

    def run(self, file: Path | None) -> None:
        """Train until the last epoch, from the checkpoint in `file` if there is one."""
        options, parameters = self._options, self._network.parameters
        run = self._identity()
        optimizer = options.make_optimizer(self._groups())
        rates = [group["lr"] for group in optimizer.param_groups]
        known = None if file is None else load_state(file, run)
        if known is not None:
            self.losses = known.losses
            with torch.no_grad():
                for name, value in known.parameters.items():
                    parameters[name].copy_(value)
            optimizer.load_state_dict(dict(known.optimizer))
        for epoch in range(len(self.losses), options.epochs):
            # Each epoch has a seed of its own, so that a continued run equals an uninterrupted one.
            torch.manual_seed((options.seed * 1_000_003 + epoch) % 2**63)
            self.losses = (*self.losses, self._epoch(epoch, optimizer, rates))
            if file is not None:
                TrainingState(run, self.losses, parameters, optimizer.state_dict()).save(file)

    def result(self, baseline: Evaluation | None, *, judged: bool) -> Finetuned:
        """Return the trained model and plan; its accuracy is measured if it is to be `judged`."""
        subject, network = self._subject, self._network
        weights, biases = network.rounded_weights(), network.biases
        model = with_trained(subject.model, self._places, weights, biases)
        done = f"{len(self.losses)} of {self._options.epochs} epochs of {self._steps} batches"
        plan = replace(
            subject.plan,
            learned=network.learned(),
            accuracy=None,
            provenance={
                **subject.plan.provenance,
                "rounding": str(WeightRounding.NEAREST),
                "rounded_on_data": False,
                "training": f"{done}; drops of single layers are those before it",
            },
        )
        if judged and subject.validation is not None:
            self._progress("measure the trained plan", 0, 1)
            trained = replace(subject, plan=plan, model=model)
            accuracy = judge(trained, self._ready, baseline)
            plan = replace(plan, accuracy=accuracy, predicted_drop=accuracy.drop)
            self._progress("measure the trained plan", 1, 1)
        return Finetuned(model, plan, self.losses)

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer, rates: list[float]) -> float:
        """Train on all batches once, and return the mean loss."""
        options, network, total, steps = self._options, self._network, 0.0, 0
        stage = f"train, epoch {epoch + 1} of {options.epochs}"
        self._progress(stage, 0, self._steps)
        for step, batch in enumerate(read_batches(self._subject.data)):
            done = (epoch + min((step + 0.5) / self._steps, 1.0)) / options.epochs
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * options.factor(done)
            inputs, targets = _pair(batch, step)
            optimizer.zero_grad()
            loss = options.loss_of(network.run(inputs, network.formats), targets)
            value = float(loss.detach())
            if not torch.isfinite(loss.detach()):
                raise InputError(
                    f"The loss is {value} in batch {step} of epoch {epoch + 1}; give a smaller lr, "
                    "or check the data and the loss."
                )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total, steps = total + value, steps + 1
            self._progress(stage, step + 1, self._steps)
        return total / max(1, steps)

    def _groups(self) -> Groups:
        """Return the groups of parameters: weights decay, biases and scales do not."""
        weights = list(self._network.weights.values())
        own = {id(weight) for weight in weights}
        others = [p for p in self._network.parameters.values() if id(p) not in own]
        lr = self._options.lr
        return [
            {"params": weights, "lr": lr, "weight_decay": self._options.weight_decay},
            {"params": others, "lr": lr, "weight_decay": 0.0},
        ]

    def _identity(self) -> str:
        """Return a hash of everything that determines the training but the data."""
        hashed = Fingerprint()
        hashed.add("torch", torch.__version__)
        hashed.add("options", (self._options.identity(), self._steps))
        hashed.add("formats", {k: f.name for k, f in self._network.formats.items()})
        hashed.add("scales", self._network.learned())
        for name, value in self._network.parameters.items():
            hashed.add(name, value)
        return hashed.hexdigest()


def _count(data: Iterable[Any]) -> int:
    """Return the number of batches."""
    try:
        found = len(data)  # type: ignore[arg-type]
    except TypeError:
        found = sum(1 for _ in read_batches(data))
    if not found:
        raise DataError("data has no batches; give at least one (inputs, targets).")
    return found


def _pair(batch: Any, number: int) -> tuple[Inputs, Any]:  # noqa: ANN401
    """Return inputs and targets of a batch.

    Raises
    ------
    DataError
        If the batch has no targets.
    """
    found = arranged(batch)
    if not isinstance(found, tuple) or len(found) != 2 or found[1] is None:
        raise DataError(
            f"Batch {number} is {type_of(batch)} without targets; let the data yield pairs of "
            "(inputs, targets), from which training gets its loss."
        )
    inputs, targets = found
    if not isinstance(targets, Tensor | tuple | dict):
        targets = torch.as_tensor(targets)
    return inputs, targets


def _interrupted(training: _Training, epochs: int, file: Path | None) -> Interrupted:
    """Return the exception that carries what was reached."""
    done = len(training.losses)
    kept = (
        "No state is kept; with a checkpoint, training goes on from the last whole epoch."
        if file is None or not done
        else f"The state after epoch {done} is kept in {file}, and the same training goes on there."
    )
    result = training.result(None, judged=False)
    place = f"in epoch {done + 1}" if done < epochs else "after its last epoch"
    message = f"Training was stopped {place}. {kept}"
    return Interrupted(message, plan=result.plan, trained=result)
