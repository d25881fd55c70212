from collections.abc import Callable, Iterable
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

from aiq.cost.rows import LayerRow, Machine, Storage, Work

__all__ = [
    "Problem",
    "Solution",
    "Subproblem",
    "WeightedSolution",
    "__version__",
    "calibrated_loads",
    "calibrated_times",
    "fit_rows",
    "frontier",
    "intensity_table",
    "measure_coordinate",
    "measure_greedy",
    "roofline_table",
    "round_blocks",
    "round_rows",
    "solve",
    "solve_weighted",
]

__version__: str

_Ints: TypeAlias = npt.NDArray[np.int64]
_Floats: TypeAlias = npt.NDArray[np.float32]
_Measured: TypeAlias = tuple[list[int], float, int, list[tuple[int, int, int, float]]]

@final
class Problem:
    def __new__(
        cls,
        lengths: list[int],
        cost: _Ints,
        drop: _Ints,
        size: _Ints | None,
        edges: Iterable[tuple[object, ...]],
    ) -> Problem: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def n_choices(self) -> list[int]: ...
    @property
    def n_edges(self) -> int: ...
    @property
    def has_sizes(self) -> bool: ...
    def evaluate(self, choices: list[int]) -> list[int]: ...
    def tables(self) -> tuple[list[int], list[int], list[int]]: ...
    def edges(self) -> list[tuple[int, int, list[int], list[int]]]: ...

@final
class Solution:
    @property
    def status(self) -> str: ...
    @property
    def choices(self) -> list[int] | None: ...
    @property
    def values(self) -> list[int]: ...
    @property
    def bound(self) -> int | None: ...
    @property
    def nodes(self) -> int: ...
    @property
    def nearest(self) -> tuple[str, int] | None: ...
    @property
    def signal(self) -> BaseException | None: ...
    def proof(self) -> list[Subproblem]: ...

@final
class Subproblem:
    @property
    def weights(self) -> tuple[int, int, int]: ...
    @property
    def closed(self) -> str: ...
    @property
    def layer(self) -> int: ...
    @property
    def choice(self) -> int: ...
    @property
    def equal(self) -> int: ...
    @property
    def other(self) -> int: ...

@final
class WeightedSolution:
    @property
    def status(self) -> str: ...
    @property
    def choices(self) -> list[int] | None: ...
    @property
    def values(self) -> tuple[int, int, int]: ...
    @property
    def value(self) -> float: ...
    @property
    def bound(self) -> float: ...
    @property
    def steps(self) -> int: ...
    @property
    def signal(self) -> BaseException | None: ...

def solve(
    problem: Problem,
    objective: str,
    limits: tuple[int | None, int | None, int | None],
    method: str,
    time_limit: float | None,
    node_limit: int | None,
) -> Solution: ...
def measure_greedy(
    n_choices: list[int], start: list[int], evaluate: Callable[[list[int]], float]
) -> _Measured: ...
def measure_coordinate(
    n_choices: list[int], start: list[int], evaluate: Callable[[list[int]], float]
) -> _Measured: ...
def intensity_table(works: list[Work], storages: list[Storage]) -> list[list[int]]: ...
def roofline_table(
    works: list[Work], storages: list[Storage], machine: Machine
) -> list[list[int]]: ...
def calibrated_loads(
    tasks: list[LayerRow], machine: Machine
) -> list[tuple[float, float, float]]: ...
def calibrated_times(tasks: list[LayerRow], machine: Machine) -> list[int]: ...
def fit_rows(
    rows: _Floats, scales: _Floats, lows: _Floats, levels: float, best: _Floats
) -> None: ...
def round_blocks(numbers: _Floats, rounded: _Floats) -> None: ...
def round_rows(
    rows: _Floats, scales: _Floats, lows: _Floats, levels: float, rounded: _Floats
) -> None: ...
def frontier(problem: Problem, exact: bool, max_points: int) -> tuple[list[int], list[int]]: ...
def solve_weighted(
    problem: Problem,
    weights: tuple[float, float],
    limits: tuple[int | None, int | None, int | None],
    time_limit: float | None,
) -> WeightedSolution: ...
