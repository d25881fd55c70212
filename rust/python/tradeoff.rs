//! The frontier, and the weighted objective of the paper.

use aiq_core::{Method, Options};
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;

use crate::error::input_error;
use crate::problem::Problem;
use crate::search::{duration, watched};

/// The result of a search for the best weighted objective.
#[pyclass(frozen, get_all, module = "aiq._core")]
pub(crate) struct WeightedSolution {
    status: &'static str,
    choices: Option<Vec<u16>>,
    /// Cost, drop and size of the plan.
    values: (i64, i64, i64),
    value: f64,
    bound: f64,
    /// Number of linear problems that were solved.
    steps: u64,
    /// The exception that a signal handler raised while the search ran.
    signal: Option<Py<PyBaseException>>,
}

/// Pareto points as `(costs, drops)`.
#[pyfunction]
pub(crate) fn frontier(
    py: Python<'_>,
    problem: &Problem,
    exact: bool,
    max_points: usize,
) -> PyResult<(Vec<i64>, Vec<i64>)> {
    let (points, signal) =
        watched(py, |stop| aiq_core::frontier(&problem.inner, exact, max_points, stop));
    if let Some(error) = signal {
        return Err(error);
    }
    Ok(points.map_err(input_error)?.unwrap_or_default().into_iter().unzip())
}

/// Minimise `-a / cost + b * drop` within the limits.
#[pyfunction]
pub(crate) fn solve_weighted(
    py: Python<'_>,
    problem: &Problem,
    weights: (f64, f64),
    limits: [Option<i64>; 3],
    time_limit: Option<f64>,
) -> PyResult<WeightedSolution> {
    let options = Options::new(Method::Exact, time_limit.map(duration), None);
    let (found, signal) = watched(py, |stop| {
        aiq_core::solve_weighted(&problem.inner, weights, limits, &options, stop)
    });
    let found = found.map_err(input_error)?;
    let [cost, drop, size] = found.values;
    Ok(WeightedSolution {
        status: found.status.name(),
        choices: found.choices,
        values: (cost, drop, size),
        value: found.value,
        bound: found.bound,
        steps: found.steps,
        signal: signal.map(|error| error.into_value(py)),
    })
}
