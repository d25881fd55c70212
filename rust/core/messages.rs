//! The dynamic program over the bags, for fixed weights: least weighted sum, a plan that attains
//! it, and for every choice the least weighted sum of a plan that makes this choice.
//!
//! All arithmetic is exact; weights are small enough that no sum leaves `i64` (see
//! [`bound`](crate::bound)).

use crate::error::Error;
use crate::graph::{Bag, eliminate};
use crate::instance::Instance;
use crate::monitor::{Halt, Monitor, Stopped};
use crate::point::{Weights, dot};

/// Entries of the largest table that the dynamic program may need (32 MiB).
const MAX_TABLE: u128 = 1 << 22;

/// The tree of bags with the shapes of its tables.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    /// Layers without edges, each on its own.
    pub(crate) loose: Vec<u32>,
    pub(crate) bags: Vec<Bag>,
    /// Where the message of each bag starts; one longer than the bags.
    pub(crate) offsets: Vec<usize>,
}

/// The least weighted sum and the messages that lead to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Messages {
    /// Least weighted sum over all plans, the instance's constant not included.
    pub(crate) least: i64,
    /// Per bag, for every choice of its separator: least weighted sum of the layers below.
    pub(crate) up: Vec<i64>,
}

/// What the rest of a plan weighs at least.
#[derive(Debug, Clone)]
pub(crate) struct Marginals {
    /// Per bag, for every choice of its separator: least weighted sum of all other layers.
    pub(crate) down: Vec<i64>,
    /// For every choice (flat, as in the instance) the least weighted sum of a plan that makes it.
    pub(crate) choices: Vec<i64>,
}

impl Tree {
    pub(crate) fn new<const M: usize>(
        instance: &Instance<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Self, Stopped> {
        let (loose, bags) = eliminate(instance.n_layers(), &instance.edges, monitor)?;
        let mut offsets = Vec::with_capacity(bags.len() + 1);
        offsets.push(0);
        for (at, bag) in bags.iter().enumerate() {
            let entries: usize =
                bag.separator.iter().map(|&s| instance.n_choices(s as usize)).product();
            offsets.push(offsets[at] + entries);
        }
        Ok(Self { loose, bags, offsets })
    }

    /// Entries of a bag's table: its separator's choices times its own.
    fn entries<const M: usize>(&self, instance: &Instance<M>, at: usize) -> usize {
        let rows = self.offsets[at + 1] - self.offsets[at];
        rows * instance.n_choices(self.bags[at].layer as usize)
    }

    /// Refuse an instance whose largest table does not fit in memory, without building the table.
    pub(crate) fn check_size<const M: usize>(
        instance: &Instance<M>,
        monitor: &Monitor<'_>,
    ) -> Result<(), Halt> {
        let (_, bags) = eliminate(instance.n_layers(), &instance.edges, monitor)?;
        let entries = |bag: &Bag| {
            let layers = bag.separator.iter().chain([&bag.layer]);
            layers.map(|&s| instance.n_choices(s as usize) as u128).fold(1, u128::saturating_mul)
        };
        let entries = bags.iter().map(entries).max().unwrap_or(1);
        if entries > MAX_TABLE { Err(Halt::Error(Error::TooDense { entries })) } else { Ok(()) }
    }

    /// Messages from the leaves to the roots.
    pub(crate) fn up<const M: usize>(
        &self,
        instance: &Instance<M>,
        weights: &Weights<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Messages, Stopped> {
        let mut up = vec![0; self.offsets[self.bags.len()]];
        let mut least = 0;
        for &layer in &self.loose {
            monitor.spend(instance.n_choices(layer as usize))?;
            let sums = instance.choices(layer as usize).iter().map(|p| dot(weights, p));
            least += sums.min().unwrap_or(0);
        }
        let mut joint = Vec::new();
        for at in 0..self.bags.len() {
            monitor.spend(self.entries(instance, at))?;
            let (before, after) = up.split_at_mut(self.offsets[at]);
            self.joint(instance, weights, at, before, &mut joint);
            let columns = instance.n_choices(self.bags[at].layer as usize);
            let message = &mut after[..self.offsets[at + 1] - self.offsets[at]];
            for (entry, row) in message.iter_mut().zip(joint.chunks_exact(columns)) {
                *entry = row.iter().copied().min().unwrap_or(0);
            }
            if self.bags[at].parent.is_none() {
                least += message[0];
            }
        }
        Ok(Messages { least, up })
    }

    /// A plan of least weighted sum; of equal choices the first.
    pub(crate) fn decode<const M: usize>(
        &self,
        instance: &Instance<M>,
        weights: &Weights<M>,
        messages: &Messages,
        monitor: &Monitor<'_>,
    ) -> Result<Vec<u16>, Stopped> {
        let mut plan = vec![0; instance.n_layers()];
        for &layer in &self.loose {
            monitor.spend(instance.n_choices(layer as usize))?;
            plan[layer as usize] =
                first_least(instance.choices(layer as usize).iter().map(|p| dot(weights, p)));
        }
        let mut row = Vec::new();
        for (at, bag) in self.bags.iter().enumerate().rev() {
            let layer = bag.layer as usize;
            let looked = 1 + bag.edges.len() + bag.children.len();
            monitor.spend(instance.n_choices(layer) * looked)?;
            row.clear();
            row.extend(instance.choices(layer).iter().map(|p| dot(weights, p)));
            for &edge in &bag.edges {
                let tail_is_here = edge.tail == bag.layer;
                let other = if tail_is_here { edge.head } else { edge.tail };
                let choice = usize::from(plan[other as usize]);
                for (here, entry) in row.iter_mut().enumerate() {
                    let (tail, head) = if tail_is_here { (here, choice) } else { (choice, here) };
                    *entry += dot(weights, &instance.pair(edge, tail, head));
                }
            }
            for &child in &bag.children {
                let (base, step) = self.slice(instance, child as usize, at, &plan);
                for (here, entry) in row.iter_mut().enumerate() {
                    *entry += messages.up[base + here * step];
                }
            }
            plan[layer] = first_least(row.iter().copied());
        }
        Ok(plan)
    }

    /// Start and stride, along the layer of bag `at`, of a child's message when all other layers
    /// are as in `plan`.
    fn slice<const M: usize>(
        &self,
        instance: &Instance<M>,
        child: usize,
        at: usize,
        plan: &[u16],
    ) -> (usize, usize) {
        let (mut base, mut step, mut stride) = (0, 0, 1);
        for &layer in self.bags[child].separator.iter().rev() {
            if layer == self.bags[at].layer {
                step = stride;
            } else {
                base += usize::from(plan[layer as usize]) * stride;
            }
            stride *= instance.n_choices(layer as usize);
        }
        (self.offsets[child] + base, step)
    }

    /// Messages back from the roots to the leaves, and what every choice costs at least.
    pub(crate) fn down<const M: usize>(
        &self,
        instance: &Instance<M>,
        weights: &Weights<M>,
        messages: &Messages,
        monitor: &Monitor<'_>,
    ) -> Result<Marginals, Stopped> {
        let mut down = vec![0; messages.up.len()];
        let mut marginals = vec![i64::MAX; instance.nodes.len()];
        for &layer in &self.loose {
            let layer = layer as usize;
            monitor.spend(instance.n_choices(layer))?;
            let least = instance.choices(layer).iter().map(|p| dot(weights, p)).min().unwrap_or(0);
            let range = instance.offsets[layer]..instance.offsets[layer + 1];
            for (marginal, point) in marginals[range].iter_mut().zip(instance.choices(layer)) {
                *marginal = messages.least + dot(weights, point) - least;
            }
        }
        let mut joint = Vec::new();
        for (at, bag) in self.bags.iter().enumerate().rev() {
            monitor.spend(self.entries(instance, at))?;
            self.joint(instance, weights, at, &messages.up, &mut joint);
            let columns = instance.n_choices(bag.layer as usize);
            // a root's message holds the least sum of its own tree only
            let outside = match bag.parent {
                Some(_) => 0,
                None => messages.least - messages.up[self.offsets[at]],
            };
            let above = &mut down[self.offsets[at]..self.offsets[at + 1]];
            let own = &mut marginals[instance.offsets[bag.layer as usize]..][..columns];
            for (row, from) in joint.chunks_exact_mut(columns).zip(above) {
                *from += outside;
                for (entry, marginal) in row.iter_mut().zip(own.iter_mut()) {
                    *entry += *from;
                    *marginal = (*marginal).min(*entry);
                }
            }
            for &child in &bag.children {
                let child = child as usize;
                let range = self.offsets[child]..self.offsets[child + 1];
                let target = &mut down[range.clone()];
                target.fill(i64::MAX);
                let walk = Walk::new(instance, bag, &self.bags[child].separator);
                walk.each_row(|start, from, step| {
                    for (x, &entry) in joint[start..start + columns].iter().enumerate() {
                        let slot = &mut target[from + x * step];
                        *slot = (*slot).min(entry);
                    }
                });
                for (slot, message) in target.iter_mut().zip(&messages.up[range]) {
                    *slot -= message;
                }
            }
        }
        Ok(Marginals { down, choices: marginals })
    }

    /// The table of a bag: own values, own edges and the children's messages, over the separator's
    /// choices (rows) and the layer's own (columns).
    pub(crate) fn joint<const M: usize>(
        &self,
        instance: &Instance<M>,
        weights: &Weights<M>,
        at: usize,
        up: &[i64],
        joint: &mut Vec<i64>,
    ) {
        let bag = &self.bags[at];
        let columns = instance.n_choices(bag.layer as usize);
        let rows = self.offsets[at + 1] - self.offsets[at];
        joint.clear();
        joint.extend(instance.choices(bag.layer as usize).iter().map(|p| dot(weights, p)));
        let alone = |child: u32| self.bags[child as usize].separator.len() == 1;
        for &child in bag.children.iter().filter(|&&c| alone(c)) {
            let message = &up[self.offsets[child as usize]..];
            for (entry, value) in joint.iter_mut().zip(message) {
                *entry += value;
            }
        }
        for _ in 1..rows {
            joint.extend_from_within(..columns);
        }
        for &edge in &bag.edges {
            let pairs = &instance.pairs[edge.start..];
            Walk::new(instance, bag, &[edge.tail, edge.head]).each_row(|start, from, step| {
                for (x, entry) in joint[start..start + columns].iter_mut().enumerate() {
                    *entry += dot(weights, &pairs[from + x * step]);
                }
            });
        }
        for &child in bag.children.iter().filter(|&&c| !alone(c)) {
            let message = &up[self.offsets[child as usize]..];
            let walk = Walk::new(instance, bag, &self.bags[child as usize].separator);
            walk.each_row(|start, from, step| {
                for (x, entry) in joint[start..start + columns].iter_mut().enumerate() {
                    *entry += message[from + x * step];
                }
            });
        }
    }
}

/// Position of the first least value.
fn first_least(values: impl Iterator<Item = i64>) -> u16 {
    let mut best = (i64::MAX, 0);
    for (at, value) in (0u16..).zip(values) {
        if value < best.0 {
            best = (value, at);
        }
    }
    best.1
}

/// Visits the rows of a bag's table together with the matching entries of a smaller table.
pub(crate) struct Walk {
    /// Choices of each separator layer and the smaller table's stride along it.
    axes: Vec<(usize, usize)>,
    columns: usize,
    step: usize,
}

impl Walk {
    /// `table` lists the layers of the smaller table, the last one varying fastest.
    pub(crate) fn new<const M: usize>(instance: &Instance<M>, bag: &Bag, table: &[u32]) -> Self {
        let stride = |layer: u32| match table.iter().position(|&t| t == layer) {
            Some(at) => table[at + 1..].iter().map(|&t| instance.n_choices(t as usize)).product(),
            None => 0,
        };
        Self {
            axes: bag
                .separator
                .iter()
                .map(|&s| (instance.n_choices(s as usize), stride(s)))
                .collect(),
            columns: instance.n_choices(bag.layer as usize),
            step: stride(bag.layer),
        }
    }

    /// Calls `visit(start of the row, first entry of the smaller table, stride along the row)`.
    pub(crate) fn each_row(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let mut counter = vec![0; self.axes.len()];
        let (mut start, mut from) = (0, 0);
        loop {
            visit(start, from, self.step);
            start += self.columns;
            let mut axis = self.axes.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                let (choices, stride) = self.axes[axis];
                counter[axis] += 1;
                from += stride;
                if counter[axis] < choices {
                    break;
                }
                from -= stride * choices;
                counter[axis] = 0;
            }
        }
    }
}
