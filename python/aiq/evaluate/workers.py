"""Where chunks run: in this process, which keeps activations, or on an executor's workers."""

import functools
import os
import pickle
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, Future
from typing import Protocol

from torch import Tensor

from aiq.evaluate.metrics import Reference
from aiq.evaluate.runner import Checkpoint, LayerFormats, Runner
from aiq.evaluate.samples import Samples
from aiq.formats import REFERENCE

ChunkJob = tuple[int, Sequence[LayerFormats]]
"""Index of a chunk, and the plans to run it under; neighbours that share most stand together."""

Scores = Generator[tuple[LayerFormats, Tensor], None, None]
"""The plans of a task, in order, each with its scores."""


class Workers(Protocol):
    """Runs tasks."""

    def start(self, tasks: Sequence[ChunkJob]) -> list[Scores]:
        """Return the results of each task, to be read in this order."""

    def drop(self) -> None:
        """Forget tasks whose results nobody will read."""


class LocalWorkers:
    """Runs tasks in this process, when their results are read.

    Parameters
    ----------
    runner, chunks
        What runs, and on what.
    memory
        Bytes of activations that may be kept: those of the last lone plan that a chunk ran under.
    """

    def __init__(self, runner: Runner, chunks: Sequence[Samples], memory: int) -> None:
        self._runner = runner
        self._chunks = chunks
        self._memory = memory
        self._paths: dict[int, Checkpoint] = {}
        self._kept = 0  # bytes of _paths
        self._references: dict[int, Reference] = {}

    def start(self, tasks: Sequence[ChunkJob]) -> list[Scores]:
        """Return the results of each task, to be read in this order."""
        return [self._run(index, plans) for index, plans in tasks]

    def drop(self) -> None:
        """Forget tasks whose results nobody will read: they have not begun."""

    def _run(self, index: int, plans: Sequence[LayerFormats]) -> Scores:
        alone = len(plans) == 1
        chunk, path = self._chunks[index], self._paths.pop(index, None) if alone else None
        self._kept -= path.bytes if path else 0
        for plan in plans:
            reference = self._references.get(index)
            if reference is None and any(f != REFERENCE for f in plan):
                _, path, reference = self._runner.run(chunk, _float32(plan), path, None)
            scores, path, self._references[index] = self._runner.run(chunk, plan, path, reference)
            yield plan, scores
        if alone and path is not None and self._kept + path.bytes <= self._memory:
            self._paths[index] = path
            self._kept += path.bytes


class ExecutorWorkers:
    """Runs tasks on the workers of an executor, all at once.

    Parameters
    ----------
    runner, chunks
        What runs, and on what; both must be picklable where the workers are processes.
    executor
        Any executor of ``concurrent.futures``; it is the caller's to shut down.
    """

    def __init__(self, runner: Runner, chunks: Sequence[Samples], executor: Executor) -> None:
        self._payload = pickle.dumps(runner)
        self._chunks = chunks
        self._executor = executor
        self._workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self._references: dict[int, Reference] = {}
        self._waiting: list[_Parts] = []

    def start(self, tasks: Sequence[ChunkJob]) -> list[Scores]:
        """Return the results of each task, to be read in this order."""
        self._waiting = [self._submit(index, plans) for index, plans in tasks]
        return [
            self._collect(index, parts)
            for (index, _), parts in zip(tasks, self._waiting, strict=True)
        ]

    def drop(self) -> None:
        """Forget tasks whose results nobody will read."""
        for parts in self._waiting:
            for _, result in parts:
                result.cancel()

    def _submit(self, index: int, plans: Sequence[LayerFormats]) -> "_Parts":
        size = max(1, -(-len(plans) // self._workers))
        parts = [plans[start : start + size] for start in range(0, len(plans), size)]
        chunk, reference = self._chunks[index], self._references.get(index)
        return [
            (part, self._executor.submit(run_elsewhere, self._payload, chunk, part, reference))
            for part in parts
        ]

    def _collect(self, index: int, parts: "_Parts") -> Scores:
        for plans, result in parts:
            scores, self._references[index] = result.result()
            yield from zip(plans, scores, strict=True)


_Parts = list[tuple[Sequence[LayerFormats], Future[tuple[list[Tensor], Reference]]]]


def run_elsewhere(
    payload: bytes, chunk: Samples, plans: Sequence[LayerFormats], reference: Reference | None
) -> tuple[list[Tensor], Reference]:
    """Run a chunk under each of `plans`, in a worker: the task of an executor.

    `payload` is a runner that `ExecutorWorkers` pickled for its own workers.
    """
    runner = _unpickled(payload)
    path: Checkpoint | None = None
    if reference is None:
        _, path, reference = runner.run(chunk, _float32(plans[0]), None, None)
    results = []
    for plan in plans:
        scores, path, _ = runner.run(chunk, plan, path, reference)
        results.append(scores)
    return results, reference


@functools.lru_cache(maxsize=2)
def _unpickled(payload: bytes) -> Runner:
    runner: Runner = pickle.loads(payload)
    return runner


def _float32(plan: LayerFormats) -> LayerFormats:
    return (REFERENCE,) * len(plan)
