//! Rows of numbers rounded to multiples of a scale: what a search for the best scale compares.

use crate::error::Error;

/// Rows that are worked on side by side.
const LANES: usize = 8;

/// Numbers of a block of a GGUF file.
const BLOCK: usize = 32;

/// Below 2^-14, float16 numbers are multiples of 2^-24, as are single ones from 1/2 to 1.
const SMALLEST_NORMAL: f32 = 6.103_515_6e-5;
const SUBNORMAL: f32 = 0.75;

/// Numbers from here on are infinite in float16.
const LIMIT: f32 = 65_536.0;

/// Numbers of a row whose sums stay in single precision.
const PIECE: usize = 1024;

/// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, below 2^22.
const ROUNDS: f32 = 12_582_912.0;

/// Rounds each row at each of its scales, and returns which of them has the least error.
///
/// A number `w` becomes `q * scale`, where the integer `q` is `w / scale`, rounded to nearest and
/// clamped to `low ..= low + levels`. The error is the sum of `(q * scale - w)^2`.
///
/// `scales` and `lows` hold one number for each row, and that as often as there are scales to try.
/// The result has, for all rows, first the position of the best scale, then its error, then the sum
/// of `q * w`, then that of `q^2`. It does not depend on the processor.
///
/// # Errors
///
/// If the numbers of rows do not agree.
pub fn fit_rows(
    rows: &[f32],
    width: usize,
    scales: &[f32],
    lows: &[f32],
    levels: f32,
) -> Result<Vec<f32>, Error> {
    let count = rows.len().checked_div(width).unwrap_or(0);
    let fits = count * width == rows.len() && scales.len() == lows.len();
    if !fits || scales.len().checked_rem(count).unwrap_or(scales.len()) != 0 {
        return Err(Error::Rows { numbers: rows.len(), width, scales: scales.len() });
    }
    let mut found = vec![0.0; 4 * count];
    let mut columns = vec![[0.0; LANES]; width];
    for first in (0..count).step_by(LANES) {
        let lanes = LANES.min(count - first);
        for (column, numbers) in columns.iter_mut().enumerate() {
            for lane in 0..lanes {
                numbers[lane] = rows[(first + lane) * width + column];
            }
        }
        let at = |values: &[f32], start: usize| {
            let mut taken = [1.0; LANES]; // of lanes without a row, nothing is read
            taken[..lanes].copy_from_slice(&values[start..start + lanes]);
            taken
        };
        let mut best = [0; LANES];
        let mut least = [f32::INFINITY; LANES];
        for (position, start) in (first..scales.len()).step_by(count).enumerate() {
            let error = errors(&columns, &Grid::new(at(scales, start), at(lows, start), levels));
            for lane in 0..lanes {
                if error[lane] < least[lane] {
                    (best[lane], least[lane]) = (position, error[lane]);
                }
            }
        }
        let chosen = |values: &[f32]| {
            let mut taken = [1.0; LANES];
            for lane in 0..lanes {
                taken[lane] = values[best[lane] * count + first + lane];
            }
            taken
        };
        let grid = Grid::new(chosen(scales), chosen(lows), levels);
        let [products, squares] = products(&columns, &grid);
        for lane in 0..lanes {
            let values = [best[lane] as f32, least[lane], products[lane], squares[lane]];
            for (kind, value) in values.into_iter().enumerate() {
                found[kind * count + first + lane] = value;
            }
        }
    }
    Ok(found)
}

/// Rounds each row at its scale: `w` becomes `q * scale`, as [`fit_rows`] explains.
///
/// # Errors
///
/// If the numbers of rows do not agree.
pub fn round_rows(
    rows: &[f32],
    width: usize,
    scales: &[f32],
    lows: &[f32],
    levels: f32,
) -> Result<Vec<f32>, Error> {
    if scales.len() != lows.len() || scales.len() * width != rows.len() {
        return Err(Error::Rows { numbers: rows.len(), width, scales: scales.len() });
    }
    let mut found = Vec::with_capacity(rows.len());
    for ((row, &scale), &low) in rows.chunks_exact(width.max(1)).zip(scales).zip(lows) {
        let (inverse, high) = (1.0 / scale, low + levels);
        found.extend(row.iter().map(|&w| code(w * inverse, low, high) * scale));
    }
    Ok(found)
}

/// Rounds numbers to 8 bits in blocks of 32, as the type `Q8_0` of GGUF files does.
///
/// The integers are multiples of a 127th of the largest number of a block. They stand for multiples
/// of that scale as float16. A rest of less than 32 numbers is a block, too.
#[must_use]
pub fn round_blocks(numbers: &[f32]) -> Vec<f32> {
    let mut found = Vec::with_capacity(numbers.len());
    for block in numbers.chunks(BLOCK) {
        let scale = largest(block) / 127.0;
        let stored = half(scale);
        let exact = if scale > 0.0 { scale } else { 1.0 };
        found.extend(block.iter().map(|w| ((w / exact + ROUNDS) - ROUNDS) * stored));
    }
    found
}

/// The float16 number nearest to a number that is not negative, ties to even.
fn half(number: f32) -> f32 {
    if number < SMALLEST_NORMAL {
        return (number + SUBNORMAL) - SUBNORMAL;
    }
    let bits = number.to_bits();
    let nearest = f32::from_bits((bits + 0xfff + ((bits >> 13) & 1)) & !0x1fff);
    if nearest < LIMIT { nearest } else { f32::INFINITY }
}

/// The largest magnitude of some numbers; NaN does not count.
fn largest(numbers: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for group in numbers.chunks(LANES) {
        for (lane, number) in lanes.iter_mut().zip(group) {
            *lane = lane.max(number.abs());
        }
    }
    lanes.into_iter().fold(0.0, f32::max)
}

/// The integer nearest to a number, from `low` to `high`; NaN stays NaN.
fn code(number: f32, low: f32, high: f32) -> f32 {
    let raised = if number < low { low } else { number };
    let held = if raised > high { high } else { raised };
    (held + ROUNDS) - ROUNDS
}

/// The scales and the ends of the integers of some rows.
struct Grid {
    scale: [f32; LANES],
    inverse: [f32; LANES],
    low: [f32; LANES],
    high: [f32; LANES],
}

impl Grid {
    fn new(scale: [f32; LANES], low: [f32; LANES], levels: f32) -> Self {
        Self { scale, inverse: scale.map(|s| 1.0 / s), low, high: low.map(|l| l + levels) }
    }
}

/// The sum of `(q * scale - w)^2` of each of some rows, given column by column.
#[allow(clippy::cast_possible_truncation)] // the sums are only compared
fn errors(columns: &[[f32; LANES]], grid: &Grid) -> [f32; LANES] {
    let Grid { scale, inverse, low, high } = grid;
    let mut total = [0.0_f64; LANES];
    for piece in columns.chunks(PIECE) {
        let mut sum = [0.0_f32; LANES];
        for numbers in piece {
            for i in 0..LANES {
                let error = code(numbers[i] * inverse[i], low[i], high[i]) * scale[i] - numbers[i];
                sum[i] += error * error;
            }
        }
        for i in 0..LANES {
            total[i] += f64::from(sum[i]);
        }
    }
    total.map(|sum| sum as f32)
}

/// The sums of `q * w` and of `q^2` of each of some rows, given column by column.
#[allow(clippy::cast_possible_truncation)] // the sums are only divided
fn products(columns: &[[f32; LANES]], grid: &Grid) -> [[f32; LANES]; 2] {
    let mut total = [[0.0_f64; LANES]; 2];
    for piece in columns.chunks(PIECE) {
        let mut sums = [[0.0_f32; LANES]; 2];
        for numbers in piece {
            for i in 0..LANES {
                let code = code(numbers[i] * grid.inverse[i], grid.low[i], grid.high[i]);
                sums[0][i] += code * numbers[i];
                sums[1][i] += code * code;
            }
        }
        for (whole, sum) in total.iter_mut().flatten().zip(sums.iter().flatten()) {
            *whole += f64::from(*sum);
        }
    }
    total.map(|sums| sums.map(|sum| sum as f32))
}

#[cfg(test)]
mod tests {
    use super::{fit_rows, half, round_blocks, round_rows};

    #[test]
    fn the_better_of_two_scales_of_each_row() {
        let rows = [0.4, -1.6, 2.5, 9.0, 0.0, 1.0, -8.0, 3.0, 0.5];
        let rows: Vec<f32> = rows.into_iter().chain(rows.map(|w| -w)).collect();
        let found = fit_rows(&rows, 9, &[1.0, 1.0, 2.0, 0.1], &[-4.0; 4], 7.0).unwrap();
        // At the scale 2 the first row has the codes 0 -1 1 3 0 0 -4 2 0, as ties go to even ones;
        // at the scale 1 the second one has 0 2 -2 -4 0 -1 3 -3 0.
        let expected = [1.0, 0.0, 11.82, 50.82, 69.1, 78.2, 31.0, 43.0];
        for (value, right) in found.into_iter().zip(expected) {
            assert!((value - right).abs() < 1e-4, "{value} is not {right}");
        }
    }

    #[test]
    fn rows_are_rounded_to_the_nearest_multiple() {
        let found = round_rows(&[0.3, -9.0, 0.5, 2.6], 2, &[0.2, 1.0], &[-8.0, -1.0], 3.0).unwrap();
        assert_eq!(found, [-5.0 * 0.2, -8.0 * 0.2, 0.0, 2.0]);
        assert!(round_rows(&[f32::NAN], 1, &[1.0], &[0.0], 3.0).unwrap()[0].is_nan());
        assert!(round_rows(&[1.0; 4], 2, &[1.0], &[0.0], 3.0).is_err());
    }

    #[test]
    fn blocks_are_rounded_with_float16_scales() {
        let numbers: Vec<f32> = (0_u8..64).map(|i| f32::from(i) - 31.0).collect();
        let found = round_blocks(&numbers);
        for (block, rounded) in numbers.chunks(32).zip(found.chunks(32)) {
            let scale = block.iter().fold(0.0_f32, |a, b| a.max(b.abs())) / 127.0;
            for (w, r) in block.iter().zip(rounded) {
                assert!((r - (w / scale).round_ties_even() * half(scale)).abs() < 1e-6);
            }
        }
        assert_eq!(round_blocks(&[0.0; 40]), [0.0; 40]);
        assert!(round_blocks(&[1.0, f32::NAN])[1].is_nan());
        let halves = [1.0 / 3.0, 0.0, 3e-8, 1e-6, 65_519.0, 65_520.0, 6.1e-5, 1.000_488_3];
        let nearest = [0.333_251_95, 0.0, 5.960_464_5e-8, 1.013_279e-6, 65_504.0, f32::INFINITY];
        for (number, expected) in halves.into_iter().zip(nearest) {
            assert_eq!(half(number).to_bits(), expected.to_bits(), "{number}");
        }
    }

    #[test]
    fn sums_of_long_rows_have_four_digits() {
        let row = vec![0.3; 1_000_000];
        let found = fit_rows(&row, row.len(), &[1.0], &[-8.0], 15.0).unwrap();
        assert!((f64::from(found[1]) / 90_000.0 - 1.0).abs() < 1e-4);
    }

    #[test]
    fn rows_that_disagree_are_refused() {
        assert!(fit_rows(&[1.0; 5], 2, &[1.0; 2], &[0.0; 2], 15.0).is_err());
        assert!(fit_rows(&[1.0; 4], 2, &[1.0; 3], &[0.0; 3], 15.0).is_err());
        assert!(fit_rows(&[1.0; 4], 2, &[1.0; 2], &[0.0; 1], 15.0).is_err());
        assert!(fit_rows(&[], 0, &[], &[], 15.0).unwrap().is_empty());
    }
}
