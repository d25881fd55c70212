"""Which tool chooses the best bits for each layer, at equal size.

    export AIQ_DATA=FOLDER                    # Fashion-MNIST
    python benches/equal_size.py --packages PEERS [--network resnet20] [--only MCT] [--again]
    python benches/equal_size.py --packages PEERS --rounding nearest    # judge in one way only

PEERS holds the folders `modelopt`, `mct`, `aimet` and `neural_compressor`; tools without a folder
are left out. Their dependencies must not change the versions of torch and torchao, so each goes
into its own folder, without dependencies:

    pip install --no-deps --target PEERS/modelopt nvidia-modelopt ninja nvidia-ml-py omegaconf
        "pulp<4" "pydantic<2.12" pydantic-core==2.33.2
    pip install --no-deps --target PEERS/mct model-compression-toolkit mct-quantizers edge-mdt-cl
        "pulp<4" "pydantic<2.12" pydantic-core==2.33.2 "networkx<3.6" scikit-image scikit-learn
        tensorboard absl-py grpcio werkzeug imageio lazy-loader tifffile joblib threadpoolctl
        narwhals
    pip install --no-deps --target PEERS/aimet aimet-torch "bokeh<=3.6.3" xyzservices tornado pandas
        pytz tensorboard absl-py grpcio werkzeug scikit-learn joblib threadpoolctl narwhals
        holoviews hvplot colorcet panel param pyviz-comms pybind11
    pip install --no-deps --target PEERS/neural_compressor neural-compressor-pt prettytable wcwidth
        py-cpuinfo

All tools get the same 512 training images of Fashion-MNIST, weights of 2 to 8 bits with one scale
for each channel, activations of 8 bits, and a mean number of bits. aiq judges all plans on the
10,000 test images, with every weight rounded to nearest, and again with aiq's
``rounding="adaptive"`` for all plans. The plan of aiq is searched with the rounding by which it is
judged; the others do not know of it.

A difference is a plan's drop less that of aiq's, with the standard error of the paired images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import console, earlier, joined, published, save
from equal_size_tools import BATCH, IMAGES, MEANS, PACKAGES, TOOLS, images, mean_bits

from aiq import data, graph, models, text
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import WeightRounding, parse

FOLDERS: Mapping[str, str] = {
    "ModelOpt, gradient": "modelopt",
    "ModelOpt, kl_div": "modelopt",
    "MCT": "mct",
    "AIMET": "aimet",
    "Neural Compressor": "neural_compressor",
}
OURS: Mapping[str, str] = {
    "nearest": "aiq",
    "adaptive": "aiq, adaptive",
}
"""Rounding -> the row of aiq that was searched with it."""

NETWORKS = ("resnet20", "mobilenet_v2")
TOLERANCE = 0.005
"""Bits by which a plan may exceed the mean, as tools count biases differently."""


def main() -> None:
    """Run the tools that are missing, judge their plans, and print the tables."""
    options = arguments()
    torch.set_num_threads(1)
    found: dict[str, Any] = earlier("equal_size")
    for network in options.network:
        for tool in options.only or TOOLS:
            key = f"{network}/{tool}"
            folder = options.packages / FOLDERS[tool] if tool in FOLDERS else None
            missing = folder is not None and not folder.is_dir()
            if not missing and (options.again or key not in found):
                console.rule(key)
                found[key] = run(tool, network, folder, options.bits)
                save("equal_size", summary(found), [0], found)
            if judge(network, found.get(key, {}), options.rounding):
                save("equal_size", summary(found), [0], found)
        show(network, found)


def run(tool: str, network: str, folder: Path | None, bits: Sequence[float]) -> dict[str, Any]:
    """Return what a tool finds, in a process of its own."""
    here = Path(__file__).parent
    paths = [str(folder)] if folder else []
    paths += [str(here), os.environ.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "found.json"
        command = [sys.executable, str(here / "equal_size_tools.py"), tool, network, str(file)]
        command += ["--bits", *map(str, bits)]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
            check=False,
        )
        if not file.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"error": f"exit code {done.returncode}: {last[:300]}"}
        found: dict[str, Any] = json.loads(file.read_text())
    return found


def judge(network: str, found: dict[str, Any], roundings: Sequence[str]) -> bool:
    """Add what each plan loses on the test images, and return whether anything was added."""
    missing = [
        (plan, how)
        for how in roundings
        for plan in found.get("plans", {}).values()
        if how not in plan
    ]
    for plan, how in missing:
        formats = {name: parse(f"w{bits}a8") for name, bits in plan["bits"].items()}
        plan["mean_bits"] = mean_bits(models.load(network), plan["bits"])
        plan[how] = scores(evaluator(network, how).evaluate(formats))
    return bool(missing)


@cache
def evaluator(network: str, how: str) -> Evaluator:
    """Return what judges plans, with weights rounded in a way."""
    calibration = images()
    traced = graph.trace(models.load(network), calibration[0][0])
    return Evaluator(
        replace(traced, rounding=WeightRounding(how)),
        data.batches(data.load("fashion_mnist", "test"), BATCH),
        calibration=calibration,
    )


def scores(found: Evaluation) -> dict[str, Any]:
    """Return divergence and drop, and which answers the plan loses or gains."""
    change = found.baseline - found.scores
    return {
        "kl": found.kl,
        "kl_error": found.kl_error,
        "drop": found.drop,
        "drop_error": found.drop_error,
        "lost": np.flatnonzero(change > 0).tolist(),
        "gained": np.flatnonzero(change < 0).tolist(),
        "images": found.samples,
    }


def changed(score: Mapping[str, Any]) -> np.ndarray:
    """Return for each image 1 if its answer is lost, -1 if it is gained, or else 0."""
    change = np.zeros(score["images"])
    change[score["lost"]], change[score["gained"]] = 1, -1
    return change


def rows(network: str, found: Mapping[str, Any], how: str) -> list[dict[str, Any]]:
    """Return a row for each size and tool, all judged in one way of rounding."""
    result = []
    ours = found.get(f"{network}/{OURS[how]}", {}).get("plans", {})
    for mean in sorted((mean for mean, plan in ours.items() if how in plan), key=float):
        mine = changed(ours[mean][how])
        for tool in TOOLS:
            if tool in OURS.values() and tool != OURS[how]:
                continue
            plan = found.get(f"{network}/{tool}", {}).get("plans", {}).get(mean, {})
            if how not in plan:
                continue
            score = plan[how]
            worse = changed(score) - mine
            result.append(
                {
                    "mean": float(mean),
                    "tool": "aiq" if tool == OURS[how] else tool,
                    "mean_bits": plan["mean_bits"],
                    "cpu_seconds": plan["seconds"],
                    "worse": float(worse.mean()),
                    "worse_error": float(worse.std() / np.sqrt(len(worse))),
                }
                | {k: score[k] for k in ("kl", "kl_error", "drop", "drop_error")}
            )
    return result


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of all networks, and the versions and errors of the tools."""
    known = published("equal_size")
    names = sorted({key.split("/")[0] for key in found})
    measured = {name: {how: rows(name, found, how) for how in OURS} for name in names}
    networks = joined(known.get("networks"), measured, 3)
    versions = {PACKAGES[k.split("/")[1]]: v["version"] for k, v in found.items() if "version" in v}
    errors = {key: value["error"] for key, value in found.items() if "error" in value}
    before = {key: error for key, error in known.get("errors", {}).items() if key not in found}
    return {
        "images": IMAGES,
        "networks": {
            name: {how: sorted(ways[how], key=itemgetter("mean")) for how in ways}
            for name, ways in networks.items()
        },
        "versions": joined(known.get("versions"), versions),
        "errors": before | errors,
    }


def show(network: str, found: Mapping[str, Any]) -> None:
    """Print the tables of a network."""
    columns = ["bits", "<tool", "mean", "divergence, nats", "drop", "± ", "worse than aiq", "CPU s"]
    for how in OURS:
        table = (
            (
                f"{row['mean']:g}",
                row["tool"],
                f"{row['mean_bits']:.3f}{' (over)' * over(row)}",
                f"{row['kl']:.4f}",
                text.points(row["drop"]),
                text.points(row["drop_error"]),
                f"{100 * row['worse']:.2f} ± {100 * row['worse_error']:.2f} pp",
                f"{row['cpu_seconds']:.0f}",
            )
            for row in rows(network, found, how)
        )
        console.print(text.table(f"{network}, weights rounded: {how}", columns, table))
    for key, value in found.items():
        if key.startswith(f"{network}/") and "error" in value:
            console.print(f"{key}: {value['error']}", soft_wrap=True)


def over(row: Mapping[str, Any]) -> bool:
    """Whether a plan is larger than it should be."""
    return bool(row["mean_bits"] > row["mean"] + TOLERANCE)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder of the tools' folders")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--only", nargs="+", choices=TOOLS, help="rows to run")
    parser.add_argument("--bits", nargs="+", type=float, default=MEANS, help="mean bits")
    parser.add_argument("--rounding", nargs="+", choices=[*OURS], default=[*OURS], help="judge by")
    parser.add_argument("--again", action="store_true", help="run rows that were run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
