//! Rows of weights in, rounded rows or sums of their errors out.

use aiq_core::Error;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::error::input_error;

/// A function of the core: rows, numbers of a row, scales, smallest integers, levels.
type Rows = fn(&[f32], usize, &[f32], &[f32], f32) -> Result<Vec<f32>, Error>;

/// Fills `best`, (4, rows), for `rows`, (rows, width), at `scales`, (scales, rows).
#[pyfunction]
pub(crate) fn fit_rows(
    py: Python<'_>,
    rows: PyBuffer<f32>,
    scales: PyBuffer<f32>,
    lows: PyBuffer<f32>,
    levels: f32,
    best: PyBuffer<f32>,
) -> PyResult<()> {
    fill(py, aiq_core::fit_rows, rows, scales, lows, levels, best)
}

/// Fills `rounded`, (rows, width), for `rows` at `scales`, (rows,).
#[pyfunction]
pub(crate) fn round_rows(
    py: Python<'_>,
    rows: PyBuffer<f32>,
    scales: PyBuffer<f32>,
    lows: PyBuffer<f32>,
    levels: f32,
    rounded: PyBuffer<f32>,
) -> PyResult<()> {
    fill(py, aiq_core::round_rows, rows, scales, lows, levels, rounded)
}

/// Fills `rounded` with numbers that are rounded as in the type `Q8_0` of GGUF files.
#[pyfunction]
pub(crate) fn round_blocks(
    py: Python<'_>,
    numbers: PyBuffer<f32>,
    rounded: PyBuffer<f32>,
) -> PyResult<()> {
    let numbers = numbers.to_vec(py)?;
    let found = py.detach(|| aiq_core::round_blocks(&numbers));
    rounded.copy_from_slice(py, &found)
}

fn fill(
    py: Python<'_>,
    function: Rows,
    rows: PyBuffer<f32>,
    scales: PyBuffer<f32>,
    lows: PyBuffer<f32>,
    levels: f32,
    target: PyBuffer<f32>,
) -> PyResult<()> {
    let width = rows.shape().last().copied().unwrap_or(0);
    let (rows, scales, lows) = (rows.to_vec(py)?, scales.to_vec(py)?, lows.to_vec(py)?);
    let found = py.detach(|| function(&rows, width, &scales, &lows, levels));
    target.copy_from_slice(py, &found.map_err(input_error)?)
}
