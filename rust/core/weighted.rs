//! The objective of arXiv 2512.14090: minimise `-a / cost + b * drop`, where arithmetic intensity
//! is FLOPs / cost.
//!
//! It is concave in the cost, so over an interval of costs it lies above its chord, and a plan of
//! least chord value bounds all plans in the interval. When that plan's cost lies outside the
//! interval, the interval cannot hold anything better than that plan; when inside, it splits the
//! interval. Every step is one linear problem: a dynamic program, or, with budgets, an exact
//! search.

use std::sync::Arc;

use crate::error::Error;
use crate::instance::Instance;
use crate::measure::Measure;
use crate::monitor::{Monitor, Stopped};
use crate::problem::Problem;
use crate::search::outcome::Outcome;
use crate::search::start::simple_plan;
use crate::search::{Options, branch};
use crate::solution::Status;

/// Linear objectives are scaled so that no sum exceeds two to this power.
const OBJECTIVE_BITS: i32 = 51;
/// Values this close, relative to the terms they are made of, are equal: rounding of floats.
const TIE: f64 = 1e-14;

/// The outcome of a weighted search.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// Why the search ended.
    pub status: Status,
    /// The best plan found.
    pub choices: Option<Vec<u16>>,
    /// `[cost, drop, size]` of the plan.
    pub values: [i64; 3],
    /// Its objective.
    pub value: f64,
    /// No plan within the budgets has a smaller objective.
    pub bound: f64,
    /// Linear problems solved.
    pub steps: u64,
}

struct Search<'a, 'b> {
    problem: &'a Problem,
    budgets: Vec<(Measure, i64)>,
    a: f64,
    b: f64,
    totals: [f64; 2],
    best: Option<(f64, Vec<u16>, [i64; 3])>,
    steps: u64,
    monitor: &'a Monitor<'b>,
}

/// Minimise `-a / cost + b * drop` within `limits` on cost, drop and size.
///
/// # Errors
/// [`Error::Weight`] unless `a` and `b` are finite and not negative, and every plan costs more
/// than zero; the other variants as in [`solve`](crate::solve).
pub fn solve_weighted(
    problem: &Problem,
    (a, b): (f64, f64),
    limits: [Option<i64>; 3],
    options: &Options,
    stop: &dyn Fn() -> bool,
) -> Result<Weighted, Error> {
    for (name, value) in [("the weight of the intensity", a), ("the weight of the drop", b)] {
        if !(value.is_finite() && value >= 0.0) {
            let expected = "finite and not negative";
            return Err(Error::Weight { name, value: value.to_string(), expected });
        }
    }
    let mut budgets = Vec::new();
    for measure in Measure::ALL {
        let Some(limit) = limits[measure as usize] else { continue };
        if limit < 0 {
            return Err(Error::NegativeBudget { measure, limit });
        }
        if measure == Measure::Size && !problem.has_sizes() {
            return Err(Error::NoSizes);
        }
        budgets.push((measure, limit.min(1 << crate::problem::TOTAL_BITS)));
    }
    let monitor = &Monitor::new(options.time_limit, options.node_limit, stop);
    let mut search = Search {
        problem,
        budgets,
        a,
        b,
        totals: [Measure::Cost, Measure::Drop].map(|m| problem.largest_total(m).max(1) as f64),
        best: None,
        steps: 0,
        monitor,
    };
    search.run()
}

impl Search<'_, '_> {
    fn run(&mut self) -> Result<Weighted, Error> {
        let cheapest = self.linear(1.0 / self.totals[0], 0.0)?;
        let Some((_, _, cheap)) = cheapest else { return Ok(self.finish(f64::NEG_INFINITY)) };
        if cheap[0] <= 0 {
            let value = cheap[0].to_string();
            let (name, expected) = ("the cost of the cheapest plan", "positive");
            return Err(Error::Weight { name, value, expected });
        }
        let Some((_, _, good)) = self.linear(0.0, 1.0 / self.totals[1])? else {
            return Ok(self.finish(f64::NEG_INFINITY));
        };
        if self.monitor.reason().is_some() {
            return Ok(self.finish(f64::NEG_INFINITY)); // the two plans may not be the extremes
        }
        let least_drop = good[1] as f64;
        let weakest = self.b * least_drop - self.a / cheap[0] as f64;
        let tolerance = TIE * (self.a / cheap[0] as f64 + self.b * self.totals[1]);
        let mut bound = f64::INFINITY;
        let mut pending = vec![(cheap[0], good[0].max(cheap[0]))];
        while let Some((low, high)) = pending.pop() {
            let slope = self.a / (low as f64 * high as f64);
            let Some((weights, least, values)) = self.linear(slope, self.b)? else {
                return Ok(self.finish(weakest));
            };
            if self.monitor.reason().is_some() {
                return Ok(self.finish(weakest));
            }
            let under = |cost: i64| self.bound_at(cost, weights, least);
            let interval =
                under(low).min(under(high)).max(self.b * least_drop - self.a / low as f64);
            let target = self.value();
            if interval >= target - tolerance {
                bound = bound.min(interval);
                continue;
            }
            if high - low <= 1 {
                for cost in [low, high] {
                    bound = bound.min(self.at_most(cost)?);
                }
                continue;
            }
            let inside = low < values[0] && values[0] < high;
            let split = if inside { values[0] } else { low + (high - low) / 2 };
            pending.push((split, high));
            pending.push((low, split));
        }
        Ok(self.finish(bound))
    }

    /// A lower bound on the objective of plans of exactly this cost: a plan of least drop that
    /// costs no more has at most this objective, and is evaluated on the way.
    fn at_most(&mut self, cost: i64) -> Result<f64, Error> {
        let before = self.budgets.clone();
        match self.budgets.iter_mut().find(|budget| budget.0 == Measure::Cost) {
            Some(budget) => budget.1 = budget.1.min(cost),
            None => self.budgets.push((Measure::Cost, cost)),
        }
        let found = self.linear(0.0, 1.0 / self.totals[1])?;
        self.budgets = before;
        Ok(match found {
            _ if self.monitor.reason().is_some() => f64::NEG_INFINITY,
            Some((_, _, values)) => self.b * values[1] as f64 - self.a / cost as f64,
            None => f64::INFINITY,
        })
    }

    /// A lower bound on the objective of plans of this cost, given the least weighted sum.
    fn bound_at(&self, cost: i64, weights: [i64; 2], least: i64) -> f64 {
        let rest = i128::from(least) - i128::from(weights[0]) * i128::from(cost);
        let drop = if weights[1] > 0 { self.b * rest as f64 / weights[1] as f64 } else { 0.0 };
        drop - self.a / cost as f64
    }

    fn value(&self) -> f64 {
        self.best.as_ref().map_or(f64::INFINITY, |best| best.0)
    }

    /// Minimise `x * cost + y * drop` within the budgets: the integer weights used, the least sum
    /// (or a bound on it), and the measures of the plan. `None` if infeasible or stopped.
    #[allow(clippy::type_complexity)]
    fn linear(&mut self, x: f64, y: f64) -> Result<Option<([i64; 2], i64, [i64; 3])>, Error> {
        let reach = x * self.totals[0] + y * self.totals[1];
        let scale = f64::from(OBJECTIVE_BITS).exp2() / reach.max(f64::MIN_POSITIVE);
        #[allow(clippy::cast_possible_truncation)] // below 2^51 by construction
        let weights = [x, y].map(|w| if w > 0.0 { ((w * scale).round() as i64).max(1) } else { 0 });
        self.steps += 1;
        let budgets = self.budgets.clone();
        let outcome = match budgets[..] {
            [] => self.search(weights, [Measure::Cost], [i64::MAX])?,
            [one] => self.search(weights, [Measure::Cost, one.0], [i64::MAX, one.1])?,
            [one, two] => {
                let measures = [Measure::Cost, one.0, two.0];
                self.search(weights, measures, [i64::MAX, one.1, two.1])?
            }
            _ => {
                let measures = [Measure::Cost, Measure::Cost, Measure::Drop, Measure::Size];
                let limits = [i64::MAX, budgets[0].1, budgets[1].1, budgets[2].1];
                self.search(weights, measures, limits)?
            }
        };
        let (Some(plan), bound) = outcome else { return Ok(None) };
        let values = self.problem.evaluate(&plan);
        if values[0] > 0 {
            let value = self.b * values[1] as f64 - self.a / values[0] as f64;
            let better = self.best.as_ref().is_none_or(|(least, _, had)| {
                let tie = (value - least).abs() <= TIE * least.abs();
                if tie { (values[1], values[0]) < (had[1], had[0]) } else { value < *least }
            });
            if better {
                self.best = Some((value, plan, values));
            }
        }
        Ok(bound.map(|bound| (weights, bound, values)))
    }

    /// The plan of least weighted sum, or the best found, and the bound proved on that sum.
    fn search<const M: usize>(
        &mut self,
        weights: [i64; 2],
        measures: [Measure; M],
        limits: [i64; M],
    ) -> Result<(Option<Vec<u16>>, Option<i64>), Error> {
        let weights = [weights[0], weights[1], 0];
        let point = |values: [i64; 3]| {
            let mut point = measures.map(|m| values[m as usize]);
            point[0] = weights.iter().zip(values).map(|(w, v)| w * v).sum();
            point
        };
        let (problem, monitor) = (self.problem, self.monitor);
        let start = simple_plan(problem, (&measures[1..], &limits), point, monitor);
        let outcome = match Instance::weighted(problem, weights, measures, limits, monitor) {
            Ok(instance) => branch::search(&Arc::new(instance), start, monitor)?,
            Err(Stopped) => Outcome::unknown(start),
        };
        Ok((outcome.best.map(|best| best.plan), outcome.bound))
    }

    fn finish(&mut self, bound: f64) -> Weighted {
        let reason = self.monitor.reason();
        let (value, choices, values) = match self.best.take() {
            Some((value, plan, values)) => (value, Some(plan), values),
            None => (f64::INFINITY, None, [0; 3]),
        };
        let status = match (reason, &choices) {
            (Some(reason), _) => reason,
            (None, Some(_)) => Status::Optimal,
            (None, None) => Status::Infeasible,
        };
        Weighted { status, choices, values, value, bound: bound.min(value), steps: self.steps }
    }
}
