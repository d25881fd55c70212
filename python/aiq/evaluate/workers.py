"""Workers run jobs: those in this process keep activations from one job to the next."""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor

from aiq.evaluate.references import References
from aiq.evaluate.runner import Checkpoint, LayerFormats, Runner
from aiq.evaluate.samples import Samples
from aiq.formats import REFERENCE

ChunkJob = tuple[int, Sequence[LayerFormats]]
"""Index of a chunk, and the plans to run it under, sorted so that equal first layers are shared."""

_FEW = 2

Scores = Generator[tuple[LayerFormats, Tensor], None, None]
"""The plans of a job in order, each with its scores."""

Arrived = Callable[[int, LayerFormats, Tensor], None]
"""Called with the index of a chunk, a plan, and its scores on the chunk."""


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
        time. Outputs of the float32 network have the same limit; more of them are kept in a
        temporary file.
    arrived
        Called with each result.
    """

    def __init__(
        self,
        runner: Runner,
        chunks: Sequence[Samples],
        memory: int,
        arrived: Arrived = lambda index, plan, scores: None,
    ) -> None:
        self._arrived = arrived
        self._runner = runner
        self._chunks = chunks
        self._memory = memory
        self._paths: dict[int, Checkpoint] = {}
        self._kept = 0  # size of _paths in bytes
        self._keeps = True
        self._references = References(memory)

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
        reference = self._references.get(index)
        for plan in plans:
            if reference is None and any(f != REFERENCE for f in plan):
                _, path, reference = run(chunk, _float32(plan), path, None)
            scores, path, reference = run(chunk, plan, path, reference)
            self._references.put(index, reference)
            self._arrived(index, plan, scores)
            yield plan, scores
        if not alone or path is None:
            return
        self._keeps = path.bytes * min(len(self._chunks), _FEW) <= self._memory
        if self._keeps and self._kept + path.bytes <= self._memory:
            self._paths[index] = path
            self._kept += path.bytes


def _float32(plan: LayerFormats) -> LayerFormats:
    return (REFERENCE,) * len(plan)
