"""The windows of poolings, of which the last may exceed the image (``ceil_mode``)."""

from typing import NamedTuple

from torch import fx

from aiq.graph.operators import argument


class Windows(NamedTuple):
    """Windows along one dimension.

    Attributes
    ----------
    size
        Number of elements of the input.
    kernel, stride, padding, dilation
        Options of the pooling, as in PyTorch.
    written
        Number of elements of the output.
    """

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    written: int

    @property
    def full(self) -> int:
        """Number of windows that end within the padding; without ``ceil_mode``, all do."""
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size + 2 * self.padding - reach) // self.stride + 1

    @property
    def beyond(self) -> int:
        """Number of elements by which the last window exceeds the padding."""
        reach = self.dilation * (self.kernel - 1) + 1
        return max(0, (self.written - 1) * self.stride + reach - self.size - 2 * self.padding)


def windows(node: fx.Node) -> list[Windows]:
    """Return the windows of a pooling along each dimension of the image.

    The node and its input must have their values in ``meta["val"]``.
    """
    written = node.meta["val"]
    written = written[0] if isinstance(written, tuple | list) else written
    kernel = argument(node, "kernel_size")
    rank = int(str(node.target).split("pool")[1][0])
    options = (
        kernel,
        argument(node, "stride", None) or kernel,
        argument(node, "padding", 0),
        argument(node, "dilation", 1),
    )
    read = argument(node, "self").meta["val"].shape[-rank:]
    return [
        Windows(*row)
        for row in zip(
            read, *(_each(value, rank) for value in options), written.shape[-rank:], strict=True
        )
    ]


def _each(value: int | list[int], rank: int) -> list[int]:
    """Return a number for each dimension; a single number applies to all of them."""
    values = [value] if isinstance(value, int) else [*value]
    return values * rank if len(values) == 1 else values
