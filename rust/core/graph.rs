//! Elimination order of the layer graph (min-fill) and the tree of bags it induces.
//!
//! Eliminating a layer joins all its remaining neighbours, its *separator*. Every edge and every
//! message then lives inside one bag (a layer and its separator), so a dynamic program over the
//! bags is exact; its tables have as many axes as the separators have layers. Chains and trees
//! have separators of one layer, residual networks of two.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::instance::Pair;
use crate::monitor::{Monitor, Stopped};
use crate::point::index;

/// Above this degree the fill of a layer is estimated; otherwise a tensor that all layers read
/// would make the ordering quadratic.
const EXACT_FILL_DEGREE: usize = 24;

/// Work of a lookup in a list of neighbours at a random place in memory, in table entries.
const LOOKUPS: usize = 16;

/// One step of the elimination.
#[derive(Debug, Clone)]
pub(crate) struct Bag {
    /// The layer that is eliminated.
    pub(crate) layer: u32,
    /// Its neighbours at that moment, sorted by position in the order.
    pub(crate) separator: Vec<u32>,
    /// The bag that receives this bag's message: that of the separator's first layer.
    pub(crate) parent: Option<u32>,
    /// Edges whose first eliminated end is this layer.
    pub(crate) edges: Vec<Pair>,
    /// Bags whose message comes here.
    pub(crate) children: Vec<u32>,
}

/// Layers without edges, and bags in the order of elimination: a parent comes after its children.
pub(crate) fn eliminate(
    layers: usize,
    edges: &[Pair],
    monitor: &Monitor<'_>,
) -> Result<(Vec<u32>, Vec<Bag>), Stopped> {
    if edges.is_empty() {
        return Ok(((0..index(layers)).collect(), Vec::new()));
    }
    let mut elimination = Elimination::new(layers, edges, monitor)?;
    let loose = elimination.loose();
    elimination.peel(monitor)?;
    elimination.min_fill(monitor)?;
    Ok((loose, elimination.into_bags(edges, monitor)?))
}

struct Elimination {
    /// Remaining neighbours, sorted; after elimination, the separator.
    neighbours: Vec<Vec<u32>>,
    position: Vec<u32>,
    order: Vec<u32>,
}

const WAITING: u32 = u32::MAX;
const LOOSE: u32 = u32::MAX - 1;

impl Elimination {
    fn new(layers: usize, edges: &[Pair], monitor: &Monitor<'_>) -> Result<Self, Stopped> {
        let mut neighbours = vec![Vec::new(); layers];
        for edge in edges {
            monitor.spend(LOOKUPS)?;
            neighbours[edge.tail as usize].push(edge.head);
            neighbours[edge.head as usize].push(edge.tail);
        }
        for list in &mut neighbours {
            monitor.spend(list.len())?;
            list.sort_unstable();
        }
        let order = Vec::with_capacity(layers);
        Ok(Self { neighbours, position: vec![WAITING; layers], order })
    }

    /// Take out the layers without neighbours.
    fn loose(&mut self) -> Vec<u32> {
        let alone =
            (0..index(self.neighbours.len())).filter(|&i| self.neighbours[i as usize].is_empty());
        let alone: Vec<u32> = alone.collect();
        for &layer in &alone {
            self.position[layer as usize] = LOOSE;
        }
        alone
    }

    /// Layers with at most one neighbour never add fill.
    fn peel(&mut self, monitor: &Monitor<'_>) -> Result<(), Stopped> {
        for start in 0..self.neighbours.len() {
            monitor.spend(LOOKUPS)?;
            let mut layer = start;
            while self.position[layer] == WAITING && self.neighbours[layer].len() <= 1 {
                self.remove(layer);
                match self.neighbours[layer].first() {
                    Some(&next) if (next as usize) < start => layer = next as usize,
                    _ => break,
                }
            }
        }
        // a leaf may have been left behind by an earlier start
        let mut stack: Vec<usize> = (0..self.neighbours.len())
            .filter(|&i| self.position[i] == WAITING && self.neighbours[i].len() <= 1)
            .collect();
        while let Some(layer) = stack.pop() {
            if self.position[layer] == WAITING && self.neighbours[layer].len() <= 1 {
                self.remove(layer);
                stack.extend(self.neighbours[layer].iter().map(|&n| n as usize));
            }
        }
        Ok(())
    }

    fn min_fill(&mut self, monitor: &Monitor<'_>) -> Result<(), Stopped> {
        let key = |order: &Self, layer: u32| Reverse((order.fill(layer), layer));
        let mut heap: BinaryHeap<_> = (0..index(self.neighbours.len()))
            .filter(|&i| self.position[i as usize] == WAITING)
            .map(|i| key(self, i))
            .collect();
        while let Some(Reverse((fill, layer))) = heap.pop() {
            if self.position[layer as usize] != WAITING {
                continue;
            }
            let now = self.fill(layer);
            let degree = now.1;
            monitor.spend(LOOKUPS * (1 + degree * degree))?;
            if now > fill {
                heap.push(Reverse((now, layer)));
                continue;
            }
            self.remove(layer as usize);
            for neighbour in self.neighbours[layer as usize].clone() {
                heap.push(key(self, neighbour));
                // an added edge can only lower the fill of those who see both its ends
                if self.neighbours[neighbour as usize].len() <= EXACT_FILL_DEGREE {
                    for &second in &self.neighbours[neighbour as usize] {
                        heap.push(key(self, second));
                    }
                }
            }
        }
        Ok(())
    }

    /// Edges that eliminating the layer would add, and its degree.
    fn fill(&self, layer: u32) -> (usize, usize) {
        let around = &self.neighbours[layer as usize];
        let degree = around.len();
        if degree > EXACT_FILL_DEGREE {
            return (degree * (degree - 1) / 2, degree);
        }
        let mut missing = 0;
        for (i, &a) in around.iter().enumerate() {
            for b in &around[i + 1..] {
                missing += usize::from(self.neighbours[a as usize].binary_search(b).is_err());
            }
        }
        (missing, degree)
    }

    /// Take the layer out and join its neighbours.
    fn remove(&mut self, layer: usize) {
        self.position[layer] = index(self.order.len());
        self.order.push(index(layer));
        let around = std::mem::take(&mut self.neighbours[layer]);
        for &a in &around {
            let list = &mut self.neighbours[a as usize];
            if let Ok(at) = list.binary_search(&index(layer)) {
                list.remove(at);
            }
            for &b in &around {
                if a != b
                    && let Err(at) = list.binary_search(&b)
                {
                    list.insert(at, b);
                }
            }
        }
        self.neighbours[layer] = around;
    }

    fn into_bags(self, edges: &[Pair], monitor: &Monitor<'_>) -> Result<Vec<Bag>, Stopped> {
        let Self { mut neighbours, position, order } = self;
        let mut bags: Vec<Bag> = order
            .iter()
            .map(|&layer| {
                let mut separator = std::mem::take(&mut neighbours[layer as usize]);
                separator.sort_unstable_by_key(|&n| position[n as usize]);
                let parent = separator.first().map(|&n| position[n as usize]);
                Bag { layer, separator, parent, edges: Vec::new(), children: Vec::new() }
            })
            .collect();
        monitor.go_on()?;
        for &edge in edges {
            monitor.spend(LOOKUPS)?;
            let first = position[edge.tail as usize].min(position[edge.head as usize]);
            bags[first as usize].edges.push(edge);
        }
        for bag in 0..bags.len() {
            monitor.spend(LOOKUPS)?;
            if let Some(parent) = bags[bag].parent {
                bags[parent as usize].children.push(index(bag));
            }
        }
        Ok(bags)
    }
}
