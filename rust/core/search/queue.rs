//! Subproblems waiting for their turn: the least bound first, unless they take too much memory.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::messages::Tree;
use crate::point::Weights;
use crate::reduce::Reduced;

/// Size of the waiting subproblems, in points; above it the newest goes first.
const MANY_POINTS: usize = 1 << 21;

/// A subproblem waiting for its turn.
#[derive(Debug, Clone)]
pub(crate) struct Node<const M: usize> {
    /// From the original instance to this one.
    pub(crate) reduced: Reduced<M>,
    pub(crate) tree: Tree,
    pub(crate) weights: Weights<M>,
    /// No plan of the subproblem has a smaller objective.
    pub(crate) bound: i64,
    /// Its place in the proof.
    pub(crate) proof: usize,
}

#[derive(Debug)]
pub(crate) struct Queue<const M: usize> {
    best_first: BTreeMap<(i64, Reverse<usize>), Node<M>>,
    /// Filled only while `best_first` holds many points.
    newest_first: Vec<Node<M>>,
    points: usize,
}

impl<const M: usize> Queue<M> {
    pub(crate) fn new() -> Self {
        Self { best_first: BTreeMap::new(), newest_first: Vec::new(), points: 0 }
    }

    pub(crate) fn push(&mut self, node: Node<M>) {
        if self.points > MANY_POINTS {
            self.newest_first.push(node);
        } else {
            self.points += node.reduced.size();
            self.best_first.insert((node.bound, Reverse(node.proof)), node);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Node<M>> {
        self.newest_first.pop().or_else(|| {
            let (_, node) = self.best_first.pop_first()?;
            self.points -= node.reduced.size();
            Some(node)
        })
    }

    /// The least bound of all that waits.
    pub(crate) fn least(&self) -> i64 {
        let newest = self.newest_first.iter().map(|node| node.bound);
        let best = self.best_first.keys().next().map(|key| key.0);
        newest.chain(best).min().unwrap_or(i64::MAX)
    }
}
