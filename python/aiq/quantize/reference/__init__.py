"""Integers alone: what a quantised network computes, as a reference for the simulation."""
