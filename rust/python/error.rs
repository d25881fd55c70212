//! Core errors as the exceptions of `aiq.errors`.

use pyo3::PyErr;

pyo3::import_exception!(aiq.errors, InputError);

/// The caller's mistake, in the words of the core.
pub(crate) fn input_error(error: aiq_core::Error) -> PyErr {
    InputError::new_err(error.to_string())
}
