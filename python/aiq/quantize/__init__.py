"""Quantisation: affine arithmetic, observers, folding, equalisation, simulation, integers alone."""
