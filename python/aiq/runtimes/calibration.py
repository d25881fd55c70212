"""Batches of inputs that calibrate the activations of a program."""

from collections.abc import Iterable
from typing import Any

from aiq.data.reading import inputs_of, read_batches
from aiq.evaluate.gather import gather
from aiq.graph import Trace
from aiq.graph.batch import samples_in
from aiq.graph.export import Inputs


def calibration_batches(calibration: Iterable[Any], trace: Trace) -> list[Inputs]:
    """Return the inputs of calibration batches, in batches of the size that the graph accepts.

    Parameters
    ----------
    calibration
        Batches of inputs, or of (inputs, targets).
    trace
        The network.

    Raises
    ------
    DataError
        If `calibration` is not an iterable of batches, raises an exception, or has batches of
        different shapes.
    """
    reads = len(trace.module.graph.find_nodes(op="placeholder"))
    batches = [inputs_of(batch, reads) for batch in read_batches(calibration, "calibration")]
    if trace.dynamic_batch or all(
        samples_in(batch, trace.batch_dim) == trace.graph.batch for batch in batches
    ):
        return batches
    samples = gather(batches, labelled=False, batch_dim=trace.batch_dim, reads=reads)
    size = trace.graph.batch
    return [chunk.filled(size) for chunk in samples.chunks(size)]
