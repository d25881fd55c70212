//! The master problem of the Lagrangian dual: the cheapest mixture of the plans found so far whose
//! mean keeps the budgets. It has as many columns as there are coordinates, and uses floats only.

use crate::point::Point;

const EPSILON: f64 = 1e-11;
/// Relative size of the box around given prices.
const BOX: f64 = 0.1;

#[derive(Debug, Clone, Copy)]
enum Column<const M: usize> {
    Plan(Point<M>),
    Slack(usize),
    /// Pays for exceeding a budget; driven out first.
    Excess(usize),
}

/// A basis of the master, which prices the budgets.
///
/// Everything is scaled by the instance's totals. While there is a box, prices stay within it
/// (Marsten, Hogan and Blankenship, 1975).
#[derive(Debug, Clone)]
pub(crate) struct Basis<const M: usize> {
    columns: [Column<M>; M],
    limits: Point<M>,
    totals: Point<M>,
    /// Least and greatest price of every budget.
    prices: Option<([f64; M], [f64; M])>,
}

/// The result of pricing the basis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prices<const M: usize> {
    /// Weights of objective and budgets, unscaled.
    pub(crate) direction: [f64; M],
    /// The objective is ignored until the budgets can be kept.
    pub(crate) relaxing: bool,
}

impl<const M: usize> Basis<M> {
    /// Start from one plan, near the given weights if there are any.
    pub(crate) fn new(
        first: Point<M>,
        limits: Point<M>,
        totals: Point<M>,
        near: Option<&Point<M>>,
    ) -> Self {
        let column = |m: usize| match m {
            0 => Column::Plan(first),
            _ if first[m] > limits[m] => Column::Excess(m),
            _ => Column::Slack(m),
        };
        let scaled = |m: usize| totals[m].max(1) as f64;
        let prices = near.filter(|near| near[0] > 0).map(|near| {
            let centre: [f64; M] =
                std::array::from_fn(|m| near[m] as f64 * scaled(m) / (near[0] as f64 * scaled(0)));
            let reach = BOX * centre[1..].iter().fold(0.0, |a: f64, &b| a.max(b));
            let low = centre.map(|c| (c - BOX * c).max(0.0));
            (low, centre.map(|c| c + reach))
        });
        let columns = std::array::from_fn(column);
        Self { columns, limits, totals, prices }
    }

    /// Prices at which no slack wants to enter; `None` if the basis is numerically singular.
    pub(crate) fn prices(&mut self) -> Option<Prices<M>> {
        for _ in 0..4 * M {
            let relaxing = self.relaxing();
            let prices = self.solve(relaxing)?;
            let (low, high) = self.prices.unwrap_or(([0.0; M], [f64::INFINITY; M]));
            let below = (1..M).find(|&m| prices[m] < low[m] - EPSILON).map(Column::Slack);
            let above = (1..M).find(|&m| prices[m] > high[m] + EPSILON).map(Column::Excess);
            let Some(column) = below.or(above) else {
                let mut direction = prices.map(|p| p.max(0.0));
                direction[0] = f64::from(u8::from(!relaxing));
                for m in 0..M {
                    direction[m] /= self.totals[m].max(1) as f64;
                }
                return Some(Prices { direction, relaxing });
            };
            if !self.pivot(column) {
                return None;
            }
        }
        None
    }

    /// Exchange a plan for the column that leaves by the ratio test; whether one left.
    pub(crate) fn enter(&mut self, point: Point<M>) -> bool {
        self.pivot(Column::Plan(point))
    }

    /// Take the box away if it holds the prices; whether it did.
    pub(crate) fn unbox(&mut self) -> bool {
        let Some((low, _)) = self.prices.take() else { return false };
        self.columns.iter().any(|column| match column {
            Column::Plan(_) => false,
            Column::Slack(m) => low[*m] > 0.0,
            Column::Excess(_) => true,
        })
    }

    /// The plans in the basis.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Point<M>> {
        self.columns.iter().filter_map(|column| match column {
            Column::Plan(point) => Some(point),
            _ => None,
        })
    }

    fn relaxing(&self) -> bool {
        self.prices.is_none() && self.columns.iter().any(|c| matches!(c, Column::Excess(_)))
    }

    /// The convexity row first, then the budgets.
    fn entries(&self, column: &Column<M>) -> [f64; M] {
        let mut entries = [0.0; M];
        match column {
            Column::Plan(point) => {
                entries[0] = 1.0;
                for m in 1..M {
                    entries[m] = (point[m] - self.limits[m]) as f64 / self.totals[m].max(1) as f64;
                }
            }
            Column::Slack(m) => entries[*m] = 1.0,
            Column::Excess(m) => entries[*m] = -1.0,
        }
        entries
    }

    fn cost(&self, column: &Column<M>, relaxing: bool) -> f64 {
        match (column, &self.prices) {
            (Column::Plan(point), _) if !relaxing => point[0] as f64 / self.totals[0].max(1) as f64,
            (Column::Excess(_), None) => 1.0,
            (Column::Excess(m), Some((_, high))) => high[*m],
            (Column::Slack(m), Some((low, _))) => -low[*m],
            _ => 0.0,
        }
    }

    /// `y B = c`, negated so that prices are not negative at the optimum.
    fn solve(&self, relaxing: bool) -> Option<[f64; M]> {
        let matrix = std::array::from_fn(|row| self.entries(&self.columns[row]));
        let right = std::array::from_fn(|row| self.cost(&self.columns[row], relaxing));
        gauss(matrix, right).map(|y| y.map(|v| -v))
    }

    fn pivot(&mut self, entering: Column<M>) -> bool {
        let mut matrix = [[0.0; M]; M];
        for (at, column) in self.columns.iter().enumerate() {
            let entries = self.entries(column);
            for row in 0..M {
                matrix[row][at] = entries[row];
            }
        }
        let mut unit = [0.0; M];
        unit[0] = 1.0;
        let (Some(level), Some(change)) =
            (gauss(matrix, unit), gauss(matrix, self.entries(&entering)))
        else {
            return false;
        };
        let rank = |at: usize| {
            let excess = matches!(self.columns[at], Column::Excess(_));
            (level[at].max(0.0) / change[at], !excess)
        };
        let leaving = (0..M)
            .filter(|&at| change[at] > EPSILON)
            .min_by(|&a, &b| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal));
        leaving.is_some_and(|at| {
            self.columns[at] = entering;
            true
        })
    }
}

/// Solve a small linear system by elimination with row pivots; `None` when it is singular.
fn gauss<const M: usize>(mut matrix: [[f64; M]; M], mut right: [f64; M]) -> Option<[f64; M]> {
    for column in 0..M {
        let pivot = (column..M)
            .max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))?;
        if matrix[pivot][column].abs() < 1e-300 {
            return None;
        }
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let (head, head_right) = (matrix[column], right[column]);
        for row in (0..M).filter(|&row| row != column) {
            let factor = matrix[row][column] / head[column];
            for at in column..M {
                matrix[row][at] -= factor * head[at];
            }
            right[row] -= factor * head_right;
        }
    }
    Some(std::array::from_fn(|at| right[at] / matrix[at][at]))
}
