//! The result of a search, with a certificate that others can verify.

use crate::measure::Measure;

/// Why the search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The plan is proved optimal: its objective equals the bound.
    Optimal,
    /// It is proved that no plan is within the budgets.
    Infeasible,
    /// The time limit came first.
    TimeLimit,
    /// The node limit came first.
    NodeLimit,
    /// The caller asked to stop.
    Interrupted,
    /// A heuristic ended; the bound limits how much better another plan can be.
    Heuristic,
}

impl Status {
    /// The name used everywhere.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Optimal => "optimal",
            Self::Infeasible => "infeasible",
            Self::TimeLimit => "time_limit",
            Self::NodeLimit => "node_limit",
            Self::Interrupted => "interrupted",
            Self::Heuristic => "heuristic",
        }
    }
}

/// How a subproblem of the branching tree was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Its Lagrangian bound reaches the incumbent.
    Bound,
    /// Every plan that its bound left possible was enumerated.
    Enumerated,
    /// The weights prove that no plan is within the budgets.
    Infeasible,
    /// It was split in two.
    Branched {
        /// Layer that was split.
        layer: usize,
        /// One side has this choice, the other side all the others.
        choice: usize,
        /// The proof of the first side, as a position in the list of proofs.
        equal: usize,
        /// The proof of the second side.
        other: usize,
    },
    /// The search ended before it was closed.
    Open,
}

/// One subproblem: the weights of cost, drop and size that bound it, and how it was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Non-negative multipliers of the measures.
    pub weights: [i64; 3],
    /// How it was closed.
    pub closed: Closed,
}

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solution {
    /// Why the search ended.
    pub status: Status,
    /// The best plan found: one choice per layer.
    pub choices: Option<Vec<u16>>,
    /// `[cost, drop, size]` of the plan.
    pub values: [i64; 3],
    /// Proved lower bound on the objective; `None` when nothing is proved.
    pub bound: Option<i64>,
    /// Subproblems visited.
    pub nodes: u64,
    /// If infeasible: the budget to change, and the least value it can be met at.
    pub nearest: Option<(Measure, i64)>,
    /// The branching tree, root first.
    pub proof: Vec<Proof>,
}
