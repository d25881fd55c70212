"""All trade-offs between cost and loss."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aiq import _core
from aiq.errors import InputError
from aiq.solver.problem import Problem, is_count
from aiq.solver.solve import Solution, check_problem, solve


@dataclass(frozen=True, slots=True)
class Frontier:
    """The cheapest cost at every loss.

    Attributes
    ----------
    cost, loss
        Shape ``(points,)``: loss ascending, cost strictly descending, in the units of the input.
    exact
        Whether these are all Pareto points, or only the corners of their convex hull.
    """

    problem: Problem
    cost: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    loss: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    exact: bool

    def __len__(self) -> int:
        return len(self.cost)

    def plan(self, point: int) -> Solution:
        """Find the choices behind a point: a search with the point's loss as budget.

        Raises
        ------
        InputError
            If there is no such point.
        """
        if not -len(self) <= point < len(self):
            raise InputError(f"There is no point {point} among {len(self)}; give a smaller number")
        return solve(self.problem, max_loss=self.loss[point].item())


def frontier(problem: Problem, exact: bool = True, max_points: int = 1_000_000) -> Frontier:
    """List the trade-offs between cost and loss.

    Parameters
    ----------
    problem
        The tables; sizes are ignored.
    exact
        All Pareto points; otherwise only the supported corners, far fewer.
    max_points
        Give up beyond this many points.

    Raises
    ------
    InputError
        If there are more points than `max_points`.
    """
    check_problem(problem)
    if not is_count(max_points, 1):
        raise InputError(f"max_points is {max_points!r:.50}; give a count of at least 1")
    cost, loss = _core.frontier(problem.core, exact, max_points)
    return Frontier(
        problem, _from_fixed(problem, "cost", cost), _from_fixed(problem, "loss", loss), exact
    )


def _from_fixed(
    problem: Problem, measure: str, values: list[int]
) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    scale = problem.scales[measure]
    array = np.array(values, np.int64)
    return array if scale is None else array / scale
