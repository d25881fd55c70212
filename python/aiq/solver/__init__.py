"""The exact solver, which also works on tables of your own."""

from aiq.solver.certificate import Certificate, Proof
from aiq.solver.check import Check, check
from aiq.solver.frontier import Frontier, frontier
from aiq.solver.measured import Measured, coordinate_measured, greedy_measured
from aiq.solver.problem import Problem
from aiq.solver.solve import Solution, solve
from aiq.solver.weighted import WeightedSolution, solve_weighted

__all__ = [
    "Certificate",
    "Check",
    "Frontier",
    "Measured",
    "Problem",
    "Proof",
    "Solution",
    "WeightedSolution",
    "check",
    "coordinate_measured",
    "frontier",
    "greedy_measured",
    "solve",
    "solve_weighted",
]
