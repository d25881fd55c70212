"""What a search that was interrupted leaves, and what it says about that."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

from aiq.errors import Interrupted
from aiq.evaluate import Evaluator
from aiq.plan import Plan

P = ParamSpec("P")
R = TypeVar("R")


def tells_what_is_kept(search: Callable[P, R]) -> Callable[P, R]:
    """Make Ctrl-C in `search` an `Interrupted` that says what its argument `cache_dir` holds."""

    @functools.wraps(search)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return search(*args, **kwargs)
        except Interrupted:
            raise
        except KeyboardInterrupt:
            kept = _kept(kwargs.get("cache_dir"), "What was evaluated is")
            raise Interrupted(f"There is no plan yet. {kept}") from None

    return wrapper


def with_plan(plan: Plan, evaluator: Evaluator | None, cache_dir: str | Path | None) -> Interrupted:
    """Return the exception that carries the best plan so far."""
    plan = replace(plan, proof=replace(plan.proof, status="interrupted"))
    how = "by the tables; it was not measured" if plan.accuracy is None else "of those measured"
    message = f"This is the best plan so far {how}."
    if evaluator is not None:
        message += " " + _kept(cache_dir, f"{evaluator.evaluations} evaluations are")
    return Interrupted(message, plan=plan)


def _kept(folder: object, what: str) -> str:
    if folder is None:
        return "No evaluations are kept; with a cache folder a search goes on where it was."
    return f"{what} kept in {folder}, and the same search goes on from there."
