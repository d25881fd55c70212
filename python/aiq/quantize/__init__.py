"""Quantisation: affine arithmetic, observers, batch-norm folding, simulation."""
