"""The Pareto frontier of cost and drop."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aiq import _core
from aiq.errors import InputError
from aiq.solver.problem import Problem, is_count
from aiq.solver.solve import Solution, check_problem, solve


@dataclass(frozen=True, slots=True)
class Frontier:
    """The smallest cost at every drop.

    Attributes
    ----------
    problem
        The problem of which this is the frontier.
    cost, drop
        Cost and drop of each point, ``(points,)``, in the units of the input. Drops ascend, costs
        strictly descend.
    exact
        Whether these are all Pareto points, or only the corners of their convex hull.
    """

    problem: Problem
    cost: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    drop: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    exact: bool

    def __len__(self) -> int:
        return len(self.cost)

    def plan(self, point: int) -> Solution:
        """Find the plan of a point, by a search with the point's drop as budget.

        Raises
        ------
        InputError
            If there is no such point.
        """
        if not -len(self) <= point < len(self):
            raise InputError(f"There is no point {point} among {len(self)}; give a smaller number")
        return solve(self.problem, max_drop=self.drop[point].item())


def frontier(problem: Problem, exact: bool = True, max_points: int = 1_000_000) -> Frontier:
    """Return the Pareto frontier of cost and drop.

    Parameters
    ----------
    problem
        The tables; sizes are ignored.
    exact
        Whether to return all Pareto points; otherwise only the corners of their convex hull, which
        are far fewer.
    max_points
        Largest number of points.

    Raises
    ------
    InputError
        If there are more points than `max_points`.
    """
    check_problem(problem)
    if not is_count(max_points, 1):
        raise InputError(f"max_points is {max_points!r:.50}; give a count of at least 1")
    cost, drop = _core.frontier(problem.core, exact, max_points)
    return Frontier(
        problem, _from_fixed(problem, "cost", cost), _from_fixed(problem, "drop", drop), exact
    )


def _from_fixed(
    problem: Problem, measure: str, values: list[int]
) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    scale = problem.scales[measure]
    array = np.array(values, np.int64)
    return array if scale is None else array / scale
