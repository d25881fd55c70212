//! Cost tables: plain numbers in, plain numbers out.

use aiq_core::{Error, Hardware, Kernel, Level, Load, Storage, Work};
use pyo3::prelude::*;

use crate::error::input_error;

/// `(flops, weights, scales, inputs, fused, outputs, channels, is_output)`, the fields of [`Work`].
type WorkRow = (u64, u64, u64, u64, u64, u64, u64, bool);
/// `(weight bits, activation bits, output bits, scaled, compute dtype)`, the fields of [`Storage`].
type StorageRow = (u32, u32, u32, bool, usize);
/// `(start, compute, memory, output, multiple)`, the fields of [`Kernel`].
type KernelRow = (f64, f64, f64, f64, u64);
/// `(peaks, (size, bandwidth) of each level)`, the fields of [`Hardware`].
type MachineRow = (Vec<f64>, Vec<(f64, f64)>);
/// Work, how it is stored, the kernel that does it, and the bytes that stay in memory meanwhile.
type PieceRow = (WorkRow, StorageRow, KernelRow, f64);

/// Bits moved by each layer's operator in each format.
#[pyfunction]
pub(crate) fn intensity_table(
    works: Vec<WorkRow>,
    storages: Vec<StorageRow>,
) -> PyResult<Vec<Vec<i64>>> {
    table(works, storages, Work::operator_bits)
}

/// Picoseconds of each layer in each format under the roofline of a machine.
#[pyfunction]
pub(crate) fn roofline_table(
    works: Vec<WorkRow>,
    storages: Vec<StorageRow>,
    machine: MachineRow,
) -> PyResult<Vec<Vec<i64>>> {
    let machine = hardware(machine)?;
    table(works, storages, |work, storage| work.roofline_picoseconds(storage, &machine))
}

/// Seconds at the roofs of each piece of work: `(compute, memory, outputs)`.
#[pyfunction]
pub(crate) fn calibrated_loads(
    pieces: Vec<PieceRow>,
    machine: MachineRow,
) -> PyResult<Vec<(f64, f64, f64)>> {
    each(pieces, machine, |load, _| Ok((load.compute, load.memory, load.outputs)))
}

/// Time of each piece of work: picoseconds, and what most of them are spent on (0 overhead, 1
/// compute, 2 + l memory level l).
#[pyfunction]
pub(crate) fn calibrated_times(
    pieces: Vec<PieceRow>,
    machine: MachineRow,
) -> PyResult<Vec<(i64, usize)>> {
    each(pieces, machine, |load, kernel| {
        let time = load.time(kernel);
        let cause = if time.overhead >= time.compute.max(time.memory) {
            0
        } else if time.compute >= time.memory {
            1
        } else {
            2 + time.level
        };
        Ok((time.picoseconds()?, cause))
    })
}

fn each<T>(
    pieces: Vec<PieceRow>,
    machine: MachineRow,
    result: impl Fn(Load, Kernel) -> Result<T, Error>,
) -> PyResult<Vec<T>> {
    let machine = hardware(machine)?;
    pieces
        .into_iter()
        .map(|(work, storage, (start, compute, memory, output, multiple), resident)| {
            let kernel = Kernel { start, compute, memory, output, multiple }.check()?;
            let load =
                self::work(work).load(self::storage(storage), &machine, multiple, resident)?;
            result(load, kernel)
        })
        .collect::<Result<_, _>>()
        .map_err(input_error)
}

fn hardware((peaks, levels): MachineRow) -> PyResult<Hardware> {
    let levels = levels.into_iter().map(|(size, bandwidth)| Level { size, bandwidth }).collect();
    Hardware::new(peaks, levels).map_err(input_error)
}

fn work((flops, weights, scales, inputs, fused, outputs, channels, is_output): WorkRow) -> Work {
    Work { flops, weights, scales, inputs, fused, outputs, channels, is_output }
}

fn storage((weight_bits, activation_bits, output_bits, scaled, compute): StorageRow) -> Storage {
    Storage { weight_bits, activation_bits, output_bits, scaled, compute }
}

fn table(
    works: Vec<WorkRow>,
    storages: Vec<StorageRow>,
    cost: impl Fn(&Work, Storage) -> Result<i64, Error>,
) -> PyResult<Vec<Vec<i64>>> {
    let storages: Vec<Storage> = storages.into_iter().map(storage).collect();
    works
        .into_iter()
        .map(|row| storages.iter().map(|&storage| cost(&work(row), storage)).collect())
        .collect::<Result<_, _>>()
        .map_err(input_error)
}
