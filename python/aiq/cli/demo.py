"""The main job on a trained network, end to end: what ``aiq demo`` runs.

ResNet-20 on Fashion-MNIST, everything shipped with the package. Plans are chosen on 2,000 held-out
training images and scored on 2,000 test images that no search has seen. The last step writes the
quantised plan as an HTML page, with what was measured.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from aiq import calibrate, cost, graph, models, sensitivity, text
from aiq import data as datasets
from aiq.cli import tables
from aiq.cli.common import JsonOption, err, out, print_json, progress_bars
from aiq.comparison import PredictedMeasured, compare
from aiq.cost import CostTable
from aiq.data import Batches
from aiq.drops import DropTable
from aiq.evaluate import Evaluator
from aiq.files import check_target
from aiq.formats import PAPER, Format
from aiq.formats import parse as parse_format
from aiq.plan import Plan, show
from aiq.planning.search import search
from aiq.planning.tables import POINTS
from aiq.progress import Progress

NETWORK = "resnet20"
UNIFORM = ("fp32", "w8", "w4")
LAMBDA = 0.9  # the paper's
MAX_DROP = 0.01
IN_LOOP = 20  # images per class on which the paper's searches measure every candidate
BATCH = 128  # of the throughput measurement
SECONDS = 5.0  # of the stopwatch
REPORT = Path("aiq-demo.html")


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The HTML file to write at the end.")
    ] = REPORT,
    json_: JsonOption = False,
) -> None:
    """Run the main job on a trained ResNet-20: search, plan, prediction beside measurement."""
    check_target(output)
    with progress_bars() as progress:
        result = run(progress)
    if json_:
        print_json(result.to_dict())
    else:
        out.print(render(result))
    result.throughput_plan.report(output, result.throughput)
    err.print(f"saved {output}: open it in a browser", markup=False, highlight=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One way of choosing formats, and how it did on the test images.

    Attributes
    ----------
    name
        The way.
    intensity
        FLOPs per byte.
    objective
        The paper's objective, drops predicted by the measured single-layer table; smaller is
        better.
    accuracy
        Share of test images that are right.
    drop
        Accuracy lost against float32 on the same images, as a fraction.
    evaluations, seconds
        What the search took.
    """

    name: str
    intensity: float
    objective: float
    accuracy: float
    drop: float
    evaluations: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """Everything the demo shows."""

    rows: tuple[Row, ...]
    plan: Plan
    throughput_plan: Plan
    throughput: PredictedMeasured
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "plan": asdict(self.plan),
            "throughput_plan": asdict(self.throughput_plan),
            "throughput": self.throughput.to_dict(),
            "seconds": self.seconds,
        }


def run(progress: Progress) -> Result:
    """Do everything; `progress` is called with what is going on, steps done, steps in all."""
    started = time.perf_counter()
    model = models.load(NETWORK)
    val, test = datasets.sample("val"), datasets.sample("test")
    calibration = datasets.batches(datasets.sample("train"))
    image = test.inputs(test.images[:1])
    profile = calibrate.quick(progress=progress)

    evaluator = Evaluator(model, datasets.batches(val), calibration=calibration, progress=progress)
    drops = sensitivity.measure(evaluator, PAPER, progress=progress)

    def chosen(method: str, data: Batches, sensitivity: str | DropTable = "measured") -> Plan:
        return search(
            model,
            profile,
            data,
            example_inputs=image,
            objective="weighted",
            lam=LAMBDA,
            formats=PAPER,
            method=method,
            sensitivity=sensitivity,
            calibration=calibration,
            progress=progress,
        )

    few = datasets.batches(val.take(IN_LOOP))
    greedy = chosen("greedy", few)
    coordinate = chosen("coordinate", few)
    exact = chosen("exact", datasets.batches(val), drops)
    score = _Score(
        Evaluator(model, datasets.batches(test), calibration=calibration),
        cost.intensity_table(graph.extract(model, image), PAPER),
        drops,
        exact.proof.drop_factor,
    )
    rows = [
        *(score.row(name, dict.fromkeys(drops.layers, parse_format(name))) for name in UNIFORM),
        score.row("paper: greedy", greedy.formats, greedy.evaluations, greedy.seconds),
        score.row(
            "paper: coordinate", coordinate.formats, coordinate.evaluations, coordinate.seconds
        ),
        score.row(
            "aiq: exact",
            exact.formats,
            drops.evaluations + exact.evaluations,
            drops.seconds + exact.seconds,
        ),
    ]

    batch = test.inputs(test.images[:BATCH])
    fast = search(
        model,
        profile,
        datasets.batches(val),
        example_inputs=batch,
        objective="throughput",
        max_drop=MAX_DROP,
        calibration=calibration,
        progress=progress,
    )
    throughput = compare(
        fast,
        model,
        profile,
        example_inputs=batch,
        calibration=[inputs for inputs, _ in calibration],
        min_seconds=SECONDS,
        progress=progress,
    )
    return Result(tuple(rows), exact, fast, throughput, time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class _Score:
    """Scores plans on the test images, and by the paper's objective as the exact search saw it."""

    evaluator: Evaluator
    table: CostTable
    drops: DropTable
    drop_factor: float

    def row(
        self, name: str, plan: Mapping[str, Format], evaluations: int = 0, seconds: float = 0.0
    ) -> Row:
        accuracy = self.evaluator.evaluate(plan).accuracy
        ratio = self.table.intensity(plan) / self.table.intensity({})
        drop = self.drops.predict(plan) * self.drop_factor * POINTS
        return Row(
            name=name,
            intensity=self.table.intensity(plan),
            objective=-LAMBDA * ratio + (1 - LAMBDA) * drop,
            accuracy=accuracy,
            drop=self.evaluator.baseline.accuracy - accuracy,
            evaluations=evaluations,
            seconds=seconds,
        )


def render(result: Result) -> RenderableType:
    """Return the whole result for people."""
    columns = [
        "<chosen by",
        "FLOP/byte",
        "x fp32",
        "objective",
        "accuracy",
        "drop",
        "evals",
        "time",
    ]
    fp32 = result.rows[0]
    rows = (
        (
            row.name,
            f"{row.intensity:.2f}",
            f"{row.intensity / fp32.intensity:.3f}",
            f"{row.objective:.4f}",
            f"{100 * row.accuracy:.2f} %",
            text.points(row.drop),
            str(row.evaluations) if row.evaluations else "-",
            text.duration(row.seconds) if row.evaluations else "-",
        )
        for row in result.rows
    )
    overview = text.table(
        f"ResNet-20, Fashion-MNIST, the paper's objective at lambda {LAMBDA} (less is better)",
        columns,
        rows,
    )
    return Group(
        overview,
        Text("\nThe exact plan, layer by layer\n", style="bold"),
        show.plan(result.plan),
        Text(f"\nThroughput, batch {BATCH}: float32 and a quantised plan\n", style="bold"),
        Text(show.summary(result.throughput_plan)),
        tables.throughput(result.throughput),
        Text(f"\nDone in {result.seconds:.0f} s."),
    )
