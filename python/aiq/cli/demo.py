"""The main job on a trained network, end to end: what ``aiq demo`` runs.

ResNet-20 on Fashion-MNIST, everything shipped with the package. First the fastest formats for this
machine, predicted by a profile that is calibrated in seconds and then measured. Second the most
intensity by the objective of the paper. Plans are chosen on held-out training images; the second
part is scored on test images that no search has seen. The last step writes the first plan as an
HTML page, with what was measured.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from aiq import calibrate, comparison_table, cost, graph, models, runtimes, sensitivity, text
from aiq import data as datasets
from aiq.calibrate.blocks import THUMBNAILS
from aiq.cli import demo_llm
from aiq.cli.common import JsonOption, out, print_json, progress_bars, saving
from aiq.comparison import PredictedMeasured, compare
from aiq.cost import CostTable
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
RUNTIMES = ("openvino", "onnxruntime", "inductor")  # the first that is installed
FAST = ("fp32", "w8a8")  # the formats of the throughput plan
UNIFORM = ("fp32", "w8", "w4")
SENSED = ("fp32", "w8", "w4", "w8a8")  # the formats of both parts
LAMBDA = 0.9  # the paper's
MAX_DROP = 0.01
BATCH = 128  # of the throughput measurement
SECONDS = 4.0  # of the stopwatch
VERIFY, SENSE, SCORE = 100, 30, 100  # images of each class: plans, single layers, test
REPORT = Path("aiq-demo.html")


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The HTML file to write at the end.")
    ] = REPORT,
    llm: Annotated[
        bool, typer.Option("--llm", help="A small language model in llama.cpp, in minutes.")
    ] = False,
    text_file: Annotated[
        Path | None, typer.Option("--text", help="English text that --llm reads.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Run the main job on a trained ResNet-20: search, plan, prediction beside measurement."""
    check_target(output)
    if llm:
        with progress_bars() as progress:
            demo_llm.demo(text_file, output, progress, as_json=json_)
        return
    with progress_bars() as progress:
        result = run(progress)
    if json_:
        print_json(result.to_dict())
    else:
        out.print(render(result))
    with saving(output):
        result.throughput_plan.report(output, result.throughput)


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
    """

    name: str
    intensity: float
    objective: float
    accuracy: float
    drop: float


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
    model, val = models.load(NETWORK), datasets.sample("val")
    test = datasets.sample("test").take(SCORE)
    calibration = datasets.batches(datasets.sample("train"))
    image, batch = test.inputs(test.images[:1]), test.inputs(test.images[:BATCH])

    runtime = next(name for name in RUNTIMES if name in runtimes.available())
    roofs = calibrate.quick(progress=progress, force=True)
    profile = calibrate.brief(runtime, roofs, THUMBNAILS, force=True, progress=progress)

    traced = graph.trace(model, image)
    few = datasets.batches(val.take(SENSE))
    evaluator = Evaluator(traced, few, calibration=calibration, progress=progress)
    drops = sensitivity.measure(evaluator, SENSED, progress=progress)
    del evaluator  # with the activations that it keeps

    fast = search(
        model,
        profile,
        datasets.batches(val.take(VERIFY)),
        example_inputs=batch,
        runtime=runtime,
        formats=FAST,
        max_drop=MAX_DROP,
        sensitivity=drops,
        calibration=calibration,
        progress=progress,
    )
    throughput = compare(
        fast,
        model,
        profile,
        example_inputs=batch,
        calibration=calibration,
        min_seconds=SECONDS,
        progress=progress,
    )
    assert isinstance(throughput, PredictedMeasured), "no demo runs in llama.cpp"
    exact = search(
        model,
        profile,
        few,
        example_inputs=image,
        objective="weighted",
        lam=LAMBDA,
        runtime=None,
        formats=PAPER,
        sensitivity=drops,
        calibration=calibration,
        progress=progress,
    )
    score = _Score(
        Evaluator(traced, datasets.batches(test), calibration=calibration),
        cost.intensity_table(traced.graph, PAPER),
        drops,
        exact.proof.drop_factor,
    )
    rows = [
        *(score.row(name, dict.fromkeys(drops.layers, parse_format(name))) for name in UNIFORM),
        score.row("exact search", exact.formats),
    ]
    return Result(tuple(rows), exact, fast, throughput, time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class _Score:
    """Scores plans on the test images, and by the paper's objective as the exact search saw it."""

    evaluator: Evaluator
    table: CostTable
    drops: DropTable
    drop_factor: float

    def row(self, name: str, plan: Mapping[str, Format]) -> Row:
        accuracy = self.evaluator.evaluate(plan).accuracy
        ratio = self.table.intensity(plan) / self.table.intensity({})
        drop = self.drops.predict(plan) * self.drop_factor * POINTS
        return Row(
            name=name,
            intensity=self.table.intensity(plan),
            objective=-LAMBDA * ratio + (1 - LAMBDA) * drop,
            accuracy=accuracy,
            drop=self.evaluator.baseline.accuracy - accuracy,
        )


def render(result: Result) -> RenderableType:
    """Return the whole result for people."""
    columns = ["<formats", "FLOP/byte", "x fp32", "objective", "accuracy", "drop"]
    fp32 = result.rows[0]
    rows = (
        (
            row.name,
            f"{row.intensity:.2f}",
            f"{row.intensity / fp32.intensity:.3f}",
            f"{row.objective:.4f}",
            f"{100 * row.accuracy:.2f} %",
            text.points(row.drop),
        )
        for row in result.rows
    )
    title = f"The paper's objective at lambda {LAMBDA} (less is better)"
    return Group(
        Text(
            f"Speed: ResNet-20, batch {BATCH}, the fastest formats within {MAX_DROP:.0%}\n", "bold"
        ),
        show.plan_table(result.throughput_plan),
        comparison_table.throughput(result.throughput),
        Text("\nIntensity: ResNet-20, weights only\n", "bold"),
        text.table(title, columns, rows),
        Text(show.summary(result.plan)),
        Text(f"\nDone in {result.seconds:.0f} s."),
    )
