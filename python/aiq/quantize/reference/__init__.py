"""A quantised network in integer arithmetic only: a reference for the simulation."""

from aiq.quantize.reference.equalize import equalize
from aiq.quantize.reference.fixed_point import Multiplier, fixed_point, power_of_two
from aiq.quantize.reference.integer import IntegerLayer, IntegerNetwork, accumulate
from aiq.quantize.reference.operators import Codes, Sums

__all__ = [
    "Codes",
    "IntegerLayer",
    "IntegerNetwork",
    "Multiplier",
    "Sums",
    "accumulate",
    "equalize",
    "fixed_point",
    "power_of_two",
]
