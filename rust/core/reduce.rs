//! Smaller instances, each with the way back: keep some choices, fold decided layers into their
//! neighbours.

use std::sync::Arc;

use crate::instance::{Instance, Pair};
use crate::monitor::{Monitor, Stopped};
use crate::point::{add, index};

/// An instance with fewer choices, and where they came from.
#[derive(Debug, Clone)]
pub(crate) struct Reduced<const M: usize> {
    pub(crate) instance: Arc<Instance<M>>,
    /// Original layer of each remaining layer.
    pub(crate) layers: Vec<u32>,
    /// Original choice of each remaining choice, flat.
    choices: Vec<u16>,
    /// A plan of the original with every decided layer filled in.
    decided: Vec<u16>,
}

/// Keep the choices marked in `keep` (flat; at least one per layer). Layers left with one choice
/// are decided: their values move to the constant and to the neighbours.
pub(crate) fn restrict<const M: usize>(
    original: &Instance<M>,
    keep: &[bool],
    monitor: &Monitor<'_>,
) -> Result<Reduced<M>, Stopped> {
    const DECIDED: u32 = u32::MAX;
    let mut decided = vec![0; original.n_layers()];
    let mut place = vec![DECIDED; original.n_layers()];
    let count = keep.iter().filter(|&&k| k).count();
    let (mut layers, mut choices) = (Vec::new(), Vec::with_capacity(count));
    let (mut offsets, mut nodes) = (vec![0], Vec::with_capacity(count));
    let mut constant = [0; M];
    for layer in 0..original.n_layers() {
        let range = original.offsets[layer]..original.offsets[layer + 1];
        monitor.spend(range.len())?;
        let mut kept = (0u16..).zip(&keep[range.clone()]).filter(|(_, k)| **k).map(|(c, _)| c);
        let first = kept.next().unwrap_or(0);
        decided[layer] = first;
        let start = choices.len();
        choices.push(first);
        choices.extend(kept);
        if choices.len() == start + 1 {
            choices.pop();
            constant = add(constant, original.node(layer, usize::from(first)));
            continue;
        }
        place[layer] = index(layers.len());
        layers.push(index(layer));
        nodes.extend(choices[start..].iter().map(|&c| original.node(layer, usize::from(c))));
        offsets.push(nodes.len());
    }
    let mut instance = Instance {
        offsets,
        nodes,
        edges: Vec::new(),
        pairs: Vec::new(),
        limits: original.limits,
        offset: original.offset,
        congruence: original.congruence,
    };
    for &edge in &original.edges {
        let (tail, head) = (edge.tail as usize, edge.head as usize);
        monitor.spend(1)?;
        let at = |a: u16, b: u16| original.pair(edge, usize::from(a), usize::from(b));
        let span =
            |place: u32| instance.offsets[place as usize]..instance.offsets[place as usize + 1];
        match (place[tail], place[head]) {
            (DECIDED, DECIDED) => {
                constant = add(constant, at(decided[tail], decided[head]));
            }
            (DECIDED, there) => {
                for flat in span(there) {
                    instance.nodes[flat] =
                        add(instance.nodes[flat], at(decided[tail], choices[flat]));
                }
            }
            (there, DECIDED) => {
                for flat in span(there) {
                    instance.nodes[flat] =
                        add(instance.nodes[flat], at(choices[flat], decided[head]));
                }
            }
            (from, to) => {
                let start = instance.pairs.len();
                for a in span(from) {
                    monitor.spend(span(to).len())?;
                    for b in span(to) {
                        instance.pairs.push(at(choices[a], choices[b]));
                    }
                }
                instance.edges.push(Pair { tail: from, head: to, start });
            }
        }
    }
    instance.offset += constant[0];
    for m in 1..M {
        instance.limits[m] -= constant[m];
    }
    Ok(Reduced { instance: Arc::new(instance), layers, choices, decided })
}

impl<const M: usize> Reduced<M> {
    /// Everything but the layers without a choice.
    pub(crate) fn undecided(
        original: &Arc<Instance<M>>,
        monitor: &Monitor<'_>,
    ) -> Result<Self, Stopped> {
        let n_choices = (0..original.n_layers()).map(|layer| original.n_choices(layer));
        if n_choices.clone().any(|count| count < 2) {
            return restrict(original, &vec![true; original.nodes.len()], monitor);
        }
        let choices = n_choices.flat_map(|count| (0_u16..).take(count)).collect();
        let layers = (0..index(original.n_layers())).collect();
        let decided = vec![0; original.n_layers()];
        Ok(Self { instance: Arc::clone(original), layers, choices, decided })
    }

    /// The original's plan for a plan of the reduced instance.
    pub(crate) fn lift(&self, plan: &[u16]) -> Vec<u16> {
        let mut lifted = self.decided.clone();
        for (at, &choice) in plan.iter().enumerate() {
            let flat = self.instance.offsets[at] + usize::from(choice);
            lifted[self.layers[at] as usize] = self.choices[flat];
        }
        lifted
    }

    /// Memory it takes, in points.
    pub(crate) fn size(&self) -> usize {
        // a point takes as much as about eight decided choices
        self.instance.nodes.len() + self.instance.pairs.len() + self.decided.len() / 8
    }

    /// The original choice behind a choice of the reduced instance.
    pub(crate) fn original_choice(&self, layer: usize, choice: u16) -> u16 {
        self.choices[self.instance.offsets[layer] + usize::from(choice)]
    }

    /// This reduction followed by `next`, a reduction of its instance.
    pub(crate) fn then(&self, next: Self) -> Self {
        let decided = self.lift(&next.decided);
        let mut choices = Vec::with_capacity(next.choices.len());
        for (at, &layer) in next.layers.iter().enumerate() {
            for flat in next.instance.offsets[at]..next.instance.offsets[at + 1] {
                choices.push(self.original_choice(layer as usize, next.choices[flat]));
            }
        }
        let layers = next.layers.iter().map(|&layer| self.layers[layer as usize]).collect();
        Self { instance: next.instance, layers, choices, decided }
    }
}
