//! The cheapest cost at every drop: exact (all Pareto points) or supported (the corners of its
//! convex hull).
//!
//! Exact: Nemhauser and Ullmann (1969). Layers joined by edges are contracted first, so that the
//! lists merge over independent classes. Supported: hull steps in order of their rate; with edges,
//! one dynamic program per corner (Aneja and Nair, 1979; Eisner and Severance, 1976).

use crate::bound::{quantise, totals};
use crate::contract::contract;
use crate::dominance::Sweep;
use crate::error::Error;
use crate::hull::{Step, hulls};
use crate::instance::Instance;
use crate::measure::Measure;
use crate::messages::Tree;
use crate::monitor::{Halt, Monitor, Stopped};
use crate::point::{Point, add, dot};
use crate::problem::Problem;

/// Pareto points `(cost, drop)`: drop ascending, cost strictly descending. `None` if stopped.
///
/// # Errors
/// [`Error::FrontierTooLarge`] past `max_points`, [`Error::TooDense`] for dense edges.
pub fn frontier(
    problem: &Problem,
    exact: bool,
    max_points: usize,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Vec<(i64, i64)>>, Error> {
    let monitor = &Monitor::new(None, None, stop);
    match points(problem, exact, max_points, monitor) {
        Err(Halt::Error(error)) => Err(error),
        Err(Halt::Stopped) => Ok(None),
        Ok(points) => Ok(Some(points.into_iter().map(|p| (p[0], p[1])).collect())),
    }
}

fn too_large(max_points: usize) -> Halt {
    Halt::Error(Error::FrontierTooLarge { max_points })
}

fn points(
    problem: &Problem,
    exact: bool,
    max_points: usize,
    monitor: &Monitor<'_>,
) -> Result<Vec<Point<2>>, Halt> {
    let measures = [Measure::Cost, Measure::Drop];
    let instance = Instance::new(problem, measures, [i64::MAX; 2], monitor)?;
    Tree::check_size(&instance, monitor)?;
    let points = if exact {
        exact_points(&instance, max_points, monitor)?
    } else if instance.edges.is_empty() {
        hull_walk(&instance, monitor)?
    } else {
        corners(&instance, max_points, monitor)?
    };
    if points.len() > max_points { Err(too_large(max_points)) } else { Ok(points) }
}

fn exact_points(
    instance: &Instance<2>,
    max_points: usize,
    monitor: &Monitor<'_>,
) -> Result<Vec<Point<2>>, Halt> {
    let tree = Tree::new(instance, monitor)?;
    let weights = quantise(&[1.0, 1.0], &totals(instance, monitor)?);
    let up = tree.up(instance, &weights, monitor)?;
    let down = tree.down(instance, &weights, &up, monitor)?;
    let classes = contract(instance, &tree, &weights, (&up, &down), i64::MAX, max_points, monitor)?;
    if !classes.exact {
        return Err(too_large(max_points));
    }
    let mut lists: Vec<Vec<Point<2>>> = Vec::with_capacity(classes.list.len());
    for class in &classes.list {
        let mut points: Vec<Point<2>> = class.options.iter().map(|o| o.point).collect();
        points.sort_unstable_by_key(|p| (p[1], p[0]));
        lists.push(points);
    }
    // classes that move little merge first: their sums coincide or are dominated most often
    lists.sort_by_key(|list| list.last().map_or(0, |p| p[1]) - list.first().map_or(0, |p| p[1]));
    let mut current = vec![[0; 2]];
    let (mut next, mut merged) = (Vec::new(), Vec::new());
    for list in lists {
        next.clear();
        for &option in &list {
            merge_shifted(&next, &current, option, &mut merged, monitor)?;
            std::mem::swap(&mut next, &mut merged);
        }
        if next.len() > max_points {
            return Err(too_large(max_points));
        }
        std::mem::swap(&mut current, &mut next);
    }
    Ok(current)
}

/// Merge `first` with `second` moved by `by`, both in order of drop, dropping dominated points.
fn merge_shifted(
    first: &[Point<2>],
    second: &[Point<2>],
    by: Point<2>,
    merged: &mut Vec<Point<2>>,
    monitor: &Monitor<'_>,
) -> Result<(), Stopped> {
    merged.clear();
    merged.reserve(first.len() + second.len());
    let (mut a, mut b, mut least) = (0, 0, i64::MAX);
    while a < first.len() || b < second.len() {
        monitor.spend(1)?;
        let shifted = second.get(b).map(|&p| add(p, by));
        let point = match (first.get(a), shifted) {
            (Some(&x), Some(y)) if (x[1], x[0]) > (y[1], y[0]) => {
                b += 1;
                y
            }
            (None, Some(y)) => {
                b += 1;
                y
            }
            (Some(&x), _) => {
                a += 1;
                x
            }
            (None, None) => break,
        };
        if point[0] < least {
            least = point[0];
            merged.push(point);
        }
    }
    Ok(())
}

/// The supported points of a separable instance.
fn hull_walk(instance: &Instance<2>, monitor: &Monitor<'_>) -> Result<Vec<Point<2>>, Stopped> {
    let (_, mut point, mut steps) = hulls(instance, monitor)?;
    steps.sort_by(|a, b| a.by_rate(b).then(a.layer.cmp(&b.layer)));
    let mut points = vec![point];
    let mut previous: Option<Step> = None;
    for step in steps {
        monitor.spend(1)?;
        point = add(point, [-step.saved, step.used]);
        // equal rates: the points between are on the hull but not its corners
        if previous.is_some_and(|p| p.by_rate(&step).is_eq()) {
            points.pop();
        }
        points.push(point);
        previous = Some(step);
    }
    Ok(points)
}

/// The supported corners of an instance with edges.
fn corners(
    instance: &Instance<2>,
    max_points: usize,
    monitor: &Monitor<'_>,
) -> Result<Vec<Point<2>>, Halt> {
    let tree = Tree::new(instance, monitor)?;
    let scale = totals(instance, monitor)?;
    let least = |weights: &[i64; 2]| -> Result<Point<2>, Stopped> {
        let messages = tree.up(instance, weights, monitor)?;
        Ok(instance.evaluate(&tree.decode(instance, weights, &messages, monitor)?))
    };
    // a small weight of the other measure breaks ties towards undominated points
    let ends = [[1 << 20, 1], [1, 1 << 20]].map(|d: [i64; 2]| {
        let per_unit = |m: usize| d[m] as f64 / scale[m].max(1) as f64;
        least(&quantise(&[per_unit(0), per_unit(1)], &scale))
    });
    let [cheap, good] = ends;
    let (cheap, good) = (cheap?, good?);
    let mut points = vec![good];
    let mut pending = vec![(good, cheap)];
    while let Some((left, right)) = pending.pop() {
        if points.len() > max_points {
            return Err(too_large(max_points));
        }
        let (saved, used) = (left[0] - right[0], right[1] - left[1]);
        if saved <= 0 || used <= 0 {
            continue;
        }
        let weights = quantise(&[used as f64, saved as f64], &scale);
        let between = least(&weights)?;
        if dot(&weights, &between) < dot(&weights, &left).min(dot(&weights, &right)) {
            pending.push((between, right));
            pending.push((left, between));
        } else {
            points.push(right);
        }
    }
    let mut sweep = Sweep::default();
    points.sort_unstable_by_key(|p| (p[1], p[0]));
    points.retain(|p| sweep.accepts(p));
    Ok(points)
}
