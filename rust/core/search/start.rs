//! Where all searches start, and the local view they share: what one change of one layer does.

use crate::dual::Candidate;
use crate::instance::Instance;
use crate::measure::Measure;
use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, add, sub};
use crate::problem::Problem;

/// Sweeps over all layers in the search for a first plan within the limits.
const SWEEPS: usize = 8;

/// The cheapest plan within the limits among those that give every layer the same choice, or the
/// choice that uses least of a budget. `point` makes a point of the totals of cost, drop and size.
///
/// It works on the problem as the caller gave it, so that there is a plan even if the time does not
/// suffice to build the instance. At least one plan is evaluated.
pub(crate) fn simple_plan<const M: usize>(
    problem: &Problem,
    (limited, limits): (&[Measure], &Point<M>),
    point: impl Fn([i64; 3]) -> Point<M>,
    monitor: &Monitor<'_>,
) -> Option<Candidate<M>> {
    let common = (0..problem.n_layers()).map(|i| problem.n_choices(i)).min().unwrap_or(0);
    let least = limited.iter().map(|&measure| least_of(problem, measure));
    let uniform = (0..u16::try_from(common).unwrap_or(u16::MAX))
        .map(|choice| vec![choice; problem.n_layers()]);
    let mut best: Option<Candidate<M>> = None;
    for plan in least.chain(uniform) {
        let point = point(problem.evaluate(&plan));
        let fits = (1..M).all(|m| point[m] <= limits[m]);
        let work = plan.len() + problem.edges().len();
        if fits && best.as_ref().is_none_or(|b| point[0] < b.point[0]) {
            best = Some(Candidate { plan, point });
        }
        if monitor.spend(work).is_err() {
            break;
        }
    }
    best
}

/// For every layer the choice that uses least of a budget; edges are ignored.
fn least_of(problem: &Problem, measure: Measure) -> Vec<u16> {
    let table = problem.table(measure);
    let least = |range: &[usize]| {
        let choices = (0u16..).zip(table.get(range[0]..range[1]).unwrap_or_default());
        choices.min_by_key(|(_, value)| **value).map_or(0, |(choice, _)| choice)
    };
    problem.offsets().windows(2).map(least).collect()
}

/// Any plan within the limits: sweep over the layers and give each the choice that brings the plan
/// closest to the limits. `None` does not mean that there is no such plan.
pub(crate) fn first_inside<const M: usize>(
    instance: &Instance<M>,
    around: &Around,
    scale: &Point<M>,
    monitor: &Monitor<'_>,
) -> Result<Option<Candidate<M>>, Stopped> {
    let outside = |point: &Point<M>| {
        let over = |m: usize| (point[m] - instance.limits[m]).max(0) as f64;
        (1..M).map(|m| over(m) / scale[m].max(1) as f64).sum::<f64>()
    };
    let mut plan = vec![0; instance.n_layers()];
    let mut point = instance.evaluate(&plan);
    for _ in 0..SWEEPS {
        let before = outside(&point);
        for layer in 0..instance.n_layers() {
            monitor.spend(around.work(instance, layer))?;
            let changed = |choice| add(point, around.change(instance, &plan, layer, choice));
            let rated = others(instance, &plan, layer).map(|choice| (changed(choice), choice));
            let key = |p: &Point<M>| (outside(p), p[0]);
            let best = rated.min_by(|(a, _), (b, _)| {
                let (a, b) = (key(a), key(b));
                a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
            });
            if let Some((to, choice)) = best
                && outside(&to) < outside(&point)
            {
                (point, plan[layer]) = (to, choice);
            }
        }
        if instance.fits(&point) {
            return Ok(Some(Candidate { plan, point }));
        }
        if outside(&point) >= before {
            break;
        }
    }
    Ok(None)
}

/// Work of reading an edge at a random place in memory, in table entries.
const EDGE: usize = 8;
/// Moves that are sorted between two readings of the clock.
const SORTED: usize = 1 << 15;

/// The edges of each layer.
pub(crate) struct Around {
    edges: Vec<Vec<usize>>,
}

impl Around {
    pub(crate) fn new<const M: usize>(
        instance: &Instance<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Self, Stopped> {
        let mut edges = vec![Vec::new(); instance.n_layers()];
        for (at, edge) in instance.edges.iter().enumerate() {
            monitor.spend(EDGE)?;
            edges[edge.tail as usize].push(at);
            edges[edge.head as usize].push(at);
        }
        Ok(Self { edges })
    }

    /// What trying all choices of a layer counts for in table entries.
    pub(crate) fn work<const M: usize>(&self, instance: &Instance<M>, layer: usize) -> usize {
        instance.n_choices(layer) * (1 + EDGE * self.edges[layer].len())
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
    monitor: &Monitor<'_>,
) -> Result<(), Stopped> {
    let Candidate { plan, point } = candidate;
    let mut moves = Vec::new();
    for layer in 0..instance.n_layers() {
        monitor.spend(around.work(instance, layer))?;
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
    let order = |a: &Move<M>, b: &Move<M>| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
    for piece in moves.chunks_mut(SORTED) {
        monitor.go_on()?;
        piece.sort_unstable_by(order);
    }
    if moves.len() > SORTED {
        moves.sort_by(order); // finds the sorted pieces and merges them
    }
    let mut touched = vec![false; instance.n_layers()];
    for (_, layer, choice, change) in moves {
        monitor.spend(EDGE)?;
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
    Ok(())
}

/// Rating, layer, choice, and what changes.
type Move<const M: usize> = (f64, usize, u16, Point<M>);

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
