"""Workers run chunks: in this process, which keeps activations, or on an executor."""

import functools
import os
import pickle
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Protocol

from torch import Tensor

from aiq.evaluate.metrics import Reference
from aiq.evaluate.runner import Checkpoint, LayerFormats, Runner
from aiq.evaluate.samples import Samples
from aiq.formats import REFERENCE

ChunkJob = tuple[int, Sequence[LayerFormats]]
"""Index of a chunk, and the plans to run it under, sorted so that equal first layers are shared."""

_FEW = 2

Scores = Generator[tuple[LayerFormats, Tensor], None, None]
"""The plans of a job in order, each with its scores."""


class Workers(Protocol):
    """Runs jobs."""

    def start(self, jobs: Sequence[ChunkJob]) -> list[Scores]:
        """Return the results of each job, to be read in this order."""

    def drop(self) -> None:
        """Cancel jobs whose results will not be read."""


class LocalWorkers:
    """Runs jobs in this process, when their results are read.

    Parameters
    ----------
    runner
        Runs a chunk under a plan.
    chunks
        The chunks of samples.
    memory
        Largest size of kept activations in bytes. Activations of a chunk are kept after a job with
        only one plan, unless those of a few chunks exceed this size: keeping some would save little
        time.
    """

    def __init__(self, runner: Runner, chunks: Sequence[Samples], memory: int) -> None:
        self._runner = runner
        self._chunks = chunks
        self._memory = memory
        self._paths: dict[int, Checkpoint] = {}
        self._kept = 0  # size of _paths in bytes
        self._keeps = True
        self._references: dict[int, Reference] = {}

    def start(self, jobs: Sequence[ChunkJob]) -> list[Scores]:
        """Return the results of each job, to be read in this order."""
        return [self._run(index, plans) for index, plans in jobs]

    def drop(self) -> None:
        """Do nothing, as jobs whose results are not read never start."""

    def _run(self, index: int, plans: Sequence[LayerFormats]) -> Scores:
        alone = len(plans) == 1
        chunk, path = self._chunks[index], self._paths.pop(index, None) if alone else None
        self._kept -= path.bytes if path else 0
        run = partial(self._runner.run, keep=self._keeps or not alone)
        for plan in plans:
            reference = self._references.get(index)
            if reference is None and any(f != REFERENCE for f in plan):
                _, path, reference = run(chunk, _float32(plan), path, None)
            scores, path, self._references[index] = run(chunk, plan, path, reference)
            yield plan, scores
        if not alone or path is None:
            return
        self._keeps = path.bytes * min(len(self._chunks), _FEW) <= self._memory
        if self._keeps and self._kept + path.bytes <= self._memory:
            self._paths[index] = path
            self._kept += path.bytes


class ExecutorWorkers:
    """Runs jobs on the workers of an executor, all at the same time.

    Parameters
    ----------
    runner
        Runs a chunk under a plan.
    chunks
        The chunks of samples.
    executor
        An executor of ``concurrent.futures``, which the caller shuts down.
    """

    def __init__(self, runner: Runner, chunks: Sequence[Samples], executor: Executor) -> None:
        self._payload = pickle.dumps(runner)
        self._chunks = chunks
        self._executor = executor
        self._workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self._references: dict[int, Reference] = {}
        self._waiting: list[_Parts] = []

    def start(self, jobs: Sequence[ChunkJob]) -> list[Scores]:
        """Return the results of each job, to be read in this order."""
        self._waiting = [self._submit(index, plans) for index, plans in jobs]
        return [
            self._collect(index, parts)
            for (index, _), parts in zip(jobs, self._waiting, strict=True)
        ]

    def drop(self) -> None:
        """Cancel jobs whose results will not be read."""
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
    """Run a chunk under each of `plans`, in a worker of an executor.

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
