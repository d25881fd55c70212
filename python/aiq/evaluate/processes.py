"""Processes of this machine that run functions, and that are replaced when one of them dies."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

RESTARTS = 3
"""Number of times that all processes are started anew."""


class Processes:
    """An executor of `count` processes, which start when the first function is submitted.

    A process that dies takes a pool of ``concurrent.futures`` with it: all its calls end with
    `BrokenExecutor`. Here the next call starts a new pool.
    """

    def __init__(self, count: int) -> None:
        self._max_workers = count  # the name that executors of concurrent.futures have for it
        self._pool: ProcessPoolExecutor | None = None
        self._starts = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> "Future[Any]":  # noqa: ANN401
        """Start a call of a function.

        Raises
        ------
        BrokenExecutor
            If processes died again and again.
        """
        if self._pool is not None:
            try:
                return self._pool.submit(function, *arguments)
            except BrokenExecutor:
                if self._starts > RESTARTS:
                    raise
                self.close()
        self._starts += 1
        # A fork would copy locks that PyTorch's threads hold.
        self._pool = ProcessPoolExecutor(
            self._max_workers, get_context("spawn"), initializer=_begin
        )
        return self._pool.submit(function, *arguments)

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        if self._pool is None:
            return
        processes = dict(getattr(self._pool, "_processes", None) or {})
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes.values():
            process.terminate()
        self._pool = None


def _begin() -> None:
    """Leave Ctrl-C to the process that started this one, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that was killed closes no queue, so that its processes would wait for ever.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
