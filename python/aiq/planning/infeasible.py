"""Sentences for budgets that no plan keeps: what is wrong, and the nearest one that is kept."""

from aiq import solver
from aiq.cost import CostTable, Level


def nearest_plan(
    solution: solver.Solution, max_drop: float, max_size: int | None, fixed_bytes: int
) -> str:
    """Return what is said where no plan keeps to the budgets on drop and size."""
    if solution.nearest is None:
        return (
            f"No plan has a drop of at most {max_drop:.4g} and at most {max_size} bytes of weights "
            "at once; raise one of the two, or allow more formats."
        )
    measure, value = solution.nearest
    if measure == "size":
        return too_small(max_size, fixed_bytes - (-int(value) // 8))
    return (
        f"No plan has a predicted drop of at most {100 * max_drop:.3g} pp; the nearest feasible "
        f"max_drop is {value:.4g} ({100 * value:.3g} pp), or allow formats with more bits."
    )


def none_in_time(time_limit: float | None) -> str:
    """Return what is said where the time ended before any plan was found."""
    return (
        f"No plan was found within time_limit={time_limit} s, and it is not known whether there is "
        "one; give more time, or larger budgets."
    )


def too_small(max_size: int | None, least: int) -> str:
    """Return what is said of a size budget below that of the smallest plan."""
    return (
        f"No plan has at most {max_size} bytes of weights; the nearest feasible max_size is "
        f"{least}, or allow formats with fewer bits."
    )


def too_dear(max_cost: float, least: float, table: CostTable) -> str:
    """Return what is said of a budget on cost below that of the cheapest plan."""
    more = "or allow formats with fewer bits."
    least *= 1 + 1e-5  # so that the value as it is printed is feasible
    if table.level is Level.INTENSITY:
        return (
            f"No plan does {table.flops / max_cost:.6g} FLOPs per byte; the nearest feasible "
            f"min_intensity is {table.flops / least:.6g}, {more}"
        )
    return (
        f"No plan is predicted to take at most {max_cost:.4g} s; the nearest feasible max_seconds "
        f"is {least:.6g}, {more}"
    )
