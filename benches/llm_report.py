"""The tables of `benches/llm.py`."""

import json
from collections.abc import Iterator
from pathlib import Path

FILES = (
    *("weights of linear layers", "MB", "divergence", "perplexity, x float32"),
    *("ms a token after 16", "after 512"),
)
PREDICTIONS = (
    *("runtime", "tokens before", "prediction", "mean error, all", "mixes only", "Spearman"),
)
MENU = ("w4g32", "w4g32z", "w5g32", "w5g32z", "w8g32")
RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
PLAN = "plan of least time at the divergence of Q4_K_M"
PEERS = {"Q4_K_M": "llama.cpp's rule Q4_K_M", "NNCF": "NNCF's default"}


def decoded(results: Path) -> Iterator[list[str]]:
    """Yield for each file its bytes, its quality, and the times of a token."""
    document = json.loads((results / "llm.json").read_text())
    quality, speed = document["quality"]["files"], document["speed"]["files"]
    by_data = document.get("speed, gptq", {}).get("files", {})
    named = {PLAN: speed["plan"], f"{PLAN}, by GPTQ": by_data["plan"]} if by_data else {}
    rounded = {f"{name}, by GPTQ": by_data[name] for name in by_data if name in MENU}
    for name, row in {**quality, **named, **speed, **rounded}.items():
        if name in {"float32", "plan"}:
            continue
        times = speed.get(name, row).get("token_seconds", {})
        size = quality.get(name, row).get("megabytes")
        yield [
            PEERS.get(name, name),
            "" if size is None else f"{size:.1f}",
            f"{row['kl']:.4f}",
            f"{row['perplexity_ratio']:.3f}",
            *(f"{1e3 * times[n]:.2f}" if times else "" for n in ("16", "512")),
        ]


def predicted(results: Path) -> Iterator[list[str]]:
    """Yield for each prediction of decode times its errors over uniform plans and random mixes."""
    document = json.loads((results / "llm.json").read_text())
    names = {
        "calibrated": "calibrated model",
        "roofline": "bytes over bandwidth",
        "scaled bytes": "bytes, at the rate that fits best",
    }
    tables = {("llama.cpp", "64"): document["prediction"]}
    for runtime, title in RUNTIMES.items():
        for context, table in document.get(f"time {runtime}", {}).items():
            if context != "command":
                tables[title, context.removeprefix("after ")] = table
    for (runtime, context), table in tables.items():
        for key, name in names.items():
            errors = (f"{100 * table[key][k]:.1f} %" for k in ("mape", "mape_of_mixes"))
            yield [runtime, context, name, *errors, f"{table[key]['spearman']:.2f}"]
