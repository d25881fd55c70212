//! Coordinate descent: sweep the layers in order, give each its cheapest choice that keeps the
//! plan within the limits, until a sweep changes nothing.

use crate::dual::Candidate;
use crate::instance::Instance;
use crate::monitor::{Monitor, Stopped};
use crate::point::add;
use crate::search::start::{Around, others};

/// Improve the candidate; if stopped, it keeps the improvements so far.
pub(crate) fn search<const M: usize>(
    instance: &Instance<M>,
    candidate: &mut Candidate<M>,
    monitor: &Monitor<'_>,
) -> Result<(), Stopped> {
    let around = Around::new(instance, monitor)?;
    let Candidate { plan, point } = candidate;
    loop {
        let before = point[0];
        for layer in 0..instance.n_layers() {
            monitor.spend(around.work(instance, layer))?;
            let best = others(instance, plan, layer)
                .map(|choice| (around.change(instance, plan, layer, choice), choice))
                .filter(|(change, _)| change[0] < 0 && instance.fits(&add(*point, *change)))
                .min_by_key(|(change, choice)| (change[0], *choice));
            if let Some((change, choice)) = best {
                *point = add(*point, change);
                plan[layer] = choice;
            }
        }
        if point[0] == before {
            return Ok(());
        }
    }
}
