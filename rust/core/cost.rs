//! What a layer costs in a format.
//!
//! * Level 0, *intensity*: bits moved by the operator itself, so that AI = FLOPs / bytes is the
//!   metric of arXiv 2512.14090. Exact integers.
//! * Level 1, *roofline*: `max(FLOPs / peak(dtype), bytes / bandwidth)`, with the bytes of scales
//!   and of fused operands. A lower bound on time, so an upper bound on speed.

use crate::error::Error;
use crate::hardware::Hardware;

/// Bits of a float32 element: results of the network, and scales.
const FLOAT_BITS: u64 = 32;

/// Picoseconds in a second: times are integers so that "optimal" is a fact.
const PICOSECONDS: f64 = 1e12;

/// What one layer computes and touches, whatever its format; counts are elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Floating-point operations, 2 per multiply-accumulate.
    pub flops: u64,
    /// Weights and biases.
    pub weights: u64,
    /// Scales that go with integer weights, one per output channel.
    pub scales: u64,
    /// Activations read by the operator.
    pub inputs: u64,
    /// Activations read by what is fused into it (a residual operand).
    pub fused: u64,
    /// Activations written.
    pub outputs: u64,
    /// Whether it writes a result of the network, which stays float32.
    pub is_output: bool,
}

/// How a layer is stored and computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// Bits of a weight.
    pub weight_bits: u32,
    /// Bits of an activation.
    pub activation_bits: u32,
    /// Whether weights carry scales.
    pub scaled: bool,
    /// Index of the compute dtype among the peaks of [`Hardware`].
    pub compute: usize,
}

impl Work {
    /// Bits moved by the operator itself: `W b_w + X b_a + Y b_y` (level 0).
    ///
    /// # Errors
    /// [`Error::CostTooLarge`] past 63 bits.
    pub fn operator_bits(&self, storage: Storage) -> Result<i64, Error> {
        let activation = u64::from(storage.activation_bits);
        let output = if self.is_output { FLOAT_BITS } else { activation };
        sum_of_products(&[
            (self.weights, u64::from(storage.weight_bits)),
            (self.inputs, activation),
            (self.outputs, output),
        ])
    }

    /// All bits moved: those of the operator, of its scales, and of fused operands (level 1).
    ///
    /// # Errors
    /// [`Error::CostTooLarge`] past 63 bits.
    pub fn traffic_bits(&self, storage: Storage) -> Result<i64, Error> {
        let scales = if storage.scaled { self.scales } else { 0 };
        let extra = sum_of_products(&[
            (scales, FLOAT_BITS),
            (self.fused, u64::from(storage.activation_bits)),
        ])?;
        self.operator_bits(storage)?
            .checked_add(extra)
            .ok_or(Error::CostTooLarge { what: "traffic" })
    }

    /// Time under the roofline in picoseconds, rounded up (level 1).
    ///
    /// # Errors
    /// [`Error::CostTooLarge`] past 63 bits; [`Error::NoPeak`] if the machine lacks the compute dtype.
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked before the cast")]
    pub fn roofline_picoseconds(&self, storage: Storage, machine: &Hardware) -> Result<i64, Error> {
        let peak = machine.peak(storage.compute).ok_or(Error::NoPeak { dtype: storage.compute })?;
        let compute = self.flops as f64 / peak;
        let memory = self.traffic_bits(storage)? as f64 / 8.0 / machine.bandwidth();
        let picoseconds = (compute.max(memory) * PICOSECONDS).ceil();
        if picoseconds < i64::MAX as f64 {
            Ok(picoseconds as i64)
        } else {
            Err(Error::CostTooLarge { what: "time" })
        }
    }
}

fn sum_of_products(terms: &[(u64, u64)]) -> Result<i64, Error> {
    terms
        .iter()
        .try_fold(0u64, |sum, &(elements, bits)| sum.checked_add(elements.checked_mul(bits)?))
        .and_then(|bits| i64::try_from(bits).ok())
        .ok_or(Error::CostTooLarge { what: "traffic" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FP32: Storage =
        Storage { weight_bits: 32, activation_bits: 32, scaled: false, compute: 0 };
    const W4A8: Storage = Storage { weight_bits: 4, activation_bits: 8, scaled: true, compute: 1 };

    fn work() -> Work {
        Work {
            flops: 4000,
            weights: 100,
            scales: 10,
            inputs: 50,
            fused: 20,
            outputs: 20,
            is_output: false,
        }
    }

    #[test]
    fn bits_by_hand() {
        assert_eq!(work().operator_bits(FP32), Ok(32 * 170));
        assert_eq!(work().operator_bits(W4A8), Ok(400 + 400 + 160));
        assert_eq!(work().traffic_bits(W4A8), Ok(960 + 320 + 160));
        let last = Work { is_output: true, ..work() };
        assert_eq!(last.operator_bits(W4A8), Ok(400 + 400 + 640));
    }

    #[test]
    fn the_higher_roof_binds() {
        let compute_bound = Hardware::new(vec![1e9, 4e9], 1e12).expect("valid");
        assert_eq!(work().roofline_picoseconds(FP32, &compute_bound), Ok(4_000_000));
        assert_eq!(work().roofline_picoseconds(W4A8, &compute_bound), Ok(1_000_000));
        let memory_bound = Hardware::new(vec![1e15, 1e15], 1e9).expect("valid");
        assert_eq!(work().roofline_picoseconds(FP32, &memory_bound), Ok(760_000));
        assert_eq!(work().roofline_picoseconds(W4A8, &memory_bound), Ok(180_000));
    }

    #[test]
    fn too_much_is_an_error_not_a_wrap() {
        let huge = Work { weights: u64::MAX / 16, ..work() };
        assert_eq!(huge.operator_bits(FP32), Err(Error::CostTooLarge { what: "traffic" }));
        let slow = Hardware::new(vec![1e-9], 1.0).expect("valid");
        assert_eq!(
            work().roofline_picoseconds(FP32, &slow),
            Err(Error::CostTooLarge { what: "time" })
        );
        assert!(work().roofline_picoseconds(W4A8, &slow).is_err());
    }
}
