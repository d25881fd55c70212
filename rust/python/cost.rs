//! Cost tables: plain integers in, plain integers out.

use aiq_core::{Error, Hardware, Storage, Work};
use pyo3::prelude::*;

use crate::error::input_error;

/// `(flops, weights, scales, inputs, fused, outputs, is_output)`, the fields of [`Work`].
type WorkRow = (u64, u64, u64, u64, u64, u64, bool);
/// `(weight bits, activation bits, scaled, compute dtype)`, the fields of [`Storage`].
type StorageRow = (u32, u32, bool, usize);

/// Bits moved by each layer's operator in each format.
#[pyfunction]
pub(crate) fn intensity_table(
    works: Vec<WorkRow>,
    storages: Vec<StorageRow>,
) -> PyResult<Vec<Vec<i64>>> {
    table(&works, &storages, Work::operator_bits)
}

/// Picoseconds of each layer in each format under the roofline of a machine with `peaks[dtype]`
/// operations per second and `bandwidth` bytes per second.
#[pyfunction]
pub(crate) fn roofline_table(
    works: Vec<WorkRow>,
    storages: Vec<StorageRow>,
    peaks: Vec<f64>,
    bandwidth: f64,
) -> PyResult<Vec<Vec<i64>>> {
    let machine = Hardware::new(peaks, bandwidth).map_err(input_error)?;
    table(&works, &storages, |work, storage| work.roofline_picoseconds(storage, &machine))
}

fn table(
    works: &[WorkRow],
    storages: &[StorageRow],
    cost: impl Fn(&Work, Storage) -> Result<i64, Error>,
) -> PyResult<Vec<Vec<i64>>> {
    let storages: Vec<Storage> = storages
        .iter()
        .map(|&(weight_bits, activation_bits, scaled, compute)| Storage {
            weight_bits,
            activation_bits,
            scaled,
            compute,
        })
        .collect();
    works
        .iter()
        .map(|&(flops, weights, scales, inputs, fused, outputs, is_output)| {
            let work = Work { flops, weights, scales, inputs, fused, outputs, is_output };
            storages.iter().map(|&storage| cost(&work, storage)).collect()
        })
        .collect::<Result<_, _>>()
        .map_err(input_error)
}
