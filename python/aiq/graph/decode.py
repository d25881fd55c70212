"""The layer graph of a decoder at other lengths: a whole prompt, or one token after others."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from aiq.errors import InputError
from aiq.graph.composites import ATTENTION
from aiq.graph.layers import Edge, Layer, LayerGraph
from aiq.graph.operators import Op

MOST = 2**24
"""Most tokens of a prompt, and after it."""


@dataclass(frozen=True, slots=True)
class Decode:
    """What a decoder is asked to do: read a prompt, then write tokens one by one.

    Attributes
    ----------
    prompt
        Tokens that are read together.
    tokens
        Tokens that are written, each after all that came before it.

    Raises
    ------
    InputError
        If one of them is no number from 1 to `MOST`.
    """

    prompt: int = 512
    tokens: int = 128

    def __post_init__(self) -> None:
        for name in ("prompt", "tokens"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MOST:
                raise InputError(
                    f"{name} of Decode is {value!r:.50}; give a number of at least 1 and at most "
                    f"{MOST}."
                )

    @classmethod
    def of(cls, text: "Decode | str | Mapping[str, int]") -> "Decode":
        """Return a workload that may be written as ``512+128``, or as plans keep it.

        Raises
        ------
        InputError
            If it is something else.
        """
        if isinstance(text, cls):
            return text
        if isinstance(text, Mapping) and {*text} == {"prompt", "tokens"}:
            return cls(**text)
        prompt, _, tokens = str(text).partition("+")
        if not (prompt.strip().isdecimal() and tokens.strip().isdecimal()):
            raise InputError(
                f"workload is {text!r:.50}; give aiq.Decode(prompt=512, tokens=128), on the "
                "command line 512+128, or leave it out for models that run whole batches."
            )
        return cls(int(prompt), int(tokens))

    def reading(self, graph: LayerGraph, length: int, *, last_logits: bool = False) -> LayerGraph:
        """Return the layer graph of one prompt, from that of samples of `length` tokens.

        With `last_logits`, the output layer reads the last token only.
        """
        found = at(graph, length, self.prompt, self.prompt)
        if not last_logits:
            return found
        one = at(graph, length, 1, self.prompt)
        pairs = zip(found.layers, one.layers, strict=True)
        layers = (y if x.is_output and x.op is Op.LINEAR else x for x, y in pairs)
        return replace(found, layers=tuple(layers))

    def writing(self, graph: LayerGraph, length: int) -> LayerGraph:
        """Return the layer graph of one token, in the mean over all that are written."""
        return at(graph, length, 1, self.prompt + math.ceil(self.tokens / 2))


def is_attention(layer: Layer) -> bool:
    """Return whether a layer is attention as one operator, with keys and values of a cache."""
    return any(name.startswith(ATTENTION) for name in layer.nodes)


def at(graph: LayerGraph, length: int, rows: int, context: int) -> LayerGraph:
    """Return a decoder's layer graph for `rows` tokens, which attend to `context` tokens.

    All layers work on each token alone, except attention. Its keys and values are those of the
    context, which a runtime keeps from earlier tokens, and its work is that of each pair of tokens.

    Parameters
    ----------
    graph
        Layer graph of samples of `length` tokens.
    length
        Tokens of a sample in `graph`.
    rows
        Tokens that are computed, of one sample.
    context
        Tokens that they attend to, themselves included.
    """
    all_rows = graph.batch * length
    each = rows / all_rows
    pairs = each * context / length

    def scaled(layer: Layer) -> Layer:
        attends = is_attention(layer)
        in_pairs = layer.op in {Op.MATMUL, Op.SOFTMAX}
        square = in_pairs and not attends and layer.output_shape[-2:] == (length, length)
        factor = pairs if square else each
        inputs = layer.input_elements * factor
        if attends and len(layer.input_shapes) >= 3:
            query, key, value = (math.prod(shape) for shape in layer.input_shapes[:3])
            inputs = query * each + (key + value) * context / all_rows
        return replace(
            layer,
            flops=round(layer.flops * (pairs if in_pairs else each)),
            input_elements=round(inputs),
            output_elements=round(layer.output_elements * factor),
            fused_elements=round(layer.fused_elements * factor),
        )

    edges = tuple(
        Edge(e.source, e.target, max(1, round(e.elements * each)), e.fused) for e in graph.edges
    )
    return replace(graph, batch=1, layers=tuple(map(scaled, graph.layers)), edges=edges)
