//! Close a subproblem by enumeration, guided by its Lagrangian bound: fix, contract, run the core
//! program.
//!
//! The gap to the incumbent determines how many layers stay undecided; with a poor incumbent these
//! are too many. Therefore the first rounds *probe*: they decide all but a few layers as the
//! relaxation does, which is fast and finds good plans. A round is a proof once the gap is so small
//! that the decided layers cannot improve a plan.

use crate::bound::{excess_gap, slack, totals};
use crate::contract::contract;
use crate::core_program::{Scope, run};
use crate::dual;
use crate::instance::Instance;
use crate::messages::Tree;
use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, Weights};
use crate::reduce::Reduced;
use crate::search::split::{Excess, ranked};

/// Layers that the first probe leaves undecided.
const FIRST_CORE: usize = 16;
/// By how much the undecided layers grow from probe to probe.
const GROWTH: usize = 2;
/// With edges, a gap that this many undecided layers do not close comes from one long run of
/// layers that changes as a whole: splitting it works better than enumerating it.
const LAST_PROBE: usize = 64;
/// States per class in a probe.
const PROBE_WIDTH: usize = 512;
/// Labels per table entry of the contraction.
const LABELS: usize = 128;
/// Shifts of the budgets, as shares of the largest change of one layer, at which planes are laid.
const PLANE_SHIFTS: [f64; 4] = [0.01, 0.04, 0.15, 0.5];
/// A round that was cut off is repeated if it took at least this share off the gap.
const WORTH_REPEATING: i64 = 2;

/// How much a subproblem may cost before it is split instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// States per class.
    pub(crate) width: usize,
    /// States in all.
    pub(crate) memory: usize,
}

/// What became of the subproblem.
pub(crate) struct Closing<const M: usize> {
    /// A plan that beats the target, if one was found, stopped or not.
    pub(crate) plan: Option<Vec<u16>>,
    /// What is left of the subproblem; `None` if nothing is.
    pub(crate) rest: Result<Option<Reduced<M>>, Stopped>,
}

/// Look for plans below `target` (the offset included).
pub(crate) fn close<const M: usize>(
    instance: &Instance<M>,
    tree: &Tree,
    weights: &Weights<M>,
    target: i64,
    effort: Effort,
    monitor: &Monitor<'_>,
) -> Closing<M> {
    let mut plan = None;
    let rest = probe(instance, tree, weights, (target, effort), &mut plan, monitor);
    Closing { plan, rest }
}

/// As [`close`]; leaves the plan in `plan`, returns the rest.
fn probe<const M: usize>(
    instance: &Instance<M>,
    tree: &Tree,
    weights: &Weights<M>,
    (mut target, effort): (i64, Effort),
    plan: &mut Option<Vec<u16>>,
    monitor: &Monitor<'_>,
) -> Result<Option<Reduced<M>>, Stopped> {
    let excess = Excess::new(instance, tree, weights, monitor)?;
    let mut leaving = excess.leaving(instance);
    let gap_to = |target: i64| excess.gap(instance, weights, target);
    let planes = planes(instance, tree, weights, monitor)?;
    let mut core = FIRST_CORE;
    loop {
        let gap = gap_to(target);
        if gap == 0 {
            return Ok(None);
        }
        let cutoff = ranked(&mut leaving, core).map_or(gap, |rank| gap.min(rank.saturating_add(1)));
        let complete = cutoff >= gap;
        let reduced = excess.keep(instance, cutoff, monitor)?;
        let width = if complete { effort.width } else { PROBE_WIDTH };
        let (found, exact) =
            round(&reduced, (weights, &planes), target, Effort { width, ..effort }, monitor)?;
        if let Some((objective, found)) = found {
            target = objective;
            *plan = Some(found);
        }
        monitor.go_on()?;
        let now = gap_to(target);
        if exact && cutoff >= now {
            return Ok(None);
        }
        let hopeless = !instance.edges.is_empty() && core >= LAST_PROBE && cutoff < now;
        if hopeless || (complete && now > gap / WORTH_REPEATING) {
            let rest = excess.keep(instance, now, monitor)?;
            let open = rest.instance.n_layers() > 0;
            return Ok(open.then_some(rest));
        }
        if cutoff < now {
            core *= GROWTH;
        }
    }
}

/// With several budgets, the multipliers that are best when some budgets are a little larger or
/// smaller: they bound the states that stray from the relaxation's optimum.
fn planes<const M: usize>(
    instance: &Instance<M>,
    tree: &Tree,
    weights: &Weights<M>,
    monitor: &Monitor<'_>,
) -> Result<Vec<Weights<M>>, Stopped> {
    let mut planes = vec![*weights];
    if M < 3 {
        return Ok(planes);
    }
    let totals = totals(instance, monitor)?;
    let spans = spans(instance);
    for share in PLANE_SHIFTS {
        for signs in 0..9 {
            let mut moved = instance.clone();
            moved.limits[1] += shift(spans[1], share, signs % 3);
            moved.limits[2] += shift(spans[2], share, signs / 3);
            let found = dual::solve(&moved, tree, totals, Some(weights), i64::MAX, monitor)?;
            if found.bound.is_some() && found.weights[0] > 0 && !planes.contains(&found.weights) {
                planes.push(found.weights);
            }
        }
    }
    Ok(planes)
}

fn shift(span: i64, share: f64, sign: usize) -> i64 {
    #[allow(clippy::cast_possible_truncation)] // far below 2^53
    let size = (span as f64 * share) as i64;
    [0, size, -size][sign]
}

/// The largest change of any one layer, per coordinate.
fn spans<const M: usize>(instance: &Instance<M>) -> Point<M> {
    let mut spans = [0; M];
    for layer in 0..instance.n_layers() {
        for m in 0..M {
            let values = instance.choices(layer).iter().map(|p| p[m]);
            let (low, high) = values.fold((i64::MAX, i64::MIN), |(l, h), v| (l.min(v), h.max(v)));
            spans[m] = spans[m].max(high - low);
        }
    }
    spans
}

/// A better plan of the original with its objective, and whether nothing was cut off.
type Round = (Option<(i64, Vec<u16>)>, bool);

/// One run of the core program; returns a better plan of the original with its objective, and
/// whether nothing was cut off.
fn round<const M: usize>(
    reduced: &Reduced<M>,
    (weights, planes): (&Weights<M>, &[Weights<M>]),
    target: i64,
    effort: Effort,
    monitor: &Monitor<'_>,
) -> Result<Round, Stopped> {
    let small = &reduced.instance;
    let tree = Tree::new(small, monitor)?;
    let up = tree.up(small, weights, monitor)?;
    let down = tree.down(small, weights, &up, monitor)?;
    let gap = excess_gap(small, weights, target, slack(small, weights, up.least));
    let mut classes = contract(small, &tree, weights, (&up, &down), gap, LABELS, monitor)?;
    if classes.list.iter().any(|class| class.options.is_empty()) {
        return Ok((None, classes.exact));
    }
    classes.centre(&small.limits);
    let own = target.saturating_sub(small.offset);
    let scope = Scope { target: own, width: effort.width, memory: effort.memory };
    let found = run(small, &classes.list, weights, planes, up.least, scope, monitor);
    let plan = found.best.map(|(objective, picks)| {
        let mut plan = vec![0; small.n_layers()];
        for class in 0..classes.list.len() {
            classes.decode(class, 0, &mut plan);
        }
        for (class, option) in picks {
            classes.decode(class, option, &mut plan);
        }
        (objective + small.offset, reduced.lift(&plan))
    });
    Ok((plan, classes.exact && found.exact))
}
