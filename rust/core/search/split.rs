//! The choices that the Lagrangian bound rules out, and the layer on which to split a subproblem.

use std::cmp::Reverse;

use crate::bound::{excess_gap, slack};
use crate::instance::Instance;
use crate::messages::Tree;
use crate::monitor::{Monitor, Stopped};
use crate::point::{Weights, sub};
use crate::reduce::{Reduced, restrict};

/// Weight of the excess of the second choice against the change between the best two choices, in
/// the rating of a layer for splitting.
const EXCESS_WEIGHT: f64 = 8.0;

/// For every choice (flat), a lower bound on the excess of plans with this choice: their weighted
/// sum less the least weighted sum.
pub(crate) struct Excess {
    pub(crate) choices: Vec<i64>,
    /// The slack of the weighted budgets, see [`slack`].
    pub(crate) slack: i128,
}

impl Excess {
    pub(crate) fn new<const M: usize>(
        instance: &Instance<M>,
        tree: &Tree,
        weights: &Weights<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Self, Stopped> {
        let messages = tree.up(instance, weights, monitor)?;
        let mut choices = tree.down(instance, weights, &messages, monitor)?.choices;
        for marginal in &mut choices {
            *marginal -= messages.least;
        }
        Ok(Self { choices, slack: slack(instance, weights, messages.least) })
    }

    /// The excess at which plans within the limits no longer beat `target` (offset included).
    pub(crate) fn gap<const M: usize>(
        &self,
        instance: &Instance<M>,
        weights: &Weights<M>,
        target: i64,
    ) -> i64 {
        excess_gap(instance, weights, target, self.slack)
    }

    /// For each layer, the least excess of plans without its best choice.
    pub(crate) fn leaving<const M: usize>(&self, instance: &Instance<M>) -> Vec<i64> {
        let second = |layer: usize| least_two(self.of(instance, layer)).1.1;
        (0..instance.n_layers()).map(second).collect()
    }

    fn of<const M: usize>(&self, instance: &Instance<M>, layer: usize) -> &[i64] {
        &self.choices[instance.offsets[layer]..instance.offsets[layer + 1]]
    }

    /// The instance with only those choices whose excess is below `limit`.
    pub(crate) fn keep<const M: usize>(
        &self,
        instance: &Instance<M>,
        limit: i64,
        monitor: &Monitor<'_>,
    ) -> Result<Reduced<M>, Stopped> {
        let keep: Vec<bool> = self.choices.iter().map(|&e| e < limit).collect();
        restrict(instance, &keep, monitor)
    }

    /// The layer to split, and its best choice. The best two choices of this layer are nearly tied
    /// at these weights, and use the budgets very differently, so that splitting changes what is
    /// left of the budgets for all other layers.
    pub(crate) fn branching<const M: usize>(
        &self,
        instance: &Instance<M>,
        weights: &Weights<M>,
    ) -> (usize, u16) {
        let rate = |layer: usize| {
            let ((best, _), (second, excess)) = least_two(self.of(instance, layer));
            let points = instance.choices(layer);
            let change = sub(points[second], points[best]);
            let moved: f64 = (0..M).map(|m| weights[m] as f64 * change[m].abs() as f64).sum();
            (moved - EXCESS_WEIGHT * excess as f64, best)
        };
        let rated = (0..instance.n_layers()).map(|layer| (rate(layer), layer));
        let found =
            rated.max_by(|(a, i), (b, j)| a.0.total_cmp(&b.0).then(Reverse(i).cmp(&Reverse(j))));
        found.map_or((0, 0), |((_, best), layer)| (layer, u16::try_from(best).unwrap_or(0)))
    }
}

/// The value at position `rank` of the sorted values.
pub(crate) fn ranked(values: &mut [i64], rank: usize) -> Option<i64> {
    (rank < values.len()).then(|| *values.select_nth_unstable(rank).1)
}

/// Positions and values of the two least values.
fn least_two(values: &[i64]) -> ((usize, i64), (usize, i64)) {
    let mut least = ((0, i64::MAX), (0, i64::MAX));
    for (at, &value) in values.iter().enumerate() {
        if value < least.0.1 {
            least = ((at, value), least.0);
        } else if value < least.1.1 {
            least.1 = (at, value);
        }
    }
    least
}
