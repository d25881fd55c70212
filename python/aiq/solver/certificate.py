"""Certificates, which prove solutions."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proof:
    """One subproblem of the branching tree.

    Attributes
    ----------
    weights
        Multipliers of cost, drop and size: non-negative integers.
    closed
        Way in which the subproblem was closed: ``bound``, ``enumerated``, ``infeasible`` or
        ``branched``; ``open`` if it was not.
    layer, choice
        If branched, the first side has this choice at this layer, and the second all others.
    equal, other
        If branched, positions of the first and the second side in the list of proofs.
    """

    weights: tuple[int, int, int]
    closed: str
    layer: int = 0
    choice: int = 0
    equal: int = 0
    other: int = 0


@dataclass(frozen=True, slots=True)
class Certificate:
    """A claim about a problem, with a proof that can be checked. All numbers are fixed-point.

    Attributes
    ----------
    status
        Status of the solution.
    minimize
        The objective: ``cost``, ``drop`` or ``size``.
    limits
        Budgets on cost, drop and size; None for no budget.
    choices
        Choice of each layer; empty if there is no plan.
    values
        Cost, drop and size of the plan.
    bound
        Proved lower bound of the objective, or None.
    proof
        The branching tree, with its root first.
    """

    status: str
    minimize: str
    limits: tuple[int | None, int | None, int | None]
    choices: tuple[int, ...]
    values: tuple[int, int, int]
    bound: int | None
    proof: tuple[Proof, ...]
