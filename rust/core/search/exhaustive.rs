//! Every combination, in lexicographic order: the oracle the other methods are tested against.

use crate::dual::Candidate;
use crate::error::Error;
use crate::instance::Instance;
use crate::monitor::Monitor;
use crate::search::outcome::Outcome;
use crate::solution::{Closed, Status};

const MAX_COMBINATIONS: u128 = 100_000_000;

pub(crate) fn search<const M: usize>(
    instance: &Instance<M>,
    start: Option<Candidate<M>>,
    monitor: &Monitor<'_>,
) -> Result<Outcome<M>, Error> {
    let count = |layer| instance.n_choices(layer) as u128;
    let combinations = (0..instance.n_layers()).map(count).fold(1, u128::saturating_mul);
    if combinations > MAX_COMBINATIONS {
        return Err(Error::TooManyCombinations { combinations });
    }
    let mut outcome = Outcome::unknown(None);
    let mut plan = vec![0; instance.n_layers()];
    let mut seen = 0;
    loop {
        seen += 1;
        if monitor.spend(plan.len() + instance.edges.len()).is_err() {
            if let Some(plan) = start {
                outcome.offer(plan);
            }
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
    monitor.count(seen);
    outcome.bound = outcome.best.as_ref().map(|best| best.point[0]);
    outcome.status = if outcome.best.is_some() { Status::Optimal } else { Status::Infeasible };
    outcome.proof = vec![([0; M], Closed::Enumerated)];
    Ok(outcome)
}
