//! Cost tables: the named tuples of `aiq.cost.rows` in, plain numbers out.

use aiq_core::{self as core, Error, Hardware, Level, Load};
use pyo3::prelude::*;

use crate::error::input_error;

/// The work of one layer.
#[derive(FromPyObject)]
pub(crate) struct Work {
    flops: u64,
    weights: u64,
    scales: u64,
    inputs: u64,
    fused: u64,
    outputs: u64,
    is_output: bool,
}

/// How a layer is stored and computed.
#[derive(FromPyObject)]
pub(crate) struct Storage {
    weight_bits: u32,
    activation_bits: u32,
    output_bits: u32,
    scaled: bool,
    compute: usize,
}

/// A kernel: seconds, and shares of the roofs.
#[derive(FromPyObject)]
pub(crate) struct Kernel {
    start: f64,
    compute: f64,
    memory: f64,
    output: f64,
}

/// The roofs of a machine.
#[derive(FromPyObject)]
pub(crate) struct Machine {
    peaks: Vec<f64>,
    levels: Vec<MemoryLevel>,
}

/// A level of its memory.
#[derive(FromPyObject)]
struct MemoryLevel {
    size: f64,
    bandwidth: f64,
}

/// A piece of work, its storage, its kernel, and the bytes that stay in memory meanwhile.
#[derive(FromPyObject)]
pub(crate) struct Task {
    work: Work,
    storage: Storage,
    kernel: Kernel,
    resident: f64,
}

/// Bits moved by each layer's operator in each format.
#[pyfunction]
pub(crate) fn intensity_table(works: Vec<Work>, storages: Vec<Storage>) -> PyResult<Vec<Vec<i64>>> {
    table(works, storages, core::Work::operator_bits)
}

/// Picoseconds of each layer in each format under the roofline of a machine.
#[pyfunction]
pub(crate) fn roofline_table(
    works: Vec<Work>,
    storages: Vec<Storage>,
    machine: Machine,
) -> PyResult<Vec<Vec<i64>>> {
    let machine = machine.check()?;
    table(works, storages, |work, storage| work.roofline_picoseconds(storage, &machine))
}

/// Seconds at the roofs of each piece of work: `(compute, memory, outputs)`.
#[pyfunction]
pub(crate) fn calibrated_loads(
    tasks: Vec<Task>,
    machine: Machine,
) -> PyResult<Vec<(f64, f64, f64)>> {
    each(tasks, machine, |load, _| Ok((load.compute, load.memory, load.outputs)))
}

/// Picoseconds of each piece of work.
#[pyfunction]
pub(crate) fn calibrated_times(tasks: Vec<Task>, machine: Machine) -> PyResult<Vec<i64>> {
    each(tasks, machine, Load::picoseconds)
}

impl From<Work> for core::Work {
    fn from(row: Work) -> Self {
        let Work { flops, weights, scales, inputs, fused, outputs, is_output } = row;
        Self { flops, weights, scales, inputs, fused, outputs, is_output }
    }
}

impl From<Storage> for core::Storage {
    fn from(row: Storage) -> Self {
        let Storage { weight_bits, activation_bits, output_bits, scaled, compute } = row;
        Self { weight_bits, activation_bits, output_bits, scaled, compute }
    }
}

impl From<Kernel> for core::Kernel {
    fn from(row: Kernel) -> Self {
        let Kernel { start, compute, memory, output } = row;
        Self { start, compute, memory, output }
    }
}

impl Machine {
    fn check(self) -> PyResult<Hardware> {
        let level = |MemoryLevel { size, bandwidth }| Level { size, bandwidth };
        let levels = self.levels.into_iter().map(level).collect();
        Hardware::new(self.peaks, levels).map_err(input_error)
    }
}

fn each<T>(
    tasks: Vec<Task>,
    machine: Machine,
    result: impl Fn(Load, core::Kernel) -> Result<T, Error>,
) -> PyResult<Vec<T>> {
    let machine = machine.check()?;
    tasks
        .into_iter()
        .map(|Task { work, storage, kernel, resident }| {
            let kernel = core::Kernel::from(kernel).check()?;
            let load = core::Work::from(work).load(storage.into(), &machine, resident)?;
            result(load, kernel)
        })
        .collect::<Result<_, _>>()
        .map_err(input_error)
}

fn table(
    works: Vec<Work>,
    storages: Vec<Storage>,
    cost: impl Fn(&core::Work, core::Storage) -> Result<i64, Error>,
) -> PyResult<Vec<Vec<i64>>> {
    let storages: Vec<core::Storage> = storages.into_iter().map(Into::into).collect();
    works
        .into_iter()
        .map(|row| {
            let work = row.into();
            storages.iter().map(|&storage| cost(&work, storage)).collect()
        })
        .collect::<Result<_, _>>()
        .map_err(input_error)
}
