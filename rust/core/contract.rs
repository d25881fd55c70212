//! Contraction: every connected component of undecided layers becomes one class whose options are
//! its useful joint choices. What is left is a multiple-choice knapsack.
//!
//! Labels run through the bags like messages do, but keep every undominated sum whose *excess*
//! (weighted sum above the least) is below the gap: anything else cannot be part of a better plan.

use crate::dominance::{Sweep, keep_undominated};
use crate::instance::{Instance, Point, Weights, add, dot, sub};
use crate::messages::{Marginals, Messages, Tree, Walk};
use crate::monitor::{Monitor, Stopped};

const NONE: u32 = u32::MAX;

/// A joint choice of the layers below a bag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label<const M: usize> {
    pub(crate) point: Point<M>,
    /// Weighted sum above the least one with the same separator.
    pub(crate) excess: i64,
    /// For a loose layer the choice, else a position in the trace.
    trace: u32,
}

/// How a label came to be: a choice of a layer, or two labels joined.
#[derive(Debug, Clone, Copy)]
enum Step {
    Choice { layer: u32, choice: u16 },
    Joined { first: u32, second: u32 },
}

/// One component: its options, the one of least excess first.
#[derive(Debug, Clone)]
pub(crate) struct Class<const M: usize> {
    pub(crate) options: Vec<Label<M>>,
    /// The layer, if the component is a single one.
    layer: Option<u32>,
}

/// The contracted instance.
#[derive(Debug, Clone)]
pub(crate) struct Classes<const M: usize> {
    pub(crate) list: Vec<Class<M>>,
    /// Whether no label was cut off.
    pub(crate) exact: bool,
    trace: Vec<Step>,
    /// Labels kept per table entry; more than this and the contraction is not exact.
    most: usize,
}

/// Contract the instance; `gap` is in weighted units, above the least weighted sum; at most `most`
/// labels are kept per table entry.
pub(crate) fn contract<const M: usize>(
    instance: &Instance<M>,
    tree: &Tree,
    weights: &Weights<M>,
    (messages, marginals): (&Messages, &Marginals),
    gap: i64,
    most: usize,
    monitor: &Monitor<'_>,
) -> Result<Classes<M>, Stopped> {
    let mut found = Classes { list: Vec::new(), exact: true, trace: Vec::new(), most };
    let mut sweep = Sweep::default();
    for &layer in &tree.loose {
        let points = instance.choices(layer as usize);
        monitor.spend(points.len())?;
        let least = points.iter().map(|p| dot(weights, p)).min().unwrap_or(0);
        let labels = (0u32..).zip(points).map(|(choice, &point)| {
            let excess = dot(weights, &point) - least;
            Label { point, excess, trace: choice }
        });
        let mut options: Vec<Label<M>> = labels.filter(|l| l.excess < gap).collect();
        keep_undominated(&mut options, |l| l.point, &mut sweep);
        found.push_class(options, Some(layer));
    }
    let mut tables: Vec<Vec<Vec<Label<M>>>> = Vec::with_capacity(tree.bags.len());
    for at in 0..tree.bags.len() {
        let table = found.table(
            instance,
            tree,
            weights,
            (messages, marginals),
            gap,
            at,
            &tables,
            &mut sweep,
            monitor,
        )?;
        for &child in &tree.bags[at].children {
            tables[child as usize] = Vec::new();
        }
        if tree.bags[at].parent.is_none() {
            let root = table.into_iter().next().unwrap_or_default();
            found.push_class(root, None);
            tables.push(Vec::new());
        } else {
            tables.push(table);
        }
    }
    Ok(found)
}

impl<const M: usize> Classes<M> {
    fn push_class(&mut self, mut options: Vec<Label<M>>, layer: Option<u32>) {
        let least = (0..options.len()).min_by_key(|&at| options[at].excess);
        options.swap(0, least.unwrap_or(0));
        self.list.push(Class { options, layer });
    }

    /// Among options of no excess, start where the budgets are nearly used up: with many ties, the
    /// first ones could all lie on the same side of the limits.
    pub(crate) fn centre(&mut self, limits: &Point<M>) {
        let mut total =
            self.list.iter().fold([0; M], |sum, class| add(sum, class.options[0].point));
        let distance =
            |p: &Point<M>| (1..M).map(|m| (p[m] - limits[m]).unsigned_abs()).sum::<u64>();
        for class in &mut self.list {
            let now = class.options[0];
            let tie = |o: &Label<M>| o.excess == now.excess;
            if !class.options[1..].iter().any(tie) {
                continue;
            }
            let moved = |o: &Label<M>| add(sub(total, now.point), o.point);
            let ties = (0..class.options.len()).filter(|&at| tie(&class.options[at]));
            let best = ties.min_by_key(|&at| distance(&moved(&class.options[at]))).unwrap_or(0);
            total = moved(&class.options[best]);
            class.options.swap(0, best);
        }
    }

    /// The labels of a bag, per choice of its separator.
    #[allow(clippy::too_many_arguments)]
    fn table(
        &mut self,
        instance: &Instance<M>,
        tree: &Tree,
        weights: &Weights<M>,
        (messages, marginals): (&Messages, &Marginals),
        gap: i64,
        at: usize,
        tables: &[Vec<Vec<Label<M>>>],
        sweep: &mut Sweep,
        monitor: &Monitor<'_>,
    ) -> Result<Vec<Vec<Label<M>>>, Stopped> {
        let bag = &tree.bags[at];
        let columns = instance.n_choices(bag.layer as usize);
        let entries = tree.offsets[at]..tree.offsets[at + 1];
        let mut joint = Vec::new();
        monitor.spend(columns * entries.len())?;
        tree.joint(instance, weights, at, &messages.up, &mut joint);
        let mut own = vec![[0; M]; joint.len()];
        for row in own.chunks_exact_mut(columns) {
            row.copy_from_slice(instance.choices(bag.layer as usize));
        }
        for &edge in &bag.edges {
            let pairs = &instance.pairs[edge.start..];
            Walk::new(instance, bag, &[edge.tail, edge.head]).each_row(|start, from, step| {
                for x in 0..columns {
                    own[start + x] = add(own[start + x], pairs[from + x * step]);
                }
            });
        }
        let mut sources = vec![Vec::with_capacity(bag.children.len()); joint.len()];
        for &child in &bag.children {
            let walk = Walk::new(instance, bag, &tree.bags[child as usize].separator);
            walk.each_row(|start, from, step| {
                for x in 0..columns {
                    sources[start + x].push((child as usize, from + x * step));
                }
            });
        }
        let mut table = Vec::with_capacity(entries.len());
        let mut partial = Vec::new();
        let mut joined = Vec::new();
        for (row, entry) in entries.enumerate() {
            let mut labels: Vec<Label<M>> = Vec::new();
            for x in 0..columns {
                monitor.spend(1)?;
                let flat = row * columns + x;
                // the least excess of any plan through this entry
                let through = joint[flat] + marginals.down[entry] - messages.least;
                if through >= gap {
                    continue;
                }
                let choice = u16::try_from(x).unwrap_or(u16::MAX);
                let trace = self.record(Step::Choice { layer: bag.layer, choice });
                partial.clear();
                partial.push(Label {
                    point: own[flat],
                    excess: joint[flat] - messages.up[entry],
                    trace,
                });
                for &(child, position) in &sources[flat] {
                    joined.clear();
                    for label in &partial {
                        monitor.spend(tables[child][position].len())?;
                        for below in &tables[child][position] {
                            let excess = label.excess + below.excess;
                            if excess + messages.up[entry] - joint[flat] + through < gap {
                                let point = add(label.point, below.point);
                                joined.push((
                                    Label { point, excess, trace: NONE },
                                    label.trace,
                                    below.trace,
                                ));
                            }
                        }
                    }
                    if partial.len() > 1 {
                        keep_undominated(&mut joined, |j| j.0.point, sweep);
                    }
                    partial.clear();
                    for &(mut label, first, second) in &joined {
                        label.trace = self.record(Step::Joined { first, second });
                        partial.push(label);
                    }
                    self.cap(&mut partial);
                }
                labels.append(&mut partial);
            }
            keep_undominated(&mut labels, |l| l.point, sweep);
            self.cap(&mut labels);
            table.push(labels);
        }
        Ok(table)
    }

    /// Keep the labels of least excess if there are too many.
    fn cap(&mut self, labels: &mut Vec<Label<M>>) {
        if labels.len() > self.most {
            self.exact = false;
            labels.select_nth_unstable_by_key(self.most, |l| (l.excess, l.trace));
            labels.truncate(self.most);
        }
    }

    fn record(&mut self, step: Step) -> u32 {
        self.trace.push(step);
        u32::try_from(self.trace.len() - 1).unwrap_or(NONE)
    }

    /// Write the choices behind an option of a class into a plan.
    pub(crate) fn decode(&self, class: usize, option: usize, plan: &mut [u16]) {
        let Class { options, layer } = &self.list[class];
        let trace = options[option].trace;
        if let Some(layer) = layer {
            plan[*layer as usize] = u16::try_from(trace).unwrap_or(u16::MAX);
            return;
        }
        let mut pending = vec![trace];
        while let Some(step) = pending.pop() {
            match self.trace[step as usize] {
                Step::Choice { layer, choice } => plan[layer as usize] = choice,
                Step::Joined { first, second } => pending.extend([first, second]),
            }
        }
    }
}
