//! A linear layer with INT8 weights and real inputs: the inputs become codes within the call ("dynamic" quantization).
//!
//! In: `x`, `[m, k]` of `f32`. Out: `x · wᵀ + bias`, `[m, n]` of `f32`, computed in integers, without a pass over a matrix
//! of sums. Nothing has to be calibrated: each call finds the range of its own inputs, one for every row or one for all.
//!
//! Source of the scheme: XNNPACK's `qd8-f32-qc8w` layer, one range for every row.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::elements;
use crate::elementwise::{
    NotFinite, Pauses, Quantize, is_far, min_max, quantize_f32_i8, quantize_rows,
};
use crate::gemm_i8::activations::Activations;
use crate::gemm_i8::block::BlockMut;
use crate::gemm_i8::blocks::RowsMut;
use crate::gemm_i8::ending::{Ending, RowScale};
use crate::gemm_i8::{PackedWeights, Scale};

/// Over which inputs one scale and zero point are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRange {
    /// One for every row: a row's result does not depend on the rest of its batch.
    PerRow,
    /// One for all rows (N9).
    PerTensor,
}

/// Inputs that have no codes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum InputError {
    /// NaN or an infinity; the index is that in `x`.
    NotFinite(NotFinite),
    /// A range wider than `f32::MAX`.
    TooWide {
        /// First row of those that share the range.
        row: usize,
        /// Smallest input.
        min: f32,
        /// Largest input.
        max: f32,
    },
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InputError::NotFinite(error) => error.fmt(f),
            InputError::TooWide { row, min, max } => write!(
                f,
                "the inputs from row {row} on range from {min:e} to {max:e}, wider than an f32 can say"
            ),
        }
    }
}

impl std::error::Error for InputError {}

/// The weights of a linear layer, packed once, with their scales and a bias.
#[derive(Clone, Debug)]
pub struct DynamicLinear {
    weights: PackedWeights,
    scales: Box<[f32]>,
    bias: Box<[f32]>,
    /// −Σₚ codes[j, p]: what one unit of zero point takes off column j.
    offsets: Box<[i32]>,
}

impl DynamicLinear {
    /// | argument | shape            | meaning                                        |
    /// |----------|------------------|------------------------------------------------|
    /// | `weights`| `[n, k]`         | codes with zero point 0, one row per output     |
    /// | `scales` | `[n]`            | of each output's weights                        |
    /// | `bias`   | `[n]`, or empty  | added to the result                             |
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    #[track_caller]
    pub fn new(weights: PackedWeights, scales: &[f32], bias: &[f32]) -> Self {
        Scale {
            scales,
            bias,
            relu: false,
        }
        .check(weights.n());
        Self {
            offsets: weights.sums().iter().map(|sum| -sum).collect(),
            scales: scales.into(),
            bias: bias.into(),
            weights,
        }
    }

    /// The codes of the weights.
    pub fn weights(&self) -> &PackedWeights {
        &self.weights
    }

    /// The scale of each output's weights, `[n]`.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The bias, `[n]` or empty.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// Writes `x · wᵀ + bias`, with ReLU if asked for.
    ///
    /// | argument | shape    |
    /// |----------|----------|
    /// | `x`      | `[m, k]` |
    /// | `out`    | `[m, n]` |
    ///
    /// # The maths
    ///
    /// With `min`, `max` of a row (or of all of `x`), widened to hold 0 (N6), over the codes −128..=127:
    ///
    /// ```text
    /// s    = max(max − min, 255 · MIN_POSITIVE) / 255     z = saturate(round(−128 − min / s))
    /// q[p] = saturate(round(x[p] / s) + z)                ties to even (N2, N3); s = 1, z = 0 if all are 0 (N7)
    /// y[j] = (Σₚ (q[p] − z) · w[j, p]) · (s · scales[j]) + bias[j]
    /// ```
    ///
    /// The sum is exact; the last line rounds after each of its steps. Every kernel gives the same bits, and the number
    /// of threads does not show.
    ///
    /// # Errors
    ///
    /// [`InputError`] names the first input that has no code, or the range that has no scale; `out` is then unspecified.
    ///
    /// # Panics
    ///
    /// If a slice does not have its shape.
    #[track_caller]
    pub fn forward(
        &self,
        m: usize,
        x: &[f32],
        range: InputRange,
        relu: bool,
        out: &mut [f32],
    ) -> Result<(), InputError> {
        let (n, k) = (self.weights.n(), self.weights.k());
        assert_eq!(
            Some(x.len()),
            elements([m, k]),
            "x must be [m, k] = [{m}, {k}]"
        );
        assert_eq!(
            Some(out.len()),
            elements([m, n]),
            "the output must be [m, n] = [{m}, {n}]"
        );
        let shared = match range {
            InputRange::PerRow => None,
            InputRange::PerTensor => Some(parameters(x, 0, 0)?),
        };
        if m == 0 || n == 0 {
            // Nothing is multiplied, but what has no code is an error all the same.
            return match range {
                InputRange::PerRow if k > 0 => {
                    let mut rows = x.chunks_exact(k).enumerate();
                    rows.try_for_each(|(row, x)| parameters(x, row, row * k).map(|_| ()))
                }
                _ => Ok(()),
            };
        }
        // Taken, not borrowed: should rayon run another layer on this thread meanwhile, that makes its own.
        let mut scales = SCALES.take();
        scales.resize_with(m, RowScale::default);
        let reals = Reals {
            x,
            k,
            shared,
            shift: self.weights.kernel().activation_shift(),
            scales: &scales,
            failed: Mutex::new(None),
        };
        let ending = Ending::Rows {
            out: BlockMut::new(out, m, 0, n, n),
            rows: &scales,
            scale: Scale {
                scales: &self.scales,
                bias: &self.bias,
                relu,
            },
        };
        let threads = self.weights.threads(m);
        (self.weights).run_with(&reals, &self.offsets, ending, threads);
        let failed = reals.failed.into_inner();
        SCALES.set(scales);
        match failed.unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

thread_local! {
    /// Kept between calls.
    static SCALES: RefCell<Vec<RowScale>> = const { RefCell::new(vec![]) };
}

/// Rows of real numbers that become codes when a kernel takes them: while a row is in the first cache its range is found and
/// its codes are written, and they are multiplied before they leave the second.
#[derive(Debug)]
struct Reals<'a> {
    x: &'a [f32],
    k: usize,
    /// What the codes of all rows mean, if that is the same.
    shared: Option<Quantize>,
    /// What the kernel adds to every code.
    shift: i32,
    /// One for each row: set here, read when the row's sums end.
    scales: &'a [RowScale],
    /// The first row that was found to have no codes, and why.
    failed: Mutex<Option<(usize, InputError)>>,
}

impl Activations for Reals<'_> {
    fn row<'s>(&'s self, row: usize, scratch: &'s mut [i8]) -> &'s [i8] {
        let scratch = &mut scratch[..self.k];
        self.convert(row, |values, by| quantize_f32_i8(values, by, scratch));
        scratch
    }

    fn write(
        &self,
        rows: Range<usize>,
        flip: u8,
        mut into: RowsMut<'_>,
        pauses: &mut Pauses<'_>,
    ) -> bool {
        // A row whose own range was found just now is near.
        let far = self.shared.is_some() && is_far(self.x);
        for (index, row) in rows.enumerate() {
            if self.shared.is_none() {
                // Its range is looked for first.
                pauses.before(self.k);
            }
            let into = into.from(index);
            self.convert(row, |values, by| {
                quantize_rows(values, values.len(), by, flip, far, into, pauses)
            });
        }
        true
    }
}

impl Reals<'_> {
    /// Calls `quantize` with the values of a row and what their codes shall mean.
    fn convert(
        &self,
        row: usize,
        quantize: impl FnOnce(&[f32], Quantize) -> Result<(), NotFinite>,
    ) {
        let offset = row * self.k;
        let values = &self.x[offset..offset + self.k];
        let by = match self.shared {
            Some(by) => Ok(by),
            None => parameters(values, row, offset),
        };
        let written = by.and_then(|by| {
            self.scales[row].set(by.scale, by.zero_point + self.shift);
            quantize(values, by).map_err(|error| at(error, offset))
        });
        if let Err(error) = written {
            // Whichever thread is first.
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.is_none_or(|(before, _)| row < before) {
                *failed = Some((row, error));
            }
        }
    }
}

fn at(error: NotFinite, offset: usize) -> InputError {
    InputError::NotFinite(NotFinite {
        index: error.index + offset,
        ..error
    })
}

/// The scale and zero point of some values, whose first is number `offset`, in row `row`.
fn parameters(values: &[f32], row: usize, offset: usize) -> Result<Quantize, InputError> {
    let range = min_max(values).map_err(|error| at(error, offset))?;
    let (min, max) = range.unwrap_or((0.0, 0.0));
    let (low, high) = (min.min(0.0), max.max(0.0));
    if !(high - low).is_finite() {
        return Err(InputError::TooWide { row, min, max });
    }
    let (scale, zero_point) = if low == high {
        (1.0, 0)
    } else {
        let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
        let zero_point = (-128.0 - low / scale).round_ties_even();
        (scale, (zero_point as i32).clamp(-128, 127))
    };
    Ok(Quantize {
        scale,
        zero_point,
        min: -128,
        max: 127,
    })
}
