//! The Lagrangian dual: the multipliers whose lower bound is greatest.
//!
//! Solved from the primal side, by Dantzig-Wolfe: a basis of as many plans as there are
//! coordinates prices the budgets, the dynamic program finds the plan that is cheapest at those
//! prices, and the plan enters the basis by a simplex pivot. With one budget this is the
//! intersection method of Handler and Zang (1980). Floats choose the multipliers; every bound is
//! exact.

use crate::bound::{lower_bound, quantise, slack};
use crate::hull::{break_step, hulls};
use crate::instance::Instance;
use crate::messages::{Messages, Tree};
use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, Weights, dot};
use crate::simplex::Basis;

/// Pivots before the best multipliers so far are taken: degenerate problems stop gaining earlier.
const MAX_PIVOTS: usize = 100;

/// A plan with its measures.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<const M: usize> {
    pub(crate) plan: Vec<u16>,
    pub(crate) point: Point<M>,
}

/// The solution of the dual.
#[derive(Debug, Clone)]
pub(crate) struct Dual<const M: usize> {
    pub(crate) weights: Weights<M>,
    /// Proved lower bound on the objective; `None` when the instance is proved infeasible.
    pub(crate) bound: Option<i64>,
    /// Cheapest plan within the limits among those met.
    pub(crate) feasible: Option<Candidate<M>>,
}

struct Search<'a, 'b, const M: usize> {
    instance: &'a Instance<M>,
    tree: &'a Tree,
    totals: Point<M>,
    monitor: &'a Monitor<'b>,
    feasible: Option<Candidate<M>>,
    best: Option<(i64, Weights<M>)>,
}

/// Maximise the bound, from multipliers that suit a similar instance if there are any; end early
/// once it reaches `target`, and with the best so far where the monitor says so. Separable problems
/// with one budget are solved on their hulls.
pub(crate) fn solve<const M: usize>(
    instance: &Instance<M>,
    tree: &Tree,
    totals: Point<M>,
    near: Option<&Weights<M>>,
    target: i64,
    monitor: &Monitor<'_>,
) -> Result<Dual<M>, Stopped> {
    if M == 2 && instance.edges.is_empty() {
        return linear(instance, tree, totals, monitor);
    }
    let search = Search { instance, tree, totals, monitor, feasible: None, best: None };
    search.decompose(near, target)
}

/// The linear relaxation: take hull steps by rate until one does not fit; its rate is the price.
fn linear<const M: usize>(
    instance: &Instance<M>,
    tree: &Tree,
    totals: Point<M>,
    monitor: &Monitor<'_>,
) -> Result<Dual<M>, Stopped> {
    let (mut plan, least_use, mut steps) = hulls(instance, monitor)?;
    let room = instance.limits[1] - least_use[1];
    if room < 0 {
        let mut weights = [0; M];
        weights[1] = 1;
        return Ok(Dual { weights, bound: None, feasible: None });
    }
    let taken = break_step(&mut steps, room, monitor)?;
    for step in &steps[..taken] {
        let choice = &mut plan[step.layer as usize];
        let used = |c: u16| instance.node(step.layer as usize, usize::from(c))[1];
        if used(step.choice) > used(*choice) {
            *choice = step.choice;
        }
    }
    let inside = Candidate { point: instance.evaluate(&plan), plan };
    let weights = match steps.get(taken) {
        Some(step) => ratio(step.saved, step.used, &totals),
        None => quantise(&unit(), &totals),
    };
    let messages = tree.up(instance, &weights, monitor)?;
    let bound = lower_bound(instance, &weights, messages.least).unwrap_or(i64::MIN);
    Ok(Dual { weights, bound: Some(bound), feasible: Some(inside) })
}

fn unit<const M: usize>() -> [f64; M] {
    let mut direction = [0.0; M];
    direction[0] = 1.0;
    direction
}

/// The weights at which `saved` objective pays for `used` budget: exactly, if the integers are
/// small enough, so that ties stay ties.
fn ratio<const M: usize>(saved: i64, used: i64, totals: &Point<M>) -> Weights<M> {
    let divisor = gcd(saved.unsigned_abs(), used.unsigned_abs()).max(1);
    let divisor = i64::try_from(divisor).unwrap_or(1);
    let mut weights = [0; M];
    (weights[0], weights[1]) = (used / divisor, saved / divisor);
    let reach = |m: usize| i128::from(weights[m]) * i128::from(totals[m]);
    if reach(0) + reach(1) < 1 << 60 {
        return weights;
    }
    let mut direction = [0.0; M];
    (direction[0], direction[1]) = (used as f64, saved as f64);
    quantise(&direction, totals)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl<const M: usize> Search<'_, '_, M> {
    fn decompose(mut self, near: Option<&Weights<M>>, target: i64) -> Result<Dual<M>, Stopped> {
        let start = near.map_or_else(|| quantise(&unit(), &self.totals), |weights| *weights);
        let first = self.price(&start)?;
        let mut basis = Basis::new(first, self.instance.limits, self.totals, near);
        for _ in 0..MAX_PIVOTS {
            if self.monitor.go_on().is_err() || self.best.is_some_and(|(bound, _)| bound >= target)
            {
                break;
            }
            let Some(prices) = basis.prices() else {
                if basis.unbox() {
                    continue;
                }
                break;
            };
            let weights = exact_weights(&basis, &self.totals)
                .unwrap_or_else(|| quantise(&prices.direction, &self.totals));
            let Ok(entering) = self.price(&weights) else { break };
            let value = dot(&weights, &entering);
            if prices.relaxing && slack(self.instance, &weights, value) > 0 {
                return Ok(Dual { weights, bound: None, feasible: None });
            }
            let in_basis = basis.plans().map(|point| dot(&weights, point)).min();
            let improves = in_basis.is_none_or(|least| value < least) && basis.enter(entering);
            if !improves && !basis.unbox() {
                break;
            }
        }
        let (bound, weights) = self.best.unwrap_or((i64::MIN, [0; M]));
        Ok(Dual { weights, bound: Some(bound), feasible: self.feasible })
    }

    /// The plan of least weighted sum; notes its bound and its feasibility.
    fn price(&mut self, weights: &Weights<M>) -> Result<Point<M>, Stopped> {
        let separable = self.tree.bags.is_empty();
        let messages = if separable {
            Messages::default()
        } else {
            self.tree.up(self.instance, weights, self.monitor)?
        };
        let plan = self.tree.decode(self.instance, weights, &messages, self.monitor)?;
        let point = self.instance.evaluate(&plan);
        if let Some(bound) = lower_bound(self.instance, weights, dot(weights, &point))
            && self.best.is_none_or(|(best, _)| bound > best)
        {
            self.best = Some((bound, *weights));
        }
        if self.instance.fits(&point)
            && self.feasible.as_ref().is_none_or(|f| point[0] < f.point[0])
        {
            self.feasible = Some(Candidate { plan, point });
        }
        Ok(point)
    }
}

/// With one budget the price is a ratio of integers.
fn exact_weights<const M: usize>(basis: &Basis<M>, totals: &Point<M>) -> Option<Weights<M>> {
    let mut plans = basis.plans();
    let (a, b) = (plans.next()?, plans.next()?);
    let (saved, used) = (a[0] - b[0], b[1] - a[1]);
    let (saved, used) = if used < 0 { (-saved, -used) } else { (saved, used) };
    (M == 2 && used > 0 && saved >= 0).then(|| ratio(saved, used, totals))
}
