//! Greedy: the single-layer change that saves most per unit of budget it uses, as long as one
//! saves and fits.

use std::collections::BinaryHeap;

use crate::bound::totals;
use crate::dual::Candidate;
use crate::instance::Instance;
use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, add};
use crate::search::start::{Around, others, rating};

/// Work of taking a change off the heap, in table entries.
const HEAP: usize = 16;

/// A change and the state of its layer when it was rated.
struct Move<const M: usize> {
    rating: f64,
    layer: usize,
    choice: u16,
    version: u32,
    change: Point<M>,
}

/// Improve the candidate; if stopped, it keeps the improvements so far.
pub(crate) fn search<const M: usize>(
    instance: &Instance<M>,
    candidate: &mut Candidate<M>,
    monitor: &Monitor<'_>,
) -> Result<(), Stopped> {
    let around = Around::new(instance, monitor)?;
    let scale = totals(instance, monitor)?;
    let Candidate { plan, point } = candidate;
    let mut version = vec![0; instance.n_layers()];
    let mut heap = BinaryHeap::new();
    for layer in 0..instance.n_layers() {
        monitor.spend(around.work(instance, layer))?;
        rate(instance, &around, plan, layer, 0, &scale, &mut heap);
    }
    let mut waiting: Vec<Move<M>> = Vec::new();
    while let Some(best) = heap.pop() {
        monitor.spend(HEAP)?;
        if best.version != version[best.layer] {
            continue;
        }
        if !instance.fits(&add(*point, best.change)) {
            waiting.push(best);
            continue;
        }
        *point = add(*point, best.change);
        plan[best.layer] = best.choice;
        let touched = around.neighbours(instance, best.layer).chain([best.layer]);
        for layer in touched {
            version[layer] += 1;
            monitor.spend(around.work(instance, layer))?;
            rate(instance, &around, plan, layer, version[layer], &scale, &mut heap);
        }
        if (1..M).any(|m| best.change[m] < 0) {
            heap.extend(waiting.drain(..)); // there is room again
        }
    }
    Ok(())
}

/// Put the layer's saving changes on the heap.
fn rate<const M: usize>(
    instance: &Instance<M>,
    around: &Around,
    plan: &[u16],
    layer: usize,
    version: u32,
    scale: &Point<M>,
    heap: &mut BinaryHeap<Move<M>>,
) {
    for choice in others(instance, plan, layer) {
        let change = around.change(instance, plan, layer, choice);
        if change[0] >= 0 {
            continue;
        }
        let rating = rating(&change, scale);
        heap.push(Move { rating, layer, choice, version, change });
    }
}

impl<const M: usize> Ord for Move<M> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rating
            .total_cmp(&other.rating)
            .then(other.change[0].cmp(&self.change[0]))
            .then(other.layer.cmp(&self.layer))
            .then(other.choice.cmp(&self.choice))
    }
}

impl<const M: usize> PartialOrd for Move<M> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<const M: usize> PartialEq for Move<M> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<const M: usize> Eq for Move<M> {}
