//! Dominance: a point is useless if another point is no larger in any coordinate.

use std::cmp::Ordering;

use crate::point::Point;

/// Budgets first, objective last: the order in which a sweep meets dominators first.
pub(crate) fn sweep_order<const M: usize>(a: &Point<M>, b: &Point<M>) -> Ordering {
    a[1..].cmp(&b[1..]).then(a[0].cmp(&b[0]))
}

/// Takes points in [`sweep_order`] and accepts those that no earlier point dominates.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// `(second budget, objective)`: the first ascending, the second strictly descending. With
    /// fewer than two budgets only the last entry is kept.
    steps: Vec<(i64, i64)>,
}

impl Sweep {
    pub(crate) fn clear(&mut self) {
        self.steps.clear();
    }

    /// Whether no earlier point dominates this one; an accepted point is remembered.
    #[inline]
    pub(crate) fn accepts<const M: usize>(&mut self, point: &Point<M>) -> bool {
        let second = if M > 2 { point[2] } else { 0 };
        let at =
            if M > 2 { self.steps.partition_point(|s| s.0 <= second) } else { self.steps.len() };
        if at > 0 && self.steps[at - 1].1 <= point[0] {
            return false;
        }
        let mut end = at;
        while end < self.steps.len() && self.steps[end].1 >= point[0] {
            end += 1;
        }
        let start = if at > 0 && self.steps[at - 1].0 == second { at - 1 } else { at };
        if start == end {
            self.steps.insert(start, (second, point[0]));
        } else {
            self.steps[start] = (second, point[0]);
            self.steps.drain(start + 1..end);
        }
        true
    }
}

/// Sort and drop what is dominated; of equal points the first by `tie` stays.
pub(crate) fn keep_undominated<T, const M: usize>(
    items: &mut Vec<T>,
    point: impl Fn(&T) -> Point<M>,
    sweep: &mut Sweep,
) {
    items.sort_by(|a, b| sweep_order(&point(a), &point(b)));
    sweep.clear();
    items.retain(|item| sweep.accepts(&point(item)));
}
