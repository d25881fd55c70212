"""What a worker of an executor does: keep the model and the data, and run tasks on them.

A task names a chunk of the samples and some plans, and its answer is the scores. Scores are equal
to those of the process that asks, to the last bit: a worker takes over its number of threads, and
refuses to work with another processor or other versions of the libraries.
"""

import pickle
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from aiq import machine
from aiq.errors import InputError
from aiq.evaluate.runner import LayerFormats, Runner
from aiq.evaluate.samples import Samples
from aiq.evaluate.workers import LocalWorkers

_MOST_MODELS = 2
"""Number of models that a worker keeps when they are sent with tasks."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkerTask:
    """Plans to run on the chunk of samples with an index."""

    index: int
    plans: tuple[LayerFormats, ...]


Answer = list[NDArray[np.float64]] | Exception | None
"""The scores of each plan, (3, samples), or the exception that the computation raised.

It is ``None`` if the worker does not have the model.
"""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What the last bits of a result depend on, besides the model and the data.

    Attributes
    ----------
    threads
        Number of threads of PyTorch's operators.
    precision
        Precision of products of float32 matrices, as in ``torch.set_float32_matmul_precision``.
    facts
        Processor and versions: name of a property -> its value.
    """

    threads: int
    precision: str
    facts: Mapping[str, str]

    @classmethod
    def here(cls) -> "Arithmetic":
        """Return the arithmetic of this process."""
        return cls(torch.get_num_threads(), torch.get_float32_matmul_precision(), _facts())

    def adopt(self) -> None:
        """Compute in this way from now on, in this thread.

        Raises
        ------
        InputError
            If the processor or a version is another one here.
        """
        here = _facts()
        for name, value in self.facts.items():
            if here.get(name) != value:
                raise InputError(
                    f"A worker has the {name} {here.get(name)!r}, and the process that asks has "
                    f"{value!r}, so that their results could differ; give an executor whose "
                    "workers are like this process."
                )
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if torch.get_float32_matmul_precision() != self.precision:
            torch.set_float32_matmul_precision(self.precision)


@cache
def _facts() -> dict[str, str]:
    about = machine.describe()
    return {
        "processor": str(about["cpu"]),
        "instruction sets": " ".join(about["isa"]),
        "limits of instruction sets": str(about.get("limits", "none")),
        "capability of PyTorch": torch.backends.cpu.get_cpu_capability(),
        "version of PyTorch": str(torch.__version__),
        "version of aiq": str(about["packages"].get("aiq")),
    }


@dataclass(frozen=True, eq=False)
class WorkerModel:
    """What all tasks of an evaluator need; a worker gets it once.

    Attributes
    ----------
    runner
        Runs a chunk under a plan.
    samples
        The samples, in the order of the chunks.
    size
        Number of samples in a chunk.
    memory
        Largest size in bytes of the activations that a thread keeps.
    arithmetic
        How to compute.
    """

    runner: Runner
    samples: Samples
    size: int
    memory: int
    arithmetic: Arithmetic

    def workers(self) -> LocalWorkers:
        """Return what runs jobs in one thread of this process."""
        return LocalWorkers(self.runner, self.samples.chunks(self.size), self.memory)


def run_task(model: WorkerModel, task: WorkerTask) -> Answer:
    """Run a task in this thread; exceptions of the computation are returned."""
    try:
        model.arithmetic.adopt()
        (results,) = _workers_of_thread(model).start([(task.index, task.plans)])
        return [scores.numpy() for _, scores in results]
    except Exception as error:  # noqa: BLE001 - the process that asks raises it
        return error


def run_with_kept_model(key: str, payload: bytes | None, task: WorkerTask) -> Answer:
    """Run a task on the model that an earlier task brought to this process, or that this one does.

    Parameters
    ----------
    key
        Hash of the payload.
    payload
        The model as `aiq.evaluate.executor` has pickled it; ``None`` if the worker may have it.
    task
        The task to run.
    """
    model = _KEPT.get(key)
    if model is None:
        if payload is None:
            return None
        _KEPT[key] = model = pickle.loads(payload)
        while len(_KEPT) > _MOST_MODELS:
            _KEPT.popitem(last=False)
    return run_task(model, task)


_KEPT: OrderedDict[str, WorkerModel] = OrderedDict()
_THREAD = threading.local()


def _workers_of_thread(model: WorkerModel) -> LocalWorkers:
    """Return the local workers of this thread, which keep activations from task to task."""
    if not hasattr(_THREAD, "workers"):
        _THREAD.workers = WeakKeyDictionary()
    known: Any = _THREAD.workers
    if model not in known:
        known[model] = model.workers()
    found: LocalWorkers = known[model]
    return found
