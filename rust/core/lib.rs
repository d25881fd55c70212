//! Exact mixed-precision selection.
//!
//! Choose one choice `x_i` for every layer `i`:
//!
//! ```text
//! minimise    sum_i cost_i(x_i) + sum_(u,v) cost_uv(x_u, x_v)
//! subject to  sum_i drop_i(x_i) + sum_(u,v) drop_uv(x_u, x_v)  <=  drop budget
//!             sum_i size_i(x_i)                                <=  size budget
//! ```
//!
//! All values are 64-bit fixed-point integers, so that "optimal" is a fact. These are
//! the stages of an exact search, one file for each:
//!
//! | stage | file |
//! |---|---|
//! | what a layer costs in a format, on a machine | `cost`, `hardware` |
//! | the caller's problem, validated; its mistakes | `problem`, `measure`, `error` |
//! | canonical form: objective and budgets as coordinates | `instance`, `point` |
//! | fewer choices: decided layers are folded in, and plans are lifted back | `reduce` |
//! | hulls of separable layers: the linear relaxation | `hull` |
//! | elimination order; the dynamic program over it | `graph`, `messages` |
//! | which objectives plans can have, and the rounding of bounds | `congruence` |
//! | from multipliers to a bound; the best multipliers | `bound`, `dual`, `simplex` |
//! | components to classes; the knapsack over them | `contract`, `core_program` |
//! | fix, contract, probe, prove: one subproblem | `search::close` |
//! | branch and bound: the queue of subproblems, where to split them | `search::branch`, `queue`, `split` |
//! | when to stop | `monitor` |
//! | the solution and its certificate | `solution` |
//! | all trade-offs; the paper's weighted objective | `frontier`, `weighted` |
//!
//! One more file has the inner loops of the rounding of weights, which are slow in Python:
//! `rounding`.

mod bound;
mod congruence;
mod contract;
mod core_program;
mod cost;
mod dominance;
mod dual;
mod error;
mod frontier;
mod graph;
mod hardware;
mod hull;
mod instance;
mod measure;
mod messages;
mod monitor;
mod point;
mod problem;
mod reduce;
mod rounding;
pub mod search;
mod simplex;
mod solution;
mod weighted;

pub use cost::{Load, Storage, Work};
pub use error::Error;
pub use frontier::frontier;
pub use hardware::{Hardware, Kernel, Level};
pub use measure::Measure;
pub use problem::{Edge, MAX_CHOICES, Problem, TOTAL_BITS};
pub use rounding::{fit_rows, round_blocks, round_rows};
pub use search::{Method, Options, Task, solve};
pub use solution::{Closed, Proof, Solution, Status};
pub use weighted::{Weighted, solve_weighted};
