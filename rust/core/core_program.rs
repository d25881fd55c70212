//! The core dynamic program: a multiple-choice knapsack closed class by class, most promising
//! first, after Pisinger (1995).
//!
//! All classes start at the option of least weighted sum. Classes enter in the order of the least
//! excess of leaving that option; the search ends when no class left out can matter. A state is
//! dropped when another dominates it, when its Lagrangian bound reaches the incumbent, or when the
//! classes still to come cannot bring it back within the limits at a profit.

use std::cmp::Reverse;

use crate::bound::{excess_gap, slack};
use crate::contract::{Class, Label};
use crate::dominance::{Sweep, sweep_order};
use crate::instance::Instance;
use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, Weights, add, dot, sub};

/// Assumed relative error of a product of floats.
const ROUNDING: f64 = 1e-14;

#[derive(Debug, Clone, Copy)]
struct State<const M: usize> {
    point: Point<M>,
    excess: i64,
    parent: u32,
    option: u32,
}

/// The result of the program.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The best new plan: its objective, and per changed class the option.
    pub(crate) best: Option<(i64, Vec<(usize, usize)>)>,
    /// Whether nothing was cut off.
    pub(crate) exact: bool,
}

/// What is proved about plans that are still of interest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    /// Objective to beat, in the instance's own terms (without its offset).
    pub(crate) target: i64,
    /// States kept per class.
    pub(crate) width: usize,
    /// States remembered over all classes (8 bytes each).
    pub(crate) memory: usize,
}

struct Core<'a, const M: usize> {
    instance: &'a Instance<M>,
    classes: &'a [Class<M>],
    limits: Point<M>,
    weights: Weights<M>,
    /// `W(w) - sum_m w_m B_m`, see [`bound`](crate::bound).
    slack: i128,
    scope: Scope,
    /// Excess at which a plan cannot beat the target; shrinks with it.
    gap: i64,
    /// Classes in the order of entry, each with the least excess of leaving its first option.
    order: Vec<(i64, usize)>,
    windows: Vec<Window<M>>,
    planes: Vec<Plane<M>>,
}

/// A Lagrangian bound at multipliers that suit states away from the relaxation's optimum.
#[derive(Debug, Clone)]
struct Plane<const M: usize> {
    weights: Weights<M>,
    /// Weighted sums above this cannot end below the target.
    threshold: i64,
    /// Least weighted sum that the classes from each position on can add.
    rest: Vec<i64>,
}

/// What the classes from some position on can still do.
#[derive(Debug, Clone, Copy)]
struct Window<const M: usize> {
    /// How much they can still take off each budget.
    relief: Point<M>,
    /// Least cost per unit taken off the only budget.
    fix: f64,
    /// Greatest saving per unit added to the only budget.
    save: f64,
}

/// Search for a plan within the limits that beats the target.
pub(crate) fn run<const M: usize>(
    instance: &Instance<M>,
    classes: &[Class<M>],
    weights: &Weights<M>,
    planes: &[Weights<M>],
    least: i64,
    scope: Scope,
    monitor: &Monitor<'_>,
) -> Found {
    let slack = slack(instance, weights, least);
    let target = scope.target.saturating_add(instance.offset);
    let gap = excess_gap(instance, weights, target, slack);
    let (limits, weights) = (instance.limits, *weights);
    let mut core = Core {
        instance,
        classes,
        limits,
        weights,
        slack,
        scope,
        gap,
        order: Vec::new(),
        windows: Vec::new(),
        planes: Vec::new(),
    };
    core.prepare();
    core.lay_planes(planes);
    core.run(monitor)
}

/// Spreads ties: in index order all early classes might move the budgets the same way.
fn scatter(class: usize) -> u64 {
    (class as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl<const M: usize> Core<'_, M> {
    fn prepare(&mut self) {
        let reach = self.gap;
        let entry = |(at, class): (usize, &Class<M>)| {
            (class.options[1..].iter().map(|o| o.excess).min().unwrap_or(i64::MAX), at)
        };
        self.order = self.classes.iter().enumerate().map(entry).filter(|e| e.0 < reach).collect();
        if M < 3 {
            self.order.sort_unstable_by_key(|&(excess, class)| (excess, scatter(class)));
        } else {
            // several budgets leave no small core: the classes that move most go first, so that
            // the bounds on the rest are tight
            let mut order = std::mem::take(&mut self.order);
            order.sort_by_key(|&(_, class)| Reverse(self.span(class)));
            self.order = order;
        }
        let mut window = Window { relief: [0; M], fix: f64::INFINITY, save: 0.0 };
        self.windows = vec![window; self.order.len() + 1];
        for (at, &(_, class)) in self.order.iter().enumerate().rev() {
            let options = &self.classes[class].options;
            let mut relief = [0; M];
            for option in options[1..].iter().filter(|o| o.excess < reach) {
                let change = sub(option.point, options[0].point);
                for m in 1..M {
                    relief[m] = relief[m].max(-change[m]);
                }
                if M == 2 && change[1] < 0 {
                    window.fix = window.fix.min(change[0] as f64 / -change[1] as f64);
                } else if M == 2 && change[1] > 0 && change[0] < 0 {
                    window.save = window.save.max(-change[0] as f64 / change[1] as f64);
                }
            }
            window.relief = add(window.relief, relief);
            self.windows[at] = window;
        }
    }

    /// The largest weighted move of a class.
    fn span(&self, class: usize) -> i64 {
        let options = &self.classes[class].options;
        let near = options.iter().filter(|o| o.excess < self.gap);
        let moved = |o: &Label<M>| {
            let change = sub(o.point, options[0].point);
            (0..M).map(|m| self.weights[m] * change[m].abs()).sum()
        };
        near.map(moved).max().unwrap_or(0)
    }

    fn lay_planes(&mut self, planes: &[Weights<M>]) {
        for weights in planes {
            let mut rest = vec![0; self.order.len() + 1];
            for (at, &(_, class)) in self.order.iter().enumerate().rev() {
                let options = &self.classes[class].options;
                let near = options.iter().filter(|o| o.excess < self.gap);
                let least = near.map(|o| dot(weights, &sub(o.point, options[0].point))).min();
                rest[at] = rest[at + 1] + least.unwrap_or(0);
            }
            self.planes.push(Plane { weights: *weights, threshold: 0, rest });
        }
        self.set_thresholds();
    }

    fn set_thresholds(&mut self) {
        for plane in &mut self.planes {
            let mut sum = i128::from(plane.weights[0]) * (i128::from(self.scope.target) - 1);
            for m in 1..M {
                sum += i128::from(plane.weights[m]) * i128::from(self.limits[m]);
            }
            let most = i128::from(i64::MAX / 2);
            plane.threshold = i64::try_from(sum.clamp(-most, most)).unwrap_or(0);
        }
    }

    /// How little a state promises, for thinning out.
    fn rank(&self, state: &State<M>, next: usize) -> i64 {
        let above = |plane: &Plane<M>| {
            let sum = dot(&plane.weights, &state.point) + plane.rest[next];
            (sum - plane.threshold) / plane.weights[0].max(1)
        };
        self.planes.iter().map(above).max().unwrap_or(state.excess)
    }

    /// Whether a state can still lead to a plan that beats the target.
    #[inline]
    fn alive(&self, state: &State<M>, window: &Window<M>, next: usize) -> bool {
        if state.excess >= self.gap {
            return false;
        }
        for m in 1..M {
            if state.point[m] - window.relief[m] > self.limits[m] {
                return false;
            }
        }
        if M != 2 {
            let open = |p: &Plane<M>| dot(&p.weights, &state.point) + p.rest[next] <= p.threshold;
            return self.planes.iter().all(open);
        }
        let (over, below) = (state.point[1] - self.limits[1], self.scope.target - state.point[0]);
        if over > 0 {
            window.fix * (over as f64) * (1.0 - ROUNDING) < below as f64
        } else {
            window.save * (-over as f64) * (1.0 + ROUNDING) >= (1 - below) as f64
        }
    }

    fn run(mut self, monitor: &Monitor<'_>) -> Found {
        let start = self.classes.iter().fold([0; M], |sum, class| add(sum, class.options[0].point));
        let mut current = vec![State { point: start, excess: 0, parent: 0, option: 0 }];
        let mut best = None;
        if self.fits(&start) && start[0] < self.scope.target {
            best = Some((0, 0, 0));
            self.lower_target(start[0]);
        }
        let mut history: Vec<Vec<(u32, u32)>> = Vec::new();
        let (mut next, mut shifted, mut merged) = (Vec::new(), Vec::new(), Vec::new());
        let (mut exact, mut remembered) = (true, 0);
        let mut sweep = Sweep::default();
        'classes: for at in 0..self.order.len() {
            let (entry, class) = self.order[at];
            if M < 3 && entry >= self.gap {
                break;
            }
            let window = self.windows[at + 1];
            let options = &self.classes[class].options;
            next.clear();
            for (option, label) in (0u32..).zip(options) {
                if label.excess >= self.gap {
                    continue;
                }
                let change = sub(label.point, options[0].point);
                shifted.clear();
                for (parent, from) in (0u32..).zip(&current) {
                    if monitor.spend(1).is_err() {
                        exact = false;
                        break 'classes;
                    }
                    let state = State {
                        point: add(from.point, change),
                        excess: from.excess + label.excess,
                        parent,
                        option,
                    };
                    if state.point[0] < self.scope.target && self.fits(&state.point) {
                        best = Some((at, parent, option));
                        self.lower_target(state.point[0]);
                    }
                    if self.alive(&state, &window, at + 1) {
                        shifted.push(state);
                    }
                }
                if next.is_empty() {
                    std::mem::swap(&mut next, &mut shifted);
                } else if !shifted.is_empty() {
                    if merge(&next, &shifted, &mut merged, &mut sweep, monitor).is_err() {
                        exact = false;
                        break 'classes;
                    }
                    std::mem::swap(&mut next, &mut merged);
                }
            }
            if remembered + next.len() > self.scope.memory {
                exact = false;
                break;
            }
            if next.len() > self.scope.width {
                exact = false;
                thin(&mut next, self.scope.width, |state| self.rank(state, at + 1));
            }
            if next.is_empty() {
                break;
            }
            remembered += next.len();
            history.push(next.iter().map(|s| (s.parent, s.option)).collect());
            std::mem::swap(&mut current, &mut next);
        }
        Found { best: best.map(|last| (self.scope.target, self.trace(&history, last))), exact }
    }

    fn fits(&self, point: &Point<M>) -> bool {
        (1..M).all(|m| point[m] <= self.limits[m])
    }

    fn lower_target(&mut self, objective: i64) {
        self.scope.target = objective;
        let target = objective.saturating_add(self.instance.offset);
        self.gap = excess_gap(self.instance, &self.weights, target, self.slack);
        self.set_thresholds();
    }

    /// The changed classes of a state and its ancestors.
    fn trace(
        &self,
        history: &[Vec<(u32, u32)>],
        (at, parent, option): (usize, u32, u32),
    ) -> Vec<(usize, usize)> {
        let Some(&(_, class)) = self.order.get(at) else { return Vec::new() };
        let mut picks = vec![(class, option as usize)];
        let mut position = parent as usize;
        for (&(_, class), states) in self.order[..at].iter().zip(history).rev() {
            let (parent, option) = states[position];
            picks.push((class, option as usize));
            position = parent as usize;
        }
        picks
    }
}

/// Thin the states out to about `width`: half by rank, half spread evenly over the first
/// budget, so that some end near its limit.
fn thin<const M: usize>(states: &mut Vec<State<M>>, width: usize, rank: impl Fn(&State<M>) -> i64) {
    let half = width / 2;
    let mut ranks: Vec<i64> = states.iter().map(&rank).collect();
    let (_, &mut limit, _) = ranks.select_nth_unstable(half);
    let axis = |s: &State<M>| if M > 1 { s.point[1] } else { 0 };
    let (Some(first), Some(last)) = (states.first().map(axis), states.last().map(axis)) else {
        return;
    };
    let step = ((last - first) / index_to_i64(half.max(1))).max(1);
    let mut kept: Vec<State<M>> = Vec::with_capacity(width);
    let mut bucket: Option<(i64, State<M>)> = None;
    for &state in states.iter() {
        let here = (axis(&state) - first) / step;
        match &mut bucket {
            Some((at, best)) if *at == here => {
                if rank(&state) < rank(best) {
                    let previous = std::mem::replace(best, state);
                    kept.extend((rank(&previous) < limit).then_some(previous));
                } else if rank(&state) < limit {
                    kept.push(state);
                }
            }
            _ => {
                kept.extend(bucket.take().map(|(_, best)| best));
                bucket = Some((here, state));
            }
        }
    }
    kept.extend(bucket.map(|(_, best)| best));
    kept.sort_unstable_by(|a, b| sweep_order(&a.point, &b.point));
    *states = kept;
}

fn index_to_i64(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

/// Merge two lists in sweep order and drop what is dominated.
fn merge<const M: usize>(
    first: &[State<M>],
    second: &[State<M>],
    merged: &mut Vec<State<M>>,
    sweep: &mut Sweep,
    monitor: &Monitor<'_>,
) -> Result<(), Stopped> {
    merged.clear();
    sweep.clear();
    let (mut a, mut b) = (0, 0);
    while a < first.len() || b < second.len() {
        monitor.spend(1)?;
        let from_first = b == second.len()
            || (a < first.len() && sweep_order(&first[a].point, &second[b].point).is_le());
        let state = if from_first {
            a += 1;
            first[a - 1]
        } else {
            b += 1;
            second[b - 1]
        };
        if sweep.accepts(&state.point) {
            merged.push(state);
        }
    }
    Ok(())
}
