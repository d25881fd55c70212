"""What the kernels of this processor make of a format: tests hold on all of them."""

from aiq.formats import parse
from aiq.graph import Op
from aiq.runtimes import Support, instructions


def able(engine, name):
    """Return the format called `name`, or fp32 where `engine` has no kernel for it here."""
    native = engine.support(Op.CONV, parse(name)) is Support.NATIVE
    return name if native else "fp32"


def rounded(name):
    """Return the format in which a layer is rounded: integer kernels may lack a bit of a weight."""
    return parse(f"w{instructions.weight_bits()}a8" if name == "w8a8" else name)
