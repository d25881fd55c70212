//! Branch and bound.
//!
//! A subproblem is bounded by its Lagrangian dual, and the bound rules out some of its choices.
//! With one budget the remaining plans are enumerated, and the subproblem is split only if there
//! are too many. With several budgets the relaxation leaves too many plans to enumerate, but bounds
//! rise fast if the layers that change the use of the budgets most are split first. A poor
//! incumbent slows this down. Therefore the search accepts only plans below a *ceiling* close to
//! the bound at first, and raises the ceiling until it finds a plan. If many plans have equal sums,
//! splitting does not terminate in reasonable time, while enumeration does; so the root is
//! enumerated from time to time when the number of subproblems grows.

use std::borrow::Cow;
use std::sync::Arc;

use crate::bound::totals;
use crate::dual::{self, Candidate};
use crate::error::Error;
use crate::instance::Instance;
use crate::messages::Tree;
use crate::monitor::{Halt, Monitor, Stopped};
use crate::point::{Point, Weights};
use crate::reduce::{Reduced, restrict};
use crate::search::close::{Effort, close};
use crate::search::outcome::{Outcome, ProofTree};
use crate::search::queue::{Node, Queue};
use crate::search::split::{Excess, ranked};
use crate::search::start::{Around, fill, first_inside};
use crate::solution::{Closed, Status};

/// States of the core program in a subproblem: the first limit and the last one. The limit grows
/// with the number of subproblems.
const EFFORT: (usize, usize) = (1 << 18, 1 << 24);
/// States per class.
const WIDTH: usize = 1 << 15;
/// The first ceiling leaves one in so many layers undecided.
const FIRST_SHARE: usize = 4;
/// With several budgets the root is enumerated after so many subproblems and at every doubling:
/// without edges, and with edges, which make enumeration slower.
const PATIENCE: [usize; 2] = [64, 512];
/// States of that enumeration, for each subproblem before; states at most, and per class.
const PATIENT_EFFORT: (usize, usize, usize) = (512, 1 << 20, 1 << 18);

struct Search<'a, const M: usize> {
    original: &'a Arc<Instance<M>>,
    around: Around,
    /// Of the original, see [`totals`].
    totals: Point<M>,
    outcome: &'a mut Outcome<M>,
    open: Queue<M>,
    /// Only plans below this objective are searched for.
    ceiling: i64,
}

/// Bound the root and find a first plan, which may be better than `start`; branch no further.
pub(crate) fn root<const M: usize>(
    instance: &Arc<Instance<M>>,
    start: Option<Candidate<M>>,
    monitor: &Monitor<'_>,
) -> Result<Outcome<M>, Error> {
    explore(instance, start, monitor, false)
}

/// The exact search, from a plan within the limits if there is one.
pub(crate) fn search<const M: usize>(
    instance: &Arc<Instance<M>>,
    start: Option<Candidate<M>>,
    monitor: &Monitor<'_>,
) -> Result<Outcome<M>, Error> {
    explore(instance, start, monitor, true)
}

/// Search, and return what is known so far if the search is stopped.
fn explore<const M: usize>(
    instance: &Arc<Instance<M>>,
    start: Option<Candidate<M>>,
    monitor: &Monitor<'_>,
    branch: bool,
) -> Result<Outcome<M>, Error> {
    let mut outcome = Outcome::unknown(start);
    let mut explored = || {
        Tree::check_size(instance, monitor)?;
        let mut search = Search::new(instance, &mut outcome, monitor)?;
        if let Some(root) = search.root(monitor)?
            && branch
        {
            search.run(&root, monitor)?;
        }
        Ok(())
    };
    match explored() {
        Err(Halt::Error(error)) => Err(error),
        Err(Halt::Stopped) | Ok(()) => Ok(outcome),
    }
}

/// The distance of the first ceiling from the bound, with several budgets.
fn first_step<const M: usize>(root: &Node<M>, monitor: &Monitor<'_>) -> Result<i64, Stopped> {
    let instance = &root.reduced.instance;
    let excess = Excess::new(instance, &root.tree, &root.weights, monitor)?;
    let mut leaving = excess.leaving(instance);
    let share = leaving.len() / FIRST_SHARE;
    let rank = ranked(&mut leaving, share).unwrap_or(0);
    Ok(1 + rank / root.weights[0].max(1))
}

impl<'a, const M: usize> Search<'a, M> {
    fn new(
        original: &'a Arc<Instance<M>>,
        outcome: &'a mut Outcome<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Self, Stopped> {
        Ok(Self {
            original,
            around: Around::new(original, monitor)?,
            totals: totals(original, monitor)?,
            outcome,
            open: Queue::new(),
            ceiling: i64::MAX,
        })
    }

    /// Bound the whole problem and find a first plan. `None` if that settles it.
    fn root(&mut self, monitor: &Monitor<'_>) -> Result<Option<Node<M>>, Stopped> {
        self.first_plan(monitor)?;
        self.outcome.proof.push(([0; M], Closed::Open));
        let whole = Reduced::undecided(self.original, monitor)?;
        let root = self.consider(whole, None, 0, monitor)?;
        if let Some(root) = &root {
            self.outcome.bound = Some(root.bound);
        } else {
            let best = self.outcome.best.as_ref();
            let status = if best.is_some() { Status::Optimal } else { Status::Infeasible };
            (self.outcome.status, self.outcome.bound) = (status, best.map(|b| b.point[0]));
        }
        Ok(root)
    }

    /// A plan to return however soon the search is stopped. The hulls of separable layers give a
    /// better one as fast.
    fn first_plan(&mut self, monitor: &Monitor<'_>) -> Result<(), Stopped> {
        if self.outcome.best.is_none() {
            let found = first_inside(self.original, &self.around, &self.totals, monitor)?;
            self.outcome.best = found;
        }
        if let Some(best) = &mut self.outcome.best
            && !(M == 2 && self.original.edges.is_empty())
        {
            fill(self.original, &self.around, &self.totals, best, monitor)?;
        }
        Ok(())
    }

    /// Search below one ceiling after another.
    fn run(&mut self, root: &Node<M>, monitor: &Monitor<'_>) -> Result<(), Stopped> {
        let (least, mut step) = (root.bound, 0);
        if M > 2 {
            step = first_step(root, monitor)?;
            self.raise(least, step);
        }
        let mut proved: Option<(i64, ProofTree<M>)> = None;
        loop {
            let stopped_at = self.pass(root, monitor);
            let ceiling = self.ceiling;
            let outcome = &mut *self.outcome;
            if let Some(bound) = stopped_at {
                outcome.bound = Some(bound.min(ceiling).min(outcome.target()));
                if let Some((before, proof)) = proved.filter(|p| Some(p.0) > outcome.bound) {
                    (outcome.bound, outcome.proof) = (Some(before), proof);
                }
                return Err(Stopped);
            }
            if outcome.target() <= ceiling {
                let best = outcome.best.as_ref().map(|best| best.point[0]);
                outcome.status = if best.is_some() { Status::Optimal } else { Status::Infeasible };
                outcome.bound = best;
                return Ok(());
            }
            proved = Some((ceiling, std::mem::take(&mut outcome.proof)));
            step = step.saturating_mul(2);
            self.raise(least, step);
        }
    }

    fn target(&self) -> i64 {
        self.outcome.target().min(self.ceiling)
    }

    /// Set the ceiling to this distance above the bound; to infinity if no plan can cost that much.
    fn raise(&mut self, least: i64, step: i64) {
        let ceiling = least.saturating_add(step);
        let most = self.totals[0];
        self.ceiling = if ceiling > most { i64::MAX } else { ceiling };
    }

    /// Search for the best plan below the ceiling; if stopped, return a bound on the remaining
    /// plans.
    fn pass(&mut self, root: &Node<M>, monitor: &Monitor<'_>) -> Option<i64> {
        self.outcome.proof = vec![(root.weights, Closed::Open)];
        self.open = Queue::new();
        let patience = PATIENCE[usize::from(!self.original.edges.is_empty())];
        let mut next = Cow::Borrowed(root);
        for visited in 1_usize.. {
            let bound = next.bound.min(self.open.least());
            if monitor.visit().is_err() {
                return Some(bound);
            }
            if M > 2 && visited >= patience && visited.is_power_of_two() {
                let (states, most, width) = PATIENT_EFFORT;
                let effort = Effort { width, memory: (visited * states).min(most) };
                match self.enumerate(root, effort, monitor) {
                    Err(Stopped) => return Some(bound),
                    Ok(Some(_)) => {}
                    Ok(None) => {
                        self.outcome.proof = vec![(root.weights, Closed::Enumerated)];
                        return None;
                    }
                }
            }
            let (before, entry) = (self.outcome.proof.len(), self.outcome.proof[next.proof]);
            let visited = self.visit(&next, monitor);
            if visited.is_err() || monitor.reason().is_some() {
                // as if it had not been visited: its parts may be bounded worse than the whole
                self.outcome.proof.truncate(before);
                self.outcome.proof[next.proof] = entry;
                return Some(bound);
            }
            next = Cow::Owned(self.next()?);
        }
        None
    }

    /// The next subproblem that can hold a plan below the target.
    fn next(&mut self) -> Option<Node<M>> {
        while let Some(node) = self.open.pop() {
            if node.bound < self.target() {
                return Some(node);
            }
            self.outcome.proof[node.proof].1 = Closed::Bound;
        }
        None
    }

    /// Search a subproblem for better plans by enumeration, and return the part that remains.
    fn enumerate(
        &mut self,
        node: &Node<M>,
        effort: Effort,
        monitor: &Monitor<'_>,
    ) -> Result<Option<Reduced<M>>, Stopped> {
        let Node { reduced, tree, weights, .. } = node;
        let found = close(&reduced.instance, tree, weights, self.target(), effort, monitor);
        self.offer(found.plan.map(|plan| reduced.lift(&plan)));
        found.rest
    }

    /// Drop the choices that the bound rules out, and return the part that remains.
    fn shrink(
        &mut self,
        node: &Node<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Option<Reduced<M>>, Stopped> {
        let Node { reduced, tree, weights, .. } = node;
        let instance = &reduced.instance;
        let excess = Excess::new(instance, tree, weights, monitor)?;
        let gap = excess.gap(instance, weights, self.target());
        let rest = excess.keep(instance, gap, monitor)?;
        if rest.instance.n_layers() > 0 {
            return Ok(Some(rest));
        }
        self.offer(Some(reduced.lift(&rest.lift(&[]))));
        Ok(None)
    }

    fn offer(&mut self, plan: Option<Vec<u16>>) {
        let Some(plan) = plan else { return };
        let point = self.original.evaluate(&plan);
        if self.original.fits(&point) {
            self.outcome.offer(Candidate { plan, point });
        }
    }

    /// Close a subproblem, or split it in two.
    fn visit(&mut self, node: &Node<M>, monitor: &Monitor<'_>) -> Result<(), Stopped> {
        let rest = if M > 2 {
            self.shrink(node, monitor)?
        } else {
            let effort = effort::<M>(monitor.nodes(), node.reduced.instance.edges.is_empty());
            self.enumerate(node, effort, monitor)?
        };
        let Node { reduced, weights, proof, .. } = node;
        let proof = *proof;
        let Some(rest) = rest else {
            self.outcome.proof[proof].1 = Closed::Enumerated;
            return Ok(());
        };
        let reduced = reduced.then(rest);
        let small = &reduced.instance;
        let excess = Excess::new(small, &Tree::new(small, monitor)?, weights, monitor)?;
        let (layer, choice) = excess.branching(small, weights);
        let equal = self.outcome.proof.len();
        self.outcome.proof[proof].1 = Closed::Branched {
            layer: reduced.layers[layer] as usize,
            choice: usize::from(reduced.original_choice(layer, choice)),
            equal,
            other: equal + 1,
        };
        self.outcome.proof.extend([([0; M], Closed::Open); 2]);
        let picked = small.offsets[layer] + usize::from(choice);
        for (proof, same) in [(equal, true), (equal + 1, false)] {
            let mut keep = vec![true; small.nodes.len()];
            for flat in small.offsets[layer]..small.offsets[layer + 1] {
                keep[flat] = (flat == picked) == same;
            }
            let child = reduced.then(restrict(small, &keep, monitor)?);
            if let Some(node) = self.consider(child, Some(weights), proof, monitor)? {
                self.open.push(node);
            }
        }
        Ok(())
    }

    /// Bound a subproblem; `None` if that closes it.
    fn consider(
        &mut self,
        reduced: Reduced<M>,
        near: Option<&Weights<M>>,
        proof: usize,
        monitor: &Monitor<'_>,
    ) -> Result<Option<Node<M>>, Stopped> {
        let instance = &reduced.instance;
        let tree = Tree::new(instance, monitor)?;
        let target = self.target();
        let whole = Arc::ptr_eq(instance, self.original);
        let totals = if whole { self.totals } else { totals(instance, monitor)? };
        let dual = dual::solve(instance, &tree, totals, near, target, monitor)?;
        if let Some(found) = dual.feasible
            && found.point[0].saturating_add(instance.offset) < self.outcome.target()
        {
            let plan = reduced.lift(&found.plan);
            let mut candidate = Candidate { point: self.original.evaluate(&plan), plan };
            // stopped or not, the plan is one, and the bound is known
            let _ = fill(self.original, &self.around, &self.totals, &mut candidate, monitor);
            self.outcome.offer(candidate);
        }
        let closed = match dual.bound {
            None => Closed::Infeasible,
            Some(bound) if bound >= self.target() => Closed::Bound,
            Some(_) => Closed::Open,
        };
        self.outcome.proof[proof] = (dual.weights, closed);
        let open = dual.bound.filter(|_| closed == Closed::Open);
        Ok(open.map(|bound| Node { reduced, tree, weights: dual.weights, bound, proof }))
    }
}

/// What the subproblem after so many others may cost.
fn effort<const M: usize>(nodes: u64, separable: bool) -> Effort {
    // a knapsack with one budget is better enumerated than split
    if separable && M == 2 {
        return Effort { width: EFFORT.1, memory: EFFORT.1 };
    }
    let doublings = (1 + nodes / 8).ilog2();
    let memory = EFFORT.0.checked_shl(doublings).unwrap_or(EFFORT.1).min(EFFORT.1);
    Effort { width: WIDTH, memory }
}
