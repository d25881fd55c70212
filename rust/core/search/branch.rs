//! Best-first branch and bound.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::bound::totals;
use crate::dual::{self, Candidate, Dual};
use crate::error::Error;
use crate::instance::{Instance, Point};
use crate::messages::Tree;
use crate::problem::{Measure, Problem};
use crate::reduce::{Reduced, restrict};
use crate::search::check_width;
use crate::search::close::{Effort, close};
use crate::search::monitor::Monitor;
use crate::search::start::{Around, best_uniform, fill};
use crate::solution::{Closed, Proof, Solution, Status};

/// States of the core program in a subproblem, at first and at most: as subproblems pile up, each
/// is given more.
const EFFORT: (usize, usize) = (1 << 18, 1 << 24);
/// States per class.
const WIDTH: usize = 1 << 15;

/// The state of a search, and what is left of it at the end.
#[derive(Debug, Clone)]
pub(crate) struct Outcome<const M: usize> {
    pub(crate) status: Status,
    pub(crate) best: Option<Candidate<M>>,
    pub(crate) bound: Option<i64>,
    pub(crate) proof: Vec<Proof>,
    /// Weights of each proof, in the order of the instance's coordinates.
    weights: Vec<[i64; M]>,
}

impl<const M: usize> Outcome<M> {
    pub(crate) fn unknown() -> Self {
        Self {
            status: Status::Interrupted,
            best: None,
            bound: None,
            proof: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Keep the plan if it beats the incumbent; it must be within the limits.
    pub(crate) fn offer(&mut self, plan: &[u16], point: Point<M>) {
        if self.best.as_ref().is_none_or(|best| point[0] < best.point[0]) {
            self.best = Some(Candidate { plan: plan.to_vec(), point });
        }
    }

    /// The incumbent's objective.
    fn target(&self) -> i64 {
        self.best.as_ref().map_or(i64::MAX, |best| best.point[0])
    }

    /// The outcome of a heuristic that improved on this one's plan.
    pub(crate) fn improved(mut self, found: Candidate<M>) -> Self {
        self.offer(&found.plan, found.point);
        self.best = Some(found);
        self.status = Status::Heuristic;
        self
    }

    pub(crate) fn into_solution(
        self,
        problem: &Problem,
        measures: [Measure; M],
        nodes: u64,
    ) -> Solution {
        let mut proof = self.proof;
        for (entry, weights) in proof.iter_mut().zip(&self.weights) {
            for (measure, weight) in measures.iter().zip(weights) {
                entry.weights[*measure as usize] = *weight;
            }
        }
        let choices = self.best.map(|best| best.plan);
        let values = choices.as_ref().map_or([0; 3], |plan| problem.evaluate(plan));
        Solution {
            status: self.status,
            choices,
            values,
            bound: self.bound,
            nodes,
            nearest: None,
            proof,
        }
    }
}

/// A subproblem waiting for its turn.
struct Node<const M: usize> {
    /// From the original instance to this one.
    reduced: Reduced<M>,
    tree: Tree,
    dual: Dual<M>,
    proof: usize,
}

/// Bound the root and find a first plan; branch no further.
pub(crate) fn root<const M: usize>(
    instance: &Instance<M>,
    monitor: &mut Monitor<'_>,
) -> Result<Outcome<M>, Error> {
    let mut outcome = Outcome::unknown();
    if let Some(uniform) = best_uniform(instance) {
        outcome.offer(&uniform.plan, uniform.point);
    }
    check_width(instance)?;
    let tree = Tree::new(instance);
    let dual = dual::solve(instance, &tree, totals(instance), i64::MAX, &mut || monitor.stopped());
    outcome.bound = dual.bound;
    if outcome.best.is_none() {
        outcome.best = dual.feasible;
    }
    outcome.proof.push(Proof { weights: [0; 3], closed: Closed::Open });
    outcome.weights.push(dual.weights);
    Ok(outcome)
}

/// The exact search.
pub(crate) fn search<const M: usize>(
    instance: &Instance<M>,
    monitor: &mut Monitor<'_>,
) -> Result<Outcome<M>, Error> {
    check_width(instance)?;
    let mut outcome = Outcome::unknown();
    if let Some(uniform) = best_uniform(instance) {
        outcome.offer(&uniform.plan, uniform.point);
    }
    let mut open: BTreeMap<(i64, Reverse<usize>), Node<M>> = BTreeMap::new();
    let around = Around::new(instance);
    let everything = restrict(instance, &vec![true; instance.nodes.len()]);
    let proof = add_proof(&mut outcome);
    consider(&mut outcome, &mut open, (instance, &around), everything, proof, monitor);
    let mut bound = None;
    while let Some(((least, order), node)) = open.pop_first() {
        if least >= outcome.target() {
            outcome.proof[node.proof].closed = Closed::Bound;
            continue;
        }
        if !monitor.visit() {
            bound = Some(least);
            open.insert((least, order), node);
            break;
        }
        let Node { reduced, tree, dual, proof } = node;
        let closing = close(
            &reduced.instance,
            &tree,
            &dual.weights,
            outcome.target(),
            effort::<M>(monitor.nodes, reduced.instance.edges.is_empty()),
            &mut || monitor.stopped(),
        );
        if let Some(plan) = closing.plan {
            let plan = reduced.lift(&plan);
            let point = instance.evaluate(&plan);
            outcome.offer(&plan, point);
        }
        if monitor.reason().is_some() {
            bound = Some(least);
            break;
        }
        let Some(rest) = closing.rest else {
            outcome.proof[proof].closed = Closed::Enumerated;
            continue;
        };
        let (layer, choice) = branching(&reduced, &rest, &dual);
        let node_proof = proof;
        let reduced = reduced.then(rest);
        let small = &reduced.instance;
        let (equal, other) = (outcome.proof.len(), outcome.proof.len() + 1);
        outcome.proof[node_proof].closed = Closed::Branched {
            layer: reduced.layers[layer] as usize,
            choice: usize::from(reduced.original_choice(layer, choice)),
            equal,
            other,
        };
        let picked = small.offsets[layer] + usize::from(choice);
        for same in [true, false] {
            let mut keep = vec![true; small.nodes.len()];
            for flat in small.offsets[layer]..small.offsets[layer + 1] {
                keep[flat] = (flat == picked) == same;
            }
            let child = reduced.then(restrict(small, &keep));
            let proof = add_proof(&mut outcome);
            consider(&mut outcome, &mut open, (instance, &around), child, proof, monitor);
        }
    }
    match (monitor.reason(), &outcome.best) {
        (Some(reason), best) if bound.is_some() || best.is_none() => {
            outcome.status = reason;
            outcome.bound = bound;
        }
        (_, Some(best)) => {
            outcome.bound = Some(best.point[0]);
            outcome.status = Status::Optimal;
        }
        (_, None) => outcome.status = Status::Infeasible,
    }
    Ok(outcome)
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

fn add_proof<const M: usize>(outcome: &mut Outcome<M>) -> usize {
    outcome.proof.push(Proof { weights: [0; 3], closed: Closed::Open });
    outcome.weights.push([0; M]);
    outcome.proof.len() - 1
}

/// Bound a subproblem and queue it unless that closes it.
fn consider<const M: usize>(
    outcome: &mut Outcome<M>,
    open: &mut BTreeMap<(i64, Reverse<usize>), Node<M>>,
    (original, around): (&Instance<M>, &Around),
    reduced: Reduced<M>,
    proof: usize,
    monitor: &mut Monitor<'_>,
) {
    let tree = Tree::new(&reduced.instance);
    let scale = totals(&reduced.instance);
    let dual =
        dual::solve(&reduced.instance, &tree, scale, outcome.target(), &mut || monitor.stopped());
    outcome.weights[proof] = dual.weights;
    if let Some(found) = &dual.feasible {
        let plan = reduced.lift(&found.plan);
        let mut candidate = Candidate { point: original.evaluate(&plan), plan };
        fill(original, around, &mut candidate);
        outcome.offer(&candidate.plan, candidate.point);
    }
    outcome.proof[proof].closed = match dual.bound {
        None => Closed::Infeasible,
        Some(bound) if bound >= outcome.target() => Closed::Bound,
        Some(bound) => {
            open.insert((bound, Reverse(proof)), Node { reduced, tree, dual, proof });
            Closed::Open
        }
    };
}

/// The layer of `rest` (a reduction of the node's instance) on which the relaxation's plans differ
/// most, and one of its choices.
fn branching<const M: usize>(node: &Reduced<M>, rest: &Reduced<M>, dual: &Dual<M>) -> (usize, u16) {
    let spread = |layer: usize| {
        let before = rest.layers[layer] as usize;
        let picks = dual.basis.iter().map(|c| c.plan[before]);
        let costs = picks.clone().map(|c| node.instance.node(before, usize::from(c))[0]);
        let differ = picks.clone().any(|c| Some(c) != picks.clone().next());
        let (low, high) = costs.fold((i64::MAX, i64::MIN), |(l, h), c| (l.min(c), h.max(c)));
        (differ, high.saturating_sub(low))
    };
    let layer = (0..rest.instance.n_layers())
        .max_by_key(|&layer| (spread(layer), Reverse(layer)))
        .unwrap_or(0);
    let count = u16::try_from(rest.instance.n_choices(layer)).unwrap_or(u16::MAX);
    let picked = dual.basis.first().map(|c| c.plan[rest.layers[layer] as usize]);
    let choice = (0..count).find(|&c| Some(rest.original_choice(layer, c)) == picked);
    (layer, choice.unwrap_or(0))
}
