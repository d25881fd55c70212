//! The four searches (one exact, one exhaustive, two heuristics); each returns a plan and a bound.

pub(crate) mod branch;
mod close;
mod coordinate;
mod exhaustive;
mod greedy;
pub mod measured;
pub(crate) mod outcome;
mod queue;
mod split;
pub(crate) mod start;

use std::sync::Arc;
use std::time::Duration;

use crate::dual::Candidate;
use crate::error::Error;
use crate::instance::Instance;
use crate::measure::Measure;
use crate::monitor::{Monitor, Stopped};
use crate::problem::Problem;
use crate::solution::{Solution, Status};
use outcome::Outcome;
use start::simple_plan;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Branch and bound: proves its answer.
    #[default]
    Exact,
    /// The best single-layer change, until none improves.
    Greedy,
    /// Sweep the layers, each to its best choice, until a sweep changes nothing.
    Coordinate,
    /// Every combination: the oracle the others are tested against.
    Exhaustive,
}

/// What to minimise and what to limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// The measure to minimise.
    pub objective: Measure,
    /// Largest allowed `[cost, drop, size]`; `None` is no budget.
    pub limits: [Option<i64>; 3],
}

/// Limits of the search itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Options {
    /// The method; default exact.
    pub method: Method,
    /// Return the best plan so far after this long; default no limit.
    pub time_limit: Option<Duration>,
    /// Return the best plan so far after this many subproblems; default no limit.
    pub node_limit: Option<u64>,
}

impl Options {
    /// All three, in order.
    #[must_use]
    pub const fn new(
        method: Method,
        time_limit: Option<Duration>,
        node_limit: Option<u64>,
    ) -> Self {
        Self { method, time_limit, node_limit }
    }
}

/// Search for the best plan. `stop` is asked often, at least every few milliseconds; when it
/// answers `true` the best plan so far is returned.
///
/// # Errors
/// [`Error`] when the task does not fit the problem, or exhaustive search would not end.
pub fn solve(
    problem: &Problem,
    task: &Task,
    options: &Options,
    stop: &dyn Fn() -> bool,
) -> Result<Solution, Error> {
    let mut measures = vec![task.objective];
    let mut limits = vec![i64::MAX];
    for measure in Measure::ALL {
        let Some(limit) = task.limits[measure as usize] else { continue };
        if limit < 0 {
            return Err(Error::NegativeBudget { measure, limit });
        }
        if measure == task.objective {
            return Err(Error::BudgetOnObjective { measure });
        }
        measures.push(measure);
        limits.push(limit.min(1 << crate::problem::TOTAL_BITS));
    }
    if measures.contains(&Measure::Size) && !problem.has_sizes() {
        return Err(Error::NoSizes);
    }
    let monitor = &Monitor::new(options.time_limit, options.node_limit, stop);
    match measures.len() {
        1 => run(problem, [measures[0]], [limits[0]], options.method, monitor),
        2 => run(
            problem,
            [measures[0], measures[1]],
            [limits[0], limits[1]],
            options.method,
            monitor,
        ),
        _ => {
            let (m, l) = (&measures, &limits);
            run(problem, [m[0], m[1], m[2]], [l[0], l[1], l[2]], options.method, monitor)
        }
    }
}

fn run<const M: usize>(
    problem: &Problem,
    measures: [Measure; M],
    limits: [i64; M],
    method: Method,
    monitor: &Monitor<'_>,
) -> Result<Solution, Error> {
    let point = |values: [i64; 3]| measures.map(|m| values[m as usize]);
    let start = simple_plan(problem, (&measures[1..], &limits), point, monitor);
    let outcome = match Instance::new(problem, measures, limits, monitor) {
        Ok(instance) => find(&Arc::new(instance), start, method, monitor)?,
        Err(Stopped) => Outcome::unknown(start),
    };
    let mut solution = outcome.into_solution(problem, measures, monitor);
    if solution.status == Status::Infeasible {
        solution.nearest = nearest(problem, measures, limits, monitor)?;
    }
    Ok(solution)
}

fn find<const M: usize>(
    instance: &Arc<Instance<M>>,
    start: Option<Candidate<M>>,
    method: Method,
    monitor: &Monitor<'_>,
) -> Result<Outcome<M>, Error> {
    match method {
        Method::Exact => branch::search(instance, start, monitor),
        Method::Exhaustive => exhaustive::search(instance, start, monitor),
        Method::Greedy | Method::Coordinate => {
            let mut root = branch::root(instance, start, monitor)?;
            if monitor.reason().is_some() {
                return Ok(root);
            }
            let Some(best) = root.best.as_mut() else {
                return branch::search(instance, None, monitor);
            };
            let walked = match method {
                Method::Greedy => greedy::search(instance, best, monitor),
                _ => coordinate::search(instance, best, monitor),
            };
            root.status = if walked.is_ok() { Status::Heuristic } else { Status::Interrupted };
            Ok(root)
        }
    }
}

/// The first budget that cannot be met while the earlier ones are, and the least value it can be
/// met at.
fn nearest<const M: usize>(
    problem: &Problem,
    measures: [Measure; M],
    limits: [i64; M],
    monitor: &Monitor<'_>,
) -> Result<Option<(Measure, i64)>, Error> {
    for m in 1..M {
        let alone = run(problem, [measures[m]], [i64::MAX], Method::Exact, monitor)?;
        if alone.status != Status::Optimal {
            return Ok(None); // stopped
        }
        let least = alone.values[measures[m] as usize];
        if least > limits[m] {
            return Ok(Some((measures[m], least)));
        }
    }
    if M < 3 {
        return Ok(None);
    }
    let together =
        run(problem, [measures[2], measures[1]], [i64::MAX, limits[1]], Method::Exact, monitor)?;
    let found = together.choices.is_some() && together.status == Status::Optimal;
    Ok(found.then(|| (measures[2], together.values[measures[2] as usize])))
}
