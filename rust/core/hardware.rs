//! A machine as the cost models see it: peak arithmetic per dtype, memory levels, kernels.

use crate::error::Error;

/// One level of the memory hierarchy, all threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Capacity in bytes.
    pub size: f64,
    /// Bytes per second read from it.
    pub bandwidth: f64,
}

/// The roofs of a machine (Williams, Waterman, Patterson, CACM 52(4), 2009).
#[derive(Debug, Clone, PartialEq)]
pub struct Hardware {
    peaks: Vec<f64>,
    levels: Vec<Level>,
}

impl Hardware {
    /// A machine with `peaks[d]` operations per second in compute dtype `d` and memory `levels`,
    /// near to far.
    ///
    /// # Errors
    /// [`Error::Machine`] if a number is not finite and positive or there is no level,
    /// [`Error::NoPeak`] without peaks.
    pub fn new(peaks: Vec<f64>, levels: Vec<Level>) -> Result<Self, Error> {
        if peaks.is_empty() {
            return Err(Error::NoPeak { dtype: 0 });
        }
        if levels.is_empty() {
            return Err(Error::Machine { name: "number of memory levels", value: "0".into() });
        }
        let sizes = levels.iter().map(|l| ("memory size", l.size));
        let bandwidths = levels.iter().map(|l| ("bandwidth", l.bandwidth));
        for (name, value) in peaks.iter().map(|p| ("peak", *p)).chain(sizes).chain(bandwidths) {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::Machine { name, value: value.to_string() });
            }
        }
        Ok(Self { peaks, levels })
    }

    /// Operations per second in compute dtype `dtype`.
    ///
    /// # Errors
    /// [`Error::NoPeak`] if the machine has no such unit.
    pub fn peak(&self, dtype: usize) -> Result<f64, Error> {
        self.peaks.get(dtype).copied().ok_or(Error::NoPeak { dtype })
    }

    /// Bytes per second from the farthest memory level.
    #[must_use]
    pub fn bandwidth(&self) -> f64 {
        self.levels[self.levels.len() - 1].bandwidth
    }

    /// The nearest level that holds `bytes`; the farthest if none does.
    #[must_use]
    pub fn level(&self, bytes: f64) -> Level {
        let last = self.levels[self.levels.len() - 1];
        self.levels.iter().copied().find(|level| bytes <= level.size).unwrap_or(last)
    }
}

/// What a kernel of a runtime makes of the machine: the coefficients of the calibrated model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kernel {
    /// Seconds before the first operation: dispatch, allocation, waking the threads.
    pub start: f64,
    /// Share of the peak that it reaches.
    pub compute: f64,
    /// Share of a level's bandwidth that it pays for; above 1 where arithmetic hides the reads.
    pub memory: f64,
    /// Seconds for each element written: rounding, clamping, the ends of inner loops.
    pub output: f64,
}

impl Kernel {
    /// Check that the coefficients can be divided by and added up.
    ///
    /// # Errors
    /// [`Error::Machine`] if one is not finite, negative, or zero where it divides.
    pub fn check(self) -> Result<Self, Error> {
        for (name, value, least) in [
            ("start of a kernel", self.start, 0.0),
            ("compute share of a kernel", self.compute, f64::MIN_POSITIVE),
            ("memory share of a kernel", self.memory, f64::MIN_POSITIVE),
            ("output time of a kernel", self.output, 0.0),
        ] {
            if !(value.is_finite() && value >= least) {
                return Err(Error::Machine { name, value: value.to_string() });
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAM: Level = Level { size: 1e12, bandwidth: 1e10 };

    #[test]
    fn impossible_machines_are_refused() {
        assert!(Hardware::new(vec![], vec![DRAM]).is_err());
        assert!(Hardware::new(vec![1.0], vec![]).is_err());
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Hardware::new(vec![1.0, bad], vec![DRAM]).is_err());
            assert!(Hardware::new(vec![1.0], vec![Level { size: bad, ..DRAM }]).is_err());
            assert!(Hardware::new(vec![1.0], vec![Level { bandwidth: bad, ..DRAM }]).is_err());
        }
        let machine = Hardware::new(vec![1e9, 2e9], vec![DRAM]).expect("valid");
        assert_eq!(machine.peak(1), Ok(2e9));
        assert_eq!(machine.peak(2), Err(Error::NoPeak { dtype: 2 }));
    }

    #[test]
    fn the_nearest_level_that_is_large_enough() {
        let near = Level { size: 100.0, bandwidth: 1e11 };
        let machine = Hardware::new(vec![1e9], vec![near, DRAM]).expect("valid");
        assert_eq!(machine.level(100.0), near);
        assert_eq!(machine.level(101.0), DRAM);
        assert_eq!(machine.level(1e13), DRAM);
        assert!((machine.bandwidth() - 1e10).abs() < 1.0);
    }

    #[test]
    fn impossible_kernels_are_refused() {
        let kernel = Kernel { start: 0.0, compute: 0.9, memory: 1.0, output: 0.0 };
        assert_eq!(kernel.check(), Ok(kernel));
        assert!(Kernel { start: -1.0, ..kernel }.check().is_err());
        assert!(Kernel { compute: 0.0, ..kernel }.check().is_err());
        assert!(Kernel { memory: f64::NAN, ..kernel }.check().is_err());
        assert!(Kernel { output: f64::INFINITY, ..kernel }.check().is_err());
    }
}
