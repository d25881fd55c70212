//! The searches, with the interpreter lock released and Ctrl-C watched.

use std::cell::Cell;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use aiq_core::search::measured::{self, Measured};
use aiq_core::{Closed, Measure, Method, Options, Task};
use pyo3::prelude::*;

use crate::error::{InputError, input_error};
use crate::problem::Problem;

/// Period of the checks for signals, since Ctrl-C must take effect within 100 ms.
const SIGNAL_PERIOD: Duration = Duration::from_millis(20);

/// `(choices, value, evaluations, trace)` of a measured search.
type MeasuredRow = (Vec<u16>, f64, u64, Vec<(u64, usize, u16, f64)>);

/// One subproblem of the branching tree; see `aiq.solver.Proof`.
#[pyclass(frozen, get_all, module = "aiq._core")]
pub(crate) struct Subproblem {
    weights: (i64, i64, i64),
    closed: &'static str,
    layer: usize,
    choice: usize,
    equal: usize,
    other: usize,
}

/// The result of a search.
#[pyclass(frozen, module = "aiq._core")]
pub(crate) struct Solution {
    inner: aiq_core::Solution,
    signal: Option<PyErr>,
}

#[pymethods]
impl Solution {
    #[getter]
    fn status(&self) -> &'static str {
        self.inner.status.name()
    }

    #[getter]
    fn choices(&self) -> Option<Vec<u16>> {
        self.inner.choices.clone()
    }

    /// `(cost, drop, size)` of the plan.
    #[getter]
    fn values(&self) -> [i64; 3] {
        self.inner.values
    }

    #[getter]
    fn bound(&self) -> Option<i64> {
        self.inner.bound
    }

    #[getter]
    fn nodes(&self) -> u64 {
        self.inner.nodes
    }

    /// If infeasible: the budget to change and the least value it can be met at.
    #[getter]
    fn nearest(&self) -> Option<(String, i64)> {
        self.inner.nearest.map(|(measure, value)| (measure.to_string(), value))
    }

    /// The branching tree, root first.
    fn proof(&self) -> Vec<Subproblem> {
        self.inner.proof.iter().map(subproblem).collect()
    }

    /// The exception a signal handler raised while the search ran.
    #[getter]
    fn signal(&self, py: Python<'_>) -> Option<PyErr> {
        self.signal.as_ref().map(|error| error.clone_ref(py))
    }
}

fn subproblem(proof: &aiq_core::Proof) -> Subproblem {
    let [cost, drop, size] = proof.weights;
    let (closed, layer, choice, equal, other) = match proof.closed {
        Closed::Bound => ("bound", 0, 0, 0, 0),
        Closed::Enumerated => ("enumerated", 0, 0, 0, 0),
        Closed::Infeasible => ("infeasible", 0, 0, 0, 0),
        Closed::Open => ("open", 0, 0, 0, 0),
        Closed::Branched { layer, choice, equal, other } => {
            ("branched", layer, choice, equal, other)
        }
    };
    Subproblem { weights: (cost, drop, size), closed, layer, choice, equal, other }
}

/// Minimise `objective` within `limits`, the largest allowed (cost, drop, size).
#[pyfunction]
#[pyo3(signature = (problem, objective, limits, method, time_limit, node_limit))]
pub(crate) fn solve(
    py: Python<'_>,
    problem: &Problem,
    objective: &str,
    limits: [Option<i64>; 3],
    method: &str,
    time_limit: Option<f64>,
    node_limit: Option<u64>,
) -> PyResult<Solution> {
    let task = Task { objective: measure(objective)?, limits };
    let method = match method {
        "exact" => Method::Exact,
        "greedy" => Method::Greedy,
        "coordinate" => Method::Coordinate,
        "exhaustive" => Method::Exhaustive,
        _ => {
            return Err(InputError::new_err(format!(
                "unknown method {method:?}; use exact, greedy, coordinate or exhaustive"
            )));
        }
    };
    let options = Options::new(method, time_limit.map(duration), node_limit);
    let (solution, signal) =
        watched(py, |stop| aiq_core::solve(&problem.inner, &task, &options, stop));
    Ok(Solution { inner: solution.map_err(input_error)?, signal })
}

/// Seconds as a duration; seconds that do not fit are no limit.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Run without the interpreter lock; also returns the exception of a signal handler.
pub(crate) fn watched<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&dyn Fn() -> bool) -> T + Send,
) -> (T, Option<PyErr>) {
    let watch = SignalWatch::default();
    let found = py.detach(|| {
        let last = Cell::new(Instant::now());
        work(&|| watch.signalled(&last))
    });
    (found, watch.into_error())
}

pub(crate) fn measure(name: &str) -> PyResult<Measure> {
    let found = Measure::ALL.into_iter().find(|m| m.to_string() == name);
    found.ok_or_else(|| {
        InputError::new_err(format!("cannot minimise {name:?}; use cost, drop or size"))
    })
}

/// Keeps the exception of a signal handler, because the first check consumes the signal.
#[derive(Default)]
struct SignalWatch(Mutex<Option<PyErr>>);

impl SignalWatch {
    fn signalled(&self, last: &Cell<Instant>) -> bool {
        let now = Instant::now();
        if now.duration_since(last.get()) < SIGNAL_PERIOD {
            return false;
        }
        last.set(now);
        #[expect(clippy::redundant_closure_for_method_calls)]
        // lifetimes: the path does not compile
        let Err(error) = Python::attach(|py| py.check_signals()) else { return false };
        if let Ok(mut slot) = self.0.lock() {
            *slot = Some(error);
        }
        true
    }

    fn into_error(self) -> Option<PyErr> {
        self.0.into_inner().ok().flatten()
    }
}

/// Greedy over plans that the caller measures.
#[pyfunction]
pub(crate) fn measure_greedy(
    n_choices: Vec<u16>,
    start: Vec<u16>,
    evaluate: &Bound<'_, PyAny>,
) -> PyResult<MeasuredRow> {
    measured::greedy(&n_choices, start, |plan| call(evaluate, plan)).map(row)
}

/// Coordinate descent over plans that the caller measures.
#[pyfunction]
pub(crate) fn measure_coordinate(
    n_choices: Vec<u16>,
    start: Vec<u16>,
    evaluate: &Bound<'_, PyAny>,
) -> PyResult<MeasuredRow> {
    measured::coordinate(&n_choices, start, |plan| call(evaluate, plan)).map(row)
}

fn call(evaluate: &Bound<'_, PyAny>, plan: &[u16]) -> PyResult<f64> {
    evaluate.py().check_signals()?;
    evaluate.call1((plan.to_vec(),))?.extract()
}

fn row(found: Measured) -> MeasuredRow {
    (found.choices, found.value, found.evaluations, found.trace)
}
