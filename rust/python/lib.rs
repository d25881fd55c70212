//! `aiq._core`: convert, detach, call, map errors; nothing else.

mod cost;
mod error;
mod problem;
mod rounding;
mod search;
mod tradeoff;

/// The compiled part of aiq.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use crate::cost::{calibrated_loads, calibrated_times, intensity_table, roofline_table};
    #[pymodule_export]
    use crate::problem::Problem;
    #[pymodule_export]
    use crate::rounding::{fit_rows, round_blocks, round_rows};
    #[pymodule_export]
    use crate::search::{Solution, Subproblem, measure_coordinate, measure_greedy, solve};
    #[pymodule_export]
    use crate::tradeoff::{WeightedSolution, frontier, solve_weighted};

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
