//! The state of a search, and what is left of it at the end.

use crate::dual::Candidate;
use crate::instance::Weights;
use crate::problem::{Measure, Problem};
use crate::solution::{Closed, Proof, Solution, Status};

#[derive(Debug, Clone)]
pub(crate) struct Outcome<const M: usize> {
    pub(crate) status: Status,
    pub(crate) best: Option<Candidate<M>>,
    pub(crate) bound: Option<i64>,
    pub(crate) proof: ProofTree<M>,
}

/// The subproblems so far: the weights that bound each, in the order of the instance's
/// coordinates, and how it was closed.
pub(crate) type ProofTree<const M: usize> = Vec<(Weights<M>, Closed)>;

impl<const M: usize> Outcome<M> {
    pub(crate) fn unknown() -> Self {
        Self { status: Status::Interrupted, best: None, bound: None, proof: Vec::new() }
    }

    /// Keep the plan if it beats the incumbent; it must be within the limits.
    pub(crate) fn offer(&mut self, candidate: Candidate<M>) {
        if candidate.point[0] < self.target() {
            self.best = Some(candidate);
        }
    }

    /// The incumbent's objective.
    pub(crate) fn target(&self) -> i64 {
        self.best.as_ref().map_or(i64::MAX, |best| best.point[0])
    }

    /// The outcome of a heuristic that improved on this one's plan.
    pub(crate) fn improved(mut self, found: Candidate<M>) -> Self {
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
        let named = |(by_coordinate, closed): (Weights<M>, Closed)| {
            let mut weights = [0; 3];
            for (measure, weight) in measures.iter().zip(by_coordinate) {
                weights[*measure as usize] = weight;
            }
            Proof { weights, closed }
        };
        let choices = self.best.map(|best| best.plan);
        let values = choices.as_ref().map_or([0; 3], |plan| problem.evaluate(plan));
        Solution {
            status: self.status,
            choices,
            values,
            bound: self.bound,
            nodes,
            nearest: None,
            proof: self.proof.into_iter().map(named).collect(),
        }
    }
}
