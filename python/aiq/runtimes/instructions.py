"""Consequences, for a model, of the instructions that kernels may use on this CPU."""

import platform

import torch

from aiq import machine

_WITHOUT_VNNI = {"SSE41", "AVX", "AVX2", "AVX512_CORE"}  # oneDNN's names
_WITHOUT_BF16 = _WITHOUT_VNNI | {"AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE_VNNI"}


def weight_bits() -> int:
    """Return the largest number of bits of a weight in integer kernels: eight or seven.

    x86 processors without VNNI and AMX add pairs of 8-bit products in 16 bits. The sum overflows if
    both factors have eight bits, so weights get seven, and activations keep eight
    (https://oneapi-src.github.io/oneDNN/dev_guide_int8_computations.html).
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return 8
    adds_in_32_bits = (
        torch.cpu._is_vnni_supported()
        or torch.cpu._is_amx_tile_supported()
        or "avx_vnni" in machine.isa()
    )
    return 8 if adds_in_32_bits and _limit() not in _WITHOUT_VNNI else 7


def may_multiply_bfloat16() -> bool:
    """Return whether the environment lets oneDNN's kernels use instructions for bfloat16."""
    return _limit() not in _WITHOUT_BF16


def _limit() -> str:
    """Return the instruction set to which the environment limits oneDNN; empty without a limit."""
    limits = machine.limits()
    return limits.get("ONEDNN_MAX_CPU_ISA", limits.get("DNNL_MAX_CPU_ISA", "")).upper()
