//! The roofs of a machine: peak arithmetic per dtype and memory bandwidth.

use crate::error::Error;

/// A machine as the roofline model sees it (Williams, Waterman, Patterson, CACM 52(4), 2009).
#[derive(Debug, Clone, PartialEq)]
pub struct Hardware {
    peaks: Vec<f64>,
    bandwidth: f64,
}

impl Hardware {
    /// A machine with `peaks[d]` operations per second in compute dtype `d` and `bandwidth` bytes
    /// per second from its farthest memory level.
    ///
    /// # Errors
    /// [`Error::Machine`] if a number is not finite and positive, [`Error::NoPeak`] without peaks.
    pub fn new(peaks: Vec<f64>, bandwidth: f64) -> Result<Self, Error> {
        if peaks.is_empty() {
            return Err(Error::NoPeak { dtype: 0 });
        }
        for (name, value) in peaks.iter().map(|p| ("peak", *p)).chain([("bandwidth", bandwidth)]) {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::Machine { name, value: value.to_string() });
            }
        }
        Ok(Self { peaks, bandwidth })
    }

    /// Operations per second in compute dtype `dtype`, or `None` if the machine has no such unit.
    #[must_use]
    pub fn peak(&self, dtype: usize) -> Option<f64> {
        self.peaks.get(dtype).copied()
    }

    /// Bytes per second from the farthest memory level.
    #[must_use]
    pub fn bandwidth(&self) -> f64 {
        self.bandwidth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_machines_are_refused() {
        assert!(Hardware::new(vec![], 1.0).is_err());
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Hardware::new(vec![1.0, bad], 1.0).is_err());
            assert!(Hardware::new(vec![1.0], bad).is_err());
        }
        let machine = Hardware::new(vec![1e9, 2e9], 1e10).expect("valid");
        assert_eq!(machine.peak(1), Some(2e9));
        assert_eq!(machine.peak(2), None);
    }
}
