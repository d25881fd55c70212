"""Certificates from strangers: whatever the checker accepts is true, and it always ends."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from solver_cases import network

from aiq.errors import InputError
from aiq.solver import Certificate, Problem, Proof, check, solve

SMALL = Problem([[4, 2, 1], [4, 2, 1]], [[0, 1, 5], [0, 3, 9]])
STATUSES = ("optimal", "infeasible", "time_limit", "node_limit", "interrupted", "heuristic")


@st.composite
def problems(draw):
    """A problem small enough to enumerate, and what to ask of it."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))

    def table(high):
        row = st.integers(-2, high)
        return [draw(st.lists(row, min_size=n, max_size=n)) for n in counts]

    pairs = list(itertools.combinations(range(len(counts)), 2))
    edges = []
    for u, v in draw(st.lists(st.sampled_from(pairs), max_size=3)) if pairs else ():
        shape = counts[u], counts[v]
        cells = st.lists(st.integers(-2, 6), min_size=shape[0] * shape[1], max_size=9)
        cost = [np.array(draw(cells)[: shape[0] * shape[1]]).reshape(shape) for _ in range(2)]
        edges.append((u, v, *cost))
    size = draw(st.none() | st.just(0))
    problem = Problem(table(9), table(9), None if size is None else table(5), edges)
    budgets = {"max_drop": draw(st.none() | st.integers(0, 20))}
    if size is not None:
        budgets["max_size"] = draw(st.none() | st.integers(0, 12))
    return problem, budgets


INTEGERS = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 2**62, 2**63, 10**30]) | st.integers(-3, 40)
ANYTHING = INTEGERS | st.sampled_from([None, True, 0.5, float("nan"), "x", (), (1,), b"", {}])


@st.composite
def forged(draw, certificate):
    """The certificate with some fields changed, dropped, or doubled."""
    fields = dataclasses.asdict(certificate) | {"proof": list(certificate.proof)}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(fields)))
        value = fields[name]
        if name == "status":
            fields[name] = draw(st.sampled_from(STATUSES) | ANYTHING)
        elif name == "minimize":
            fields[name] = draw(st.sampled_from(["cost", "drop", "size"]) | ANYTHING)
        elif name == "bound":
            fields[name] = draw(ANYTHING)
        elif name == "proof" and isinstance(value, list):
            fields[name] = draw(forged_proof(value))
        elif isinstance(value, tuple) and value and draw(st.integers(0, 9)):
            at = draw(st.integers(0, len(value) - 1))
            how = draw(st.sampled_from(["set", "drop", "double"]))
            middle = {"set": (draw(ANYTHING),), "drop": (), "double": value[at : at + 1] * 2}[how]
            fields[name] = (*value[:at], *middle, *value[at + 1 :])
        else:
            fields[name] = draw(ANYTHING)
    if isinstance(fields["proof"], list):
        fields["proof"] = tuple(fields["proof"])
    return Certificate(**fields)


@st.composite
def forged_proof(draw, proof):
    if not proof or draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([[], None, 3, [None], [("bound",)]]))
    at = draw(st.integers(0, len(proof) - 1))
    how = draw(st.sampled_from(["field", "drop", "double", "split", "close", "swap"]))
    if how == "drop":
        return proof[:at] + proof[at + 1 :]
    if how == "double":
        return [*proof, proof[at]]
    if how == "swap":
        return [proof[at], *proof[1:at], proof[0], *proof[at + 1 :]] if at else proof
    index = st.integers(-1, len(proof) + 1)
    if how == "split":
        change = {"closed": "branched", "layer": draw(index), "choice": draw(index)}
        change |= {"equal": draw(index), "other": draw(index)}
    elif how == "close":
        change = {"closed": draw(st.sampled_from(["bound", "enumerated", "infeasible", "open"]))}
    else:
        name = draw(st.sampled_from([field.name for field in dataclasses.fields(Proof)]))
        weights = st.tuples(INTEGERS, INTEGERS, INTEGERS)
        change = {name: draw(ANYTHING | weights if name == "weights" else ANYTHING)}
    if not isinstance(proof[at], Proof):
        return proof
    return [*proof[:at], dataclasses.replace(proof[at], **change), *proof[at + 1 :]]


def is_true(problem, budgets, certificate):
    """Whether all that a certificate says holds, by enumeration."""
    plans = itertools.product(*map(range, problem.n_choices))
    values = {plan: tuple(problem.core.evaluate(list(plan))) for plan in plans}
    limits = (None, budgets.get("max_drop"), budgets.get("max_size"))

    def fits(value):
        return all(b is None or v <= b for v, b in zip(value, limits, strict=True))

    inside = [value[0] for value in values.values() if fits(value)]
    asked = certificate.status in STATUSES, certificate.minimize, certificate.limits
    if asked != (True, "cost", limits):
        return False
    if certificate.status == "infeasible":
        return not inside and not certificate.choices
    if certificate.bound is not None and min(inside, default=2**62) < certificate.bound:
        return False
    plan = certificate.choices
    if not plan:
        return certificate.status not in {"optimal", "heuristic"}
    holds = values.get(plan) == certificate.values and fits(values[plan])
    return holds and (certificate.status != "optimal" or values[plan][0] == min(inside))


@settings(max_examples=300)
@given(st.data())
def test_what_is_accepted_is_true(data):
    problem, budgets = data.draw(problems())
    method = data.draw(st.sampled_from(["exact", "exact", "exhaustive", "greedy", "coordinate"]))
    limit = data.draw(st.none() | st.integers(0, 3))
    found = solve(problem, **budgets, method=method, node_limit=limit)
    honest = check(problem, found.certificate, **budgets)
    assert honest.ok, honest.failures
    assert is_true(problem, budgets, found.certificate)
    certificate = data.draw(forged(found.certificate))
    if check(problem, certificate, **budgets).ok:
        assert is_true(problem, budgets, certificate)
    if check(problem, certificate, **budgets, replay=False).ok:
        assert is_true(problem, budgets, certificate)


@settings(max_examples=100)
@given(st.data())
def test_no_certificate_of_another_question_is_accepted(data):
    problem, budgets = data.draw(problems())
    other = {name: data.draw(st.none() | st.integers(0, 20)) for name in budgets}
    assume(other != budgets)
    certificate = solve(problem, **budgets).certificate
    assert not check(problem, certificate, **other).ok
    assert not check(problem, certificate, minimize="drop", max_size=budgets.get("max_size")).ok


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bound": 5}, "not 4"),
        ({"choices": (0, 0), "values": (8, 0, 0), "bound": 8, "proof": ()}, "not proved"),
        ({"choices": (0, 0), "values": (8, 0, 0), "bound": 8}, "only the bound 4"),
        ({"proof": ()}, "the bound 4 is not proved"),
        ({"bound": None}, "optimal, but the bound None"),
        ({"bound": 4.0}, "not an integer"),
        ({"bound": True}, "not an integer"),
        ({"bound": 2**64}, "not an integer"),
        ({"status": "infeasible", "choices": (), "bound": None, "proof": ()}, "no plan is not"),
        ({"status": "infeasible", "choices": (), "values": (0, 0, 0), "bound": None}, "no plan"),
        ({"status": "time_limit", "bound": 8, "proof": ()}, "above the plan's"),
        ({"status": "proved"}, "not one of"),
        ({"status": None}, "not one of"),
        ({"minimize": "drop"}, "minimises the drop"),
        ({"limits": (None, None, None)}, "drop budget is None, not 4"),
        ({"limits": (None, 5, None)}, "drop budget is 5, not 4"),
        ({"limits": (None, 4)}, "not three"),
        ({"values": (4, 3, 0)}, "measures (4, 4, 0)"),
        ({"choices": (1,)}, "1 choices for 2 layers"),
        ({"choices": (1, 3)}, "choice at layer 1"),
        ({"choices": (1, True)}, "choice at layer 1"),
        ({"choices": [1, 1]}, "not a tuple"),
        ({"proof": (Proof((1, 0, 0), "branched", 0, 2, 0, 0),)}, "does not come after"),
        ({"proof": (Proof((1, 0, 0), "branched", 0, 2, 1, 1), Proof((1, 0, 0), "open"))}, "by 2"),
        ({"proof": (Proof((1, 0, 0), "open"), Proof((1, 0, 0), "open"))}, "by 0 others"),
        ({"proof": (Proof((1, 0, 0), "branched", 9, 0, 1, 2),)}, "no choice"),
        ({"proof": (Proof((1, -1, 0), "bound"),)}, "negative weight"),
        ({"proof": (Proof((1, 10**30, 0), "bound"),)}, "not three integers"),
        ({"proof": (Proof((1, 0, 0), "bound"),)}, "only the bound 2"),
        ({"proof": (Proof((1, 0, 0), "trusted"),)}, "means nothing"),
        ({"proof": ("enumerated",)}, "not a Proof"),
    ],
)
def test_forged_certificates_are_refused_with_a_sentence(change, said):
    certificate = solve(SMALL, max_drop=4).certificate
    assert check(SMALL, certificate, 4).ok
    verdict = check(SMALL, dataclasses.replace(certificate, **change), 4)
    assert not verdict.ok
    assert any(said in failure for failure in verdict.failures), verdict.failures


def test_a_proof_that_would_take_forever_is_refused_soon():
    case = network(60, 4, 2)
    problem = Problem(case.cost, case.drop, case.size)
    honest = solve(problem, max_drop=case.max_drop).certificate
    endless = (Proof((0, 0, 0), "enumerated"),)
    forged = dataclasses.replace(honest, proof=endless)
    verdict = check(problem, forged, case.max_drop, max_work=200_000)
    assert not verdict.ok
    assert "more than 200000 steps" in verdict.failures[0]
    assert not check(problem, honest, case.max_drop, max_work=100).ok


def test_what_is_no_certificate_is_an_error():
    certificate = solve(SMALL, max_drop=4).certificate
    for arguments in (
        (None, certificate, 4),
        (SMALL, None, 4),
        (SMALL, dataclasses.asdict(certificate), 4),
        (SMALL, certificate, float("nan")),
        (SMALL, certificate, 4, None, "speed"),
    ):
        with pytest.raises(InputError):
            check(*arguments)
