//! The problem as the caller states it: layers, their choices, and the edges between them.

use crate::error::Error;
use crate::measure::Measure;

/// Totals of a measure stay below this, so that every sum is exact in `i64` and in `f64`.
pub const TOTAL_BITS: u32 = 52;
/// Choice indices are stored in 16 bits.
pub const MAX_CHOICES: usize = u16::MAX as usize;

/// Values that depend on the choices of two layers, row-major: one row per choice of `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// First layer.
    pub tail: usize,
    /// Second layer.
    pub head: usize,
    /// Cost of each pair of choices.
    pub cost: Vec<i64>,
    /// Drop of each pair of choices; empty means zero everywhere.
    pub drop: Vec<i64>,
}

/// A validated, immutable problem in fixed-point integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    offsets: Vec<usize>,
    tables: [Vec<i64>; 3],
    edges: Vec<Edge>,
    /// Most that cost, drop and size of a plan can add up to, in absolute value.
    totals: [i64; 3],
}

impl Problem {
    /// Check the tables and build the problem.
    ///
    /// The choices of layer `i` are `offsets[i]..offsets[i + 1]` in `cost`, `drop` and `size`; an
    /// empty `size` means that there are no sizes.
    ///
    /// # Errors
    /// Every variant of [`Error`] that speaks of layers, tables or edges.
    pub fn new(
        offsets: Vec<usize>,
        cost: Vec<i64>,
        drop: Vec<i64>,
        size: Vec<i64>,
        edges: Vec<Edge>,
    ) -> Result<Self, Error> {
        if offsets.len() < 2 {
            return Err(Error::NoLayers);
        }
        for (layer, pair) in offsets.windows(2).enumerate() {
            let count = pair[1].saturating_sub(pair[0]);
            if count == 0 {
                return Err(Error::NoChoices { layer });
            }
            if count > MAX_CHOICES {
                return Err(Error::TooManyChoices { layer, count, limit: MAX_CHOICES });
            }
        }
        let expected = offsets[offsets.len() - 1];
        let tables = [cost, drop, size];
        for (table, measure) in tables.iter().zip(Measure::ALL) {
            let absent = measure == Measure::Size && table.is_empty();
            if table.len() != expected && !absent {
                return Err(Error::Length { measure, found: table.len(), expected });
            }
        }
        let mut problem = Self { offsets, tables, edges, totals: [0; 3] };
        for (position, edge) in problem.edges.iter().enumerate() {
            problem.check_edge(position, edge)?;
        }
        problem.totals = problem.checked_totals()?;
        Ok(problem)
    }

    fn check_edge(&self, position: usize, edge: &Edge) -> Result<(), Error> {
        for layer in [edge.tail, edge.head] {
            if layer >= self.n_layers() {
                let last = self.n_layers() - 1;
                return Err(Error::MissingLayer { edge: position, layer, last });
            }
        }
        if edge.tail == edge.head {
            return Err(Error::SelfEdge { edge: position, layer: edge.tail });
        }
        let (rows, columns) = (self.n_choices(edge.tail), self.n_choices(edge.head));
        for (matrix, measure) in [(&edge.cost, Measure::Cost), (&edge.drop, Measure::Drop)] {
            let absent = measure == Measure::Drop && matrix.is_empty();
            if matrix.len() != rows * columns && !absent {
                let (tail, head, found) = (edge.tail, edge.head, matrix.len());
                return Err(Error::EdgeShape {
                    measure,
                    edge: position,
                    found,
                    tail,
                    head,
                    rows,
                    columns,
                });
            }
        }
        Ok(())
    }

    /// The largest sum a plan can reach in absolute value must stay below the limit.
    fn checked_totals(&self) -> Result<[i64; 3], Error> {
        let mut totals = [0; 3];
        for measure in Measure::ALL {
            let total = i64::try_from(self.sum_of_largest(measure)).ok();
            totals[measure as usize] = total
                .filter(|&total| total < 1 << TOTAL_BITS)
                .ok_or(Error::Overflow { measure, bits: TOTAL_BITS })?;
        }
        Ok(totals)
    }

    fn sum_of_largest(&self, measure: Measure) -> u128 {
        let largest = |values: &[i64]| values.iter().map(|v| v.unsigned_abs()).max().unwrap_or(0);
        let table = &self.tables[measure as usize];
        let layers: u128 = if table.is_empty() {
            0
        } else {
            self.offsets.windows(2).map(|o| u128::from(largest(&table[o[0]..o[1]]))).sum()
        };
        let edges: u128 = self.edges.iter().map(|e| u128::from(largest(e.values(measure)))).sum();
        layers + edges
    }

    /// Number of layers.
    #[must_use]
    pub fn n_layers(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of choices of a layer.
    #[must_use]
    pub fn n_choices(&self, layer: usize) -> usize {
        self.offsets[layer + 1] - self.offsets[layer]
    }

    /// Where the choices of each layer start in the tables; one longer than the layers.
    #[must_use]
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// The table of a measure; empty for sizes that were not given.
    #[must_use]
    pub fn table(&self, measure: Measure) -> &[i64] {
        &self.tables[measure as usize]
    }

    /// Most that a measure of a plan can add up to, in absolute value.
    pub(crate) fn largest_total(&self, measure: Measure) -> i64 {
        self.totals[measure as usize]
    }

    /// The edges.
    #[must_use]
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Whether sizes were given.
    #[must_use]
    pub fn has_sizes(&self) -> bool {
        !self.tables[Measure::Size as usize].is_empty()
    }

    /// Exact `[cost, drop, size]` of a plan.
    #[must_use]
    pub fn evaluate(&self, choices: &[u16]) -> [i64; 3] {
        let mut total = [0; 3];
        for (layer, &choice) in choices.iter().enumerate() {
            let at = self.offsets[layer] + usize::from(choice);
            for (sum, table) in total.iter_mut().zip(&self.tables) {
                *sum += table.get(at).copied().unwrap_or(0);
            }
        }
        for edge in &self.edges {
            let columns = self.n_choices(edge.head);
            let at = usize::from(choices[edge.tail]) * columns + usize::from(choices[edge.head]);
            total[0] += edge.cost[at];
            total[1] += edge.drop.get(at).copied().unwrap_or(0);
        }
        total
    }
}

impl Edge {
    /// The matrix of a measure; empty means zero everywhere.
    #[must_use]
    pub fn values(&self, measure: Measure) -> &[i64] {
        match measure {
            Measure::Cost => &self.cost,
            Measure::Drop => &self.drop,
            Measure::Size => &[],
        }
    }
}
