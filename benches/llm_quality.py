"""Divergence at equal bytes: plans of aiq, llama.cpp's rule Q4_K_M, and NNCF's default."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import common
import llm_rule
import torch
from llm_setup import FOLDER, LENGTH, Setup
from rich.table import Table

NNCF = Path(__file__).parent / "llm_nncf.py"


def run(setup: Setup, nncf: Path | None) -> dict[str, Any]:
    """Return the quality of all files on text that no search saw."""
    sizes: dict[str, float] = {}
    files: dict[str, Path] = {}
    others: dict[str, Any] = {}
    found: dict[str, Any] = {"tokens": setup.held_out * LENGTH}

    def add(name: str, formats: Any) -> None:
        files[name], sizes[name] = setup.write(name, formats), setup.bytes(formats)
        counts = Counter(f.name for f in formats.values())
        found.setdefault("formats", {})[name] = dict(counts)

    files["Q4_K_M"] = FOLDER / "Q4_K_M.gguf"
    FOLDER.mkdir(parents=True, exist_ok=True)
    rule = llm_rule.write(setup.model, setup.traced, setup.decoder.tokenizer, files["Q4_K_M"])
    sizes["Q4_K_M"] = rule["bytes"]
    found["formats"] = {"Q4_K_M": rule["types"]}
    add("plan at the bytes of Q4_K_M", setup.within_bytes(rule["bytes"]))
    if nncf is not None:
        compressed = _compress(setup, nncf)
        sizes["NNCF"], others["NNCF"] = compressed["bytes"], _openvino(Path(compressed["path"]))
        found["formats"]["NNCF"] = compressed["types"]
        add("plan at the bytes of NNCF", setup.within_bytes(compressed["bytes"]))
    quality = setup.quality(files, setup.samples("held out"), others)
    table = Table("file", "MB", "KL", "+-", "perplexity", "ratio")
    for name, size in sizes.items():
        quality[name]["megabytes"] = size / 1e6
    for name, row in quality.items():
        keys = ("megabytes", "kl", "kl_error", "perplexity", "perplexity_ratio")
        table.add_row(name, *(f"{row[key]:.4g}" if key in row else "" for key in keys))
    common.console.print(table)
    found["files"] = quality
    for peer in ("NNCF", "Q4_K_M"):
        if peer in quality:
            own = quality[f"plan at the bytes of {peer}"]
            found[f"kl_over_{peer}"] = own["kl"] / quality[peer]["kl"]
    return found


def _compress(setup: Setup, nncf: Path) -> dict[str, Any]:
    """Let NNCF compress the decoder, in a process of its own that finds NNCF in a folder."""
    setup.model.save_pretrained(FOLDER / "model")
    path = os.pathsep.join([str(nncf), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, NNCF, FOLDER / "model", FOLDER / "nncf.xml", str(LENGTH)],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
    )
    found: dict[str, Any] = json.loads((FOLDER / "nncf.json").read_text())
    return found


def _openvino(path: Path) -> Any:
    """Return a function that runs a file of OpenVINO, with activations in float32."""
    import openvino as ov  # noqa: PLC0415

    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = ov.Core().compile_model(path, "CPU", {**options, "INFERENCE_NUM_THREADS": 1})

    def logits(tokens: torch.Tensor) -> Any:
        return compiled([tokens.numpy()])[0][0]

    return logits
