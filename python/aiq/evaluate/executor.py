"""Run jobs on the workers of an executor, on this machine or on several.

Jobs are divided into tasks (`aiq.evaluate.remote`). The model and the data travel to each worker
once. Only this process writes the journal. A task whose worker dies is run again by another worker,
and by this process if the executor does not recover.
"""

import hashlib
import os
import pickle
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from typing import Any, Protocol, runtime_checkable

import torch

from aiq.errors import InputError, reason
from aiq.evaluate.processes import Processes
from aiq.evaluate.remote import Answer, WorkerModel, WorkerTask, run_task, run_with_kept_model
from aiq.evaluate.runner import LayerFormats
from aiq.evaluate.workers import Arrived, ChunkJob, LocalWorkers, Scores

TRIES = 3
"""Number of times that the executor may fail to run a task before this process runs it."""

_AHEAD = 4
"""Number of tasks for each worker that run or wait at the executor, so that no worker is idle."""

_PARTS = 2
"""Least number of tasks for each worker into which jobs are divided."""


class Executor(Protocol):
    """What runs functions elsewhere: an executor of ``concurrent.futures``, or a Dask client."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Any:  # noqa: ANN401
        """Start a call of a function, and return its future."""


@runtime_checkable
class _DaskClient(Protocol):
    """What is needed of ``distributed.Client``."""

    asynchronous: bool

    def get_executor(self, *, pure: bool) -> Executor: ...
    def nthreads(self) -> Mapping[str, int]: ...
    def scatter(self, data: object, *, broadcast: bool, hash: bool) -> Any: ...  # noqa: ANN401


def opened(executor: Executor | int | None) -> AbstractContextManager[Executor | None]:
    """Return a context in which the executor that a user asks for runs tasks.

    A number stands for as many processes of this machine, which end with the context.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if isinstance(executor, int):
        if not isinstance(executor, bool) and executor > 0:
            return closing(Processes(executor))
    elif executor is None or callable(getattr(executor, "submit", None)):
        return nullcontext(executor)
    raise InputError(
        f"executor is {executor!r}; give a number of processes, an executor of "
        "concurrent.futures, a client of Dask, or None."
    )


class _Route(Protocol):
    """A way on which tasks, and the model that they need, reach workers."""

    @property
    def workers(self) -> int:
        """Number of tasks that run at the same time."""

    def submit(self, task: WorkerTask, *, with_model: bool) -> "Future[Answer]":
        """Start a task; `with_model` says that a worker did not have the model."""


class _ToThreads:
    """Threads of this process share the model."""

    def __init__(self, executor: ThreadPoolExecutor, model: WorkerModel) -> None:
        self._executor, self._model = executor, model
        self.workers = executor._max_workers

    def submit(self, task: WorkerTask, *, with_model: bool) -> "Future[Answer]":
        return self._executor.submit(run_task, self._model, task)


class _ToDask:
    """Dask copies the model to its workers, from one to the other."""

    def __init__(self, client: _DaskClient, model: WorkerModel) -> None:
        if client.asynchronous:
            raise InputError(
                "executor is an asynchronous client of Dask; give one that was made with "
                "asynchronous=False."
            )
        try:
            self._threads = client.nthreads()
        except Exception as error:  # noqa: BLE001 - a connection may fail in many ways
            raise InputError(
                f"The client of Dask does not reach its scheduler ({reason(error)}); connect it "
                "again."
            ) from None
        if not self._threads:
            raise InputError(
                "The cluster of Dask has no workers; start some, or wait for them with "
                "client.wait_for_workers(1)."
            )
        # The key of a pure task is that of its arguments, so that it could not be run again.
        self._client, self._executor = client, client.get_executor(pure=False)
        self._model = model
        self._scattered = self._scatter()

    @property
    def workers(self) -> int:
        with suppress(Exception):  # without a connection, tasks will fail and be run here
            self._threads = self._client.nthreads() or self._threads
        return sum(self._threads.values())

    def submit(self, task: WorkerTask, *, with_model: bool) -> "Future[Answer]":
        if self._scattered.status != "finished":  # all workers that had a copy are gone
            self._scattered = self._scatter()
        future: Future[Answer] = self._executor.submit(run_task, self._scattered, task)
        return future

    def _scatter(self) -> Any:  # noqa: ANN401 - a future of Dask
        try:
            return self._client.scatter(self._model, broadcast=True, hash=False)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise _cannot_be_sent(error) from None


class _ToProcesses:
    """The first tasks bring the model; a worker that missed them asks for it."""

    def __init__(self, executor: Executor, model: WorkerModel) -> None:
        self._executor = executor
        try:
            self._payload = pickle.dumps(model)
        except Exception as error:  # noqa: BLE001 - objects of the user may raise anything
            raise _cannot_be_sent(error) from None
        self._key = hashlib.sha256(self._payload).hexdigest()
        self.workers = int(getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
        self._first = self.workers

    def submit(self, task: WorkerTask, *, with_model: bool) -> "Future[Answer]":
        payload = self._payload if with_model or self._first > 0 else None
        future = self._executor.submit(run_with_kept_model, self._key, payload, task)
        if not isinstance(future, Future):
            raise InputError(
                f"executor is {type(self._executor).__name__}, whose submit returns no future of "
                "concurrent.futures; give an executor of concurrent.futures, or a client of Dask."
            )
        self._first -= 1
        return future


def _cannot_be_sent(error: Exception) -> InputError:
    return InputError(
        f"The model or the metric cannot be sent to the workers ({reason(error)}); define "
        "functions and classes at the top level of a module that the workers can import, or leave "
        "executor out."
    )


def _route(executor: Executor, model: WorkerModel) -> _Route:
    if isinstance(executor, ThreadPoolExecutor):
        return _ToThreads(executor, model)
    if isinstance(executor, _DaskClient):
        return _ToDask(executor, model)
    return _ToProcesses(executor, model)


class ExecutorWorkers:
    """Runs jobs on the workers of an executor, all at the same time.

    Parameters
    ----------
    model
        What every task needs.
    executor
        The executor, which the caller shuts down.
    arrived
        Called with each result when it arrives, in any order.

    Raises
    ------
    InputError
        If the model cannot be sent to the workers.
    """

    def __init__(self, model: WorkerModel, executor: Executor, arrived: Arrived) -> None:
        self._model, self._arrived = model, arrived
        self._route = _route(executor, model)
        self._most = 0
        self._local: LocalWorkers | None = None
        self._is_lost = False
        self._is_warned = False
        self._waiting: deque[WorkerTask] = deque()
        self._running: dict[Future[Answer], WorkerTask] = {}
        self._missed: set[WorkerTask] = set()
        self._failures: Counter[WorkerTask] = Counter()
        self._found: dict[WorkerTask, list[torch.Tensor]] = {}

    def start(self, jobs: Sequence[ChunkJob]) -> list[Scores]:
        """Return the results of each job, to be read in this order."""
        self.drop()
        workers, chunks = self._route.workers, sum(bool(plans) for _, plans in jobs)
        self._most = _AHEAD * workers
        parts = -(-_PARTS * workers // max(1, chunks))
        # Neighbours cost about the same, so that every task gets an equal part of the work.
        tasks = [
            [WorkerTask(index, tuple(plans[k::parts])) for k in range(min(parts, len(plans)))]
            for index, plans in jobs
        ]
        self._waiting.extend(task for several in tasks for task in several)
        self._fill()
        return [self._read(plans, several) for (_, plans), several in zip(jobs, tasks, strict=True)]

    def drop(self) -> None:
        """Cancel tasks whose results will not be read."""
        self._waiting.clear()
        for future in self._running:
            future.cancel()
        self._running.clear()
        self._found.clear()

    def _read(self, plans: Sequence[LayerFormats], tasks: Sequence[WorkerTask]) -> Scores:
        results: dict[LayerFormats, torch.Tensor] = {}
        for task in tasks:
            while task not in self._found:
                self._wait(task)
            results.update(zip(task.plans, self._found.pop(task), strict=True))
        for plan in plans:
            yield plan, results[plan]

    def _wait(self, task: WorkerTask) -> None:
        """Wait until the next task ends, or run `task` here if the executor does not."""
        if self._is_lost and task in self._waiting:
            self._waiting.remove(task)
            self._run_here(task)
            return
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            self._settle(self._running.pop(future), future)
        self._fill()

    def _fill(self) -> None:
        """Start waiting tasks, as many as the workers can take."""
        while self._waiting and len(self._running) < self._most and not self._is_lost:
            task = self._waiting[0]
            try:
                future = self._route.submit(task, with_model=task in self._missed)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 - an executor may raise anything
                self._is_lost = True
                warnings.warn(
                    f"The executor takes no more tasks ({reason(error)}), so this process runs the "
                    "rest. Nothing is lost. In a script, the call belongs under "
                    "`if __name__ == '__main__':`, because new processes import the script.",
                    stacklevel=2,
                )
                return
            self._waiting.popleft()
            self._running[future] = task

    def _settle(self, task: WorkerTask, future: "Future[Answer]") -> None:
        """Keep the answer of a task, or run the task again."""
        try:
            answer = future.result()
        except Exception as error:  # noqa: BLE001 - those of the task are answers
            self._failures[task] += 1
            if not self._is_warned:
                self._is_warned = True
                warnings.warn(
                    f"A worker of the executor failed ({reason(error)}); its tasks are run again.",
                    stacklevel=2,
                )
            if self._failures[task] < TRIES:
                self._waiting.appendleft(task)
            else:
                self._run_here(task)
            return
        if isinstance(answer, Exception):
            self.drop()
            raise answer
        if answer is None:
            self._missed.add(task)
            self._waiting.appendleft(task)
            return
        self._missed.discard(task)
        self._keep(task, [torch.from_numpy(scores) for scores in answer])

    def _run_here(self, task: WorkerTask) -> None:
        if self._local is None:
            self._local = self._model.workers()
        (results,) = self._local.start([(task.index, task.plans)])
        self._keep(task, [scores for _, scores in results])

    def _keep(self, task: WorkerTask, scores: list[torch.Tensor]) -> None:
        self._found[task] = scores
        for plan, score in zip(task.plans, scores, strict=True):
            self._arrived(task.index, plan, score)
