//! Every combination, in lexicographic order: the oracle the other methods are tested against.

use crate::dual::Candidate;
use crate::error::Error;
use crate::instance::Instance;
use crate::search::monitor::Monitor;
use crate::search::outcome::Outcome;
use crate::solution::{Closed, Status};

const MAX_COMBINATIONS: u128 = 100_000_000;
const CHECK_EVERY: u64 = 1 << 12;

pub(crate) fn search<const M: usize>(
    instance: &Instance<M>,
    monitor: &mut Monitor<'_>,
) -> Result<Outcome<M>, Error> {
    let count = |layer| instance.n_choices(layer) as u128;
    let combinations = (0..instance.n_layers()).map(count).fold(1, u128::saturating_mul);
    if combinations > MAX_COMBINATIONS {
        return Err(Error::TooManyCombinations { combinations });
    }
    let mut outcome = Outcome::unknown();
    let mut plan = vec![0; instance.n_layers()];
    let mut since_check = 0;
    loop {
        since_check += 1;
        if since_check % CHECK_EVERY == 0 && monitor.stopped() {
            outcome.status = monitor.reason().unwrap_or(Status::Interrupted);
            return Ok(outcome);
        }
        let point = instance.evaluate(&plan);
        if instance.fits(&point) && point[0] < outcome.target() {
            outcome.offer(Candidate { plan: plan.clone(), point });
        }
        let next =
            (0..plan.len()).rev().find(|&i| usize::from(plan[i]) + 1 < instance.n_choices(i));
        let Some(layer) = next else { break };
        plan[layer] += 1;
        plan[layer + 1..].fill(0);
    }
    monitor.nodes += since_check;
    outcome.bound = outcome.best.as_ref().map(|best| best.point[0]);
    outcome.status = if outcome.best.is_some() { Status::Optimal } else { Status::Infeasible };
    outcome.proof = vec![([0; M], Closed::Enumerated)];
    Ok(outcome)
}
