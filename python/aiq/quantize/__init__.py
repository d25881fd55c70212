"""Quantisation: affine arithmetic, observers, batch-norm folding and simulation in float32."""
