"""Integers and scales as the blocks of a GGUF file.

A block holds 32 weights: a float16 scale, the smallest weight as float16 if the format has zero
points, and the integers. Integers of four bits lie in two halves: the n-th byte of a block has
weight n in its low four bits and weight n + 16 in its high ones. The fifth bits of all weights are
four bytes of their own. The layout is that of ``ggml-common.h`` in llama.cpp.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from aiq.quantize.affine import Affine, to_rows

Bytes = npt.NDArray[np.uint8]

GROUP = 32
"""Number of weights in a block."""

TYPES: Mapping[str, str] = {
    "fp32": "F32",
    "fp16": "F16",
    "w4g32": "Q4_0",
    "w4g32z": "Q4_1",
    "w5g32": "Q5_0",
    "w5g32z": "Q5_1",
    "w8g32": "Q8_0",
}
"""Name of a format -> type of a tensor in a GGUF file."""


def pack_blocks(weight: Tensor, affine: Affine) -> Bytes:
    """Return a weight as blocks: uint8, (rows, bytes of a row).

    Parameters
    ----------
    weight
        Shape (rows, columns), with columns a multiple of 32.
    affine
        Quantiser in groups of 32, with float16 scales, to integers of 4, 5 or 8 bits.

    Notes
    -----
    A block with zero point Z and scale S has the smallest weight -S Z, rounded to float16. That
    moves its weights by at most 2^-12 of the block's range.
    """
    scheme = affine.scheme
    codes = to_rows(affine.quantize(weight), scheme).numpy() - scheme.low
    scale = affine.scale.numpy()
    parts = [_half(scale)]
    if not scheme.symmetric:
        parts.append(_half(-scale * affine.zero_point.numpy()))
    match scheme.bits:
        case 8:
            parts.append((codes + scheme.low).astype(np.int8).view(np.uint8))
        case 5:
            high = np.packbits((codes >> 4).astype(np.uint8), axis=1, bitorder="little")
            parts += [high, _nibbles(codes & 15)]
        case _:
            parts.append(_nibbles(codes))
    return np.concatenate(parts, axis=1).reshape(len(weight), -1)


def _half(values: npt.NDArray[np.float32]) -> Bytes:
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _nibbles(codes: npt.NDArray[np.int32]) -> Bytes:
    return (codes[:, :16] | (codes[:, 16:] << 4)).astype(np.uint8)
