"""Let an ONNX decoder keep its cache in buffers that are longer than what they hold.

``GroupQueryAttention`` adds keys and values to the buffer that it reads, if it is given the same
buffer to write. Programs of the exporter take the number of tokens in the cache from the length of
the buffer, so that each step would have to copy it. They can as well take it from the mask, which
has a place for each token of the cache and each new one.
"""

import onnx_ir as ir

from aiq.generative.program import LONGER_BUFFERS

_LENGTH = 2
"""Dimension of keys and values that counts tokens."""


def allow_longer_buffers(model: ir.Model) -> None:
    """Take the number of tokens in the cache from the mask, if only attention reads the cache.

    Parameters
    ----------
    model
        The model, which is changed. It has the property `LONGER_BUFFERS` afterwards, unless it
        reads its cache in another way and is left as it is.
    """
    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    mask, tokens = inputs.get("attention_mask"), inputs.get("input_ids")
    caches = [value for name, value in inputs.items() if (name or "").startswith("input.")]
    kept = [value for value in graph.outputs if (value.name or "").startswith("output.")]
    readers = {use.node for cache in caches for use in cache.uses()}
    lengths = [node for node in readers if _is_length(node)]
    attends = all(_is_attention(node) for node in readers - {*lengths})
    writers = [value.producer() for value in kept]
    if not caches or mask is None or tokens is None or not attends:
        return
    if not all(node is not None and _is_attention(node) for node in writers):
        return
    whole, new = _size(mask), _size(tokens)
    earlier = ir.node("Sub", [whole.outputs[0], new.outputs[0]], name="cache.length")
    earlier.outputs[0].name = "cache.length"
    graph.insert_before(graph[0], [whole, new, earlier])
    for node in lengths:
        node.outputs[0].replace_all_uses_with(earlier.outputs[0])
        graph.remove(node, safe=True)
    model.metadata_props[LONGER_BUFFERS] = "1"


def _size(value: ir.Value) -> ir.Node:
    """Return a node that reads the length of a tensor of shape (1, length)."""
    node = ir.node("Shape", [value], {"start": 1, "end": 2}, name=f"{value.name}.length")
    node.outputs[0].name = f"{value.name}.length"
    return node


def _is_length(node: ir.Node) -> bool:
    """Whether a node reads the length of keys or values, (1, heads, length, size)."""
    start, end = (node.attributes.get_int(name, -1) for name in ("start", "end"))
    return node.op_type == "Shape" and (start, end) == (_LENGTH, _LENGTH + 1)


def _is_attention(node: ir.Node) -> bool:
    return node.op_type == "GroupQueryAttention"
