"""The shadow price of accuracy: what a larger drop budget would save at this point."""

from aiq.errors import InfeasibleError, NoPlanError
from aiq.plan.certificate import TENTH
from aiq.planning.kept import NODES
from aiq.planning.task import Outcome, Task


def per_tenth(task: Task, outcome: Outcome) -> float | None:
    """Return the cost that 0.1 pp more accuracy drop would save, in seconds or bytes.

    It is the difference between two solves, at the drop budget of the plan and at 0.1 pp more by
    the curve from sums of single layers' drops to the drop of a plan.

    Parameters
    ----------
    task, outcome
        The task, with the drops of the layers, and the outcome of its search.

    Returns
    -------
    float or None
        ``None`` where no drop budget was solved for.
    """
    budget, curve, tables = outcome.drop_budget, outcome.curve, task.tables
    if task.weighted_by is not None or task.least_drop or budget is None or task.method != "exact":
        return None
    more = max(curve.inverse(curve.predict(budget) + TENTH), budget)
    costs = []
    for drop in (budget, min(more, 1.0)):
        try:
            found = tables.within(drop, max_size=task.max_size, node_limit=NODES)
        except (InfeasibleError, NoPlanError):
            return None
        costs.append(tables.cost.total(tables.formats(found.choices)))
    return max(0.0, costs[0] - costs[1])
