//! Mistakes in the input. Outcomes of a search, such as infeasible or out of time, are a
//! [`Status`](crate::Status) and not an error.

use thiserror::Error;

use crate::measure::Measure;

/// A mistake in the input; the message says what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to choose.
    #[error("the problem has no layers; give one cost array per layer")]
    NoLayers,
    /// A layer has no choices.
    #[error("layer {layer} has no choices; give every layer at least one cost")]
    NoChoices {
        /// Position of the layer.
        layer: usize,
    },
    /// A layer has more choices than an index can hold.
    #[error("layer {layer} has {count} choices; at most {limit} are supported")]
    TooManyChoices {
        /// Position of the layer.
        layer: usize,
        /// Its number of choices.
        count: usize,
        /// The largest number supported.
        limit: usize,
    },
    /// Two tables of one problem disagree in length.
    #[error("{measure} has {found} values but cost has {expected}; give one {measure} per cost")]
    Length {
        /// The table that does not fit.
        measure: Measure,
        /// Its length.
        found: usize,
        /// The length of the cost table.
        expected: usize,
    },
    /// The sums could leave the range in which the solver's arithmetic is exact.
    #[error(
        "the {measure} values add up to more than 2^{bits}, so sums could overflow; use a coarser unit"
    )]
    Overflow {
        /// The measure concerned.
        measure: Measure,
        /// Base-2 logarithm of the limit.
        bits: u32,
    },
    /// An edge names a layer that does not exist.
    #[error("edge {edge} names layer {layer}, but the layers are 0 to {last}")]
    MissingLayer {
        /// Position of the edge.
        edge: usize,
        /// The layer it names.
        layer: usize,
        /// The last layer there is.
        last: usize,
    },
    /// An edge joins a layer to itself.
    #[error("edge {edge} joins layer {layer} to itself; add its values to the layer's own table")]
    SelfEdge {
        /// Position of the edge.
        edge: usize,
        /// The layer.
        layer: usize,
    },
    /// A matrix of an edge does not have one row per choice of `u` and one column per choice of
    /// `v`.
    #[error(
        "the {measure} matrix of edge {edge} has {found} values; layers {tail} and {head} need {rows} x {columns}"
    )]
    EdgeShape {
        /// The measure concerned.
        measure: Measure,
        /// Position of the edge.
        edge: usize,
        /// Number of values given.
        found: usize,
        /// First layer of the edge.
        tail: usize,
        /// Second layer of the edge.
        head: usize,
        /// Choices of the first layer.
        rows: usize,
        /// Choices of the second layer.
        columns: usize,
    },
    /// A budget below zero.
    #[error("the {measure} budget is {limit}; a budget must not be negative")]
    NegativeBudget {
        /// The measure it limits.
        measure: Measure,
        /// The budget given.
        limit: i64,
    },
    /// A budget on the measure that is to be minimised.
    #[error("{measure} is both minimised and limited; drop its budget or minimise something else")]
    BudgetOnObjective {
        /// The measure concerned.
        measure: Measure,
    },
    /// A budget on sizes that were never given.
    #[error("there is a size budget or objective, but the problem has no sizes; give size=")]
    NoSizes,
    /// Enumeration would never end.
    #[error("exhaustive search over {combinations} combinations would not end; use method exact")]
    TooManyCombinations {
        /// How many plans there are, saturated.
        combinations: u128,
    },
    /// A weighted objective outside its range.
    #[error("{name} is {value}; it must be {expected}")]
    Weight {
        /// The argument.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// More Pareto points than asked for.
    #[error(
        "the frontier has more than {max_points} points; raise max_points, or ask for the supported ones (exact=False)"
    )]
    FrontierTooLarge {
        /// The limit given.
        max_points: usize,
    },
    /// Edges so dense that no table over their layers fits in memory.
    #[error(
        "the edges are too dense: the dynamic program would need a table of {entries} entries; drop the weakest edges, or give a concatenation its own layer"
    )]
    TooDense {
        /// Entries of the largest table.
        entries: u128,
    },
    /// A number of the machine is not finite and positive.
    #[error("the {name} of the machine is {value}; it must be a finite number above 0")]
    Machine {
        /// Which number.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// A layer computes in a dtype for which the machine has no peak.
    #[error("the machine has no peak for compute dtype {dtype}; give one per dtype")]
    NoPeak {
        /// Index of the dtype.
        dtype: usize,
    },
    /// Rows of weights and their scales disagree in number.
    #[error(
        "{numbers} numbers in rows of {width} do not fit {scales} scales; give each row as many scales and lower ends"
    )]
    Rows {
        /// How many numbers there are.
        numbers: usize,
        /// Numbers of a row.
        width: usize,
        /// How many scales there are.
        scales: usize,
    },
    /// The cost of a layer does not fit a 64-bit integer.
    #[error("the {what} of a layer does not fit 63 bits; give a smaller batch")]
    CostTooLarge {
        /// What was being computed.
        what: &'static str,
    },
}
