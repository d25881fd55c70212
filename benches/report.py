"""Write `benches/README.md` and the tables in `docs/results.md` from `benches/results`.

    python benches/report.py

Nothing is measured here. The benchmarks write a summary for each hardware profile, and this script
lays the summaries out as tables, with the text of `benches/report_text.py`. The picture shows one
profile: `benches/prediction.py --plot` drew it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import beyond_report
import deployments_report
import encoder_report
import equal_size_report
import llm_report
import peers_report
from common import STAMP
from prediction_report import LEVELS, number, over_all
from report_text import (
    CALIBRATION,
    DEPLOYMENTS,
    OPENING,
    PEERS,
    PREDICTION,
    SHOWN,
    SOLVER,
    THROUGHPUT,
)

from aiq import files

HERE = Path(__file__).parent
_, ROOFLINE, CALIBRATED = LEVELS
PLANS = ("runtime", "plans of, batch")
Document = dict[str, Any]

THROUGHPUT_HEADER = (
    *("network, batch", "runtime", "bf16", "w8a8", "plan", "predicted"),
    *("against the best", "noise", "the plan", "drop"),
)
SUMMARY = (
    *("profile", "runtime", "networks", "roofline", "**calibrated**", "median", "noise"),
    *("plans", "roofline", "**calibrated**", "sign right", "least Spearman", "most regret"),
    "most noise",
)
SOLVER_HEADER = (
    *("class", "aiq, median", "worst seed", "proved"),
    "times faster than the best peer, median (worst)",
)
ROUNDING_HEADER = (
    *("network", "weights", "drop: nearest", "GPTQ", "adaptive"),
    *("divergence: nearest", "GPTQ", "adaptive"),
)
EXECUTOR_HEADER = ("runs on", "CPU time of the driver a task", "most tasks a second")
RESULTS = HERE.parent / "docs" / "results.md"
MACHINES = HERE.parent / "docs" / "howto" / "several_machines.md"
BEYOND = HERE.parent / "docs" / "beyond_the_paper.md"


def main() -> None:
    files.write_atomic(HERE / "README.md", page(HERE / "results"))
    files.write_atomic(RESULTS, filled(RESULTS.read_text(), HERE / "results"))
    files.write_atomic(MACHINES, machines(MACHINES.read_text(), HERE / "results"))
    files.write_atomic(BEYOND, beyond(BEYOND.read_text(), HERE / "results"))
    print("wrote benches/README.md, and the tables in pages of docs")


def filled(text: str, results: Path) -> str:
    """Return a page of the documentation with its tables made anew from the files in `results`."""
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
        "peers": peers_report.markdown(peers(results), peers_report.COMPARED),
        "rounding": table(ROUNDING_HEADER, rounding(results)),
        "equal size": table(equal_size_report.HEADER, equal_size_report.equal_size(results)),
        "search cost": table(equal_size_report.COST_HEADER, equal_size_report.search_cost(results)),
        "decoding": table(llm_report.FILES, llm_report.decoded(results)),
        "encoder": table(encoder_report.HEADER, encoder_report.encoder(results)),
        "decode times": table(llm_report.PREDICTIONS, llm_report.predicted(results)),
        "solver": table(SOLVER_HEADER, (solver_row(name, solver[name]) for name in SOLVER)),
    }
    for name, content in tables.items():
        text = placed(text, name, content)
    return text


def placed(text: str, name: str, content: str) -> str:
    """Return a page with its table `name` replaced."""
    begin, end = f"<!-- {name}: benches/report.py -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    return before + begin + "\n" + content + "\n" + end + rest.partition(end)[2]


def beyond(text: str, results: Path) -> str:
    """Return the page beyond the paper with its tables made anew."""
    channels, shares = (
        json.loads((results / f"{name}.json").read_text()) for name in ("channels", "memory_share")
    )
    rows = table(beyond_report.CHANNELS, beyond_report.channels(channels["networks"]))
    text = placed(text, "channels", rows)
    rows = table(beyond_report.SPLIT, beyond_report.split(channels["stopwatch"]))
    text = placed(text, "split convolutions", rows)
    rows = beyond_report.memory_share(shares["networks"])
    return placed(text, "memory share", rows + "\n")


def machines(text: str, results: Path) -> str:
    """Return the page about several machines with its table made anew."""
    document = json.loads((results / "executor.json").read_text())
    job, small = document["bytes_job"], document["bytes_tiny"]
    task, least = (x["arguments_per_task"] + x["answer_per_task"] for x in (job, small))
    said = (
        f"\nResNet-20 with its {document['images']} images is {job['model_and_data'] / 1e6:.1f} "
        "MB, and travels to each worker once. A task and its answer are "
        f"{task / 1e3:.0f} kB in that job, and {least / 1e3:.1f} kB in the small network "
        f"({versions(document['machine'])}).\n"
    )
    return placed(text, "executor", table(EXECUTOR_HEADER, executors(document)) + said)


def executors(document: Document) -> Iterator[list[str]]:
    """Yield for each executor what a task costs the driver, and the tasks that it can hand out."""
    for name, row in document["rows"].items():
        if "overhead_us" in row:
            spent = row["overhead_us"]
            yield [name, f"{spent / 1e3:.2f} ms", f"{1e6 / spent:,.0f}"]


def rounding(results: Path) -> Iterator[list[str]]:
    """Yield for each network and plan its drop and divergence by each way of rounding."""
    networks = json.loads((results / "rounding.json").read_text())["networks"]
    for network, rows in networks.items():
        for plan in dict.fromkeys(row["plan"] for row in rows):
            found = {row["rounding"]: row for row in rows if row["plan"] == plan}
            ways = [found[way] for way in ("nearest", "gptq", "adaptive")]
            drops = [f"{100 * w['drop']:.2f} ± {100 * w['drop_error']:.2f} pp" for w in ways]
            yield [network, plan, *drops, *(f"{w['kl']:.4f}" for w in ways)]


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
    """Return the cells of a runtime: errors over its networks, and over all its plans."""
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
    """Return `benches/README.md`, made from the files in `results`."""
    found = [OPENING + DEPLOYMENTS, deployments(results), THROUGHPUT]
    found += [throughput(name, document) for name, document in documents(results / "throughput")]
    found += [PEERS, peers_report.markdown(peers(results)) + "\n", PREDICTION]
    found += [prediction(name, document) for name, document in documents(results / "prediction")]
    found.append(CALIBRATION)
    found += [calibration(name, document) for name, document in documents(results / "calibration")]
    return "\n".join(found)


def deployments(results: Path) -> str:
    """Return the table of deployments."""
    document = json.loads((results / "deployments.json").read_text())
    rows = dict(sorted(document["rows"].items()))
    host, summed = document["machine"], deployments_report.summary(rows)
    return (
        f"Plans were priced by the profile `{document['hw']}`; {versions(host)}.\n\n"
        f"{deployments_report.markdown(rows)}\n\n{summed}\n"
    )


def peers(results: Path) -> Document:
    """Return profile -> rows of `benches/peers.py`; there are none before it has run."""
    return {name: document["rows"] for name, document in documents(results / "peers")}


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
    """Return the tables of the predictions of a profile."""
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
    """Return the table of the fits of the calibrations of a profile."""
    lines = []
    for runtime, fits in document["runtimes"].items():
        for name, row in fits.items():
            fit = {column: value for column, value in row.items() if column not in STAMP}
            cells = [number(column, value).replace("%", " %") for column, value in fit.items()]
            lines.append([runtime, name, *cells])
    return heading(profile, document) + table(["runtime", "fit", *fit], lines)


def networks_of(document: Document) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each runtime with the errors over its networks, by level."""
    found = document["networks"]
    for runtime in sorted({key.split("/")[0] for key in found}):
        yield runtime, {level: found[f"{runtime}/{level}"] for level in LEVELS}


def plans_of(document: Document) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row of plans with its errors, by level."""
    found = document["mixed"]
    for key in sorted({key.rpartition("/")[0] for key in found}, key=said):
        yield key, {level: found[f"{key}/{level}"] for level in LEVELS}


def statistics(found: Mapping[str, float | None]) -> list[str]:
    """Return the cells that describe the errors of the calibrated model."""
    shares = [percent(found[name]) for name in ("median", "within 10 %", "within 20 %")]
    ranks = [
        f"{value:.3f}" for name in ("Spearman", "Kendall") if (value := found[name]) is not None
    ]
    return [*shares, *(ranks or ["", ""]), percent(found["noise"])]


def sign(found: Mapping[str, float]) -> str:
    """Return the share of plans whose sign is right, of those that differ from float32."""
    return f"{percent(found['sign'])} of {found['decided']}" if found["decided"] else ""


def said(key: str) -> tuple[str, str]:
    """Return the runtime, and the network with its batch, of a row of plans."""
    network, batch, runtime = key.split("/")
    return runtime, f"{network}, {batch}"


def heading(profile: str, document: Document) -> str:
    """Return the heading of the table of a profile, with its machine and versions."""
    host = document["machine"]
    limits = "".join(f", {key}={value}" for key, value in host.get("limits", {}).items())
    isa = " ".join(host["isa"])
    what = document["description"].removesuffix(".")
    return f"### {profile}\n\n{what}: {isa}{limits}; {versions(host)}.\n\n"


def versions(host: Mapping[str, Any]) -> str:
    """Return the versions of PyTorch and of the runtimes."""
    return ", ".join(
        f"{name} {version}"
        for name, version in host["packages"].items()
        if name in {"torch", "torchao", "onnxruntime", "openvino"}
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}".replace("%", " %")


if __name__ == "__main__":
    main()
