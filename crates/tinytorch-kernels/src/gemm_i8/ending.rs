//! What becomes of a sum: it stays one, becomes an 8-bit code, or a real number.

use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::block::BlockMut;
use super::scalar;
use crate::cpu::{Vectors, vectorized};

/// Sum to code: `saturate(round_ties_even((sum + bias) as f32 * multiplier) + zero_point)` (N12).
///
/// ReLU costs nothing: a code below `zero_point` means a negative number, so `min = zero_point` cuts them off.
#[derive(Clone, Copy, Debug)]
pub struct Requantize<'a> {
    /// `[n]`, in units of `input scale · weight scale`; empty for none.
    pub bias: &'a [i32],
    /// `[n]`: `input scale · weight scale / output scale`, finite.
    pub multipliers: &'a [f32],
    /// The code of 0.0 in the result.
    pub zero_point: i32,
    /// Smallest code, at least −128.
    pub min: i32,
    /// Largest code, at most 127.
    pub max: i32,
}

/// Sum to real number: `sum as f32 * scale + bias`, rounded after each of the three steps; then ReLU if asked for.
#[derive(Clone, Copy, Debug)]
pub struct Scale<'a> {
    /// `[n]`: `input scale · weight scale`.
    pub scales: &'a [f32],
    /// `[n]`; empty for none.
    pub bias: &'a [f32],
    /// Whether negative results (and NaN) become `0.0`.
    pub relu: bool,
}

impl Requantize<'_> {
    /// Checks lengths and bounds for `n` outputs and sums of at most `max_bias` room for the bias.
    #[track_caller]
    pub(crate) fn check(&self, n: usize, max_bias: i32) {
        assert_eq!(self.multipliers.len(), n, "multipliers must be [n]");
        assert!(
            self.bias.is_empty() || self.bias.len() == n,
            "bias must be [n] or empty"
        );
        let (largest_multiplier, largest_bias) =
            largest(Vectors::chosen(), self.multipliers, self.bias);
        assert!(
            largest_multiplier < f32::INFINITY.to_bits(),
            "multipliers must be finite"
        );
        assert!(
            largest_bias <= max_bias.unsigned_abs(),
            "a bias beyond ±{max_bias} may overflow the accumulator"
        );
        self.codes().check();
    }

    pub(crate) fn codes(&self) -> Codes {
        Codes {
            zero_point: self.zero_point,
            min: self.min,
            max: self.max,
        }
    }
}

vectorized! {
    /// The bits of the largest magnitude of the multipliers (NaN is above infinity), and the largest of the bias.
    ///
    /// A loop that ended at the first bad one would not be vectorized, and cost more than a small product.
    fn largest(multipliers: &[f32], bias: &[i32]) -> (u32, u32) {
        let multiplier = multipliers.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
        let bias = bias.iter().fold(0, |largest, value| value.unsigned_abs().max(largest));
        (multiplier, bias)
    }
}

impl<'a> Scale<'a> {
    /// Those of the first `columns` columns, and of the rest.
    fn split_at(self, columns: usize) -> (Self, Self) {
        let (left_scales, right_scales) = self.scales.split_at(columns);
        let (left_bias, right_bias) = self.bias.split_at(columns.min(self.bias.len()));
        (
            Self {
                scales: left_scales,
                bias: left_bias,
                ..self
            },
            Self {
                scales: right_scales,
                bias: right_bias,
                ..self
            },
        )
    }

    #[track_caller]
    pub(crate) fn check(&self, n: usize) {
        assert_eq!(self.scales.len(), n, "scales must be [n]");
        assert!(
            self.bias.is_empty() || self.bias.len() == n,
            "bias must be [n] or empty"
        );
    }
}

/// What a row of the left matrix has of its own, where every row has its scale and zero point: known when the row has
/// become codes, which a kernel asks for before it ends a sum of that row.
///
/// Where columns are divided among threads each makes the same codes and sets the same numbers.
#[derive(Debug, Default)]
pub(crate) struct RowScale {
    scale: AtomicU32,
    excess: AtomicI32,
}

impl RowScale {
    /// `scale` is that of the row's codes; `excess` says by how much the codes that a kernel multiplies exceed what they mean: zero
    /// point and shift.
    #[inline]
    pub fn set(&self, scale: f32, excess: i32) {
        self.scale.store(scale.to_bits(), Ordering::Relaxed);
        self.excess.store(excess, Ordering::Relaxed);
    }

    /// Scale and excess.
    #[inline(always)]
    pub fn get(&self) -> (f32, i32) {
        let scale = f32::from_bits(self.scale.load(Ordering::Relaxed));
        (scale, self.excess.load(Ordering::Relaxed))
    }
}

/// A zero point and the bounds of the codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codes {
    pub zero_point: i32,
    pub min: i32,
    pub max: i32,
}

/// 1.5 · 2²³: the f32 around it are the integers, so adding it rounds to an integer, ties to even.
pub(crate) const ROUNDER: f32 = 12_582_912.0;

impl Codes {
    #[track_caller]
    pub fn check(&self) {
        let i8_range = -128..=127;
        assert!(
            i8_range.contains(&self.min) && i8_range.contains(&self.max) && self.min <= self.max,
            "codes {}..={} are not a range of i8",
            self.min,
            self.max
        );
        assert!(
            i8_range.contains(&self.zero_point),
            "zero point {} is not an i8",
            self.zero_point
        );
    }

    /// The bounds before the zero point is added, as f32: they are integers below 256, so clamping to them before
    /// rounding gives what clamping after it would.
    #[inline]
    pub fn real_bounds(&self) -> (f32, f32) {
        (
            (self.min - self.zero_point) as f32,
            (self.max - self.zero_point) as f32,
        )
    }

    /// Rounds `value` (a number, not NaN), adds the zero point, saturates.
    ///
    /// The same codes as `round_ties_even` and a saturating cast, without either: both keep compilers from
    /// vectorizing, the first before SSE4.1, the second everywhere.
    #[inline(always)]
    pub fn code(&self, value: f32) -> i8 {
        let (low, high) = self.real_bounds();
        // Written as two comparisons: `f32::clamp` keeps NaN, which costs instructions, and here there is none.
        let value = if value > low { value } else { low };
        let value = if value < high { value } else { high };
        let rounded = (value + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
        // Within the bounds, so neither operation wraps; a check for it would keep the loop from being vectorized.
        rounded.wrapping_add(self.zero_point) as i8
    }
}

/// A rectangle of the result, with what its columns need.
#[derive(Debug)]
pub(crate) enum Ending<'a> {
    /// The sums themselves.
    Sums(BlockMut<'a, i32>),
    /// 8-bit codes; the bias is in the offsets.
    Codes {
        out: BlockMut<'a, i8>,
        multipliers: &'a [f32],
        codes: Codes,
    },
    /// Real numbers.
    Reals {
        out: BlockMut<'a, f32>,
        scale: Scale<'a>,
    },
    /// Real numbers, by a scale and zero point of each row. The offsets are those of one unit of zero point.
    Rows {
        out: BlockMut<'a, f32>,
        rows: &'a [RowScale],
        scale: Scale<'a>,
    },
}

impl<'a> Ending<'a> {
    pub fn rows(&self) -> usize {
        match self {
            Ending::Sums(out) => out.rows(),
            Ending::Codes { out, .. } => out.rows(),
            Ending::Reals { out, .. } | Ending::Rows { out, .. } => out.rows(),
        }
    }

    pub fn split_rows(self, rows: usize) -> (Self, Self) {
        match self {
            Ending::Sums(out) => {
                let (top, bottom) = out.split_rows(rows);
                (Ending::Sums(top), Ending::Sums(bottom))
            }
            Ending::Codes {
                out,
                multipliers,
                codes,
            } => {
                let (top, bottom) = out.split_rows(rows);
                (
                    Ending::Codes {
                        out: top,
                        multipliers,
                        codes,
                    },
                    Ending::Codes {
                        out: bottom,
                        multipliers,
                        codes,
                    },
                )
            }
            Ending::Reals { out, scale } => {
                let (top, bottom) = out.split_rows(rows);
                (
                    Ending::Reals { out: top, scale },
                    Ending::Reals { out: bottom, scale },
                )
            }
            Ending::Rows {
                out,
                rows: scales,
                scale,
            } => {
                let (top, bottom) = out.split_rows(rows);
                let (top_rows, bottom_rows) = scales.split_at(rows);
                (
                    Ending::Rows {
                        out: top,
                        rows: top_rows,
                        scale,
                    },
                    Ending::Rows {
                        out: bottom,
                        rows: bottom_rows,
                        scale,
                    },
                )
            }
        }
    }

    pub fn split_columns(self, columns: usize) -> (Self, Self) {
        match self {
            Ending::Sums(out) => {
                let (left, right) = out.split_columns(columns);
                (Ending::Sums(left), Ending::Sums(right))
            }
            Ending::Codes {
                out,
                multipliers,
                codes,
            } => {
                let (left, right) = out.split_columns(columns);
                let (left_multipliers, right_multipliers) = multipliers.split_at(columns);
                (
                    Ending::Codes {
                        out: left,
                        multipliers: left_multipliers,
                        codes,
                    },
                    Ending::Codes {
                        out: right,
                        multipliers: right_multipliers,
                        codes,
                    },
                )
            }
            Ending::Reals { out, scale } => {
                let (left, right) = out.split_columns(columns);
                let (left_scale, right_scale) = scale.split_at(columns);
                (
                    Ending::Reals {
                        out: left,
                        scale: left_scale,
                    },
                    Ending::Reals {
                        out: right,
                        scale: right_scale,
                    },
                )
            }
            Ending::Rows { out, rows, scale } => {
                let (left, right) = out.split_columns(columns);
                let (left_scale, right_scale) = scale.split_at(columns);
                (
                    Ending::Rows {
                        out: left,
                        rows,
                        scale: left_scale,
                    },
                    Ending::Rows {
                        out: right,
                        rows,
                        scale: right_scale,
                    },
                )
            }
        }
    }

    /// Writes `sums + offsets`, of the same length, to columns `column..` of row `row`.
    #[inline(always)]
    pub fn finish(&mut self, row: usize, column: usize, sums: &[i32], offsets: &[i32]) {
        let columns = column..column + sums.len();
        // What one column adds to a sum: as it is, except where every row has a zero point of its own.
        let excess = match self {
            Ending::Rows { rows, .. } => rows[row].get().1,
            _ => 1,
        };
        let sums = sums
            .iter()
            .zip(offsets)
            .map(|(&sum, &offset)| sum.wrapping_add(offset.wrapping_mul(excess)));
        match self {
            Ending::Sums(out) => {
                out.row(row)[columns]
                    .iter_mut()
                    .zip(sums)
                    .for_each(|(out, sum)| *out = sum);
            }
            Ending::Codes {
                out,
                multipliers,
                codes,
            } => {
                let codes = *codes;
                let out = out.row(row)[columns.clone()].iter_mut();
                for ((out, sum), &multiplier) in out.zip(sums).zip(&multipliers[columns]) {
                    *out = codes.code(sum as f32 * multiplier);
                }
            }
            Ending::Reals { out, scale } => {
                reals(
                    &mut out.row(row)[columns.clone()],
                    sums,
                    1.0,
                    scale,
                    columns,
                );
            }
            Ending::Rows { out, rows, scale } => {
                let row_scale = rows[row].get().0;
                reals(
                    &mut out.row(row)[columns.clone()],
                    sums,
                    row_scale,
                    scale,
                    columns,
                );
            }
        }
    }
}

/// Real numbers of one row; a `row_scale` of 1 changes no bit of a scale.
#[inline(always)]
fn reals(
    out: &mut [f32],
    sums: impl Iterator<Item = i32>,
    row_scale: f32,
    by: &Scale<'_>,
    columns: Range<usize>,
) {
    let (relu, scales) = (by.relu, &by.scales[columns.clone()]);
    let columns_of = out.iter_mut().zip(sums).zip(scales);
    if by.bias.is_empty() {
        for ((out, sum), &factor) in columns_of {
            *out = scalar::scale(sum, row_scale * factor, 0.0, relu);
        }
    } else {
        for (((out, sum), &factor), &bias) in columns_of.zip(&by.bias[columns]) {
            *out = scalar::scale(sum, row_scale * factor, bias, relu);
        }
    }
}
