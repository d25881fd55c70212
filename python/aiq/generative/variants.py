"""Write folders of one decoder in many plans, for which it is exported only once."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import nn

from aiq.exporting import exporting
from aiq.formats import REFERENCE, Format
from aiq.generative.matrices import Array, Matrix, as_stored, check_kernel, rounded
from aiq.generative.write import ADVICE, exported_decoder, store
from aiq.graph import Trace
from aiq.quantize.affine import Affine, Scheme, from_range, to_rows
from aiq.quantize.weights import weight_only
from aiq.runtimes.door import door


@torch.no_grad()
def write_variants(
    model: nn.Module,
    folder: Path,
    plans: Mapping[str, Mapping[str, Format]],
    traced: Trace,
    *,
    runtime: str,
) -> dict[str, Path]:
    """Write a folder for each plan, and return plan -> folder.

    They are to be timed, which takes no search for the best scales: the range of its weights gives
    each scale. Biases are not corrected, and no logits are compared.

    Parameters
    ----------
    model, traced
        A decoder of transformers, and its trace.
    folder
        The folder in which the others are written.
    plans
        Name of a plan -> its formats, by layer.
    runtime
        ``openvino`` or ``onnxruntime``.

    Raises
    ------
    RuntimeUnavailableError
        If transformers cannot export the decoder.
    InputError
        If a format has no kernel.
    """
    from transformers.exporters.auto import get_exporter_class  # noqa: PLC0415

    folded, rounding = weight_only(traced, [])
    own, unrounded = rounded(model, folded, rounding, {})
    layers = list(zip(folded.graph.quantizable, unrounded, strict=True))

    @cache
    def matrix(index: int, fmt: Format) -> Matrix:
        layer, value = layers[index]
        if fmt == REFERENCE:
            return value
        check_kernel(layer, fmt)
        return as_stored(layer.name, fmt, value.value, _by_range(value.value, fmt))

    with door(runtime, "export this decoder", ADVICE), exporting():
        exported = exported_decoder(own, runtime)
        base = folder / "float32"
        exported.save_pretrained(base)
        (component,) = exported.components.values()
        program = next(x for x in base.iterdir() if x.suffix in {".xml", ".onnx"})
        load = get_exporter_class(exported.export_format).load_program
        found = {}
        for name, formats in plans.items():
            component.program = load(program)
            chosen = [formats.get(layer.name, REFERENCE) for layer, _ in layers]
            store(component.program, runtime, [matrix(i, fmt) for i, fmt in enumerate(chosen)])
            found[name] = folder / name
            exported.save_pretrained(found[name])
    return found


def _by_range(value: Array, fmt: Format) -> Affine:
    """Return the quantiser of a weight, (outputs, inputs), that covers the range of each group."""
    group = fmt.weight_granularity.group
    group = None if group is None or group >= value.shape[1] else group
    is_symmetric = not fmt.weight_granularity.zero_point
    scheme = Scheme(
        fmt.weight.bits,
        symmetric=is_symmetric,
        signed=is_symmetric,
        axis=0,
        group=group,
        half=group is not None,
    )
    rows = to_rows(torch.from_numpy(value), scheme)
    return from_range(rows.amin(1), rows.amax(1), scheme)
