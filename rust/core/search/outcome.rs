//! The state of a search, and its conversion to a solution.

use crate::dual::Candidate;
use crate::measure::Measure;
use crate::monitor::Monitor;
use crate::point::Weights;
use crate::problem::Problem;
use crate::solution::{Closed, Proof, Solution, Status};

/// The status is `Interrupted` until the search ends for another reason.
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
    /// Only a plan is known, or nothing at all.
    pub(crate) fn unknown(best: Option<Candidate<M>>) -> Self {
        Self { status: Status::Interrupted, best, bound: None, proof: Vec::new() }
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

    pub(crate) fn into_solution(
        self,
        problem: &Problem,
        measures: [Measure; M],
        monitor: &Monitor<'_>,
    ) -> Solution {
        let named = |(by_coordinate, closed): (Weights<M>, Closed)| {
            let mut weights = [0; 3];
            for (measure, weight) in measures.iter().zip(by_coordinate) {
                weights[*measure as usize] = weight;
            }
            Proof { weights, closed }
        };
        let status = match self.status {
            Status::Interrupted => monitor.reason().unwrap_or(Status::Interrupted),
            status => status,
        };
        let says = self.bound.is_some() || status == Status::Infeasible;
        let proof = if says { self.proof } else { Vec::new() };
        let choices = self.best.map(|best| best.plan);
        let values = choices.as_ref().map_or([0; 3], |plan| problem.evaluate(plan));
        Solution {
            status,
            choices,
            values,
            bound: self.bound,
            nodes: monitor.nodes(),
            nearest: None,
            proof: proof.into_iter().map(named).collect(),
        }
    }
}
