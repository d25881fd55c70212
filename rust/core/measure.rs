//! The measures of a plan: cost, drop and size.

use std::fmt;

/// One of the three numbers that describe a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// What is to be paid: seconds, bytes, or another unit of the caller.
    Cost,
    /// Predicted drop of the accuracy.
    Drop,
    /// Stored size of the weights.
    Size,
}

impl Measure {
    /// All measures, in the order of the tables.
    pub const ALL: [Self; 3] = [Self::Cost, Self::Drop, Self::Size];
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cost => "cost",
            Self::Drop => "drop",
            Self::Size => "size",
        })
    }
}
