"""What proves a solution."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proof:
    """One subproblem of the branching tree.

    Attributes
    ----------
    weights
        Multipliers of cost, loss and size: non-negative integers.
    closed
        ``bound``, ``enumerated``, ``infeasible``, ``branched`` or ``open``.
    layer, choice
        If branched: the first side has this choice at this layer, the second all others.
    equal, other
        If branched: the two sides, as positions in the list of proofs.
    """

    weights: tuple[int, int, int]
    closed: str
    layer: int = 0
    choice: int = 0
    equal: int = 0
    other: int = 0


@dataclass(frozen=True, slots=True)
class Certificate:
    """A claim about a problem, and what lets a checker verify it. All numbers are fixed-point.

    Attributes
    ----------
    status
        As in the solution.
    minimize
        The objective: ``cost``, ``loss`` or ``size``.
    limits
        Largest allowed cost, loss and size; None is no budget.
    choices
        The plan; empty if there is none.
    values
        Cost, loss and size of the plan.
    bound
        Proved lower bound on the objective.
    proof
        The branching tree, root first.
    """

    status: str
    minimize: str
    limits: tuple[int | None, int | None, int | None]
    choices: tuple[int, ...]
    values: tuple[int, int, int]
    bound: int | None
    proof: tuple[Proof, ...]
