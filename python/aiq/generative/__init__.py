"""Decoders as folders that OpenVINO and ONNX Runtime run with a cache of any length.

The exporters of transformers trace the cache, and ONNX Runtime's fusions are theirs. aiq adds the
weights of a plan, and compares the program with the network that it was made from.
"""
