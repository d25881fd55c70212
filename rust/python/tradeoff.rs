//! The frontier, and the weighted objective of the paper.

use aiq_core::{Method, Options};
use pyo3::prelude::*;

use crate::error::input_error;
use crate::problem::Problem;
use crate::search::{duration, watched};

/// `(status, choices, (cost, drop, size), value, bound, linear problems solved, signal)`.
type WeightedRow = (&'static str, Option<Vec<u16>>, [i64; 3], f64, f64, u64, Option<PyErr>);

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
) -> PyResult<WeightedRow> {
    let options = Options::new(Method::Exact, time_limit.map(duration), None);
    let (found, signal) = watched(py, |stop| {
        aiq_core::solve_weighted(&problem.inner, weights, limits, &options, stop)
    });
    let found = found.map_err(input_error)?;
    let name = found.status.name();
    Ok((name, found.choices, found.values, found.value, found.bound, found.steps, signal))
}
