//! Where the heuristics start, and the local view they share: what one change of one layer does.

use crate::dual::Candidate;
use crate::instance::{Instance, Point, add, sub};

/// The cheapest plan within the limits that gives every layer the same choice.
pub(crate) fn best_uniform<const M: usize>(instance: &Instance<M>) -> Option<Candidate<M>> {
    let common = (0..instance.n_layers()).map(|i| instance.n_choices(i)).min().unwrap_or(0);
    let plans = (0..common).filter_map(|choice| {
        let plan = vec![u16::try_from(choice).ok()?; instance.n_layers()];
        let point = instance.evaluate(&plan);
        instance.fits(&point).then_some(Candidate { plan, point })
    });
    plans.min_by_key(|candidate| candidate.point[0])
}

/// Edges by layer, for looking at one layer at a time.
pub(crate) struct Around {
    edges: Vec<Vec<usize>>,
}

impl Around {
    pub(crate) fn new<const M: usize>(instance: &Instance<M>) -> Self {
        let mut edges = vec![Vec::new(); instance.n_layers()];
        for (at, edge) in instance.edges.iter().enumerate() {
            edges[edge.tail as usize].push(at);
            edges[edge.head as usize].push(at);
        }
        Self { edges }
    }

    /// The layers that share an edge with `layer`.
    pub(crate) fn neighbours<'a, const M: usize>(
        &'a self,
        instance: &'a Instance<M>,
        layer: usize,
    ) -> impl Iterator<Item = usize> + 'a {
        self.edges[layer].iter().map(move |&at| {
            let edge = instance.edges[at];
            (edge.tail as usize + edge.head as usize) - layer
        })
    }

    /// Everything that depends on `layer`, were it to take `choice`.
    #[inline]
    fn local<const M: usize>(
        &self,
        instance: &Instance<M>,
        plan: &[u16],
        layer: usize,
        choice: u16,
    ) -> Point<M> {
        let mut sum = instance.node(layer, usize::from(choice));
        for &at in &self.edges[layer] {
            let edge = instance.edges[at];
            let pick = |end: u32| if end as usize == layer { choice } else { plan[end as usize] };
            let (tail, head) = (usize::from(pick(edge.tail)), usize::from(pick(edge.head)));
            sum = add(sum, instance.pair(edge, tail, head));
        }
        sum
    }

    /// What changes when `layer` takes `choice`.
    pub(crate) fn change<const M: usize>(
        &self,
        instance: &Instance<M>,
        plan: &[u16],
        layer: usize,
        choice: u16,
    ) -> Point<M> {
        let now = self.local(instance, plan, layer, plan[layer]);
        sub(self.local(instance, plan, layer, choice), now)
    }
}

/// Spend what is left of the budgets: single-layer changes, most saving per use first, each layer
/// and its neighbours changed at most once. Uses of the budgets are shares of `scale`.
pub(crate) fn fill<const M: usize>(
    instance: &Instance<M>,
    around: &Around,
    scale: &Point<M>,
    candidate: &mut Candidate<M>,
) {
    let Candidate { plan, point } = candidate;
    let mut moves = Vec::new();
    for layer in 0..instance.n_layers() {
        let now = around.local(instance, plan, layer, plan[layer]);
        let rest = sub(*point, now);
        for choice in others(instance, plan, layer) {
            let to = around.local(instance, plan, layer, choice);
            if to[0] < now[0] && (1..M).all(|m| rest[m] + to[m] <= instance.limits[m]) {
                let change = sub(to, now);
                moves.push((rating(&change, scale), layer, choice, change));
            }
        }
    }
    moves.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut touched = vec![false; instance.n_layers()];
    for (_, layer, choice, change) in moves {
        if touched[layer] || !instance.fits(&add(*point, change)) {
            continue;
        }
        *point = add(*point, change);
        plan[layer] = choice;
        touched[layer] = true;
        for neighbour in around.neighbours(instance, layer) {
            touched[neighbour] = true;
        }
    }
}

/// Saving per share of the budgets used.
pub(crate) fn rating<const M: usize>(change: &Point<M>, scale: &Point<M>) -> f64 {
    let used: f64 = (1..M).map(|m| change[m].max(0) as f64 / scale[m].max(1) as f64).sum();
    -change[0] as f64 / used
}

/// The choices of a layer other than its present one.
pub(crate) fn others<const M: usize>(
    instance: &Instance<M>,
    plan: &[u16],
    layer: usize,
) -> impl Iterator<Item = u16> + use<M> {
    let (now, count) = (plan[layer], u16::try_from(instance.n_choices(layer)).unwrap_or(u16::MAX));
    (0..count).filter(move |&choice| choice != now)
}
