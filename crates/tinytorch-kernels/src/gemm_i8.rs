//! The integer matrix product: `i8 · i8 -> i32`, weights packed once, with fused endings.
//!
//! In: activations `[m, k]` with one zero point, weights `[n, k]` packed by [`PackedWeights::new`]. Out: exact sums, or
//! codes (bias, requantization, ReLU), or `f32`, without a pass over a matrix of sums. Every kernel gives the bits of
//! the definitions in [`scalar`]: integer addition is associative, so the order of the sums cannot show, and the
//! endings round at the same places.
//!
//! `kernels()` lists what this CPU can run, best first; the environment variable `TINYTORCH_KERNEL` forces one by name.

pub(crate) mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
pub(crate) mod block;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only the kernels of x86-64 have blocks")
)]
pub(crate) mod blocks;
pub mod ending;
pub(crate) mod lines;
pub mod packed;
mod portable;
pub mod scalar;
mod select;
mod static_linear;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiled;
pub(crate) mod windows;
#[cfg(target_arch = "x86_64")]
mod ymm;

use std::fmt::Debug;

pub use ending::{Requantize, Scale};
pub use packed::PackedWeights;
pub use select::{KERNEL_VARIABLE, UnknownKernel, best, chosen, kernels};
pub use static_linear::StaticLinear;

use activations::Activations;
use ending::Ending;
use lines::Lines;

/// Largest inner dimension for which an `i32` accumulator cannot overflow: every product is at most 255 · 128 in
/// magnitude, so 65 793 of them stay below 2³¹.
pub const MAX_K: usize = i32::MAX as usize / (255 * 128);

/// One way of computing the product. All of them give the same bits; they differ in the instructions they need.
///
/// Only this crate implements it: its arguments are made here.
pub trait GemmI8: Debug + Send + Sync {
    /// The name by which it is printed and chosen: types, instruction set, rows x columns of its tile.
    fn name(&self) -> &'static str;

    /// Rows and columns at which work may be divided among threads without half-filled tiles.
    fn tile(&self) -> [usize; 2];

    /// Lays weights `[n, k]` out in the order in which this kernel reads them.
    #[doc(hidden)]
    fn pack(&self, n: usize, k: usize, weights: &[i8]) -> Lines;

    /// What this kernel adds to every activation code before it multiplies; the offsets undo it.
    #[doc(hidden)]
    fn activation_shift(&self) -> i32 {
        0
    }

    /// The same kernel for windows of images where they lie, if multiplying those is the fastest for windows of so many inputs;
    /// otherwise windows are gathered to rows.
    #[doc(hidden)]
    fn windows(&self, _inputs: usize) -> Option<&dyn windows::WindowKernel> {
        None
    }

    /// What it does in a nanosecond, about, with so many rows: for deciding whether a second thread pays.
    #[doc(hidden)]
    fn multiply_adds(&self, _rows: usize) -> u64 {
        230
    }

    /// Executes nothing but the instruction that this kernel rests on, from registers, for some 10 to 100 µs, and returns how many
    /// operations that were (a multiplication and an addition count 1 each): the most that one thread can reach. `None` for
    /// kernels that have no instruction of their own.
    fn ceiling(&self) -> Option<u64> {
        None
    }

    /// Computes one rectangle of the result.
    #[doc(hidden)]
    fn run(&self, task: Task<'_>);
}

/// A rectangle of a product to compute: made by [`PackedWeights`], divided among threads, executed by a kernel.
#[doc(hidden)]
#[derive(Debug)]
pub struct Task<'a> {
    pub(crate) weights: &'a Lines,
    pub(crate) k: usize,
    pub(crate) activations: &'a dyn Activations,
    pub(crate) first_row: usize,
    pub(crate) first_column: usize,
    /// One per column of the rectangle: the sum of its weights.
    pub(crate) weight_sums: &'a [i32],
    /// One per column of the rectangle: bias minus what zero point and shift have added to the sum.
    pub(crate) offsets: &'a [i32],
    pub(crate) ending: Ending<'a>,
}

impl<'a> Task<'a> {
    pub(crate) fn rows(&self) -> usize {
        self.ending.rows()
    }

    pub(crate) fn columns(&self) -> usize {
        self.offsets.len()
    }

    /// The first `rows` rows, and the rest.
    pub(crate) fn split_rows(self, rows: usize) -> (Task<'a>, Task<'a>) {
        let (top, bottom) = self.ending.split_rows(rows);
        (
            Task {
                ending: top,
                ..self
            },
            Task {
                ending: bottom,
                first_row: self.first_row + rows,
                ..self
            },
        )
    }

    /// The first `columns` columns, and the rest.
    pub(crate) fn split_columns(self, columns: usize) -> (Task<'a>, Task<'a>) {
        let (left, right) = self.ending.split_columns(columns);
        let (left_offsets, right_offsets) = self.offsets.split_at(columns);
        let (left_sums, right_sums) = self.weight_sums.split_at(columns);
        (
            Task {
                ending: left,
                weight_sums: left_sums,
                offsets: left_offsets,
                ..self
            },
            Task {
                ending: right,
                weight_sums: right_sums,
                offsets: right_offsets,
                first_column: self.first_column + columns,
                ..self
            },
        )
    }
}
