//! From multipliers to a proved lower bound, in exact integers.
//!
//! For non-negative weights `w` and every plan within the limits `B`,
//! `w0 * cost >= W(w) - sum_m w_m * B_m`, where `W(w)` is the least weighted sum over *all* plans
//! (Lagrangian relaxation). Any weights give a valid bound, so floats may choose them freely.

use crate::instance::Instance;
use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, Weights, add};

/// Weighted sums stay below two to this power; twice that still fits in `i64`.
const WEIGHTED_BITS: i32 = 60;

/// Largest absolute value a plan's sum can reach, per coordinate.
pub(crate) fn totals<const M: usize>(
    instance: &Instance<M>,
    monitor: &Monitor<'_>,
) -> Result<Point<M>, Stopped> {
    let largest = |points: &[Point<M>]| {
        let mut largest = [0; M];
        for point in points {
            for m in 0..M {
                largest[m] = largest[m].max(point[m].abs());
            }
        }
        largest
    };
    let mut total = [0; M];
    for layer in 0..instance.n_layers() {
        monitor.spend(instance.n_choices(layer))?;
        total = add(total, largest(instance.choices(layer)));
    }
    for edge in &instance.edges {
        let entries =
            instance.n_choices(edge.tail as usize) * instance.n_choices(edge.head as usize);
        monitor.spend(entries)?;
        total = add(total, largest(&instance.pairs[edge.start..edge.start + entries]));
    }
    Ok(total)
}

/// Integer weights along a direction, as precise as the totals allow.
#[allow(clippy::cast_possible_truncation)] // below 2^60 by construction
pub(crate) fn quantise<const M: usize>(direction: &[f64; M], totals: &Point<M>) -> Weights<M> {
    let mut reach = 0.0;
    for m in 0..M {
        reach += direction[m] * totals[m].max(1) as f64;
    }
    let scale = if reach > 0.0 { f64::from(WEIGHTED_BITS).exp2() / reach } else { 0.0 };
    let mut weights = direction.map(|d| (d * scale).round() as i64);
    if direction[0] > 0.0 {
        weights[0] = weights[0].max(1);
    }
    weights
}

/// `W(w) - sum_m w_m B_m`: positive with `w0 = 0` proves that no plan is within the limits.
pub(crate) fn slack<const M: usize>(
    instance: &Instance<M>,
    weights: &Weights<M>,
    least: i64,
) -> i128 {
    let mut value = i128::from(least);
    for m in 1..M {
        value -= i128::from(weights[m]) * i128::from(instance.limits[m]);
    }
    value
}

/// The lower bound on the objective that `least`, the least weighted sum, proves; `None` when the
/// weights ignore the objective.
pub(crate) fn lower_bound<const M: usize>(
    instance: &Instance<M>,
    weights: &Weights<M>,
    least: i64,
) -> Option<i64> {
    let divisor = i128::from(weights[0]);
    (divisor > 0).then(|| {
        let value = slack(instance, weights, least);
        let ceil = value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0);
        let ceil = instance.congruence.raise(ceil + i128::from(instance.offset), weights);
        i64::try_from(ceil).unwrap_or(if ceil < 0 { i64::MIN } else { i64::MAX })
    })
}

/// Excess (weighted sum above the least) from which on no plan within the limits costs less than
/// `target`, the offset included; `slack` as above.
pub(crate) fn excess_gap<const M: usize>(
    instance: &Instance<M>,
    weights: &Weights<M>,
    target: i64,
    slack: i128,
) -> i64 {
    // a better plan has w0 * cost <= w0 * (target - 1), and sum_m w_m use_m <= sum_m w_m B_m
    let most = instance.congruence.lower(i128::from(target) - 1, weights);
    let gap = i128::from(weights[0]) * (most - i128::from(instance.offset)) - slack + 1;
    i64::try_from(gap.clamp(0, i128::from(i64::MAX / 4))).unwrap_or(0)
}
