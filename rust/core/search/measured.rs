//! Greedy search and coordinate descent as in the paper: the caller measures every candidate plan.
//!
//! Nothing is assumed about the objective, so nothing is proved, and few evaluations are the aim.
//! An error of the caller's function ends the search and is returned unchanged.

/// The result of a measured search.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The best plan that was evaluated.
    pub choices: Vec<u16>,
    /// Its objective.
    pub value: f64,
    /// Number of evaluations of the objective.
    pub evaluations: u64,
    /// `(evaluations so far, layer, choice, value)` of every accepted change.
    pub trace: Vec<(u64, usize, u16, f64)>,
}

/// Counts the calls; a value that is not a number is never an improvement.
struct Counter<F> {
    evaluate: F,
    calls: u64,
}

impl<F> Counter<F> {
    fn value<E>(&mut self, plan: &[u16]) -> Result<f64, E>
    where
        F: FnMut(&[u16]) -> Result<f64, E>,
    {
        self.calls += 1;
        (self.evaluate)(plan)
    }
}

/// Each round measures every single-layer change and takes the best, until none improves.
///
/// `start[i] < n_choices[i]` must hold for every layer.
///
/// # Errors
/// The error that `evaluate` returns.
pub fn greedy<E>(
    n_choices: &[u16],
    start: Vec<u16>,
    evaluate: impl FnMut(&[u16]) -> Result<f64, E>,
) -> Result<Measured, E> {
    let mut counter = Counter { evaluate, calls: 0 };
    let mut choices = start;
    let mut value = counter.value(&choices)?;
    let mut trace = Vec::new();
    loop {
        let mut best: Option<(f64, usize, u16)> = None;
        for layer in 0..n_choices.len() {
            let now = choices[layer];
            for choice in (0..n_choices[layer]).filter(|&c| c != now) {
                choices[layer] = choice;
                let candidate = counter.value(&choices)?;
                if candidate < best.map_or(value, |(least, _, _)| least) {
                    best = Some((candidate, layer, choice));
                }
            }
            choices[layer] = now;
        }
        let Some((least, layer, choice)) = best else { break };
        choices[layer] = choice;
        value = least;
        trace.push((counter.calls, layer, choice, value));
    }
    Ok(Measured { choices, value, evaluations: counter.calls, trace })
}

/// Each sweep visits the layers in order and gives each its best choice, until a sweep changes
/// nothing.
///
/// `start[i] < n_choices[i]` must hold for every layer.
///
/// # Errors
/// The error that `evaluate` returns.
pub fn coordinate<E>(
    n_choices: &[u16],
    start: Vec<u16>,
    evaluate: impl FnMut(&[u16]) -> Result<f64, E>,
) -> Result<Measured, E> {
    let mut counter = Counter { evaluate, calls: 0 };
    let mut choices = start;
    let mut value = counter.value(&choices)?;
    let mut trace = Vec::new();
    loop {
        let before = trace.len();
        for layer in 0..n_choices.len() {
            let (now, mut best) = (choices[layer], choices[layer]);
            for choice in (0..n_choices[layer]).filter(|&c| c != now) {
                choices[layer] = choice;
                let candidate = counter.value(&choices)?;
                if candidate < value {
                    (value, best) = (candidate, choice);
                }
            }
            choices[layer] = best;
            if best != now {
                trace.push((counter.calls, layer, best, value));
            }
        }
        if trace.len() == before {
            break;
        }
    }
    Ok(Measured { choices, value, evaluations: counter.calls, trace })
}
