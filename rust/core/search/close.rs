//! Close a subproblem by enumeration, guided by its Lagrangian bound: fix, contract, run the core
//! program.
//!
//! The gap to the incumbent decides how many layers stay undecided, and a poor incumbent leaves
//! too many. So the gap is *guessed*, small at first: what the core program finds below the guess
//! is either within it, which proves it optimal, or the guess grows.

use crate::bound::{excess_gap, slack};
use crate::contract::contract;
use crate::core_program::{Scope, run};
use crate::instance::{Instance, Weights};
use crate::messages::Tree;
use crate::reduce::{Reduced, restrict};

/// Layers that the first guess leaves undecided.
const FIRST_CORE: usize = 16;
/// By how much the undecided layers grow from guess to guess.
const GROWTH: usize = 2;

/// What became of the subproblem.
pub(crate) struct Closing<const M: usize> {
    /// A plan that beats the target, if one was found.
    pub(crate) plan: Option<Vec<u16>>,
    /// What is left of the subproblem; `None` if nothing is.
    pub(crate) rest: Option<Reduced<M>>,
}

/// Look for plans below `target` (the offset included); `width` bounds the effort.
pub(crate) fn close<const M: usize>(
    instance: &Instance<M>,
    tree: &Tree,
    weights: &Weights<M>,
    target: i64,
    width: usize,
    stop: &mut dyn FnMut() -> bool,
) -> Closing<M> {
    let messages = tree.up(instance, weights);
    let excess = {
        let mut marginals = tree.down(instance, weights, &messages).choices;
        for marginal in &mut marginals {
            *marginal -= messages.least;
        }
        marginals
    };
    let slack = slack(instance, weights, messages.least);
    let mut target = target.saturating_sub(instance.offset);
    let mut plan = None;
    let ranks = leaving(instance, &excess);
    let mut core = FIRST_CORE;
    loop {
        let gap = excess_gap(weights[0], target, slack);
        let guess = ranks.get(core).map_or(gap, |&rank| gap.min(rank.saturating_add(1)));
        if guess <= 0 {
            return Closing { plan, rest: None };
        }
        let keep = |limit: i64| excess.iter().map(|&e| e < limit).collect::<Vec<_>>();
        let reduced = restrict(instance, &keep(guess));
        let small = &reduced.instance;
        let small_tree = Tree::new(small);
        let up = small_tree.up(small, weights);
        let down = small_tree.down(small, weights, &up);
        let classes = contract(small, &small_tree, weights, (&up, &down), guess, stop);
        let moved = small.offset - instance.offset;
        let scope = Scope { target: target.saturating_sub(moved), guess, width };
        let found = run(small, &classes.classes, weights, up.least, scope, stop);
        if let Some((objective, picks)) = found.best {
            let mut small_plan = vec![0; small.n_layers()];
            for class in 0..classes.classes.len() {
                classes.decode(class, 0, &mut small_plan);
            }
            for (class, option) in picks {
                classes.decode(class, option, &mut small_plan);
            }
            target = objective + moved;
            plan = Some(reduced.lift(&small_plan));
        }
        let gap = excess_gap(weights[0], target, slack);
        if !(classes.exact && found.exact) {
            let rest = restrict(instance, &keep(gap.max(1)));
            let open = gap > 0 && rest.instance.n_layers() > 0;
            return Closing { plan, rest: open.then_some(rest) };
        }
        if guess >= gap {
            return Closing { plan, rest: None };
        }
        core *= GROWTH;
    }
}

/// Per layer, the least excess of leaving its best choice; ascending.
fn leaving<const M: usize>(instance: &Instance<M>, excess: &[i64]) -> Vec<i64> {
    let second = |layer: usize| {
        let own = &excess[instance.offsets[layer]..instance.offsets[layer + 1]];
        let mut least = (i64::MAX, i64::MAX);
        for &e in own {
            least = if e < least.0 { (e, least.0) } else { (least.0, least.1.min(e)) };
        }
        least.1
    };
    let mut ranks: Vec<i64> = (0..instance.n_layers()).map(second).collect();
    ranks.sort_unstable();
    ranks
}
