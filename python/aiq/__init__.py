"""Arithmetic-intensity-aware quantisation: which layers to quantise, to what, on your machine."""
