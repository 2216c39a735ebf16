//! Slices in, slices out: the loops that the framework's speed rests on.
//!
//! The only crate of the workspace that may hold `unsafe` code. Every entry point is safe: it checks the lengths of its
//! slices once, with `assert!`, and then runs the fastest kernel that this CPU has. The slowest correct version of each
//! integer kernel stays, is called `scalar`, and defines the others, bit for bit.

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod conv_f32;
pub mod conv_i8;
mod cpu;
pub mod dynamic;
pub mod elementwise;
pub mod gemm_bf16;
pub mod gemm_f32;
pub mod gemm_f32_i8;
pub mod gemm_i4;
pub mod gemm_i8;
pub mod histogram;
mod images_f32;
mod in_a_row;
mod pages;
pub mod pool_i8;
mod team;
#[cfg(test)]
mod testing;

pub use conv_f32::PackedConv2dF32;
pub use conv_i8::{Conv2dShape, Images, PackedConv2d};
pub use dynamic::{DynamicLinear, InputError, InputRange};
pub use elementwise::{
    NotFinite, Quantize, dequantize_i8_f32, dequantize_u8_f32, min_max, quantize_f32_i8,
    quantize_f32_u8, requantize_i32_i8,
};
pub use gemm_bf16::{
    Bf16Elements, MatrixBf16, PackedBf16, SumOrder, bf16_is_fast, bf16_kernel_name, bf16_sum_order,
    gemm_bf16,
};
pub use gemm_f32::packed::{Finish, Normalize, PackedF32};
pub use gemm_f32::{Accumulate, MatrixMut, MatrixRef, Threads, gemm_f32};
pub use gemm_f32_i8::PackedInt8;
pub use gemm_i4::PackedInt4;
pub use gemm_i8::{GemmI8, PackedWeights, Requantize, Scale, StaticLinear, best, kernels};
pub use images_f32::{PoolWindow, max_pool2d_f32, transpose_f32};
pub use in_a_row::in_a_row;
pub use pool_i8::{Pool2dShape, max_pool_i8};

/// How many elements an array of these sizes has; `None` if a `usize` cannot count them.
///
/// A product that wraps could equal the length of a slice by accident, and a kernel would then leave the slice.
pub(crate) fn elements<const D: usize>(sizes: [usize; D]) -> Option<usize> {
    sizes
        .into_iter()
        .try_fold(1_usize, |elements, size| elements.checked_mul(size))
}

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
