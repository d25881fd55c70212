"""The deployed file beside the simulated decoder, at several lengths of the cache."""

import copy
from pathlib import Path
from typing import Any

import llm_native
import torch
from llm_setup import MENU, Setup, divergence, log_probabilities

from aiq.gguf.llamacpp import LlamaCpp
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator, round_blocks

CACHED = (1, 100, 1000)
WRITTEN = 16
PROMPT = "Debian is an operating system that"


def run(setup: Setup) -> dict[str, Any]:
    """Return divergences between file and simulation, and what two programs write."""
    without_fives = [f for f in MENU if f.weight.bits != 5]
    limit = 5.5 / 8 * sum(setup.elements.values())
    formats = setup.within_bytes(limit, without_fives)
    path = setup.write("plan without Q5", formats)
    model = _rounded(setup, formats)
    text = setup.samples("held out")
    tokens = torch.cat([x[0] for x, _ in text])
    vocabulary = setup.model.config.vocab_size
    found = {}
    with llm_native.Model(path, max(CACHED) + WRITTEN, setup.threads) as program:
        for cached in CACHED:
            sample = tokens[: cached + WRITTEN].tolist()
            program.logits(sample[:cached], vocabulary)
            deployed = torch.cat(
                [
                    log_probabilities(program.logits([token], vocabulary, cached + i))
                    for i, token in enumerate(sample[cached:])
                ]
            )
            with torch.inference_mode():
                exact = model(torch.tensor([sample])).logits[0, cached:]
            found[cached] = divergence(log_probabilities(exact.numpy()), deployed)
            print(f"{cached} tokens in the cache: divergence {found[cached]:.2e}", flush=True)
    return {"kl_by_tokens_in_the_cache": found, "text": _written(setup, path)}


def _rounded(setup: Setup, formats: Any) -> torch.nn.Module:
    """Return the decoder with the weights and activations of the simulated network."""
    simulator = Simulator(fold(setup.traced), {})
    model = copy.deepcopy(setup.model)
    for name, fmt in formats.items():
        weight = simulator.weight(name, fmt.weight, fmt.weight_granularity)
        layer = model.get_submodule(name)
        layer.weight.data.copy_(weight)
        layer.register_forward_pre_hook(lambda _, inputs: (round_blocks(inputs[0]),))
        simulator.forget(name)
    return model


def _written(setup: Setup, path: Path) -> dict[str, str]:
    """Return the text that llama.cpp and OpenVINO GenAI write after a prompt."""
    tokenizer = setup.decoder.tokenizer
    with LlamaCpp(path, 64, setup.threads) as program:
        run = program.run(tokenizer(PROMPT)["input_ids"], 16, 1)
    found = {"llama.cpp": tokenizer.decode([likely[0][0] for likely in run.tokens])}
    try:
        import openvino_genai  # noqa: PLC0415
    except ImportError:
        return found
    pipeline = openvino_genai.LLMPipeline(str(path), "CPU")
    found["OpenVINO GenAI"] = str(pipeline.generate(PROMPT, max_new_tokens=16))
    for name, text in found.items():
        print(f"{name}: {PROMPT} ... {text!r}", flush=True)
    return found
