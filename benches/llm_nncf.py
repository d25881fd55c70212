"""Compress a decoder by NNCF's default for four bits; ``benches/llm.py`` runs this.

NNCF keeps the last layer in eight bits and all others in four, here in groups of 64, since rows of
576 weights do not divide into its usual groups of 128. It gets no data, as by default.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import torch
from transformers import AutoModelForCausalLM


class Logits(torch.nn.Module):
    """The decoder as a function from numbers of tokens to logits."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(tokens)
        return self.model(tokens, attention_mask=mask, use_cache=False).logits


def main(folder: str, path: str, length: str) -> None:
    """Write the compressed model, and beside it the bytes of its matrices and their types."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.ones(1, int(length), dtype=torch.int64)
    with torch.no_grad():
        converted = ov.convert_model(Logits(model), example_input=tokens, input=[1, int(length)])
    mode = nncf.CompressWeightsMode.INT4_SYM
    compressed = nncf.compress_weights(converted, mode=mode, group_size=64)
    size, types = 0.0, Counter[str]()
    for node in compressed.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        constants, waiting = [], [node.input_value(1).get_node()]
        while waiting:
            found = waiting.pop()
            if found.get_type_name() == "Constant":
                constants.append(found)
            waiting += [x.get_source_output().get_node() for x in found.inputs()]
        weight = max(constants, key=lambda c: np.prod(c.shape), default=None)
        if weight is None or np.prod(weight.shape) < 4096:
            continue  # a product of two activations
        types[weight.get_element_type().get_type_name()] += 1
        for constant in constants:
            count = float(np.prod(constant.shape))
            kind = constant.get_element_type()
            if constant is weight or not kind.is_integral() or kind.bitwidth <= 8:
                size += count * kind.bitwidth / 8
    ov.save_model(compressed, path, compress_to_fp16=False)
    result = {"bytes": size, "types": dict(types), "path": path, "version": nncf.__version__}
    Path(path).with_suffix(".json").write_text(json.dumps(result))
    print(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
