"""A quantised network in integer arithmetic only: a reference for the simulation."""
