//! Kernels of the solver: `cargo bench`.

use std::hint::black_box;

use aiq_core::{Edge, Measure, Options, Problem, Task, frontier, solve};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// Deterministic noise in `0..1` (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Spread over about two decades, like the layers of a network.
    fn spread(&mut self, scale: f64) -> f64 {
        scale * 10.0_f64.powf(2.0 * self.next())
    }
}

/// Bytes fall and drops grow as bits go down; neighbours of different formats pay.
fn network(layers: usize, choices: usize, chain: bool) -> (Problem, Task) {
    let mut noise = Noise(layers as u64);
    let (mut cost, mut drop) = (Vec::new(), Vec::new());
    for _ in 0..layers {
        let (bytes, sensitivity) = (noise.spread(1e4), noise.spread(1e4));
        for choice in 0..choices {
            let bits = 16.0 - 12.0 * choice as f64 / (choices - 1) as f64;
            cost.push(whole(bytes * bits * (0.95 + 0.1 * noise.next())));
            drop.push(whole(sensitivity * 2.0_f64.powf(8.0 - bits) * (0.9 + 0.2 * noise.next())));
        }
    }
    let mut edges = Vec::new();
    for layer in 1..if chain { layers } else { 0 } {
        let pay = noise.spread(1e3);
        let entry = |at: usize| if at / choices == at % choices { 0 } else { whole(pay) };
        let cost = (0..choices * choices).map(entry).collect();
        edges.push(Edge { tail: layer - 1, head: layer, cost, drop: Vec::new() });
    }
    let most: i64 = drop.chunks(choices).filter_map(|l| l.iter().max()).sum();
    let offsets = (0..=layers).map(|i| i * choices).collect();
    let problem = Problem::new(offsets, cost, drop, Vec::new(), edges).expect("valid tables");
    (problem, Task { objective: Measure::Cost, limits: [None, Some(most / 10), None] })
}

#[allow(clippy::cast_possible_truncation)] // far below 2^53
fn whole(value: f64) -> i64 {
    value.round() as i64
}

fn kernels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exact");
    for (layers, choices) in [(54, 4), (200, 6), (1000, 8)] {
        for (name, chain) in [("separable", false), ("chain", true)] {
            let (problem, task) = network(layers, choices, chain);
            group.bench_function(BenchmarkId::new(name, layers), |bencher| {
                bencher.iter(|| solve(black_box(&problem), &task, &Options::default(), &|| false));
            });
        }
    }
    group.finish();
    let mut group = criterion.benchmark_group("frontier");
    group.sample_size(10);
    for (name, exact) in [("exact", true), ("supported", false)] {
        let (problem, _) = network(54, 4, false);
        group.bench_function(name, |bencher| {
            bencher.iter(|| frontier(black_box(&problem), exact, 1 << 22, &|| false));
        });
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
