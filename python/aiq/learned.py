"""Scales that training has learned; they belong to a plan and to the weights trained with it."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from aiq.errors import InputError
from aiq.formats import DType, Granularity, parse
from aiq.typed import Name

Scale = Annotated[float, Meta(ge=2.0**-126, lt=2.0**128)]
"""A positive number of float32."""

Zero = Annotated[int, Meta(ge=-128, le=255)]


@dataclass(frozen=True, slots=True)
class LearnedWeight:
    """The scales of the weights of a layer.

    Attributes
    ----------
    layer
        Name of the layer.
    format
        Name of a format that stores weights with these scales, such as ``w3`` or ``w4g64z``.
    scales
        Scale of each row of weights, see `aiq.quantize.affine`.
    zero_points
        Zero point of each row.
    """

    layer: Name
    format: Name
    scales: tuple[Scale, ...]
    zero_points: tuple[Zero, ...]

    def __post_init__(self) -> None:
        if not parse(self.format).quantizes_weights:
            raise InputError(f"Weights in {self.format} have no scales; name an integer format.")
        if not self.scales or len(self.scales) != len(self.zero_points):
            raise InputError(
                f"Layer {self.layer!r} has {len(self.scales)} learned scales and "
                f"{len(self.zero_points)} zero points; give as many of both, at least one."
            )


@dataclass(frozen=True, slots=True)
class LearnedActivation:
    """The scale of an activation.

    Attributes
    ----------
    node
        Name of the graph node that computes the activation.
    bits
        Bits of the integers.
    scale, zero_point
        Scale and zero point of the whole tensor.
    """

    node: Name
    bits: Annotated[int, Meta(ge=2, le=8)]
    scale: Scale
    zero_point: Zero


@dataclass(frozen=True, slots=True)
class LearnedScales:
    """All scales of a network that training has learned.

    Whatever is not among them has the scale of smallest error, as in a network that was not
    trained.

    Attributes
    ----------
    weights
        Scales of weights, by layer and format.
    activations
        Scales of activations, by node and number of bits.
    """

    weights: tuple[LearnedWeight, ...] = ()
    activations: tuple[LearnedActivation, ...] = ()

    def weight(self, layer: str, dtype: DType, granularity: Granularity) -> LearnedWeight | None:
        """Return the scales of the weights of `layer`, or ``None`` if they were not learned."""
        for known in self.weights:
            chosen = parse(known.format)
            if (known.layer, chosen.weight, chosen.weight_granularity) == (
                layer,
                dtype,
                granularity,
            ):
                return known
        return None

    def activation(self, node: str, dtype: DType) -> LearnedActivation | None:
        """Return the scale of the activation of `node`, or ``None`` if it was not learned."""
        found = (x for x in self.activations if (x.node, x.bits) == (node, dtype.bits))
        return next(found, None)
