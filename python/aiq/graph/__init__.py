"""The layer graph of a model."""

from aiq.graph.batch import BatchDim
from aiq.graph.decode import Decode, is_attention
from aiq.graph.layers import Edge, Layer, LayerGraph, Trace, extract, trace
from aiq.graph.operators import WEIGHTED, Op

__all__ = [
    "WEIGHTED",
    "BatchDim",
    "Decode",
    "Edge",
    "Layer",
    "LayerGraph",
    "Op",
    "Trace",
    "extract",
    "is_attention",
    "trace",
]
