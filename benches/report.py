"""Write ``benches/README.md``: every row of the long benchmarks, read from their results.

    python benches/report.py

The tables in the project's README are written too: of the plans the rows in `SHOWN`, of the
predictions a line for each profile and runtime, of the solver a line for each class.

Nothing is measured here: `benches/throughput.py`, `benches/prediction.py` and
`benches/calibration.py` write a summary for each hardware profile, and this lays them out as
tables. The picture is of one profile: `benches/prediction.py --plot` drew it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prediction_report import LEVELS, number, over_all

from aiq import files

HERE = Path(__file__).parent
_, ROOFLINE, CALIBRATED = LEVELS
PLANS = ("runtime", "plans of, batch")
Document = dict[str, Any]

OPENING = """# Measured

What the benchmarks found, row by row; written by `benches/report.py` from `benches/results`. A
heading names the hardware profile (`aiq profiles show NAME`) that predicted.
"""

THROUGHPUT = """
## Plans against every uniform precision

`benches/throughput.py`. Ratios of throughput to the same runtime's float32, measured and predicted.
"Against the best" compares the plan with the best uniform precision, timed in turns: ratio and 95 %
interval; *faster* and *slower* are said only beyond the noise of the row. Rows were timed when the
stopwatch took the ratio of medians, not yet the median of the ratios within rounds; on Zen 3
ResNet-20, ViT-S at batch 16, BERT-base, MobileNetV2 at 224 and batch 16, EfficientNet-B0, RegNetY,
ShuffleNetV2 and ConvNeXt-T are newer, as are all on Zen 5, where a turn, but for MobileNetV2's at
batch 128, fills the caches for 20 ms before its sample; elsewhere one call does. Loss is on 10,000
test images; networks without one have random weights: any loss was allowed. The search timed its
best four plans (`measure_top`), fewer of the largest networks. BERT-base at batch 1 on Zen 4 was
timed three times, 1.05 and 1.04 within the noise before. The Xeon was timed in minutes, while other
such programs ran on its other processors. Predictions are those of the profile of that time.
"""

THROUGHPUT_HEADER = (
    *("network, batch", "runtime", "bf16", "w8a8", "plan", "predicted"),
    *("against the best", "noise", "the plan", "loss"),
)

PREDICTION = """
## Prediction against the stopwatch

`benches/prediction.py`. Networks and plans that no calibration has seen. Mean errors are relative
to the measured time (networks, float32) or to the measured speed-up over float32 (plans, 30 random
ones of each network, half of them scattered). *Lower roof* takes the whole network at its
arithmetic intensity, *roofline* sums over layers, *calibrated* is the model that the search uses;
the columns after it are its. Noise is that of the measurement; the sign of a speed-up is asked of
the plans that differ from float32 by more. A plan that was drawn, compiled and timed more than
once, as float32 mostly is, takes the median of its times. Rows of one runtime count together, at
all batches.

On Zen 3 and Zen 5 programs and rows took turns with the anchor, a program that tells how fast a
shared machine is just then; all predictions of a row are slowed down by what it took there over
what it took in the calibration. On Zen 3 OpenVINO was calibrated with 540 programs in three calls,
23 minutes in all; ONNX Runtime with 360 in one call of thirteen minutes and, all but twelve of
them, once more in one of twelve, which kept samples of its own; the two were joined as `--again`
does. TorchInductor took one call of thirteen minutes, 216 programs. A call stops after about eight
minutes unless told otherwise. Programs of OpenVINO and ONNX Runtime were timed before the model
told apart the reordering of inputs and what poolings read (OpenVINO's before what is fused into a
layer, too), and cut up anew for it; the steal that OpenVINO's profile names is that of a fit during
which nothing was timed. Times of plans are means of two timings (OpenVINO's ResNet-20, ONNX
Runtime's SqueezeNet) and four, OpenVINO's MobileNetV2 of three, TorchInductor's of one; the quieter
a timing, the more it counts, in rows timed since that was built. The noise of OpenVINO's networks
is the anchor's. Times on Zen 4 and the Xeon are of an earlier protocol, on Zen 4 the fastest of
some timings, and their profiles of an earlier fit, which knew less of layers into which something
is fused and of programs beyond the caches. Their time for each element that a pooling wrote is now
a time for each that it reads, of a quarter, so that poolings by two take what they took.

With two threads a call calibrated each runtime on Zen 5: 768 programs of OpenVINO in thirteen
minutes, 540 of ONNX Runtime in eight and 240 of TorchInductor in ten. In their rows one call fills
the caches before a sample, after which an int8 network among thirty others is still up to 27 %
slower than in a loop of its own; with one thread 20 ms of calls do. With two threads small networks
took 0.25 ms in one minute and 0.35 in another, the anchor 6 % more: this and their share of the
last cache the anchor does not tell. Their peak of float32 was found too low at first, by MKL's
product; samples with two threads were fitted again below that of oneDNN's linear layer. Of ONNX
Runtime four networks were timed with two threads. The 27 %, the 0.25 and 0.35 ms and the 6 % are of
throw-away scripts.

With one thread on Zen 5 OpenVINO was calibrated with 840 programs in two calls, fifteen minutes in
all, the first 636 cut up anew between them; ONNX Runtime with 468 in one call of eight. Only in
these two does the model learn from what a profiler times between layers, do plans that are timed
alternate formats, and is an input reordered once, in the dtype of its reader; and in all earlier
ones of OpenVINO and ONNX Runtime the layer times of programs that were exported together with one
that pads its convolutions to the same size went to the wrong layers. Plans of OpenVINO with one
thread are means of two timings, the second at a slower hour: beside both the anchor took 4 % more
than in the calibration. Its networks were timed in that hour, once; ONNX Runtime was calibrated and
timed in it.

On Zen 4 the fastest of one to four passes of calibration and of several timings counts (rows with
one thread and plans of ONNX Runtime: single timings); 69 programs timed in one disturbed pass only
are left out of OpenVINO's section with two threads, and some of its times are of a build that wrote
means over images as poolings, which was taken back. The two profiles of the Xeon, AMX on with two
threads and off with one, were calibrated in 130 s a runtime, with 36 to 108 programs instead of
some hundreds, on some processors while other such programs ran on the rest. Profiles of Zen 3 and
of the Xeon take the noise of the machine for an error of the samples, those of Zen 4 do not yet.

All these profiles were fitted with products of two features of a layer's shape. The products were
then projected onto single features, over the layers of random programs weighted by their work, and
the rows predicted anew by a throw-away script: nothing was timed again. Without weights, tried
first, OpenVINO's networks on Zen 3 were 10.8 % off; so these networks had a say in that choice.

![predicted over measured on Zen 5 with one thread](results/prediction.png)
"""

CALIBRATION = """
## What a calibration learns

`benches/calibration.py`. Each row is one fit to samples that a calibration took: to the first
programs only, which a shorter calibration would have timed, or to all with one assumption changed.
*Left out* is the mean error on synthetic programs left out of the fit, by which the assumptions
were chosen; the columns after it are the networks and plans of the section above, with the least
Spearman and the most regret of the three networks whose plans were timed. A default call stops
after eight minutes, which on Zen 3 came to 216 programs of OpenVINO, 228 of ONNX Runtime (here all
were timed twice) and some 150 of TorchInductor; on Zen 5 with one thread, to some 440 of OpenVINO.
*No anchor* fits the times as the stopwatch showed them. "As it is" had products of two features,
which are gone since: "no products of features" is what a calibration fits now.
"""

SHOWN = {
    "xeon_emerald_2vcpu": ("mobilenet_v2/128", "resnet20/128"),
    "epyc_zen5_2vcpu": (
        "mobilenet_v2/128",
        "vit_s/1/openvino",
        "bert_base/1/openvino",
        "efficientnet_b0/1/onnxruntime",
        "shufflenet_v2/1/onnxruntime",
    ),
    "epyc_zen4_2vcpu": (
        "mobilenet_v2/128",
        "vit_s/1/openvino",
        "vit_s/16/openvino",
        "bert_base/1/openvino",
        "efficientnet_b0/1/onnxruntime",
    ),
    "epyc_zen3_2vcpu": (
        "mobilenet_v2/128",
        "regnet_y_400mf/1/onnxruntime",
        "shufflenet_v2/1/onnxruntime",
        "efficientnet_b0/1/onnxruntime",
    ),
}
"""Rows of plans that the project's README shows, by how their names begin."""

SUMMARY = (
    *("profile", "runtime", "networks", "roofline", "**calibrated**", "median", "noise"),
    *("plans", "roofline", "**calibrated**", "sign right", "least Spearman", "most regret"),
    "most noise",
)
SOLVER = {
    "separable L=54": "one budget, 54 layers",
    "separable L=200": "one budget, 200 layers",
    "separable L=224 llm": "one budget, 224 layers of 7 shapes",
    "separable L=1000": "one budget, 1,000 layers",
    "separable L=10000": "one budget, 10,000 layers",
    "chain L=54": "edges along a chain, 54 layers",
    "chain L=200": "edges along a chain, 200 layers",
    "chain L=1000": "edges along a chain, 1,000 layers",
    "residual L=200": "edges of a residual network, 200 layers",
    "residual L=1000": "edges of a residual network, 1,000 layers",
    "two budgets L=54": "two budgets, 54 layers",
    "two budgets L=200": "two budgets, 200 layers",
    "two budgets L=224 llm": "two budgets, 224 layers of 7 shapes",
    "two budgets L=1000": "two budgets, 1,000 layers",
    "pisinger uncorrelated": "Pisinger's uncorrelated",
    "pisinger weakly": "Pisinger's weakly correlated",
    "pisinger subset-sum": "Pisinger's subset sum",
    "pisinger zig-zag": "Pisinger's zig-zag",
    "pisinger strongly": "Pisinger's strongly correlated",
}
"""Classes of problems in `benches/solver.py`, and what the README calls them."""

SOLVER_HEADER = (
    *("class", "aiq, median", "worst seed", "proved"),
    "times faster than the best peer, median (worst)",
)
README = HERE.parent / "README.md"


def main() -> None:
    files.write_atomic(HERE / "README.md", page(HERE / "results"))
    files.write_atomic(README, filled(README.read_text(), HERE / "results"))
    print("wrote benches/README.md, and the tables in README.md")


def filled(text: str, results: Path) -> str:
    """Return the project's README with the tables that stand for the files in `results`."""
    timed = dict(documents(results / "throughput"))
    plans = [
        [name, *throughput_row(key, row)]
        for name, starts in SHOWN.items()
        for start in starts
        for key, row in timed[name]["rows"].items()
        if key.startswith(start)
    ]
    predictions = [
        [name, runtime, *summary(document, runtime)]
        for name, document in documents(results / "prediction")
        for runtime, _ in networks_of(document)
    ]
    solver = json.loads((results / "solver.json").read_text())["classes"]
    tables = {
        "plans": table(["profile", *THROUGHPUT_HEADER], plans),
        "predictions": table(SUMMARY, predictions),
        "solver": table(SOLVER_HEADER, (solver_row(name, solver[name]) for name in SOLVER)),
    }
    for name, content in tables.items():
        begin, end = f"<!-- {name}: benches/report.py -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = before + begin + "\n" + content + "\n" + end + rest.partition(end)[2]
    return text


def solver_row(name: str, found: Mapping[str, Any]) -> list[str]:
    """Return a row of the table of the solver."""
    least = ">= " if found["lower_bounds"] else ""
    return [
        SOLVER[name],
        *(milliseconds(found[key]) for key in ("median_ms", "worst_ms")),
        f"{found['proved']} of {found['seeds']}",
        f"{least}{found['median_ratio']:,.0f} ({found['worst_ratio']:,.0f})",
    ]


def milliseconds(value: float) -> str:
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ms"


def summary(document: Document, runtime: str) -> list[str]:
    """Return what is said of a runtime's networks, and of all its plans: of ranks the worst."""
    networks = dict(networks_of(document))[runtime]
    plans = [found for key, found in plans_of(document) if said(key)[0] == runtime]
    cells = [
        str(networks[CALIBRATED]["rows"]),
        percent(networks[ROOFLINE]["MAPE"]),
        f"**{percent(networks[CALIBRATED]['MAPE'])}**",
        percent(networks[CALIBRATED]["median"]),
        percent(networks[CALIBRATED]["noise"]),
    ]
    if not plans:
        return [*cells, *[""] * (len(SUMMARY) - 2 - len(cells))]
    roofline, calibrated = (over_all(found[level] for found in plans) for level in LEVELS[1:])
    return [
        *cells,
        str(calibrated["rows"]),
        percent(roofline["MAPE"]),
        f"**{percent(calibrated['MAPE'])}**",
        sign(calibrated),
        f"{calibrated['Spearman']:.3f}",
        percent(calibrated["regret"]),
        percent(calibrated["noise"]),
    ]


def page(results: Path) -> str:
    """Return the page that stands for the files in `results`."""
    found = [OPENING + THROUGHPUT]
    found += [throughput(name, document) for name, document in documents(results / "throughput")]
    found.append(PREDICTION)
    found += [prediction(name, document) for name, document in documents(results / "prediction")]
    found.append(CALIBRATION)
    found += [calibration(name, document) for name, document in documents(results / "calibration")]
    return "\n".join(found)


def documents(folder: Path) -> Iterable[tuple[str, Document]]:
    """Yield profile and results of every file in `folder`."""
    for path in sorted(folder.glob("*.json")):
        yield path.stem, json.loads(path.read_text())


def throughput(profile: str, document: Document) -> str:
    """Return the timed rows of a profile."""
    rows = [throughput_row(key, row) for key, row in document["rows"].items()]
    verdicts = [row["verdict_against_best"] for row in document["rows"].values()]
    counted = ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts)))
    return (
        heading(profile, document)
        + table(THROUGHPUT_HEADER, rows)
        + f"\n{len(rows)} rows: {counted}.\n"
    )


def throughput_row(key: str, row: Mapping[str, Any]) -> list[str]:
    """Return a row of the table of plans."""
    network, batch, runtime = key.split("/")
    found, accuracy = row["speedup"], row["accuracy"]
    speedups = [
        f"{found[name]['value']:.2f}" if name in found else "" for name in ("bf16", "w8a8", "plan")
    ]
    return [
        f"{network}, {batch}",
        runtime,
        *speedups,
        f"{row['predicted_speedup']:.2f}",
        f"{interval(row['plan_against_best'])} {row['verdict_against_best']}",
        percent(row["noise"]),
        ", ".join(f"{count} {kind}" for kind, count in row["layers"].items()),
        "" if accuracy is None else f"{100 * accuracy['drop']:.2f} pp",
    ]


def interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} - {found['high']:.2f})"


def prediction(profile: str, document: Document) -> str:
    """Return what is said of the predictions of a profile."""
    networks = [
        [
            runtime,
            str(found[CALIBRATED]["rows"]),
            *(percent(found[level]["MAPE"]) for level in LEVELS),
            *statistics(found[CALIBRATED]),
        ]
        for runtime, found in networks_of(document)
    ]
    plans = [
        [
            *said(key),
            *(percent(found[level]["MAPE"]) for level in LEVELS),
            *statistics(found[CALIBRATED]),
            sign(found[CALIBRATED]),
            percent(found[CALIBRATED]["regret"]),
        ]
        for key, found in plans_of(document)
    ]
    levels = ("lower roof", "roofline", "**calibrated**")
    more = ("median", "within 10 %", "within 20 %", "Spearman", "Kendall", "noise")
    return (
        heading(profile, document)
        + table(["runtime", "networks", *levels, *more], networks)
        + "\n"
        + table([*PLANS, *levels, *more, "sign right", "regret"], plans)
        + "\n"
    )


def calibration(profile: str, document: Document) -> str:
    """Return what each fit of a profile's calibrations is worth."""
    lines = []
    for runtime, fits in document["runtimes"].items():
        for name, fit in fits.items():
            cells = [number(column, value).replace("%", " %") for column, value in fit.items()]
            lines.append([runtime, name, *cells])
    return heading(profile, document) + table(["runtime", "fit", *fit], lines)


def networks_of(document: Document) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each runtime, and by level what is said of its networks."""
    found = document["networks"]
    for runtime in sorted({key.split("/")[0] for key in found}):
        yield runtime, {level: found[f"{runtime}/{level}"] for level in LEVELS}


def plans_of(document: Document) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row of plans, and by level what is said of it."""
    found = document["mixed"]
    for key in sorted({key.rpartition("/")[0] for key in found}, key=said):
        yield key, {level: found[f"{key}/{level}"] for level in LEVELS}


def statistics(found: Mapping[str, float | None]) -> list[str]:
    """Return the cells of what is said of the calibrated model."""
    shares = [percent(found[name]) for name in ("median", "within 10 %", "within 20 %")]
    ranks = [
        f"{value:.3f}" for name in ("Spearman", "Kendall") if (value := found[name]) is not None
    ]
    return [*shares, *(ranks or ["", ""]), percent(found["noise"])]


def sign(found: Mapping[str, float]) -> str:
    """Return for how many of the plans that differ from float32 the sign is right."""
    return f"{percent(found['sign'])} of {found['told']}" if found["told"] else ""


def said(key: str) -> tuple[str, str]:
    """Return runtime, and network and batch, of a row of plans."""
    network, batch, runtime = key.split("/")
    return runtime, f"{network}, {batch}"


def heading(profile: str, document: Document) -> str:
    """Return the heading of a profile's table: its machine and versions."""
    host = document["machine"]
    limits = "".join(f", {key}={value}" for key, value in host.get("limits", {}).items())
    versions = ", ".join(
        f"{name} {version}"
        for name, version in host["packages"].items()
        if name in {"torch", "torchao", "onnxruntime", "openvino"}
    )
    isa = " ".join(host["isa"])
    what = document["description"].removesuffix(".")
    return f"### {profile}\n\n{what}: {isa}{limits}; {versions}.\n\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}".replace("%", " %")


if __name__ == "__main__":
    main()
