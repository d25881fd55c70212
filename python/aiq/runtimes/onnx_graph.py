"""A rewritten graph as an ONNX model, whose nodes have the names of the layers they compute."""

import ast
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import onnx
import torch
from onnx.utils import Extractor

from aiq.exporting import exporting_onnx
from aiq.graph.simplify import name_of
from aiq.runtimes.explicit import zero_empty_rows
from aiq.runtimes.kernels import LABEL
from aiq.runtimes.rewrite import Rewritten
from aiq.runtimes.verification import snapshot

MULTIPLY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that compute a layer with weights."""


class OnnxModel(NamedTuple):
    """A model, and the layers whose kernels may compute each value.

    Attributes
    ----------
    proto
        The model.
    labels
        Name of a value, constant or node -> names of layers, the most likely first. Optimisers name
        a fused node after the first or the last of the nodes in it. A constant of weights is
        labelled with the layers that multiply by it.
    """

    proto: onnx.ModelProto
    labels: Mapping[str, tuple[str, ...]]


def to_onnx(
    rewritten: Rewritten, example_inputs: tuple[torch.Tensor, ...], opset: int
) -> OnnxModel:
    """Return `rewritten` as an ONNX model for the shapes of `example_inputs`.

    Parameters
    ----------
    rewritten
        Result of `aiq.runtimes.rewrite.rewrite`, with labels. Quantize and dequantize nodes become
        ``QuantizeLinear`` and ``DequantizeLinear``, and integer weights stay integers.
    example_inputs
        The tensors of one call.
    opset
        Version of the ONNX operators.
    """
    module = snapshot(rewritten.module)
    zero_empty_rows(module, example_inputs)
    with exporting_onnx():
        program = torch.export.export(module, example_inputs, strict=False)
        exported = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
    assert exported is not None
    assert exported.exported_program is not None
    names = {  # of the exporter's own graph, in which it may have renamed convolutions
        node.name: node.meta["custom"][LABEL][0]
        for node in exported.exported_program.graph.nodes
        if node.op == "call_function" and name_of(node).startswith(("conv", "linear"))
        if len(node.meta.get("custom", {}).get(LABEL, ())) == 1
    }
    model: onnx.ModelProto = exported.model_proto
    _name_nodes(model, names)
    return OnnxModel(model, _labels(model, set(rewritten.heads.values())))


def parts(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Yield the models of the parts of a bundle."""
    extractor = Extractor(model)
    for source, result in zip(model.graph.input, model.graph.output, strict=True):
        part = extractor.extract_model([source.name], [result.name])
        del part.metadata_props[:]
        part.metadata_props.extend(model.metadata_props)
        yield part


def _name_nodes(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    for node in model.graph.node:
        properties = {item.key: item.value for item in node.metadata_props}
        scopes = ast.literal_eval(properties.get("pkg.torch.onnx.name_scopes", "['']"))
        if node.op_type in MULTIPLY and scopes[-1] in names:
            node.name = names[scopes[-1]]
        del node.metadata_props[:]  # source paths and stack traces, which are private


def _labels(model: onnx.ModelProto, layers: set[str]) -> dict[str, tuple[str, ...]]:
    labels: dict[str, tuple[str, ...]] = {}
    order: dict[str, int] = {}
    for node in model.graph.node:
        if node.name in layers:
            order[node.name] = len(order)
            mine: tuple[str, ...] = (node.name,)
        else:
            heard = {layer for value in node.input for layer in labels.get(value, ())}
            mine = tuple(sorted(heard, key=lambda layer: -order[layer]))
        labels.update(dict.fromkeys((node.name, *node.output), mine))
    writers = {value: node for node in model.graph.node for value in node.output}
    for node in model.graph.node:
        if node.name in layers:
            weight = node.input[1]
            while weight in writers and writers[weight].input:
                weight = writers[weight].input[0]
            labels[weight] = (*labels.get(weight, ()), node.name)
    return labels
