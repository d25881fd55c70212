"""What an executor costs: overhead of a task, bytes moved, and the time of an evaluation.

    python benches/executor.py

Tasks of a small network, whose computation takes about a millisecond, are run by this process, by
two processes, and by a Dask cluster of two worker processes, in turns. The overhead of a task is
the CPU time of the driver for it, without the computation, which does not depend on other load: the
driver hands out no more tasks a second than its inverse. Wall times need a quiet machine. A real
job follows: the sensitivities of ResNet-20 in four formats on 100 images, with one thread per
process. All results are compared with those of this process, bit for bit.

Bytes are those of the pickled arguments and answers, and of the model and data that travel to each
worker once.
"""

import argparse
import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from common import console, save
from distributed import Client, LocalCluster
from torch import nn

from aiq import data, models, text
from aiq.evaluate import Evaluation, Evaluator
from aiq.evaluate.executor import Executor, opened
from aiq.formats import parse, parse_all

WORKERS = 2
FORMATS = parse_all("w8,w4,w8a8,w4a4")
ROUNDS = 3
IMAGES = 100


class Counting:
    """Counts the tasks of an executor, and the bytes of their arguments and answers."""

    def __init__(self, executor: Executor) -> None:
        self._executor, self._max_workers = executor, WORKERS
        self.tasks = self.carried = self.arguments = self.answers = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> "Future[Any]":
        self.tasks += 1
        key, payload, task = arguments
        self.carried += 0 if payload is None else len(payload)
        self.arguments += len(pickle.dumps((function, key, task)))
        future: Future[Any] = self._executor.submit(function, *arguments)
        future.add_done_callback(self._count)
        return future

    def _count(self, future: "Future[Any]") -> None:
        if not future.cancelled():
            self.answers += len(pickle.dumps(future.result()))


@contextmanager
def executors() -> Iterator[dict[str, Executor | None]]:
    """Yield what runs the tasks; all workers have started."""
    with (
        opened(WORKERS) as processes,
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        assert processes is not None
        yield {"one process": None, "two processes": processes, "Dask, two workers": client}


def tiny() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return a network and samples that make a few hundred tasks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 900, 10))
    return model.eval(), [(torch.randn(1, 3, 32, 32), torch.tensor([k % 10])) for k in range(256)]


def equal(one: list[Evaluation], other: list[Evaluation]) -> bool:
    return all(
        np.array_equal(a.scores, b.scores) and np.array_equal(a.divergence, b.divergence)
        for a, b in zip(one, other, strict=True)
    )


def small_tasks(executor: Executor | None, rounds: int) -> tuple[dict[str, Any], Evaluation]:
    """Return the number and the times of the tasks of the tiny network, and an evaluation."""
    evaluator = Evaluator(*tiny(), executor=executor, memory=2 * 4 * 8 * 900 * 2)
    plan = {name: parse("w8a8") for name in evaluator.layers}
    evaluator.evaluate(plan)  # workers have the model now
    seconds, cpu = [], []
    for _ in range(rounds):
        started = time.perf_counter(), time.process_time()
        found = evaluator.evaluate(plan)
        seconds.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    times = {"seconds": statistics.median(seconds), "driver_cpu_seconds": statistics.median(cpu)}
    return {"tasks": evaluator.chunks, **times}, found


def job(executor: Executor | None) -> tuple[float, list[Evaluation]]:
    """Return the seconds of the evaluations of single layers of ResNet-20, and the evaluations."""
    model, split = models.load("resnet20"), data.sample("val").take(IMAGES // 10)
    evaluator = Evaluator(model, data.batches(split), executor=executor)
    plans = [{layer: fmt} for layer in evaluator.layers for fmt in FORMATS]
    evaluator.evaluate_many(plans[:1])  # workers have the model now
    started = time.perf_counter()
    found = evaluator.evaluate_many(plans)
    return time.perf_counter() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    with executors() as every:
        alone: dict[str, Any] = {}
        for name, executor in every.items():
            row, evaluation = small_tasks(executor, rounds)
            seconds_of_job, found = job(executor)
            if executor is None:
                alone = {"tiny": [evaluation], "job": found}
            rows[name] = {
                **row,
                "job_seconds": seconds_of_job,
                "equal": equal([evaluation], alone["tiny"]) and equal(found, alone["job"]),
            }
            console.print(f"{name}: {rows[name]}")
        counting = Counting(every["two processes"])  # type: ignore[arg-type]
        small_tasks(counting, 1)
        tiny_bytes = bytes_of(counting)
        counting = Counting(every["two processes"])  # type: ignore[arg-type]
        job(counting)
        job_bytes = bytes_of(counting)
    for name, row in rows.items():
        if name != "one process":
            row["overhead_us"] = 1e6 * row["driver_cpu_seconds"] / row["tasks"]
            row["job_speedup"] = rows["one process"]["job_seconds"] / row["job_seconds"]
    show(rows)
    summary = {
        "workers": WORKERS,
        "images": IMAGES,
        "rows": rows,
        "bytes_tiny": tiny_bytes,
        "bytes_job": job_bytes,
    }
    save("executor", summary, [0])


def bytes_of(counting: Counting) -> dict[str, float]:
    """Return the bytes of the model and the data, and the mean ones of a task."""
    return {
        "tasks": counting.tasks,
        "model_and_data": counting.carried / WORKERS,
        "arguments_per_task": counting.arguments / counting.tasks,
        "answer_per_task": counting.answers / counting.tasks,
    }


def show(rows: dict[str, dict[str, Any]]) -> None:
    console.print(
        text.table(
            "Executors",
            ["<runs on", "tasks a second", "overhead of a task", "ResNet-20", "equal"],
            (
                (
                    name,
                    f"{row['tasks'] / row['seconds']:,.0f}",
                    f"{row['overhead_us']:,.0f} us" if "overhead_us" in row else "",
                    f"{row['job_seconds']:.1f} s",
                    "yes" if row["equal"] else "NO",
                )
                for name, row in rows.items()
            ),
        )
    )


if __name__ == "__main__":
    main()
