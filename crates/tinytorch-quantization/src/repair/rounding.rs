//! Rounding learned from data: which codes make the *outputs* of a layer right, and not each weight by itself.
//!
//! In: the weights a layer should have, one row for each output, and the second moments of its inputs. Out: codes and
//! scales. To round each weight to its nearest code is best only if the inputs have nothing to do with each other. They do:
//! neighbouring pixels are alike, and an error in one weight can be made good by its neighbours.
//!
//! ```text
//! error of a row = (w − q)ᵀ · H · (w − q)          H = mean of x·xᵀ over the calibration data
//! ```
//!
//! Four steps, none of which is kept if it makes this error larger:
//!
//! 1. *Scales.* Cutting off the largest weights may pay, because all others get finer steps.
//! 2. *Columns, one after another.* Round one, and let those still to come make its error good. Frantar et al. 2022
//!    (GPTQ, arXiv 2210.17323), algorithm 1. With `H = Uᵀ·U` it is the nearest-plane method of Babai in the opposite order
//!    (Chen et al. 2025, arXiv 2507.18553), and that is how it is computed here: one factorization, no inverse.
//! 3. *Descent.* Move single codes for as long as that helps. Behdin et al. 2023 (QuantEase, arXiv 2309.01885).
//! 4. *Scales again*, now by least squares for the codes that were found.

use super::cholesky::Cholesky;
use crate::scheme::CodeRange;

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundingOptions {
    /// What is added to the diagonal of `H`, as a share of its mean: keeps weights that the data says nothing about where
    /// they are. GPTQ's value is 0.01.
    pub damping: f64,
    /// Whether scales may be changed, or only codes.
    pub learn_scales: bool,
    /// Rounds of descent and scales, at most. Each ends early once nothing moves.
    pub sweeps: usize,
}

impl Default for RoundingOptions {
    /// 1 % damping, scales learned, at most 10 sweeps.
    fn default() -> Self {
        Self {
            damping: 0.01,
            learn_scales: true,
            sweeps: 10,
        }
    }
}

/// The second moments of a layer's inputs, damped and factored.
#[derive(Clone, Debug)]
pub(crate) struct Hessian {
    size: usize,
    /// `[size, size]`, symmetric.
    matrix: Vec<f64>,
    /// `order[p]` is the column that place `p` of the factor stands for: the last place is rounded first.
    order: Vec<usize>,
    factor: Cholesky,
}

impl Hessian {
    /// Damps and factors `moments`, `[size, size]`.
    ///
    /// The columns with the largest inputs are rounded first, while all others can still make good for them
    /// (`act_order` of GPTQ's code). `None` if a moment is not finite.
    pub fn new(moments: &[f64], size: usize, damping: f64) -> Option<Self> {
        let mut matrix = moments.to_vec();
        let trace: f64 = (0..size).map(|i| matrix[i * size + i]).sum();
        let mean = trace / size.max(1) as f64;
        // Inputs that were always zero leave nothing to learn: every weight is then rounded for itself.
        let mut added = if mean > 0.0 {
            damping.max(1e-9) * mean
        } else {
            1.0
        };
        let mut order: Vec<usize> = (0..size).collect();
        order.sort_by(|&a, &b| matrix[a * size + a].total_cmp(&matrix[b * size + b]));
        // Moments are sums of `f32` products: they may miss being semidefinite by more than a very small damping.
        for _ in 0..8 {
            (0..size).for_each(|i| matrix[i * size + i] += added);
            let permuted: Vec<f64> = order
                .iter()
                .flat_map(|&i| order.iter().map(move |&j| (i, j)))
                .map(|(i, j)| matrix[i * size + j])
                .collect();
            if let Some(factor) = Cholesky::new(&permuted, size) {
                return Some(Self {
                    size,
                    matrix,
                    order,
                    factor,
                });
            }
            added *= 10.0;
        }
        None
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.matrix[i * self.size..(i + 1) * self.size]
    }

    /// `x ↦ H⁻¹·x`, in place.
    pub fn solve(&self, x: &mut [f64]) {
        let mut permuted: Vec<f64> = self.order.iter().map(|&i| x[i]).collect();
        self.factor.solve(&mut permuted);
        for (&i, value) in self.order.iter().zip(permuted) {
            x[i] = value;
        }
    }

    /// `H·x`.
    fn times(&self, x: &[f64]) -> Vec<f64> {
        let dot = |row: &[f64]| row.iter().zip(x).map(|(h, x)| h * x).sum();
        self.matrix
            .chunks_exact(self.size.max(1))
            .map(dot)
            .collect()
    }

    /// `Σ H[j, j] · (w − q)[j]²`: the error if the inputs had nothing to do with each other.
    fn diagonal_error(&self, difference: impl Iterator<Item = f64>) -> f64 {
        let diagonal = self.matrix.iter().step_by(self.size + 1);
        diagonal.zip(difference).map(|(h, d)| h * d * d).sum()
    }
}

/// One row of codes on its way.
struct Row<'a> {
    hessian: &'a Hessian,
    target: &'a [f64],
    codes: CodeRange,
    /// Columns that share a scale.
    block: usize,
}

/// Codes of one row with the scales of its blocks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RoundedRow {
    /// One for each column.
    pub codes: Vec<i8>,
    /// One for each block of columns.
    pub scales: Vec<f32>,
    /// `(w − q)ᵀ·H·(w − q)`.
    pub error: f64,
}

impl Row<'_> {
    fn nearest(&self, value: f64, scale: f32) -> i8 {
        let code = (value / f64::from(scale)).round_ties_even();
        code.clamp(self.codes.min.into(), self.codes.max.into()) as i8
    }

    /// Each weight to its nearest code.
    fn round_to_nearest(&self, scales: Vec<f32>) -> RoundedRow {
        let value = |(j, &w): (usize, &f64)| self.nearest(w, scales[j / self.block]);
        let codes = self.target.iter().enumerate().map(value).collect();
        self.judged(codes, scales)
    }

    /// Column by column, each taking over what those before it got wrong.
    fn round_in_order(&self, scales: Vec<f32>) -> RoundedRow {
        let size = self.hessian.size;
        let mut codes = vec![0; size];
        // By place in the factor: `w − q` of the columns that are done.
        let mut left = vec![0.0; size];
        for place in (0..size).rev() {
            let column = self.hessian.order[place];
            let scale = scales[column / self.block];
            let row = self.hessian.factor.row(place);
            let carried: f64 = row[1..]
                .iter()
                .zip(&left[place + 1..])
                .map(|(u, e)| u * e)
                .sum();
            let code = self.nearest(self.target[column] + carried / row[0], scale);
            codes[column] = code;
            left[place] = self.target[column] - f64::from(code) * f64::from(scale);
        }
        self.judged(codes, scales)
    }

    fn difference(&self, codes: &[i8], scales: &[f32]) -> Vec<f64> {
        let columns = self.target.iter().zip(codes).enumerate();
        let real = |j: usize, code: i8| f64::from(code) * f64::from(scales[j / self.block]);
        columns.map(|(j, (w, &code))| w - real(j, code)).collect()
    }

    fn judged(&self, codes: Vec<i8>, scales: Vec<f32>) -> RoundedRow {
        let difference = self.difference(&codes, &scales);
        let pulled = self.hessian.times(&difference);
        let error = difference.iter().zip(&pulled).map(|(d, p)| d * p).sum();
        RoundedRow {
            codes,
            scales,
            error,
        }
    }

    /// Moves single codes while that lowers the error. True if any was moved.
    fn descend(&self, row: &mut RoundedRow) -> bool {
        let difference = self.difference(&row.codes, &row.scales);
        // H·(w − q): how much the error pulls at each column.
        let mut pulled = self.hessian.times(&difference);
        let mut moved = false;
        for j in 0..self.hessian.size {
            let scale = f64::from(row.scales[j / self.block]);
            let curvature = self.hessian.row(j)[j];
            let old = row.codes[j];
            let best = f64::from(old) + pulled[j] / (curvature * scale);
            let new = best
                .round_ties_even()
                .clamp(self.codes.min.into(), self.codes.max.into()) as i8;
            if new == old {
                continue;
            }
            let step = (f64::from(new) - f64::from(old)) * scale;
            // A tie between two codes gains nothing and could be moved back and forth for ever.
            if step * (2.0 * pulled[j] - step * curvature) <= 0.0 {
                continue;
            }
            for (pull, h) in pulled.iter_mut().zip(self.hessian.row(j)) {
                *pull -= h * step;
            }
            row.codes[j] = new;
            moved = true;
        }
        moved
    }

    /// The scales that suit the codes best, block by block, none below `floor`.
    fn refit(&self, row: &mut RoundedRow, floor: f32) {
        for block in 0..row.scales.len() {
            let (first, last) = (
                block * self.block,
                ((block + 1) * self.block).min(self.hessian.size),
            );
            let within = |(j, &code): (usize, &i8)| {
                if (first..last).contains(&j) {
                    f64::from(code)
                } else {
                    0.0
                }
            };
            let codes: Vec<f64> = row.codes.iter().enumerate().map(within).collect();
            let spread = self.hessian.times(&codes);
            let curvature: f64 = codes.iter().zip(&spread).map(|(c, s)| c * s).sum();
            if curvature <= 0.0 {
                continue;
            }
            let difference = self.difference(&row.codes, &row.scales);
            let pull: f64 = difference.iter().zip(&spread).map(|(d, s)| d * s).sum();
            let scale = (f64::from(row.scales[block]) + pull / curvature) as f32;
            if scale.is_normal() && scale >= floor {
                row.scales[block] = scale;
            }
        }
    }
}

/// How much of the largest magnitude a scale may keep, at first.
const KEPT: [f32; 14] = [
    1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76, 0.72, 0.68, 0.64, 0.6, 0.55, 0.5, 0.45,
];

/// How many of [`KEPT`] are tried in full, chosen by what they cost if no weight could make good for another.
const TRIED: usize = 3;

/// Rounds one row.
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `target` | `[columns]` | the weights that are wanted |
/// | `scales` | `[blocks]` | of each `block` columns: where to start, and to stay unless scales are learned |
/// | `floor` | | the smallest scale allowed |
///
/// The error is never above that of rounding every weight to its nearest code with `scales`.
pub(crate) fn round_row(
    hessian: &Hessian,
    target: &[f64],
    scales: &[f32],
    block: usize,
    floor: f32,
    codes: CodeRange,
    options: RoundingOptions,
) -> RoundedRow {
    let row = Row {
        hessian,
        target,
        codes,
        block,
    };
    let mut best = row.round_to_nearest(scales.to_vec());
    let mut starts = vec![scales.to_vec()];
    if options.learn_scales {
        starts.extend(row.promising_scales(scales, floor));
    }
    for start in starts {
        let mut candidate = row.round_in_order(start);
        for _ in 0..options.sweeps {
            let before = candidate.clone();
            let mut next = candidate.clone();
            let moved = row.descend(&mut next);
            if options.learn_scales {
                row.refit(&mut next, floor);
            }
            candidate = row.judged(next.codes, next.scales);
            // Rounding a scale to f32 can undo a gain in the last digits.
            if candidate.error > before.error {
                candidate = before;
                break;
            }
            if !moved && before.error - candidate.error <= 1e-4 * before.error {
                break;
            }
        }
        if candidate.error < best.error {
            best = candidate;
        }
    }
    best
}

/// The scale for all rows of a layer that share one: of `scale` and some that cut off the largest weights, the one with the
/// smallest error, all rows together.
pub(crate) fn shared_scale(
    rows: &[(&Hessian, &[f64])],
    scale: f32,
    floor: f32,
    codes: CodeRange,
) -> f32 {
    let error = |scale: f32| -> f64 {
        let of_row = |&(hessian, target): &(&Hessian, &[f64])| {
            let block = target.len().max(1);
            let row = Row {
                hessian,
                target,
                codes,
                block,
            };
            row.round_in_order(vec![scale]).error
        };
        rows.iter().map(of_row).sum()
    };
    let tried = KEPT.iter().map(|kept| (scale * kept).max(floor));
    let judged = tried.map(|scale| (error(scale), scale));
    judged
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(scale, |(_, scale)| scale)
}

impl Row<'_> {
    /// A few scales that cut off the largest weights, by how well they do without compensation.
    fn promising_scales(&self, scales: &[f32], floor: f32) -> Vec<Vec<f32>> {
        // For each block the shares in order of their error.
        let ranked: Vec<Vec<f32>> = scales
            .iter()
            .enumerate()
            .map(|(block, &scale)| {
                let columns = block * self.block..((block + 1) * self.block).min(self.target.len());
                let mut tried: Vec<(f64, f32)> = KEPT
                    .iter()
                    .map(|kept| (scale * kept).max(floor))
                    .map(|scale| {
                        let difference = columns.clone().map(|j| {
                            let w = self.target[j];
                            w - f64::from(self.nearest(w, scale)) * f64::from(scale)
                        });
                        let before = std::iter::repeat_n(0.0, columns.start);
                        (self.hessian.diagonal_error(before.chain(difference)), scale)
                    })
                    .collect();
                tried.sort_by(|a, b| a.0.total_cmp(&b.0));
                tried.into_iter().map(|(_, scale)| scale).collect()
            })
            .collect();
        (0..TRIED)
            .map(|rank| ranked.iter().map(|block| block[rank]).collect())
            .collect()
    }
}

#[cfg(test)]
#[path = "rounding_tests.rs"]
mod tests;
