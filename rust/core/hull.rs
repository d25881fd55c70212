//! Lower-left convex hulls of separable layers (Sinha and Zoltners, 1979).
//!
//! Along its hull a layer trades budget for objective at ever worse rates. Merged over all layers
//! by rate, the hull edges are the linear relaxation, and their running sums the supported
//! frontier.

use std::cmp::Ordering;

use crate::instance::Instance;
use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, add, index};

/// Work of sorting one choice, in table entries.
const SORTING: usize = 4;

/// A step along the hull of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) layer: u32,
    /// Objective saved, positive.
    pub(crate) saved: i64,
    /// Budget used for it, positive.
    pub(crate) used: i64,
    pub(crate) choice: u16,
}

impl Step {
    /// Best rate first: most saved per unit used.
    pub(crate) fn by_rate(&self, other: &Self) -> Ordering {
        let left = i128::from(other.saved) * i128::from(self.used);
        left.cmp(&(i128::from(self.saved) * i128::from(other.used)))
    }
}

/// The choice of least budget per layer, the sum of these, and every layer's hull steps in order.
pub(crate) fn hulls<const M: usize>(
    instance: &Instance<M>,
    monitor: &Monitor<'_>,
) -> Result<(Vec<u16>, Point<M>, Vec<Step>), Stopped> {
    let mut start = Vec::with_capacity(instance.n_layers());
    let mut total = [0; M];
    let mut steps = Vec::with_capacity(instance.nodes.len());
    let (mut order, mut hull): (Vec<u16>, Vec<u16>) = (Vec::new(), Vec::new());
    for layer in 0..instance.n_layers() {
        let points = instance.choices(layer);
        monitor.spend(SORTING * points.len())?;
        let at = |choice: u16| points[usize::from(choice)];
        order.clear();
        order.extend(0..u16::try_from(points.len()).unwrap_or(u16::MAX));
        order.sort_unstable_by_key(|&choice| (at(choice)[1], at(choice)[0], choice));
        hull.clear();
        for &choice in &order {
            let point = at(choice);
            if hull.last().is_some_and(|&last| point[0] >= at(last)[0]) {
                continue; // dominated
            }
            while let [.., a, b] = hull[..]
                && above(at(a), at(b), point)
            {
                hull.pop();
            }
            hull.push(choice);
        }
        start.push(hull[0]);
        total = add(total, at(hull[0]));
        for pair in hull.windows(2) {
            let (from, to) = (at(pair[0]), at(pair[1]));
            steps.push(Step {
                layer: index(layer),
                saved: from[0] - to[0],
                used: to[1] - from[1],
                choice: pair[1],
            });
        }
    }
    Ok((start, total, steps))
}

/// Whether `b` lies on or above the line from `a` to `c`.
fn above<const M: usize>(a: Point<M>, b: Point<M>, c: Point<M>) -> bool {
    let wide = |x: i64, y: i64| i128::from(x) * i128::from(y);
    wide(a[0] - b[0], c[1] - a[1]) <= wide(a[0] - c[0], b[1] - a[1])
}

/// Order the steps so far that all before the returned position fit into `room`, and the one
/// there, if any, does not: weighted quickselect, linear time on average.
pub(crate) fn break_step(
    steps: &mut [Step],
    mut room: i64,
    monitor: &Monitor<'_>,
) -> Result<usize, Stopped> {
    let (mut low, mut high) = (0, steps.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let mut three = [steps[low], steps[middle], steps[high - 1]];
        three.sort_unstable_by(Step::by_rate);
        let pivot = three[1];
        let (mut better, mut at, mut worse) = (low, low, high);
        let (mut used_better, mut used_equal) = (0, 0);
        while at < worse {
            monitor.spend(1)?;
            match steps[at].by_rate(&pivot) {
                Ordering::Less => {
                    used_better += steps[at].used;
                    steps.swap(better, at);
                    better += 1;
                    at += 1;
                }
                Ordering::Equal => {
                    used_equal += steps[at].used;
                    at += 1;
                }
                Ordering::Greater => {
                    worse -= 1;
                    steps.swap(at, worse);
                }
            }
        }
        if used_better > room {
            high = better;
        } else if used_better + used_equal > room {
            room -= used_better;
            // hull steps of one layer have different rates, so the order among equals is free
            while steps[better].used <= room {
                room -= steps[better].used;
                better += 1;
            }
            return Ok(better);
        } else {
            room -= used_better + used_equal;
            low = worse;
        }
    }
    Ok(low)
}
