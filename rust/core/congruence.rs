//! The totals that plans can have, by which budgets and bounds are rounded.
//!
//! Any two plans differ by a point of the lattice that the differences between choices span.
//! Therefore a budget may be rounded down to the next total that a plan can have. (Sizes are
//! multiples of a block, and a bound that uses a part of a block is too low.) If the lattice is
//! coarse, some `objective + sum_m u_m * budget_m` has the same remainder for all plans. Then a
//! bound on the objective may be rounded up to the next value that a plan which uses up its budgets
//! can have. This closes Pisinger's strongly correlated knapsacks, in which it expresses that the
//! number of upgraded layers is an integer.

use crate::monitor::{Monitor, Stopped};
use crate::point::{Point, Weights, add, sub};

/// Divisors of the modulus that are tried.
const MAX_QUOTIENT: i64 = 16;

/// The limits, rounded down to totals that plans can have.
pub(crate) fn usable<'a, const M: usize>(
    tables: impl Iterator<Item = &'a [Point<M>]> + Clone,
    limits: Point<M>,
    monitor: &Monitor<'_>,
) -> Result<Point<M>, Stopped> {
    let mut steps = [0; M];
    for points in tables.clone() {
        if steps[1..].iter().all(|&step| step == 1) {
            return Ok(limits);
        }
        monitor.spend(points.len())?;
        for point in &points[1..] {
            let change = sub(*point, points[0]);
            for m in 1..M {
                steps[m] = gcd(steps[m], i128::from(change[m]));
            }
        }
    }
    let any = tables.fold([0; M], |sum, points| add(sum, points[0]));
    let mut limits = limits;
    for m in 1..M {
        let unused = (i128::from(limits[m]) - i128::from(any[m])).rem_euclid(steps[m].max(1));
        limits[m] = i64::try_from(i128::from(limits[m]) - unused).unwrap_or(limits[m]);
    }
    Ok(limits)
}

/// `point[0] + sum_m multipliers[m] * point[m]` has the same remainder for all plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Congruence<const M: usize> {
    modulus: i64,
    /// Remainder of the objective of a plan that uses its budgets up.
    residue: i64,
    multipliers: [i64; M],
}

impl<const M: usize> Congruence<M> {
    /// Every objective is possible.
    pub(crate) const NONE: Self = Self { modulus: 1, residue: 0, multipliers: [0; M] };

    /// The congruence of all plans that take one point of each table.
    pub(crate) fn new<'a>(
        tables: impl Iterator<Item = &'a [Point<M>]> + Clone,
        mut limits: Point<M>,
        monitor: &Monitor<'_>,
    ) -> Result<Self, Stopped> {
        let mut lattice = Lattice { rows: [[0; M]; M] };
        for points in tables.clone() {
            monitor.spend(points.len())?;
            for point in &points[1..] {
                let change = sub(*point, points[0]);
                if lattice.insert(change.map(i128::from)).is_none() || lattice.rows[0][0] == 1 {
                    return Ok(Self::NONE);
                }
            }
        }
        let Some((modulus, multipliers)) = lattice.congruence() else { return Ok(Self::NONE) };
        let weighed = |point: Point<M>| {
            let terms = (1..M).map(|m| i128::from(multipliers[m]) * i128::from(point[m]));
            i128::from(point[0]) + terms.sum::<i128>()
        };
        limits[0] = 0;
        let any: i128 = tables.map(|points| weighed(points[0])).sum();
        let residue = any - weighed(limits);
        let residue = i64::try_from(residue.rem_euclid(i128::from(modulus))).unwrap_or(0);
        Ok(Self { modulus, residue, multipliers })
    }

    /// The modulus by which bounds at these weights may be rounded: the greatest divisor with
    /// `w_m >= w_0 u_m`.
    fn step(&self, weights: &Weights<M>) -> i128 {
        let covered = |divisor: i64| {
            (1..M).all(|m| {
                let least = i128::from(weights[0]) * i128::from(self.multipliers[m] % divisor);
                i128::from(weights[m]) >= least
            })
        };
        let whole = (1..=MAX_QUOTIENT).filter(|quotient| self.modulus % quotient == 0);
        let divisor = whole.map(|quotient| self.modulus / quotient).find(|&d| covered(d));
        i128::from(divisor.unwrap_or(1))
    }

    /// Round up a lower bound on the objective, the offset included.
    pub(crate) fn raise(&self, bound: i128, weights: &Weights<M>) -> i128 {
        bound + (i128::from(self.residue) - bound).rem_euclid(self.step(weights))
    }

    /// Round down an upper limit on the objective, the offset included.
    pub(crate) fn lower(&self, limit: i128, weights: &Weights<M>) -> i128 {
        limit - (limit - i128::from(self.residue)).rem_euclid(self.step(weights))
    }
}

/// A triangular basis: row `m >= 1` is zero in the budgets before `m`, row 0 in all budgets.
struct Lattice<const M: usize> {
    rows: [[i128; M]; M],
}

impl<const M: usize> Lattice<M> {
    /// Add a generator; `None` on overflow.
    fn insert(&mut self, mut vector: [i128; M]) -> Option<()> {
        for m in 1..M {
            while vector[m] != 0 {
                if self.rows[m][m] != 0 {
                    let factor = vector[m] / self.rows[m][m];
                    for at in (0..M).filter(|&at| at == 0 || at >= m) {
                        let change = factor.checked_mul(self.rows[m][at])?;
                        vector[at] = vector[at].checked_sub(change)?;
                    }
                }
                if vector[m] != 0 {
                    std::mem::swap(&mut self.rows[m], &mut vector);
                }
            }
        }
        self.rows[0][0] = gcd(self.rows[0][0], vector[0]);
        if self.rows[0][0] > 0 {
            for m in 1..M {
                self.rows[m][0] %= self.rows[0][0];
            }
        }
        Some(())
    }

    /// The modulus and the multipliers; `None` if there is none or it is too large.
    fn congruence(&self) -> Option<(i64, [i64; M])> {
        let mut modulus = i128::from(i64::try_from(self.rows[0][0]).ok()?);
        let mut multipliers = [0; M];
        for m in (1..M).rev() {
            let row = &self.rows[m];
            let known = (m + 1..M).map(|k| i128::from(multipliers[k]).checked_mul(row[k]));
            let right = -row[0].checked_add(known.sum::<Option<i128>>()?)?;
            // row[m] * u = right has a solution modulo a divisor only
            let shared = gcd(row[m], modulus);
            if right % shared.max(1) != 0 {
                modulus = gcd(shared, right);
            }
            if modulus <= 1 {
                return None;
            }
            multipliers[m] = i64::try_from(divide(right, row[m], modulus)).ok()?;
        }
        let modulus = i64::try_from(modulus).ok()?;
        (modulus > 1).then_some((modulus, multipliers))
    }
}

/// The least `u >= 0` with `by * u = value` modulo `modulus`, where one exists.
fn divide(value: i128, by: i128, modulus: i128) -> i128 {
    let (mut a, mut b) = (by.rem_euclid(modulus), modulus);
    let (mut inverse, mut next) = (1, 0);
    while b > 0 {
        let factor = a / b;
        (a, b) = (b, a % b);
        (inverse, next) = (next, inverse - factor * next);
    }
    let period = modulus / a;
    (value / a % period * (inverse % period)).rem_euclid(period)
}

fn gcd(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(points: &[Point<2>], limit: i64) -> i64 {
        let monitor = Monitor::new(None, None, &|| false);
        usable([points].into_iter(), [i64::MAX, limit], &monitor).expect("nothing stops it")[1]
    }

    fn congruence(points: &[Point<2>], limit: i64) -> Congruence<2> {
        let monitor = Monitor::new(None, None, &|| false);
        Congruence::new([points].into_iter(), [i64::MAX, limit], &monitor)
            .expect("nothing stops it")
    }

    #[test]
    fn budgets_are_rounded_to_whole_steps() {
        let points = [[9, 5], [5, 11], [1, 29]];
        assert_eq!(rounded(&points, 28), 23);
        assert_eq!(rounded(&points, 29), 29);
        assert_eq!(rounded(&points, 3), -1);
        assert_eq!(rounded(&[[9, 5], [5, 5]], 28), 28);
    }

    #[test]
    fn strongly_correlated_steps_are_counted() {
        // every step saves what it uses, and ten more
        let found = congruence(&[[100, 0], [83, 7], [70, 10], [39, 31]], 12);
        assert_eq!((found.modulus, found.multipliers), (20, [0, 11]));
        // modulo 10, cost + budget is 0, so that with all 12 used the cost ends in 8
        assert_eq!(found.raise(71, &[1, 1]), 78);
        assert_eq!(found.raise(71, &[2, 1]), 71);
        assert_eq!(found.lower(71, &[1, 1]), 68);
    }

    #[test]
    fn common_divisors_of_the_objective_need_no_budget() {
        let found = congruence(&[[8, 0], [24, 5], [40, 7]], 12);
        assert_eq!((found.modulus, found.multipliers), (48, [0, 16]));
        assert_eq!(found.raise(9, &[1, 0]), 24);
        let found = congruence(&[[8, 0], [23, 5], [40, 7], [41, 9]], 12);
        assert_eq!(found, Congruence::NONE);
    }
}
