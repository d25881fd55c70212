"""What a search that was interrupted leaves, and what it says about that."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import ParamSpec, TypeVar

from aiq import cache
from aiq.errors import Interrupted
from aiq.evaluate import Evaluator
from aiq.evaluate.metrics import NAMES
from aiq.plan import Plan

P = ParamSpec("P")
R = TypeVar("R")


def tells_what_is_kept(search: Callable[P, R]) -> Callable[P, R]:
    """Make Ctrl-C in `search` an `Interrupted` that says what its argument `cache` holds."""

    @functools.wraps(search)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return search(*args, **kwargs)
        except Interrupted:
            raise
        except KeyboardInterrupt:
            named, metric = kwargs.get("cache", True), kwargs.get("metric", "top1")
            own = cache.folder(cache.EVALUATIONS) if named is True and metric in NAMES else None
            folder = own if isinstance(named, bool) else named
            kept = _kept(folder, "What was evaluated is")
            raise Interrupted(f"There is no plan yet. {kept}") from None

    return wrapper


def with_plan(plan: Plan, evaluator: Evaluator | None) -> Interrupted:
    """Return the exception that carries the best plan so far."""
    plan = replace(plan, proof=replace(plan.proof, status="interrupted"))
    how = "by the tables; it was not measured" if plan.accuracy is None else "of those measured"
    message = f"This is the best plan so far {how}."
    if evaluator is not None:
        message += " " + _kept(evaluator.folder, f"{evaluator.evaluations} evaluations are")
    return Interrupted(message, plan=plan)


def _kept(folder: object, what: str) -> str:
    if folder is None:
        return "No evaluations are kept; with a cache folder a search goes on where it was."
    return f"{what} kept in {folder}, and the same search goes on from there."
