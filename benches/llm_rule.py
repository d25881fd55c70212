"""What llama.cpp's rule Q4_K_M makes of a decoder, without an importance matrix.

The rule is that of ``llama_tensor_get_type`` in ``src/llama-quant.cpp``: by the name of a tensor
and the number of its block. Types with blocks of 256 fall back to others where rows do not divide
into such blocks. The package xllamacpp does not export ``llama_model_quantize``, so the rule is
written here, and the rounding is done by llama.cpp itself (`llm_native.quantize`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llm_native
import torch

from aiq.gguf import header
from aiq.gguf.tensors import tensors
from aiq.graph import Trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator

Kind = gguf.GGMLQuantizationType
_FALLBACK = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}
_BLOCK = 256


def q4_k_m(name: str, columns: int, blocks: int) -> Kind:
    """Return the type of a matrix in a file Q4_K_M."""
    chosen = Kind.Q4_K
    if name == "output.weight":
        chosen = Kind.Q6_K
    elif name.endswith(("attn_v.weight", "ffn_down.weight")):
        chosen = Kind.Q6_K if _uses_more_bits(int(name.split(".")[1]), blocks) else Kind.Q4_K
    return _FALLBACK[chosen] if columns % _BLOCK else chosen


def _uses_more_bits(block: int, blocks: int) -> bool:
    eighth = blocks // 8
    return block < eighth or block >= 7 * blocks // 8 or (block - eighth) % 3 == 2


def write(
    model: Any,
    traced: Trace,
    tokenizer: Any,
    path: Path,
    kind_of: Callable[[str, int, int], Kind] = q4_k_m,
) -> dict[str, Any]:
    """Write a file by the rule; the embedding is float16, as in all files that are compared.

    Returns
    -------
    dict
        Bytes of the matrices of linear layers, and how many have each type.
    """
    architecture = header.architecture(model)
    writer = gguf.GGUFWriter(path, architecture)
    header.write_header(writer, model.config, tokenizer)
    folded = fold(traced)
    size, counts = 0, {}
    for stored in tensors(model, architecture, folded, Simulator(folded, {}), {}):
        data, kind = stored.data, stored.kind
        if stored.value.ndim == 2 and stored.name != "token_embd.weight":
            kind = kind_of(stored.name, stored.value.shape[1], model.config.num_hidden_layers)
            data = llm_native.quantize(stored.value.to(torch.float32).numpy(), kind)
            size += data.nbytes
            counts[kind.name] = counts.get(kind.name, 0) + 1
        writer.add_tensor(stored.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"bytes": size, "types": counts}
