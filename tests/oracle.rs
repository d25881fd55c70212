//! Every search against enumeration, on random small problems.

use aiq_core::{
    Closed, Edge, Error, Measure, Method, Options, Problem, Solution, Status, Task, frontier,
    solve, solve_weighted,
};
use proptest::prelude::*;

const METHODS: [Method; 2] = [Method::Greedy, Method::Coordinate];

/// Layers of one to four choices, some pairs joined; small values so that ties are common.
fn problems(reach: i64) -> impl Strategy<Value = Problem> {
    prop::collection::vec(1..5_usize, 1..7).prop_flat_map(move |counts| {
        let total: usize = counts.iter().sum();
        let table = || prop::collection::vec(-reach / 5..=reach, total);
        let pairs: Vec<(usize, usize)> = (0..counts.len())
            .flat_map(|u| (0..counts.len()).map(move |v| (u, v)))
            .filter(|(u, v)| u != v)
            .collect();
        let edges: Vec<_> = pairs
            .into_iter()
            .map(|(u, v)| {
                let entries = counts[u] * counts[v];
                let matrix = || prop::collection::vec(-reach / 4..=reach / 3, entries);
                prop::option::weighted(0.2, (matrix(), prop::option::of(matrix()))).prop_map(
                    move |values| {
                        values.map(|(cost, drop)| Edge {
                            tail: u,
                            head: v,
                            cost,
                            drop: drop.unwrap_or_default(),
                        })
                    },
                )
            })
            .collect();
        let mut offsets = vec![0];
        for count in &counts {
            offsets.push(offsets[offsets.len() - 1] + count);
        }
        (Just(offsets), table(), table(), table(), edges).prop_map(
            |(offsets, cost, drop, size, edges)| {
                let edges = edges.into_iter().flatten().collect();
                Problem::new(offsets, cost, drop, size, edges).expect("valid by construction")
            },
        )
    })
}

/// Knapsacks whose every step saves what it uses, and ten more: bounds can be rounded.
fn correlated() -> impl Strategy<Value = Problem> {
    prop::collection::vec(prop::collection::vec(1..30_i64, 1..5), 1..7).prop_map(|layers| {
        let (mut offsets, mut cost, mut drop) = (vec![0], Vec::new(), Vec::new());
        for steps in &layers {
            let mut used = 0;
            for (step, count) in steps.iter().zip(0..) {
                used += step;
                drop.push(used);
                cost.push(500 - used - 10 * count);
            }
            offsets.push(cost.len());
        }
        let size = drop.iter().map(|used| used * used % 17).collect();
        Problem::new(offsets, cost, drop, size, Vec::new()).expect("valid by construction")
    })
}

fn tasks(reach: i64) -> impl Strategy<Value = Task> {
    let limit = move || prop::option::of(0..=reach * 4);
    (0..3_usize, limit(), limit(), limit()).prop_map(|(objective, cost, drop, size)| {
        let mut limits = [cost, drop, size];
        limits[objective] = None;
        Task { objective: Measure::ALL[objective], limits }
    })
}

fn run(problem: &Problem, task: &Task, method: Method) -> Solution {
    solve(problem, task, &Options::new(method, None, None), &|| false).expect("valid task")
}

fn objective(solution: &Solution, task: &Task) -> Option<i64> {
    solution.choices.as_ref().map(|_| solution.values[task.objective as usize])
}

fn agrees(problem: &Problem, task: &Task) -> Result<(), TestCaseError> {
    let want = run(problem, task, Method::Exhaustive);
    let got = run(problem, task, Method::Exact);
    prop_assert_eq!(got.status, want.status);
    prop_assert_eq!(objective(&got, task), objective(&want, task));
    prop_assert_eq!(got.nearest, want.nearest);
    if let Some(choices) = &got.choices {
        prop_assert_eq!(problem.evaluate(choices), got.values);
        prop_assert_eq!(got.bound, objective(&got, task));
        for (value, limit) in got.values.iter().zip(task.limits) {
            prop_assert!(limit.is_none_or(|limit| *value <= limit));
        }
    }
    prop_assert!(got.proof.iter().all(|proof| proof.closed != Closed::Open));
    prop_assert_eq!(run(problem, task, Method::Exact), got.clone());
    for method in METHODS {
        let heuristic = run(problem, task, method);
        prop_assert_eq!(heuristic.choices.is_some(), got.choices.is_some());
        if let Some(best) = objective(&got, task) {
            prop_assert!(objective(&heuristic, task).is_some_and(|value| value >= best));
            prop_assert!(heuristic.bound.is_none_or(|bound| bound <= best));
            prop_assert!(never_worse_than_uniform(problem, task, &heuristic));
        }
    }
    Ok(())
}

fn never_worse_than_uniform(problem: &Problem, task: &Task, found: &Solution) -> bool {
    let common = (0..problem.n_layers()).map(|i| problem.n_choices(i)).min().unwrap_or(0);
    (0..u16::try_from(common).unwrap_or(0)).all(|choice| {
        let values = problem.evaluate(&vec![choice; problem.n_layers()]);
        let fits = values.iter().zip(task.limits).all(|(v, l)| l.is_none_or(|l| *v <= l));
        !fits || found.values[task.objective as usize] <= values[task.objective as usize]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn exact_equals_enumeration_with_ties(problem in problems(6), task in tasks(6)) {
        agrees(&problem, &task)?;
    }

    #[test]
    fn exact_equals_enumeration_with_large_values(
        problem in problems(1 << 40),
        task in tasks(1 << 40),
    ) {
        agrees(&problem, &task)?;
    }

    #[test]
    fn exact_equals_enumeration_where_bounds_are_rounded(
        problem in correlated(),
        task in tasks(60),
    ) {
        agrees(&problem, &task)?;
    }

    #[test]
    fn frontier_is_every_undominated_point(problem in problems(9)) {
        let mut points: Vec<(i64, i64)> = plans(&problem)
            .map(|plan| { let values = problem.evaluate(&plan); (values[0], values[1]) })
            .collect();
        points.sort_unstable_by_key(|p| (p.1, p.0));
        let mut least = i64::MAX;
        points.retain(|p| p.0 < least && { least = p.0; true });
        let exact = frontier(&problem, true, 1 << 20, &|| false).expect("small").expect("not stopped");
        prop_assert_eq!(&exact, &points);
        let supported =
            frontier(&problem, false, 1 << 20, &|| false).expect("small").expect("not stopped");
        prop_assert!(supported.iter().all(|p| points.contains(p)));
        for (x, y) in [(1, 1), (7, 2), (2, 7), (50, 1), (1, 50)] {
            let least = |of: &[(i64, i64)]| of.iter().map(|p| x * p.0 + y * p.1).min();
            prop_assert_eq!(least(&supported), least(&points));
        }
    }

    #[test]
    fn weighted_objective_equals_enumeration(
        problem in problems(9),
        a in 0.0..50.0_f64,
        b in 0.0..2.0_f64,
        drop in prop::option::of(0..40_i64),
        size in prop::option::of(0..40_i64),
    ) {
        let fits = |v: &[i64; 3]| drop.is_none_or(|l| v[1] <= l) && size.is_none_or(|s| v[2] <= s);
        let values: Vec<[i64; 3]> = plans(&problem).map(|plan| problem.evaluate(&plan)).collect();
        let found =
            solve_weighted(&problem, (a, b), [None, drop, size], &Options::default(), &|| false);
        let inside: Vec<&[i64; 3]> = values.iter().filter(|v| fits(v)).collect();
        if inside.iter().any(|v| v[0] <= 0) {
            prop_assert!(found.is_err());
            return Ok(());
        }
        let found = found.expect("all costs are positive");
        let least = inside.iter().map(|v| b * v[1] as f64 - a / v[0] as f64).reduce(f64::min);
        match least {
            None => prop_assert_eq!(found.status, Status::Infeasible),
            Some(least) => {
                prop_assert_eq!(found.status, Status::Optimal);
                prop_assert!((found.value - least).abs() <= 1e-9 * (1.0 + least.abs()));
                prop_assert!(found.bound <= least + 1e-9 * (1.0 + least.abs()));
            }
        }
    }
}

/// All plans, in lexicographic order.
fn plans(problem: &Problem) -> impl Iterator<Item = Vec<u16>> {
    let counts: Vec<usize> = (0..problem.n_layers()).map(|i| problem.n_choices(i)).collect();
    (0..counts.iter().product::<usize>()).map(move |mut at| {
        let mut plan = vec![0; counts.len()];
        for (choice, count) in plan.iter_mut().zip(&counts).rev() {
            *choice = u16::try_from(at % count).expect("few choices");
            at /= count;
        }
        plan
    })
}

#[test]
fn limits_are_reported_as_such() {
    let n = 60;
    let offsets = (0..=n).map(|i| 4 * i).collect();
    // a hash of the position: enough structure to need a few subproblems, none to exploit
    let noise = |at: usize, salt: usize| {
        i64::try_from((at + 1) * 2_654_435_761 % (1009 + salt)).expect("below the modulus")
    };
    let table = |salt| (0..4 * n).map(|at| noise(at, salt)).collect::<Vec<_>>();
    let problem =
        Problem::new(offsets, table(0), table(10), table(22), Vec::new()).expect("valid tables");
    let task = Task { objective: Measure::Cost, limits: [None, Some(20_000), Some(20_000)] };
    let none = Options::new(Method::Exact, None, Some(0));
    let found = solve(&problem, &task, &none, &|| false).expect("valid task");
    assert_eq!(found.status, Status::NodeLimit);
    assert!(found.bound.is_some_and(|bound| bound <= found.values[0]));
    let found = solve(&problem, &task, &Options::default(), &|| true).expect("valid task");
    assert_eq!(found.status, Status::Interrupted);
}

#[test]
fn mistakes_are_errors() {
    let make = |offsets: &[usize], cost: &[i64], edges: &[Edge]| {
        Problem::new(offsets.to_vec(), cost.to_vec(), cost.to_vec(), Vec::new(), edges.to_vec())
    };
    let edge =
        |tail, head, cost: &[i64]| Edge { tail, head, cost: cost.to_vec(), drop: Vec::new() };
    assert_eq!(make(&[0], &[], &[]), Err(Error::NoLayers));
    assert_eq!(make(&[0, 0], &[], &[]), Err(Error::NoChoices { layer: 0 }));
    assert!(matches!(make(&[0, 2], &[1], &[]), Err(Error::Length { .. })));
    assert!(matches!(make(&[0, 1], &[1 << 60], &[]), Err(Error::Overflow { .. })));
    let two = [1, 2];
    assert!(matches!(make(&[0, 1, 2], &two, &[edge(0, 2, &[1])]), Err(Error::MissingLayer { .. })));
    assert!(matches!(make(&[0, 1, 2], &two, &[edge(1, 1, &[1])]), Err(Error::SelfEdge { .. })));
    assert!(matches!(make(&[0, 1, 2], &two, &[edge(0, 1, &[])]), Err(Error::EdgeShape { .. })));
    let problem = make(&[0, 1, 2], &two, &[]).expect("valid");
    let fails = |task: Task| solve(&problem, &task, &Options::default(), &|| false).unwrap_err();
    let limits = [None, Some(-1), None];
    assert!(matches!(
        fails(Task { objective: Measure::Cost, limits }),
        Error::NegativeBudget { .. }
    ));
    assert!(matches!(
        fails(Task { objective: Measure::Drop, limits: [None, Some(1), None] }),
        Error::BudgetOnObjective { .. }
    ));
    assert_eq!(fails(Task { objective: Measure::Size, limits: [None; 3] }), Error::NoSizes);
}
