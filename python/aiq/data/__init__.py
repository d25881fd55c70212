"""Data sets of labelled images, from disk or shipped with aiq."""

from aiq.data.datasets import (
    SAMPLE_FILE,
    SIDE,
    SPLITS,
    Batches,
    Dataset,
    batches,
    cifar10,
    fashion_mnist,
    load,
    sample,
)

__all__ = [
    "SAMPLE_FILE",
    "SIDE",
    "SPLITS",
    "Batches",
    "Dataset",
    "batches",
    "cifar10",
    "fashion_mnist",
    "load",
    "sample",
]
