//! Searches that are told to stop, at every moment at which they ask.

use std::cell::Cell;

use aiq_core::{
    Edge, Measure, Method, Options, Problem, Status, Task, frontier, solve, solve_weighted,
};

/// So many layers in a chain, each with so many choices; with a tight budget only a search finds
/// a plan, uniform ones do not keep to it.
fn chain(layers: usize, choices: usize) -> Problem {
    let noise = |at: usize, salt: usize| {
        i64::try_from((at + 1) * 2_654_435_761 % (1009 + salt)).expect("below the modulus")
    };
    let table = |salt| (0..choices * layers).map(|at| noise(at, salt)).collect::<Vec<_>>();
    let matrix = |salt: usize| (0..choices * choices).map(|at| noise(at, salt) / 9).collect();
    let edges = (1..layers)
        .map(|head| Edge { tail: head - 1, head, cost: matrix(head), drop: Vec::new() })
        .collect();
    let offsets = (0..=layers).map(|i| choices * i).collect();
    Problem::new(offsets, table(0), table(10), table(22), edges).expect("valid tables")
}

/// Ask at most so often; then the answer is to stop.
fn patience(asks: u64) -> impl Fn() -> bool {
    let left = Cell::new(asks);
    move || {
        let ends = left.get() == 0;
        left.set(left.get().saturating_sub(1));
        ends
    }
}

#[test]
fn a_stopped_search_returns_a_plan_and_claims_nothing_false() {
    let problem = chain(40, 24);
    for (limits, method) in [
        ([None, Some(9_000), None], Method::Exact),
        ([None, Some(9_000), Some(15_000)], Method::Exact),
        ([None, Some(9_000), None], Method::Greedy),
        ([None, Some(9_000), None], Method::Coordinate),
    ] {
        let task = Task { objective: Measure::Cost, limits };
        let options = Options::new(method, None, Some(40));
        let best = solve(&problem, &task, &options, &|| false).expect("valid task");
        assert!(best.choices.is_some());
        let mut stopped = 0;
        for asks in 0..200 {
            let found = solve(&problem, &task, &options, &patience(asks)).expect("valid task");
            if found.status == best.status {
                break;
            }
            stopped += 1;
            assert_eq!(found.status, Status::Interrupted);
            assert!(found.nearest.is_none());
            if limits[2].is_none() {
                assert!(found.choices.is_some(), "stopped after {asks} looks");
            }
            if found.choices.is_some() {
                assert!(found.values[1] <= 9_000);
                assert!(limits[2].is_none_or(|limit| found.values[2] <= limit));
            }
            let bounds = [found.bound, best.bound].into_iter().flatten();
            assert!(bounds.max().is_none_or(|bound| bound <= best.values[0]));
            assert_eq!(found.bound.is_none(), found.proof.is_empty());
        }
        assert!(stopped > 5, "only {stopped} moments were tried");
    }
}

#[test]
fn stopped_frontiers_and_weighted_searches_end() {
    let problem = chain(30, 24);
    let options = Options::default();
    let limits = [None, Some(9_000), None];
    let best = solve_weighted(&problem, (1e4, 1e-3), limits, &options, &|| false).expect("valid");
    let mut stopped = 0;
    for asks in 0..60 {
        let stop = patience(asks);
        assert_eq!(frontier(&problem, false, 10_000, &stop).expect("few corners"), None);
        let found = solve_weighted(&problem, (1e4, 1e-3), limits, &options, &patience(asks))
            .expect("valid weights");
        if found.status == Status::Optimal {
            break;
        }
        stopped += 1;
        assert_eq!(found.status, Status::Interrupted);
        assert!(found.choices.is_some());
        assert!(found.values[1] <= 9_000);
        assert!(found.bound <= best.value && best.value <= found.value);
    }
    assert!(stopped > 5, "only {stopped} moments were tried");
}
