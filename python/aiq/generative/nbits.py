"""The weights of a plan in an ONNX model, as ONNX Runtime's kernels read them.

Weights of four bits are operands of ``MatMulNBits`` at the accuracy level that does not round what
it reads. Its kernel for eight bits is slower than a float32 product at that level, so those weights
are unpacked by operators that ONNX Runtime computes once when it opens the file.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from aiq.generative.matrices import Array, Lookup, Matrix, is_half

_FLOAT32 = 1
"""Accuracy level of ``MatMulNBits`` that does not round activations."""

_BLOCK = 32
"""Inputs that share a copy of the scale of a channel."""


def pack(model: ir.Model, matrices: Iterable[Matrix]) -> None:
    """Store the weights of a model in their formats, and embeddings in float16.

    Parameters
    ----------
    model
        The model, which is changed. The fusions of transformers join matrices that read the same
        tensor; neighbours in the same format stay joined.
    matrices
        The weights of all linear layers.

    Raises
    ------
    GraphError
        If the model lacks one that is to be stored as integers.
    """
    lookup, graph = Lookup(matrices), model.graph
    for node in list(graph):
        constants = [None if x is None or x.const_value is None else x for x in node.inputs]
        if node.op_type == "Gather" and constants[0] is not None:
            _halve(graph, node, constants[0])
        elif node.op_type in {"MatMul", "Gemm"} and constants[1] is not None:
            transposed = node.attributes.get_int("transB", 0)
            weight = _values(constants[1])
            if weight.ndim == 2:
                parts = lookup.parts(weight if transposed else weight.T)
                _multiply(graph, node, parts)
    lookup.check_all_found()
    RemoveUnusedNodesPass()(model)
    model.opset_imports.setdefault("com.microsoft", 1)


def _halve(graph: ir.Graph, node: ir.Node, table: ir.Value) -> None:
    """Store a table of embeddings in float16, and make the rows that are looked up float32."""
    values = _values(table)
    if values.ndim != 2 or not is_half(values):
        return
    found = _Nodes(graph, node, f"{table.name}.half")
    rows = found.add("Gather", [found.constant("table", values.astype(np.float16)), node.inputs[1]])
    _replace(graph, node, found.add("Cast", [rows], to=int(ir.DataType.FLOAT)))


def _multiply(graph: ir.Graph, node: ir.Node, parts: list[Matrix]) -> None:
    """Replace a product by one for each run of matrices in the same format."""
    if not any(matrix.fmt.quantizes_weights for matrix in parts):
        return
    outputs, start, x = [], 0, node.inputs[0]
    assert x is not None, "a product has two operands"
    for _, same in groupby(parts, lambda matrix: matrix.fmt):
        run = list(same)
        found = _Nodes(graph, node, "+".join(matrix.layer for matrix in run))
        stop = start + sum(len(matrix.value) for matrix in run)
        bias = None
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = found.constant("bias", _values(node.inputs[2])[start:stop])
        outputs.append(_product(found, x, run, bias))
        start = stop
    joined = _Nodes(graph, node, f"{parts[0].layer}.joined")
    value = outputs[0] if len(outputs) == 1 else joined.add("Concat", outputs, axis=-1)
    _replace(graph, node, value)


def _product(found: "_Nodes", x: ir.Value, run: list[Matrix], bias: ir.Value | None) -> ir.Value:
    """Return the product of a tensor and the weights of a run of matrices."""
    bits = run[0].fmt.weight.bits
    if bits == 4:
        return _packed(found, x, run, bias)
    if bits == 8:
        weight = _unpacked(found, run)
    else:
        values = np.concatenate([matrix.value for matrix in run]).T
        weight = found.constant("weight", np.ascontiguousarray(values))
    product = found.add("MatMul", [x, weight])
    return product if bias is None else found.add("Add", [product, bias])


def _packed(found: "_Nodes", x: ir.Value, run: list[Matrix], bias: ir.Value | None) -> ir.Value:
    """Return a product by weights of four bits."""
    size = run[0].fmt.weight_granularity.group or _BLOCK
    codes, scales, zeros = _joined(run)
    rows, columns = codes.shape
    blocks = -(-columns // size)
    middle = 0 if zeros is not None else 8
    padded = np.full((rows, blocks * size), middle, np.uint8)
    padded[:, :columns] = codes.astype(np.int16) + middle
    inputs: list[ir.Value | None] = [
        x,
        found.constant("codes", _nibbles(padded).reshape(rows, blocks, -1)),
        found.constant("scales", np.broadcast_to(scales, (rows, blocks))),
    ]
    if zeros is not None:
        even = np.zeros((rows, blocks + blocks % 2), np.uint8)
        even[:, :blocks] = np.broadcast_to(zeros, (rows, blocks))
        inputs.append(found.constant("zero_points", _nibbles(even)))
    if bias is not None:
        inputs += [None] * (5 - len(inputs)) + [bias]
    attributes = {"K": columns, "N": rows, "bits": 4, "block_size": size}
    return found.add("MatMulNBits", inputs, accuracy_level=_FLOAT32, **attributes)


def _unpacked(found: "_Nodes", run: list[Matrix]) -> ir.Value:
    """Return weights of eight bits as float32, (inputs, outputs), computed by operators."""
    codes, scales, zeros = _joined(run)
    rows, groups = scales.shape
    steps = found.constant("codes", codes.reshape(rows, groups, -1))
    value = found.add("Cast", [steps], to=int(ir.DataType.FLOAT))
    if zeros is not None:
        shift = zeros.astype(np.float32)[..., None]
        value = found.add("Sub", [value, found.constant("zero_points", shift)])
    value = found.add("Mul", [value, found.constant("scales", scales[..., None])])
    shape = found.constant("shape", np.array(codes.shape, np.int64))
    return found.add("Transpose", [found.add("Reshape", [value, shape])], perm=[1, 0])


def _joined(run: list[Matrix]) -> tuple[Array, Array, Array | None]:
    """Return codes, scales and zero points of matrices that are joined by their outputs."""
    zeros = [matrix.zero_points for matrix in run if matrix.zero_points is not None]
    return (
        np.concatenate([matrix.codes for matrix in run]),
        np.concatenate([matrix.scales for matrix in run]),
        np.concatenate(zeros) if zeros else None,
    )


def _nibbles(codes: Array) -> Array:
    """Return numbers of four bits, two in a byte, the first in the low half."""
    packed: Array = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return packed


def _values(value: ir.Value) -> Array:
    """Return the numbers of a constant."""
    assert value.const_value is not None, "the caller has checked that it is a constant"
    return value.const_value.numpy()


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let all readers of a node read a value in its place."""
    old = node.outputs[0]
    name, is_output = old.name, old.is_graph_output()
    value.shape, value.type = old.shape, old.type
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    if is_output:
        old.name, value.name = f"{name}.before", name
    graph.remove(node, safe=True)


class _Nodes:
    """Adds nodes and constants to a graph before a node, with names that begin alike."""

    def __init__(self, graph: ir.Graph, before: ir.Node, name: str) -> None:
        self._graph, self._before, self._name = graph, before, name

    def add(self, kind: str, inputs: list[Any], **attributes: Any) -> ir.Value:  # noqa: ANN401
        """Add a node of one output, and return that."""
        name = f"{self._name}.{kind.lower()}"
        domain = "com.microsoft" if kind == "MatMulNBits" else ""
        node = ir.node(kind, inputs, attributes, domain=domain, name=name)
        node.outputs[0].name = name
        self._graph.insert_before(self._before, node)
        return node.outputs[0]

    def constant(self, part: str, values: Array) -> ir.Value:
        """Add a constant, and return it."""
        name = f"{self._name}.{part}"
        tensor = ir.tensor(np.ascontiguousarray(values), name=name)
        value = ir.Value(name=name, const_value=tensor)
        value.dtype, value.shape = tensor.dtype, ir.Shape(values.shape)
        self._graph.register_initializer(value)
        return value
