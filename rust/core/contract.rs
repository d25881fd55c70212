//! Contraction: every connected component of undecided layers becomes one class whose options are
//! its useful joint choices. What is left is a multiple-choice knapsack.
//!
//! Labels run through the bags like messages do, but keep every undominated sum whose *excess*
//! (weighted sum above the least) is below the gap: anything else cannot be part of a better plan.

use crate::dominance::{Sweep, keep_undominated};
use crate::graph::Bag;
use crate::instance::Instance;
use crate::messages::{Marginals, Messages, Tree, Walk};
use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, Weights, add, dot, sub};

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
    let classes = Classes { list: Vec::new(), exact: true, trace: Vec::new() };
    let (tables, sweep) = (Vec::with_capacity(tree.bags.len()), Sweep::default());
    let mut contraction = Contraction {
        instance,
        tree,
        weights,
        messages,
        marginals,
        gap,
        most,
        monitor,
        classes,
        tables,
        sweep,
    };
    for &layer in &tree.loose {
        contraction.single(layer)?;
    }
    for at in 0..tree.bags.len() {
        contraction.bag(at)?;
    }
    Ok(contraction.classes)
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

/// Labels of every choice of a bag's separator.
type Table<const M: usize> = Vec<Vec<Label<M>>>;

/// A contraction on its way: the tables of the bags below, and the classes found so far.
struct Contraction<'a, 'b, const M: usize> {
    instance: &'a Instance<M>,
    tree: &'a Tree,
    weights: &'a Weights<M>,
    messages: &'a Messages,
    marginals: &'a Marginals,
    gap: i64,
    /// Labels kept per table entry; if there are more, the contraction is not exact.
    most: usize,
    monitor: &'a Monitor<'b>,
    classes: Classes<M>,
    /// One table per bag, emptied once the parent has read it.
    tables: Vec<Table<M>>,
    sweep: Sweep,
}

impl<const M: usize> Contraction<'_, '_, M> {
    /// Make a class of a layer without edges.
    fn single(&mut self, layer: u32) -> Result<(), Stopped> {
        let points = self.instance.choices(layer as usize);
        self.monitor.spend(points.len())?;
        let least = points.iter().map(|p| dot(self.weights, p)).min().unwrap_or(0);
        let labels = (0u32..).zip(points).map(|(choice, &point)| {
            let excess = dot(self.weights, &point) - least;
            Label { point, excess, trace: choice }
        });
        let mut options: Vec<Label<M>> = labels.filter(|l| l.excess < self.gap).collect();
        keep_undominated(&mut options, |l| l.point, &mut self.sweep);
        self.classes.push_class(options, Some(layer));
        Ok(())
    }

    /// Fill the table of a bag; at the root of a component, make it a class.
    fn bag(&mut self, at: usize) -> Result<(), Stopped> {
        let mut table = self.table(at)?;
        for &child in &self.tree.bags[at].children {
            self.tables[child as usize] = Vec::new();
        }
        if self.tree.bags[at].parent.is_none() {
            let root = std::mem::take(&mut table).into_iter().next().unwrap_or_default();
            self.classes.push_class(root, None);
        }
        self.tables.push(table);
        Ok(())
    }

    fn table(&mut self, at: usize) -> Result<Table<M>, Stopped> {
        let bag = &self.tree.bags[at];
        let columns = self.instance.n_choices(bag.layer as usize);
        let entries = self.tree.offsets[at]..self.tree.offsets[at + 1];
        let mut joint = Vec::new();
        self.monitor.spend(columns * entries.len())?;
        self.tree.joint(self.instance, self.weights, at, &self.messages.up, &mut joint);
        let own = self.own_points(bag, joint.len());
        let sources = self.sources(bag, joint.len());
        let mut table = Vec::with_capacity(entries.len());
        let (mut partial, mut joined) = (Vec::new(), Vec::new());
        for (row, entry) in entries.enumerate() {
            let up = self.messages.up[entry];
            let above = self.marginals.down[entry] - self.messages.least;
            let mut labels: Vec<Label<M>> = Vec::new();
            for x in 0..columns {
                self.monitor.spend(1)?;
                let flat = row * columns + x;
                // the least excess of any plan through this entry
                let through = joint[flat] + above;
                if through >= self.gap {
                    continue;
                }
                let choice = u16::try_from(x).unwrap_or(u16::MAX);
                let trace = self.classes.record(Step::Choice { layer: bag.layer, choice });
                let label = Label { point: own[flat], excess: joint[flat] - up, trace };
                partial.clear();
                partial.push(label);
                let rest = through - label.excess;
                self.join(&mut partial, &mut joined, &sources[flat], rest)?;
                labels.append(&mut partial);
            }
            keep_undominated(&mut labels, |l| l.point, &mut self.sweep);
            self.cap(&mut labels);
            table.push(labels);
        }
        Ok(table)
    }

    /// Points of a bag's layer and of its edges, in the order of the bag's table.
    fn own_points(&self, bag: &Bag, entries: usize) -> Vec<Point<M>> {
        let columns = self.instance.n_choices(bag.layer as usize);
        let mut own = vec![[0; M]; entries];
        for row in own.chunks_exact_mut(columns) {
            row.copy_from_slice(self.instance.choices(bag.layer as usize));
        }
        for &edge in &bag.edges {
            let pairs = &self.instance.pairs[edge.start..];
            Walk::new(self.instance, bag, &[edge.tail, edge.head]).each_row(|start, from, step| {
                for x in 0..columns {
                    own[start + x] = add(own[start + x], pairs[from + x * step]);
                }
            });
        }
        own
    }

    /// For each entry of a bag's table, the children and the entries of their tables that fit it.
    fn sources(&self, bag: &Bag, entries: usize) -> Vec<Vec<(usize, usize)>> {
        let columns = self.instance.n_choices(bag.layer as usize);
        let mut sources = vec![Vec::with_capacity(bag.children.len()); entries];
        for &child in &bag.children {
            let walk = Walk::new(self.instance, bag, &self.tree.bags[child as usize].separator);
            walk.each_row(|start, from, step| {
                for x in 0..columns {
                    sources[start + x].push((child as usize, from + x * step));
                }
            });
        }
        sources
    }

    /// Join the labels in `partial` with those of every child; `rest` is the least excess of what
    /// is not below this bag, and a sum whose excess reaches the gap is dropped.
    fn join(
        &mut self,
        partial: &mut Vec<Label<M>>,
        joined: &mut Vec<(Label<M>, u32, u32)>,
        sources: &[(usize, usize)],
        rest: i64,
    ) -> Result<(), Stopped> {
        for &(child, position) in sources {
            joined.clear();
            for label in partial.iter() {
                let labels = &self.tables[child][position];
                self.monitor.spend(labels.len())?;
                for below in labels {
                    let excess = label.excess + below.excess;
                    if excess + rest < self.gap {
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
                keep_undominated(joined, |j| j.0.point, &mut self.sweep);
            }
            partial.clear();
            for &(mut label, first, second) in joined.iter() {
                label.trace = self.classes.record(Step::Joined { first, second });
                partial.push(label);
            }
            self.cap(partial);
        }
        Ok(())
    }

    /// Keep the labels of least excess if there are too many.
    fn cap(&mut self, labels: &mut Vec<Label<M>>) {
        if labels.len() > self.most {
            self.classes.exact = false;
            labels.select_nth_unstable_by_key(self.most, |l| (l.excess, l.trace));
            labels.truncate(self.most);
        }
    }
}
