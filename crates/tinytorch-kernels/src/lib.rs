//! Slices in, slices out: the loops that the framework's speed rests on.
//!
//! The only crate of the workspace that may hold `unsafe` code. Every entry point is safe: it checks the lengths of its
//! slices once, with `assert!`, and then runs the fastest kernel that this CPU has. The slowest correct version of each
//! integer kernel stays, is called `scalar`, and defines the others, bit for bit.

pub mod gemm_f32;
pub mod gemm_i8;
#[cfg(test)]
mod testing;

pub use gemm_f32::{Accumulate, MatrixMut, MatrixRef, Threads, gemm_f32};
pub use gemm_i8::{GemmI8, PackedWeights, Requantize, Scale, best, kernels};

/// The sizes of a product `[m, k] · [k, n] -> [m, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Rows of the left matrix and of the result.
    pub m: usize,
    /// Columns of the right matrix and of the result.
    pub n: usize,
    /// The inner dimension, summed over.
    pub k: usize,
}
