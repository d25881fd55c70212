//! NumPy arrays to a core problem and back.

use std::sync::Arc;

use aiq_core::Measure;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::{InputError, input_error};

/// `(u, v, cost matrix, drop matrix)`, matrices row by row; an empty drop is zero everywhere.
type FlatEdge = (usize, usize, Vec<i64>, Vec<i64>);

/// A validated problem in fixed-point integers.
#[pyclass(frozen, module = "aiq._core")]
pub(crate) struct Problem {
    pub(crate) inner: Arc<aiq_core::Problem>,
}

#[pymethods]
impl Problem {
    /// All arrays are int64; a `TypeError` says that an edge is not and must be converted first.
    #[new]
    fn new(
        py: Python<'_>,
        lengths: Vec<usize>,
        cost: PyBuffer<i64>,
        drop: PyBuffer<i64>,
        size: Option<PyBuffer<i64>>,
        edges: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        offsets.push(0);
        for length in &lengths {
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let (cost, drop) = (cost.to_vec(py)?, drop.to_vec(py)?);
        let size = size.map_or(Ok(Vec::new()), |s| s.to_vec(py))?;
        let mut converted = Vec::new();
        for (position, edge) in edges.try_iter()?.enumerate() {
            converted.push(convert_edge(py, position, &edge?, &lengths)?);
        }
        let inner = aiq_core::Problem::new(offsets, cost, drop, size, converted);
        Ok(Self { inner: Arc::new(inner.map_err(input_error)?) })
    }

    #[getter]
    fn n_layers(&self) -> usize {
        self.inner.n_layers()
    }

    #[getter]
    fn n_choices(&self) -> Vec<usize> {
        (0..self.inner.n_layers()).map(|layer| self.inner.n_choices(layer)).collect()
    }

    #[getter]
    fn n_edges(&self) -> usize {
        self.inner.edges().len()
    }

    #[getter]
    fn has_sizes(&self) -> bool {
        self.inner.has_sizes()
    }

    /// `(cost, drop, size)` of a plan that has one choice per layer.
    fn evaluate(&self, choices: Vec<u16>) -> [i64; 3] {
        self.inner.evaluate(&choices)
    }

    /// `(cost, drop, size)` of every choice, flat; size is empty if there are none.
    fn tables(&self) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
        let [cost, drop, size] = Measure::ALL.map(|m| self.inner.table(m).to_vec());
        (cost, drop, size)
    }

    fn edges(&self) -> Vec<FlatEdge> {
        let flat = |e: &aiq_core::Edge| (e.tail, e.head, e.cost.clone(), e.drop.clone());
        self.inner.edges().iter().map(flat).collect()
    }
}

/// An edge is `(u, v, cost)` or `(u, v, cost, drop)`; the drop may be `None`.
fn convert_edge(
    py: Python<'_>,
    position: usize,
    edge: &Bound<'_, PyAny>,
    lengths: &[usize],
) -> PyResult<aiq_core::Edge> {
    let shape = || {
        InputError::new_err(format!("edge {position} is not (u, v, cost) or (u, v, cost, drop)"))
    };
    let edge = edge.cast::<PyTuple>().map_err(|_| PyTypeError::new_err("not a tuple"))?;
    if !(3..=4).contains(&edge.len()) {
        return Err(shape());
    }
    let layer = |at: usize| -> PyResult<usize> {
        let value: i64 = edge.get_item(at)?.extract().map_err(|_| shape())?;
        usize::try_from(value).map_err(|_| {
            let last = lengths.len().saturating_sub(1);
            InputError::new_err(format!(
                "edge {position} names layer {value}, but the layers are 0 to {last}"
            ))
        })
    };
    let (tail, head) = (layer(0)?, layer(1)?);
    let matrix = |at: usize, name: &str| -> PyResult<Vec<i64>> {
        let buffer: PyBuffer<i64> =
            edge.get_item(at)?.extract().map_err(|_| PyTypeError::new_err("not int64"))?;
        if let (Some(&rows), Some(&columns)) = (lengths.get(tail), lengths.get(head))
            && buffer.shape() != [rows, columns]
        {
            return Err(InputError::new_err(format!(
                "the {name} matrix of edge {position} has shape {:?}; layers {tail} and {head} need ({rows}, {columns})",
                buffer.shape(),
            )));
        }
        buffer.to_vec(py)
    };
    let cost = matrix(2, "cost")?;
    let absent = edge.len() < 4 || edge.get_item(3)?.is_none();
    let drop = if absent { Vec::new() } else { matrix(3, "drop")? };
    Ok(aiq_core::Edge { tail, head, cost, drop })
}
