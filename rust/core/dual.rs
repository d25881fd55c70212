//! The Lagrangian dual: the multipliers whose lower bound is greatest.
//!
//! Solved from the primal side, by Dantzig-Wolfe: a basis of as many plans as there are
//! coordinates prices the budgets, the dynamic program finds the plan that is cheapest at those
//! prices, and the plan enters the basis by a simplex pivot. With one budget this is the
//! intersection method of Handler and Zang (1980). Floats steer; each bound is exact.

use crate::bound::{lower_bound, quantise, slack};
use crate::hull::{break_step, hulls};
use crate::instance::{Instance, Point, Weights};
use crate::messages::Tree;

/// Pivots before the best multipliers so far are taken: degenerate problems stop gaining earlier.
const MAX_PIVOTS: usize = 100;
const EPSILON: f64 = 1e-11;

/// A plan with its measures.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<const M: usize> {
    pub(crate) plan: Vec<u16>,
    pub(crate) point: Point<M>,
}

/// What the dual found.
#[derive(Debug, Clone)]
pub(crate) struct Dual<const M: usize> {
    pub(crate) weights: Weights<M>,
    /// Proved lower bound on the objective; `None` when the instance is proved infeasible.
    pub(crate) bound: Option<i64>,
    /// Plans of the final basis: the relaxation mixes them.
    pub(crate) basis: Vec<Candidate<M>>,
    /// Cheapest plan within the limits among those met.
    pub(crate) feasible: Option<Candidate<M>>,
}

#[derive(Debug, Clone)]
enum Column<const M: usize> {
    Plan(Candidate<M>),
    Slack(usize),
    /// Pays for exceeding a budget; driven out first.
    Excess(usize),
}

struct Master<'a, const M: usize> {
    instance: &'a Instance<M>,
    tree: &'a Tree,
    totals: Point<M>,
    basis: Vec<Column<M>>,
    feasible: Option<Candidate<M>>,
    best: Option<(i64, Weights<M>)>,
}

/// Maximise the bound. Separable problems with one budget are solved on their hulls.
pub(crate) fn solve<const M: usize>(
    instance: &Instance<M>,
    tree: &Tree,
    totals: Point<M>,
    target: i64,
    stop: &mut dyn FnMut() -> bool,
) -> Dual<M> {
    if M == 2 && instance.edges.is_empty() {
        linear(instance, tree, totals)
    } else {
        decompose(instance, tree, totals, target, stop)
    }
}

/// The linear relaxation: take hull steps by rate until one does not fit; its rate is the price.
fn linear<const M: usize>(instance: &Instance<M>, tree: &Tree, totals: Point<M>) -> Dual<M> {
    let (mut plan, least_use, mut steps) = hulls(instance);
    let room = instance.limits[1] - least_use[1];
    if room < 0 {
        let mut weights = [0; M];
        weights[1] = 1;
        return Dual { weights, bound: None, basis: Vec::new(), feasible: None };
    }
    let taken = break_step(&mut steps, room);
    for step in &steps[..taken] {
        let choice = &mut plan[step.layer as usize];
        let used = |c: u16| instance.node(step.layer as usize, usize::from(c))[1];
        if used(step.choice) > used(*choice) {
            *choice = step.choice;
        }
    }
    let inside = Candidate { point: instance.evaluate(&plan), plan: plan.clone() };
    let mut basis = vec![inside.clone()];
    let mut weights = quantise(&unit(), &totals);
    if let Some(step) = steps.get(taken) {
        plan[step.layer as usize] = step.choice;
        basis.push(Candidate { point: instance.evaluate(&plan), plan });
        weights = ratio(step.saved, step.used, &totals);
    }
    let messages = tree.up(instance, &weights);
    let bound = lower_bound(instance, &weights, messages.least).unwrap_or(i64::MIN);
    Dual { weights, bound: Some(bound), basis, feasible: Some(inside) }
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

/// Dantzig-Wolfe; stops early once it reaches `target`.
fn decompose<const M: usize>(
    instance: &Instance<M>,
    tree: &Tree,
    totals: Point<M>,
    target: i64,
    stop: &mut dyn FnMut() -> bool,
) -> Dual<M> {
    let mut master =
        Master { instance, tree, totals, basis: Vec::new(), feasible: None, best: None };
    let (_, first) = master.price(&unit());
    let over = |m: usize| first.point[m] > instance.limits[m];
    let budgets = (1..M).map(|m| if over(m) { Column::Excess(m) } else { Column::Slack(m) });
    let budgets: Vec<_> = budgets.collect();
    master.basis.push(Column::Plan(first));
    master.basis.extend(budgets);
    for _ in 0..MAX_PIVOTS {
        if stop() || master.best.is_some_and(|(bound, _)| bound >= target) {
            break;
        }
        let relaxing = master.basis.iter().any(|c| matches!(c, Column::Excess(_)));
        let Some(prices) = master.prices(relaxing) else { break };
        if let Some(m) = (1..M).find(|&m| prices[m] < -EPSILON) {
            if !master.pivot(Column::Slack(m)) {
                break;
            }
            continue;
        }
        let mut direction = prices.map(|p| p.max(0.0));
        direction[0] = f64::from(u8::from(!relaxing));
        for m in 1..M {
            direction[m] /= totals[m].max(1) as f64;
        }
        direction[0] /= totals[0].max(1) as f64;
        let (weights, entering) = master.price(&direction);
        let least_in_basis = master.least_in_basis(&weights);
        let value = crate::instance::dot(&weights, &entering.point);
        if relaxing && slack(instance, &weights, value) > 0 {
            return Dual { weights, bound: None, basis: Vec::new(), feasible: None };
        }
        if value >= least_in_basis || !master.pivot(Column::Plan(entering)) {
            break;
        }
    }
    let (bound, weights) = master.best.unwrap_or((i64::MIN, [0; M]));
    let basis = master.basis.into_iter().filter_map(|column| match column {
        Column::Plan(candidate) => Some(candidate),
        _ => None,
    });
    Dual { weights, bound: Some(bound), basis: basis.collect(), feasible: master.feasible }
}

impl<const M: usize> Master<'_, M> {
    /// The plan of least weighted sum along a direction; notes its bound and its feasibility.
    fn price(&mut self, direction: &[f64; M]) -> (Weights<M>, Candidate<M>) {
        let weights = self.exact_weights().unwrap_or_else(|| quantise(direction, &self.totals));
        let messages = self.tree.up(self.instance, &weights);
        let plan = self.tree.decode(self.instance, &weights, &messages);
        let point = self.instance.evaluate(&plan);
        if let Some(bound) = lower_bound(self.instance, &weights, messages.least)
            && self.best.is_none_or(|(best, _)| bound > best)
        {
            self.best = Some((bound, weights));
        }
        let candidate = Candidate { plan, point };
        if self.instance.fits(&point)
            && self.feasible.as_ref().is_none_or(|f| point[0] < f.point[0])
        {
            self.feasible = Some(candidate.clone());
        }
        (weights, candidate)
    }

    /// With one budget the price is a ratio of integers.
    fn exact_weights(&self) -> Option<Weights<M>> {
        let (Column::Plan(a), Column::Plan(b)) = (self.basis.first()?, self.basis.get(1)?) else {
            return None;
        };
        let (saved, used) = (a.point[0] - b.point[0], b.point[1] - a.point[1]);
        let (saved, used) = if used < 0 { (-saved, -used) } else { (saved, used) };
        (M == 2 && used > 0 && saved >= 0).then(|| ratio(saved, used, &self.totals))
    }

    fn least_in_basis(&self, weights: &Weights<M>) -> i64 {
        let values = self.basis.iter().filter_map(|column| match column {
            Column::Plan(candidate) => Some(crate::instance::dot(weights, &candidate.point)),
            _ => None,
        });
        values.min().unwrap_or(i64::MAX)
    }

    /// A column of the master: the convexity row first, then the budgets, each scaled to one.
    fn column(&self, column: &Column<M>) -> [f64; M] {
        let mut entries = [0.0; M];
        match column {
            Column::Plan(candidate) => {
                entries[0] = 1.0;
                for m in 1..M {
                    let excess = candidate.point[m] - self.instance.limits[m];
                    entries[m] = excess as f64 / self.totals[m].max(1) as f64;
                }
            }
            Column::Slack(m) => entries[*m] = 1.0,
            Column::Excess(m) => entries[*m] = -1.0,
        }
        entries
    }

    /// Prices of the budgets at the basis: `y B = c`, negated so that they are non-negative at the
    /// optimum. `prices[0]` is not used.
    fn prices(&self, relaxing: bool) -> Option<[f64; M]> {
        let mut matrix = [[0.0; M]; M];
        let mut right = [0.0; M];
        for (row, column) in self.basis.iter().enumerate() {
            matrix[row] = self.column(column);
            right[row] = match column {
                Column::Plan(c) if !relaxing => c.point[0] as f64 / self.totals[0].max(1) as f64,
                Column::Excess(_) => 1.0,
                _ => 0.0,
            };
        }
        gauss(matrix, right).map(|y| y.map(|v| -v))
    }

    /// Exchange the entering column for the one that leaves by the ratio test.
    fn pivot(&mut self, entering: Column<M>) -> bool {
        let mut matrix = [[0.0; M]; M];
        for (at, column) in self.basis.iter().enumerate() {
            let entries = self.column(column);
            for row in 0..M {
                matrix[row][at] = entries[row];
            }
        }
        let mut unit = [0.0; M];
        unit[0] = 1.0;
        let (Some(level), Some(change)) =
            (gauss(matrix, unit), gauss(matrix, self.column(&entering)))
        else {
            return false;
        };
        let rank = |at: usize| {
            let excess = matches!(self.basis[at], Column::Excess(_));
            (level[at].max(0.0) / change[at], !excess)
        };
        let leaving = (0..M)
            .filter(|&at| change[at] > EPSILON)
            .min_by(|&a, &b| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal));
        leaving.is_some_and(|at| {
            self.basis[at] = entering;
            true
        })
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Solve a small linear system by elimination with row pivots; `None` when it is singular.
fn gauss<const M: usize>(mut matrix: [[f64; M]; M], mut right: [f64; M]) -> Option<[f64; M]> {
    for column in 0..M {
        let pivot = (column..M)
            .max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))?;
        if matrix[pivot][column].abs() < 1e-300 {
            return None;
        }
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let (head, head_right) = (matrix[column], right[column]);
        for row in (0..M).filter(|&row| row != column) {
            let factor = matrix[row][column] / head[column];
            for at in column..M {
                matrix[row][at] -= factor * head[at];
            }
            right[row] -= factor * head_right;
        }
    }
    Some(std::array::from_fn(|at| right[at] / matrix[at][at]))
}
