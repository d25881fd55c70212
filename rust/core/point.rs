//! Points and weights: the vectors of integers that every stage adds up and compares.

/// Objective first, then one coordinate per budget.
pub(crate) type Point<const M: usize> = [i64; M];
/// Non-negative multipliers of the coordinates of a point.
pub(crate) type Weights<const M: usize> = [i64; M];

/// Layer positions are stored in 32 bits.
pub(crate) fn index(layer: usize) -> u32 {
    u32::try_from(layer).expect("a table of 2^32 layers does not fit in memory")
}

pub(crate) fn add<const M: usize>(a: Point<M>, b: Point<M>) -> Point<M> {
    std::array::from_fn(|m| a[m] + b[m])
}

pub(crate) fn sub<const M: usize>(a: Point<M>, b: Point<M>) -> Point<M> {
    std::array::from_fn(|m| a[m] - b[m])
}

pub(crate) fn dot<const M: usize>(weights: &Weights<M>, point: &Point<M>) -> i64 {
    let mut sum = 0;
    for m in 0..M {
        sum += weights[m] * point[m];
    }
    sum
}
