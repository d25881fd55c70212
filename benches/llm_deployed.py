"""Deployed files and folders beside the simulated decoder, at several lengths of the cache."""

import copy
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import llm_native
import numpy as np
import torch
from llm_setup import MENU, Setup, divergence, log_probabilities

from aiq.formats import Format
from aiq.generative.program import Generator
from aiq.generative.write import RUNTIMES, write_folder
from aiq.gguf.llamacpp import LlamaCpp
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator, round_blocks

CACHED = (1, 100, 1000)
WRITTEN = 16
TINY = 1e-7
PROMPT = "Debian is an operating system that"


def run(setup: Setup) -> dict[str, Any]:
    """Return divergences between the file that llama.cpp reads and its simulation."""
    without_fives = [f for f in MENU if f.weight.bits != 5]
    limit = 5.5 / 8 * sum(setup.elements.values())
    return _gguf(setup, setup.within_bytes(limit, without_fives), "plan without Q5")


def folders(setup: Setup, blocks: int | None) -> dict[str, Any]:
    """Return divergences between a random mix of formats in two runtimes and its simulation.

    Only the first `blocks` blocks of the decoder are kept, if that is given.
    """
    if blocks:
        setup.shorten(blocks)
    draw, without_fives = random.Random(0), [f for f in MENU if f.weight.bits != 5]
    formats = {name: draw.choice(without_fives) for name in setup.elements}
    model, found = _rounded(setup, formats, rounds_inputs=False), {}
    for runtime in RUNTIMES:
        with tempfile.TemporaryDirectory() as place:
            found[runtime] = _folder(setup, formats, model, runtime, Path(place) / "decoder")
    return found


def _gguf(setup: Setup, formats: Mapping[str, Format], name: str) -> dict[str, Any]:
    """Return the divergences of the file that llama.cpp reads, and what two programs write."""
    path = setup.write(name, formats)
    model = _rounded(setup, formats, rounds_inputs=True)
    vocabulary = setup.model.config.vocab_size
    with llm_native.Model(path, max(CACHED) + WRITTEN, setup.threads) as program:

        def step(tokens: list[int], cached: int) -> np.ndarray:
            return program.logits(tokens, vocabulary, cached)

        found = _divergences(setup, model, step)
        sample = torch.cat([x[0] for x, _ in setup.samples("held out")])[: max(CACHED)].tolist()
        deployed = log_probabilities(program.logits(sample, vocabulary))
    return {
        "kl_by_tokens_in_the_cache": found,
        "over_a_text": _over_a_text(setup, model, sample, deployed),
        "text": _written(setup, path),
    }


def _over_a_text(
    setup: Setup, model: torch.nn.Module, sample: list[int], deployed: torch.Tensor
) -> dict[str, float]:
    """Return divergences over a text: from float32, and of the simulated decoder from itself.

    Activations that are rounded to 8 bits turn the smallest differences into steps of the grid. The
    simulated decoder therefore runs again with embeddings that are changed by `TINY` of themselves,
    as much as float32 numbers are rounded. No program that sums in another order can be expected to
    be nearer to it.
    """
    generator = torch.Generator().manual_seed(0)

    def changed(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        return output * (1 + TINY * torch.randn(output.shape, generator=generator))

    exact = log_probabilities(setup.exact(torch.tensor([sample])))
    with torch.inference_mode():
        simulated = log_probabilities(model(torch.tensor([sample])).logits[0].numpy())
        hook = model.get_input_embeddings().register_forward_hook(changed)
        again = log_probabilities(model(torch.tensor([sample])).logits[0].numpy())
        hook.remove()
    found = {
        "simulated from float32": divergence(exact, simulated),
        "deployed from float32": divergence(exact, deployed),
        "deployed from simulated": divergence(simulated, deployed),
        "simulated from itself, embeddings changed by 1e-7": divergence(simulated, again),
    }
    for name, value in found.items():
        print(f"{name}: {value:.2e}", flush=True)
    return found


def _folder(
    setup: Setup,
    formats: Mapping[str, Format],
    model: torch.nn.Module,
    runtime: str,
    folder: Path,
) -> dict[str, Any]:
    """Return the divergences of a folder, its size, and what its export took."""
    cpu, tokenizer = time.process_time(), setup.decoder.tokenizer
    seen = [tokens for tokens, _ in setup.samples("searched")[:1]]
    write_folder(setup.model, folder, formats, setup.traced, seen, tokenizer, runtime=runtime)
    cpu = time.process_time() - cpu
    program = Generator(folder, setup.threads)

    def step(tokens: list[int], cached: int) -> np.ndarray:
        if not cached:
            program.reset()
        return program.logits(tokens)

    found = _divergences(setup, model, step)
    written = program.generate(tokenizer(PROMPT)["input_ids"], 16)
    return {
        "kl_by_tokens_in_the_cache": found,
        "text": tokenizer.decode(written),
        "megabytes": sum(x.stat().st_size for x in folder.iterdir()) / 1e6,
        "export_cpu_seconds": cpu,
    }


def _divergences(
    setup: Setup, model: torch.nn.Module, step: Callable[[list[int], int], np.ndarray]
) -> dict[int, float]:
    """Return the divergence of tokens that are read one by one, by the length of the cache."""
    tokens = torch.cat([x[0] for x, _ in setup.samples("held out")])
    found = {}
    for cached in CACHED:
        sample = tokens[: cached + WRITTEN].tolist()
        step(sample[:cached], 0)
        deployed = torch.cat(
            [
                log_probabilities(step([token], cached + i))
                for i, token in enumerate(sample[cached:])
            ]
        )
        with torch.inference_mode():
            exact = model(torch.tensor([sample])).logits[0, cached:]
        found[cached] = divergence(log_probabilities(exact.numpy()), deployed)
        print(f"{cached} tokens in the cache: divergence {found[cached]:.2e}", flush=True)
    return found


def _rounded(
    setup: Setup, formats: Mapping[str, Format], *, rounds_inputs: bool
) -> torch.nn.Module:
    """Return the decoder with the weights, and maybe the activations, of the simulated network."""
    simulator = Simulator(fold(setup.traced), {})
    model = copy.deepcopy(setup.model)
    for name, fmt in formats.items():
        weight = simulator.weight(name, fmt.weight, fmt.weight_granularity)
        layer = model.get_submodule(name)
        layer.weight.data.copy_(weight)
        if rounds_inputs:
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
    try:
        pipeline = openvino_genai.LLMPipeline(str(path), "CPU")
        found["OpenVINO GenAI"] = str(pipeline.generate(PROMPT, max_new_tokens=16))
    except RuntimeError as error:  # of version 2026.4, on some decoders
        found["OpenVINO GenAI"] = f"does not open the file: {' '.join(str(error).split())[-60:]}"
    for name, text in found.items():
        print(f"{name}: {PROMPT} ... {text!r}", flush=True)
    return found
