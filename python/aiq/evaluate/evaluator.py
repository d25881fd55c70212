"""Accuracy of a network with each layer in its own format, on the user's data.

Samples run in chunks that fit the caches of the processor. Two runs of a chunk are equal up to the
first layer whose format differs. That part is computed once, and kept as far as memory allows.
"""

import math
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from aiq.data.reading import CALIBRATION_SAMPLES
from aiq.evaluate import independence, journal, metrics
from aiq.evaluate.evaluation import Enough, Evaluation
from aiq.evaluate.executor import Executor, ExecutorWorkers
from aiq.evaluate.gather import gather
from aiq.evaluate.journal import Journal, LenientJournal
from aiq.evaluate.metrics import Metric
from aiq.evaluate.observed import calibrated
from aiq.evaluate.remote import Arithmetic, WorkerModel
from aiq.evaluate.runner import LayerFormats, Runner
from aiq.evaluate.samples import Samples
from aiq.evaluate.workers import ChunkJob, LocalWorkers, Scores, Workers
from aiq.fingerprint import Fingerprint
from aiq.formats import REFERENCE
from aiq.graph import BatchDim, Trace, trace
from aiq.graph.export import Inputs
from aiq.progress import Progress, silent
from aiq.quantize.fold import fold
from aiq.quantize.points import Absorbs, absorbs_all
from aiq.quantize.program import Program
from aiq.quantize.simulate import Formats

CHUNK_BYTES = 4 * 2**20
"""Largest size of an activation of a chunk, so that a few of them fit the last-level cache."""


class Evaluator:
    """Evaluates the accuracy of plans for a model.

    Parameters
    ----------
    model
        A module, which is evaluated in evaluation mode, or its trace.
    data
        Iterable of ``(inputs, targets)`` batches, which is read once.
    calibration
        Batches of ``(inputs, targets)`` or of inputs that calibrate the ranges of activations. By
        default these are the first 512 samples of `data`.
    batch_dim
        Dimension of the inputs that counts samples, see `aiq.graph.trace`; not used for a trace,
        which knows its own. With ``None``, each batch of `data` is one sample. Samples whose
        targets are all ignored (-100) are left out.
    metric
        ``top1``, ``perplexity``, ``cosine``, or a function of the model's output and the targets
        that returns a score for each sample, greater being better. ``cosine`` needs no targets.
    observer
        Name of the observer that chooses the ranges of activations: one of
        `aiq.quantize.observers.OBSERVERS`, or ``dynamic`` for ranges computed while the network
        runs.
    weight_bits
        Bits of a weight in integer kernels, see `aiq.runtimes.rewrite.Target`. Weights of more bits
        are evaluated with this many.
    absorbs
        Whether an integer kernel absorbs an operator, see `aiq.quantize.points`.
    gguf
        Whether to compute as llama.cpp does, see `aiq.quantize.simulate`.
    memory
        Largest size of kept activations in bytes, and of kept outputs of the float32 network.
        Further outputs are in a temporary file.
    cache
        Folder of a journal of all evaluations, so that none is run twice; ``None`` for no journal.
    lenient
        Whether a journal that fails ends with a warning, and not with an error.
    executor
        An executor of ``concurrent.futures`` or a client of Dask that runs the chunks, see
        `aiq.evaluate.executor`; ``None`` for this process.
    seed
        Seed of the random order in which samples are evaluated.
    progress
        Called with the name of the stage, the steps done, and the number of steps.

    Attributes
    ----------
    trace
        The folded trace that is run.
    layers
        Names of the layers whose format is a decision, in the order in which they start to run.
    metric
        The metric that was given.
    baseline
        Evaluation of the float32 network.
    folder, fingerprint
        Folder of the journal, and a hash of everything that determines an evaluation; ``None`` and
        empty without a journal.

    Raises
    ------
    DataError
        If the data is empty, does not fit the model, or leads to NaN.
    GraphError
        If the model cannot be exported.
    """

    def __init__(
        self,
        model: nn.Module | Trace,
        data: Iterable[Any],
        *,
        calibration: Iterable[Any] | None = None,
        batch_dim: BatchDim = 0,
        metric: str | Metric = "top1",
        observer: str = "mse",
        weight_bits: int = 8,
        absorbs: Absorbs = absorbs_all,
        gguf: bool = False,
        memory: int = 2**28,
        cache: str | Path | None = None,
        lenient: bool = False,
        executor: Executor | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        metrics.check_metric(metric)
        if cache is not None and not lenient:
            journal.check_folder(cache)
        self.metric = metric
        self._progress = progress or silent
        dims = model.batch_dim if isinstance(model, Trace) else batch_dim
        samples = gather(data, labelled=metric != "cosine", batch_dim=dims)
        samples = samples.counted() if isinstance(metric, str) else samples
        if isinstance(model, nn.Module):
            model = trace(model, samples.part(0, 1 if samples.whole else 2).filled(None), dims)
        self.trace = fold(model)
        program = Program(self.trace)
        self._batch = batch = None if self.trace.dynamic_batch else self.trace.graph.batch
        size = 1 if samples.whole else batch or _chunk_size(self.trace, memory)
        # In random order every chunk is a random sample, even of data sorted by class.
        self._seed = seed
        self._order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
        shuffled = samples.at(self._order)
        self._chunks = shuffled.chunks(size)
        seen = samples.part(0, CALIBRATION_SAMPLES)
        if calibration is not None:
            seen = gather(calibration, labelled=False, batch_dim=dims, reads=program.reads)
        with torch.inference_mode():
            graph = self.trace.graph
            largest = max((x.output_elements for x in graph.layers if x.is_output), default=0)
            each = largest // graph.batch
            output_dim = independence.output_dim(program, samples, batch, each)
        self.folder = None if cache is None else Path(cache)
        chunks = seen.chunks(size)
        simulator = calibrated(
            self.trace, chunks, batch, self.folder, self._progress, observer, absorbs, gguf=gguf
        )
        self.runner = Runner(simulator, metric, batch, output_dim)
        self.layers = self.runner.layers
        self._weight_bits = weight_bits
        self._workers: Workers = (
            LocalWorkers(self.runner, self._chunks, memory, self._keep)
            if executor is None
            else ExecutorWorkers(
                WorkerModel(self.runner, shuffled, size, memory, Arithmetic.here()),
                executor,
                self._keep,
            )
        )
        self.fingerprint = ""
        self._journal: Journal | LenientJournal | None = None
        if cache is not None:
            self.fingerprint = self._fingerprint(samples, size, metric)
            self._journal = (LenientJournal if lenient else Journal)(cache, self.fingerprint)
        self._work = 0.0
        self._float32: list[Tensor] = []  # scores of the float32 network, per chunk
        self.baseline = self.evaluate({})

    @property
    def evaluations(self) -> int:
        """Number of evaluations on all samples so far, those of the journal too; parts add up."""
        return math.ceil(round(self._work, 6))

    @property
    def chunks(self) -> int:
        """Number of chunks, and so the largest number of calls of `enough`."""
        return len(self._chunks)

    def inputs(self, limit: int) -> list[Inputs]:
        """Return chunks of the inputs of about `limit` random samples."""
        count = min(len(self._chunks), max(1, round(limit / len(self._chunks[0]))))
        return [chunk.filled(self._batch) for chunk in self._chunks[:count]]

    def evaluate(self, formats: Formats, enough: Enough | None = None) -> Evaluation:
        """Return the evaluation of the model with its layers in `formats`.

        Parameters
        ----------
        formats
            Layer name -> format; layers that are not named stay float32.
        enough
            Called with the evaluation so far, which is the result once it returns true. By default
            all samples are evaluated.

        Raises
        ------
        InputError
            If there is no such layer.
        DataError
            If a layer writes NaN or infinite values.
        """
        plan = self._plan(formats)
        scores: list[Tensor] = []
        for results in self._start([(index, [plan]) for index in range(len(self._chunks))]):
            scores.extend(score for _, score in results)
            self._progress("evaluate", len(scores), len(self._chunks))
            if enough is not None and enough(self._evaluation(scores)):
                self._workers.drop()
                break
        if not self._float32:
            self._float32 = [score[0] for score in scores]
        return self._evaluation(scores)

    def evaluate_many(
        self,
        plans: Sequence[Formats],
        enough: Enough | None = None,
        progress: Progress | None = None,
    ) -> list[Evaluation]:
        """Return the evaluation of each of `plans`.

        This is faster than one plan at a time: plans with equal first layers share their results,
        and all plans run on a chunk before the next one, unless an executor runs them.

        Parameters
        ----------
        plans
            Layer name -> format, for each plan.
        enough
            Called for each plan as in `evaluate`.
        progress
            Called instead of the evaluator's own `progress`.
        """
        report = progress or self._progress
        whole = [self._plan(formats) for formats in plans]
        active = sorted(dict.fromkeys(whole), key=_by_first_change)
        scores: dict[LayerFormats, list[Tensor]] = {plan: [] for plan in active}
        done, total = 0, len(active) * len(self._chunks)
        # What is enough decides after each chunk which plans run on the next one.
        together = len(self._chunks) if enough is None else 1
        for first in range(0, len(self._chunks), together):
            indices = range(first, first + together)
            started = self._start([(index, tuple(active)) for index in indices])
            for index, results in zip(indices, started, strict=True):
                for plan, score in results:
                    scores[plan].append(score)
                    done += 1
                    if enough is not None and enough(self._evaluation(scores[plan])):
                        active.remove(plan)
                        done += len(self._chunks) - index - 1
                    report("evaluate", done, total)
        return [self._evaluation(scores[plan]) for plan in whole]

    def _plan(self, formats: Formats) -> LayerFormats:
        self.runner.simulator.check(formats)
        chosen = (formats.get(name, REFERENCE) for name in self.layers)
        return tuple(fmt.kernel.held_to(self._weight_bits) for fmt in chosen)

    def _start(self, jobs: Sequence[ChunkJob]) -> list[Scores]:
        """Return the results of each job, from the journal or from the workers, which start now."""
        found = [{plan: self._known(index, plan) for plan in plans} for index, plans in jobs]
        missing = [
            (index, [plan for plan in plans if known[plan] is None])
            for (index, plans), known in zip(jobs, found, strict=True)
        ]
        running = self._workers.start(missing)
        return [
            self._merged(index, plans, known, results)
            for (index, plans), known, results in zip(jobs, found, running, strict=True)
        ]

    def _merged(
        self,
        index: int,
        plans: Sequence[LayerFormats],
        known: dict[LayerFormats, Tensor | None],
        results: Scores,
    ) -> Scores:
        for plan in plans:
            score = known[plan]
            if score is None:
                _, score = next(results)
            self._work += score.shape[1] / len(self._order)
            yield plan, score
        for _ in results:  # at their end, the workers keep their activations
            pass

    def _keep(self, index: int, plan: LayerFormats, score: Tensor) -> None:
        if self._journal is not None:
            self._journal.put(self._key(plan), index, score.numpy())

    def _known(self, index: int, plan: LayerFormats) -> Tensor | None:
        if self._journal is None:
            return None
        scores = self._journal.get(self._key(plan), index, len(self._chunks[index]))
        return None if scores is None else torch.from_numpy(scores.copy())

    def _key(self, plan: LayerFormats) -> str:
        """Return the name of a plan in the journal, made of the layers that are not float32."""
        return ";".join(
            f"{layer}={f.weight.name},{f.weight_granularity},{f.activation.name}"
            for layer, f in zip(self.layers, plan, strict=True)
            if f != REFERENCE
        )

    def _evaluation(self, scores: Sequence[Tensor]) -> Evaluation:
        """Join the scores of the first chunks, with samples in the order of the data."""
        score, divergence, cross_entropy = torch.cat(list(scores), 1)
        baseline = torch.cat(self._float32[: len(scores)]) if self._float32 else score
        back = self._order[: len(score)].argsort()
        return Evaluation(
            scores=score[back].numpy(),
            baseline=baseline[back].numpy(),
            divergence=divergence[back].numpy(),
            cross_entropy=float(cross_entropy.mean()),
        )

    def _fingerprint(self, samples: Samples, size: int, metric: str | Metric) -> str:
        """Return a hash of everything that determines the result of an evaluation."""
        hashed = Fingerprint()
        hashed.add("aiq", metadata.version("aiq"))
        hashed.add("torch", (torch.__version__, torch.backends.cpu.get_cpu_capability()))
        hashed.add("chunk", size)
        hashed.add("metric", metric if isinstance(metric, str) else metrics.identity(metric))
        for name, leaf in enumerate(pytree.tree_leaves((samples.inputs, samples.targets))):
            hashed.add(f"data {name}", leaf)
        if samples.dims != (0,) * len(samples.dims):
            hashed.add("batch_dim", (samples.dims, samples.target_dim))
        if self._seed:  # journals of earlier versions are those of seed 0
            hashed.add("seed", self._seed)
        self.runner.simulator.fingerprint(hashed)
        return hashed.hexdigest()


def _by_first_change(plan: LayerFormats) -> list[tuple[bool, str, str]]:
    """Return a sort key with which plans that have equal first layers become neighbours."""
    return [(f != REFERENCE, f.weight.name, f.name) for f in plan]


def _chunk_size(trace: Trace, memory: int) -> int:
    """Return the number of samples in a chunk: its activations fit the cache and the memory."""
    written = [4 * layer.output_elements / trace.graph.batch for layer in trace.graph.layers]
    return max(1, int(min(CHUNK_BYTES / max(written), memory / 2 / sum(written))))
