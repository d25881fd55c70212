//! The canonical form every stage works on: minimise coordinate 0 of the summed points, keep each
//! further coordinate within its limit.
//!
//! An instance is made from a [`Problem`] by naming the objective and the budgets, and made
//! smaller by [`reduce`](crate::reduce).

use std::collections::BTreeMap;

use crate::congruence::{Congruence, usable};
use crate::measure::Measure;
use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, add, index};
use crate::problem::{Edge, Problem};

/// Values on the choices of two layers: row-major from `start` in [`Instance::pairs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) tail: u32,
    pub(crate) head: u32,
    pub(crate) start: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Instance<const M: usize> {
    /// Choices of layer `i` are `offsets[i]..offsets[i + 1]` in `nodes`.
    pub(crate) offsets: Vec<usize>,
    pub(crate) nodes: Vec<Point<M>>,
    /// Sorted by `(tail, head)`, each once, `tail < head`.
    pub(crate) edges: Vec<Pair>,
    pub(crate) pairs: Vec<Point<M>>,
    /// What is left of the budgets; `limits[0]` is not used.
    pub(crate) limits: Point<M>,
    /// Objective of the layers that are decided already, whose use of the budgets is off the
    /// limits.
    pub(crate) offset: i64,
    /// Which objectives plans can have.
    pub(crate) congruence: Congruence<M>,
}

impl<const M: usize> Instance<M> {
    /// Pick the coordinates; `measures[0]` is the objective.
    pub(crate) fn new(
        problem: &Problem,
        measures: [Measure; M],
        limits: Point<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Self, Stopped> {
        let read = |[cost, drop, size]: [&[i64]; 3], at: usize| {
            measures.map(|m| match m {
                Measure::Cost => value(cost, at),
                Measure::Drop => value(drop, at),
                Measure::Size => value(size, at),
            })
        };
        Self::build(problem, limits, read, monitor)
    }

    /// As [`new`](Self::new), but minimise a weighted sum of cost, drop and size.
    pub(crate) fn weighted(
        problem: &Problem,
        weights: [i64; 3],
        measures: [Measure; M],
        limits: Point<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Self, Stopped> {
        let read = |tables: [&[i64]; 3], at: usize| {
            let mut point = measures.map(|m| value(tables[m as usize], at));
            point[0] = weights.iter().zip(tables).map(|(w, table)| w * value(table, at)).sum();
            point
        };
        Self::build(problem, limits, read, monitor)
    }

    /// `read` makes a point from one place in the tables of cost, drop and size.
    fn build(
        problem: &Problem,
        limits: Point<M>,
        read: impl Fn([&[i64]; 3], usize) -> Point<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Self, Stopped> {
        let offsets = problem.offsets().to_vec();
        let tables = Measure::ALL.map(|m| problem.table(m));
        let mut nodes = Vec::with_capacity(offsets[offsets.len() - 1]);
        for range in offsets.windows(2) {
            monitor.spend(range[1] - range[0])?;
            nodes.extend((range[0]..range[1]).map(|at| read(tables, at)));
        }
        let mut merged: BTreeMap<(u32, u32), Vec<Point<M>>> = BTreeMap::new();
        let mut edges = Vec::with_capacity(problem.edges().len());
        let entries = |e: &Edge| problem.n_choices(e.tail) * problem.n_choices(e.head);
        let mut pairs = Vec::with_capacity(problem.edges().iter().map(entries).sum());
        let ends = |e: &Edge| (e.tail, e.head);
        let sorted = problem.edges().windows(2).all(|w| ends(&w[0]) < ends(&w[1]))
            && problem.edges().iter().all(|e| e.tail < e.head);
        for edge in problem.edges() {
            let matrices = Measure::ALL.map(|m| edge.values(m));
            let (rows, columns) = (problem.n_choices(edge.tail), problem.n_choices(edge.head));
            monitor.spend(rows * columns)?;
            if sorted {
                let (tail, head) = (index(edge.tail), index(edge.head));
                edges.push(Pair { tail, head, start: pairs.len() });
                pairs.extend((0..rows * columns).map(|at| read(matrices, at)));
                continue;
            }
            let forward = edge.tail < edge.head;
            let key = if forward { (edge.tail, edge.head) } else { (edge.head, edge.tail) };
            let target = merged
                .entry((index(key.0), index(key.1)))
                .or_insert_with(|| vec![[0; M]; rows * columns]);
            for row in 0..rows {
                for column in 0..columns {
                    let at = if forward { row * columns + column } else { column * rows + row };
                    target[at] = add(target[at], read(matrices, row * columns + column));
                }
            }
        }
        for ((tail, head), values) in merged {
            monitor.spend(values.len())?;
            edges.push(Pair { tail, head, start: pairs.len() });
            pairs.extend(values);
        }
        let congruence = Congruence::NONE;
        let mut instance = Self { offsets, nodes, edges, pairs, limits, offset: 0, congruence };
        instance.limits = usable(instance.tables(), limits, monitor)?;
        instance.congruence = Congruence::new(instance.tables(), instance.limits, monitor)?;
        Ok(instance)
    }

    pub(crate) fn n_layers(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn n_choices(&self, layer: usize) -> usize {
        self.offsets[layer + 1] - self.offsets[layer]
    }

    pub(crate) fn node(&self, layer: usize, choice: usize) -> Point<M> {
        self.nodes[self.offsets[layer] + choice]
    }

    pub(crate) fn choices(&self, layer: usize) -> &[Point<M>] {
        &self.nodes[self.offsets[layer]..self.offsets[layer + 1]]
    }

    /// The points of every layer and of every edge.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &[Point<M>]> + Clone {
        let entries = |e: &Pair| self.n_choices(e.tail as usize) * self.n_choices(e.head as usize);
        let edges = self.edges.iter().map(move |e| &self.pairs[e.start..e.start + entries(e)]);
        (0..self.n_layers()).map(|layer| self.choices(layer)).chain(edges)
    }

    /// Value of an edge for the choices of its two layers.
    pub(crate) fn pair(&self, edge: Pair, tail: usize, head: usize) -> Point<M> {
        self.pairs[edge.start + tail * self.n_choices(edge.head as usize) + head]
    }

    /// Sum over a plan, without the layers decided before.
    pub(crate) fn evaluate(&self, choices: &[u16]) -> Point<M> {
        let mut total = [0; M];
        for (layer, &choice) in choices.iter().enumerate() {
            total = add(total, self.node(layer, usize::from(choice)));
        }
        for &edge in &self.edges {
            let (tail, head) = (choices[edge.tail as usize], choices[edge.head as usize]);
            total = add(total, self.pair(edge, usize::from(tail), usize::from(head)));
        }
        total
    }

    pub(crate) fn fits(&self, point: &Point<M>) -> bool {
        (1..M).all(|m| point[m] <= self.limits[m])
    }
}

/// An empty table is zero everywhere.
fn value(table: &[i64], at: usize) -> i64 {
    table.get(at).copied().unwrap_or(0)
}
