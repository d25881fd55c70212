"""Check the form of a certificate: its types, its ranges, and the tree of its proof.

A certificate may come from any source, so its form is checked before anything is computed from it.
The check takes time in proportion to the length of the certificate.
"""

from collections.abc import Iterator

from aiq.errors import type_of
from aiq.solver.certificate import Certificate, Proof
from aiq.solver.problem import Problem

MEASURES = ("cost", "drop", "size")
STATUSES = ("optimal", "infeasible", "time_limit", "node_limit", "interrupted", "heuristic")
CLOSED = ("bound", "enumerated", "infeasible", "branched", "open")
_INT64 = 2**63


def malformed(problem: Problem, certificate: Certificate) -> str | None:
    """Return the first fault in the form of a certificate; None if there is none.

    Parameters
    ----------
    problem
        The tables of the problem.
    certificate
        The certificate, whose fields may have any values.
    """
    return next(_faults(problem, certificate), None)


def _faults(problem: Problem, c: Certificate) -> Iterator[str]:
    """Yield faults; each check assumes that the checks before it found none."""
    if type(c.status) is not str or c.status not in STATUSES:
        yield f"the status is {_short(c.status)}, not one of {', '.join(STATUSES)}"
    if type(c.minimize) is not str or c.minimize not in MEASURES:
        yield f"the objective is {_short(c.minimize)}, not cost, drop or size"
    if not _is_tuple(c.limits, 3) or not all(b is None or _is_int(b) for b in c.limits):
        yield "the limits are not three integers or None"
    if not _is_tuple(c.values, 3) or not all(map(_is_int, c.values)):
        yield "the values are not three integers"
    if c.bound is not None and not _is_int(c.bound):
        yield f"the bound is {_short(c.bound)}, not an integer or None"
    if type(c.choices) is not tuple:
        yield "the choices are not a tuple"
    counts = problem.n_choices
    if c.choices and len(c.choices) != len(counts):
        yield f"the plan has {len(c.choices)} choices for {len(counts)} layers"
    for layer, (choice, count) in enumerate(zip(c.choices, counts, strict=False)):
        if type(choice) is not int or not 0 <= choice < count:
            yield f"the plan's choice at layer {layer} is {_short(choice)}, not 0 to {count - 1}"
    yield from _tree_faults(c.proof, counts)


def _tree_faults(proofs: tuple[Proof, ...], counts: list[int]) -> Iterator[str]:
    """Yield faults of the tree, in which the root must come first and parents before children."""
    if type(proofs) is not tuple:
        yield "the proof is not a tuple"
    parents = [0] * len(proofs)
    for at, proof in enumerate(proofs):
        yield from _entry_faults(at, proof, counts)
        if proof.closed != "branched":
            continue
        for side in (proof.equal, proof.other):
            if not at < side < len(proofs):
                yield f"subproblem {at} names subproblem {side}, which does not come after it"
            parents[side] += 1
    for at, count in enumerate(parents[1:], 1):
        if count != 1:
            yield f"subproblem {at} is named by {count} others, not by one"


def _entry_faults(at: int, proof: Proof, counts: list[int]) -> Iterator[str]:
    """Yield faults of one subproblem, apart from its place in the tree."""
    if type(proof) is not Proof:
        yield f"subproblem {at} is not a Proof"
    if not _is_tuple(proof.weights, 3) or not all(map(_is_int, proof.weights)):
        yield f"the weights of subproblem {at} are not three integers"
    if min(proof.weights) < 0:
        yield f"subproblem {at} has a negative weight"
    if type(proof.closed) is not str or proof.closed not in CLOSED:
        yield f"subproblem {at} is closed as {_short(proof.closed)}, which means nothing"
    split = (proof.layer, proof.choice, proof.equal, proof.other)
    if not all(map(_is_int, split)):
        yield f"the split of subproblem {at} is not given in integers"
    if proof.closed != "branched":
        if any(split):
            yield f"subproblem {at} names a split, but is not branched"
    elif not 0 <= proof.layer < len(counts) or not 0 <= proof.choice < counts[proof.layer]:
        yield f"subproblem {at} is split where the problem has no choice"


def _is_tuple(value: object, length: int) -> bool:
    return type(value) is tuple and len(value) == length


def _is_int(value: object) -> bool:
    """Whether a value is a Python integer of 64 bits, and not a boolean or one of NumPy's."""
    return type(value) is int and -_INT64 <= value < _INT64


def _short(value: object) -> str:
    """Return a short description of a value, which may be large."""
    if type(value) is str:
        return repr(value[:40])
    if type(value) is float or _is_int(value):
        return repr(value)
    return type_of(value)
