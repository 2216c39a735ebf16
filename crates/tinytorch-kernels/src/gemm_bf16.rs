//! The matrix product of 16-bit numbers: `bf16 · bf16 -> f32`.
//!
//! A bf16 is the upper half of an `f32`: its range, with 8 significant bits. Half the bytes, and on CPUs with
//! AVX-512-BF16 twice the multiply-adds per instruction. In: two strided views, of bf16 or of `f32` that are rounded
//! (to nearest, ties to even) while they are packed. Out: a row-major matrix of `f32`.
//!
//! # What "equal" means here
//!
//! Sums of real numbers depend on their order, so the order is part of the definition (N24, [`scalar`]). There are two, for two
//! instructions ([`SumOrder`]): `vdpbf16ps` takes neighbours of the inner dimension in pairs, and a matrix unit's `tdpbf16ps`
//! takes 32 at once. Both round once for each product and know no subnormal numbers. Every kernel gives the bits of its order,
//! with any number of threads, and all but that of the matrix unit have the same; only which NaN a NaN is, is left open.
//! [`bf16_sum_order`] says which one is used here, and `TINYTORCH_KERNEL` chooses it with the kernel.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, VDPBF16PS and TDPBF16PS. The description
//! of the first was compared with the instruction on a Zen 4 CPU over 15 million random operands, without a difference; the
//! second takes the numbers of even and of odd index apart, which its kernel's tests show.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod drive;
mod pack;
mod portable;
pub mod scalar;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use half::bf16;

use crate::Dims;
use crate::cpu::Vectors;
use crate::gemm_f32::{Accumulate, MatrixMut, MatrixRef, Threads, assert_reaches};
use crate::gemm_i8::block::BlockMut;
#[cfg(target_arch = "x86_64")]
use crate::gemm_i8::chosen;
#[cfg(target_arch = "x86_64")]
use amx::AmxBf16;
#[cfg(target_arch = "x86_64")]
use avx512_bf16::Avx512Bf16;
use pack::{Lines, Packed};
pub use scalar::SumOrder;

/// The elements of a matrix that is multiplied in bf16.
#[derive(Clone, Copy, Debug)]
pub enum Bf16Elements<'a> {
    /// They are rounded to bf16 while they are packed: to nearest, ties to even.
    F32(&'a [f32]),
    /// They are taken as they are.
    Bf16(&'a [bf16]),
}

impl Bf16Elements<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
        }
    }
}

/// A matrix to read: element `[i, j]` is `data[i * row_stride + j * column_stride]`, rounded to bf16 if it is `f32`.
///
/// Made from a [`MatrixRef`], or by [`row_major`](Self::row_major) from a slice of bf16.
#[derive(Clone, Copy, Debug)]
pub struct MatrixBf16<'a> {
    /// The elements, at least up to the last one that the dimensions reach.
    pub data: Bf16Elements<'a>,
    /// Distance from one row to the next, in elements.
    pub row_stride: usize,
    /// Distance from one column to the next, in elements.
    pub column_stride: usize,
}

impl<'a> MatrixBf16<'a> {
    /// A dense row-major matrix with rows of `columns` elements.
    pub fn row_major(data: &'a [bf16], columns: usize) -> Self {
        Self {
            data: Bf16Elements::Bf16(data),
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The same data read with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    #[track_caller]
    fn assert_reaches(&self, name: &str, sizes: [usize; 2]) {
        let strides = [self.row_stride, self.column_stride];
        assert_reaches(name, sizes, strides, self.data.len());
    }

    /// Its rows, along which the inner dimension runs: a left matrix.
    fn rows(self) -> Lines<'a> {
        Lines {
            data: self.data,
            line_stride: self.row_stride,
            inner_stride: self.column_stride,
        }
    }

    /// Its columns: a right matrix.
    fn columns(self) -> Lines<'a> {
        self.transposed().rows()
    }
}

impl<'a> From<MatrixRef<'a>> for MatrixBf16<'a> {
    fn from(matrix: MatrixRef<'a>) -> Self {
        Self {
            data: Bf16Elements::F32(matrix.data),
            row_stride: matrix.row_stride,
            column_stride: matrix.column_stride,
        }
    }
}

/// One way of computing the product; all of one order give the same bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernel {
    /// Loops that compilers vectorize.
    Portable(Vectors),
    /// `vdpbf16ps` on 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    /// `tdpbf16ps` on the tiles of a matrix unit.
    #[cfg(target_arch = "x86_64")]
    Amx(AmxBf16),
}

impl Kernel {
    /// All that this CPU can run, best first.
    #[cfg(test)]
    pub fn available() -> Vec<Kernel> {
        let mut kernels = vec![];
        #[cfg(target_arch = "x86_64")]
        kernels.extend(AmxBf16::new().map(Kernel::Amx));
        #[cfg(target_arch = "x86_64")]
        kernels.extend(Avx512Bf16::new().map(Kernel::Avx512Bf16));
        kernels.extend(Vectors::available().into_iter().map(Kernel::Portable));
        kernels
    }

    /// The best of those that use what the chosen kernel for integers uses: the environment may force one without the matrix
    /// unit, or without 512-bit vectors (see [`KERNEL_VARIABLE`](crate::gemm_i8::KERNEL_VARIABLE)).
    pub fn chosen() -> Kernel {
        static CHOSEN: OnceLock<Kernel> = OnceLock::new();
        *CHOSEN.get_or_init(|| match Vectors::chosen() {
            #[cfg(target_arch = "x86_64")]
            vectors @ Vectors::Avx512(_) => {
                let unit = chosen().is_ok_and(|kernel| kernel.name().contains("-avx512amx"));
                if let Some(kernel) = AmxBf16::new().filter(|_| unit) {
                    return Kernel::Amx(kernel);
                }
                Avx512Bf16::new().map_or(Kernel::Portable(vectors), Kernel::Avx512Bf16)
            }
            vectors => Kernel::Portable(vectors),
        })
    }

    /// The vectors that may be used beside it.
    fn vectors(self) -> Vectors {
        match self {
            Kernel::Portable(vectors) => vectors,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16(kernel) => kernel.vectors(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(kernel) => kernel.vectors(),
        }
    }

    /// Largest number of rows of a tile.
    fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(_) => AmxBf16::ROWS,
            _ => 14,
        }
    }

    fn order(self) -> SumOrder {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(_) => SumOrder::Tiles,
            _ => SumOrder::Pairs,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kernel::Portable(Vectors::Baseline) => "bf16bf16f32-portable",
            #[cfg(target_arch = "x86_64")]
            Kernel::Portable(Vectors::Avx2(_)) => "bf16bf16f32-avx2",
            #[cfg(target_arch = "x86_64")]
            Kernel::Portable(Vectors::Avx512(_)) => "bf16bf16f32-avx512",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16(_) => "bf16bf16f32-avx512bf16-14x32",
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(_) => "bf16bf16f32-avx512amx-32x32",
        }
    }
}

/// The name of the kernel that [`gemm_bf16`] uses here: types, instruction set, rows x columns of its tile.
pub fn bf16_kernel_name() -> &'static str {
    Kernel::chosen().name()
}

/// The order of sums of that kernel: with it, [`scalar`] gives the same bits on any CPU.
pub fn bf16_sum_order() -> SumOrder {
    Kernel::chosen().order()
}

/// Whether this CPU has instructions for bf16 which are not switched off. They are faster than those of `f32`, but for `vdpbf16ps` on
/// CPUs that have a matrix unit as well, where the unit is what is fast.
pub fn bf16_is_fast() -> bool {
    !matches!(Kernel::chosen(), Kernel::Portable(_))
}

/// Multiplies two matrices in bf16, with `f32` sums: `c = a · b`, or `c += a · b`.
///
/// | argument | shape    | meaning                                     |
/// |----------|----------|---------------------------------------------|
/// | `a`      | `[m, k]` | any strides                                 |
/// | `b`      | `[k, n]` | any strides                                 |
/// | `c`      | `[m, n]` | row-major, overwritten or added to          |
///
/// Both sides are packed anew; where `b` stays the same, pack it once ([`PackedBf16`]). A sum that is added to starts with
/// what `c` holds, so a bias that was written there first costs nothing more.
///
/// # Panics
///
/// If a slice is shorter than its dimensions and strides reach, or the rows of `c` overlap.
#[track_caller]
pub fn gemm_bf16(
    dims: Dims,
    a: MatrixBf16<'_>,
    b: MatrixBf16<'_>,
    c: MatrixMut<'_>,
    accumulate: Accumulate,
    threads: Threads,
) {
    gemm_bf16_with(Kernel::chosen(), dims, a, b, c, accumulate, threads);
}

/// As [`gemm_bf16`], with the kernel given.
#[track_caller]
fn gemm_bf16_with(
    kernel: Kernel,
    dims: Dims,
    a: MatrixBf16<'_>,
    b: MatrixBf16<'_>,
    c: MatrixMut<'_>,
    accumulate: Accumulate,
    threads: Threads,
) {
    let Dims { m, n, k } = dims;
    a.assert_reaches("a", [m, k]);
    b.assert_reaches("b", [k, n]);
    let c = block(m, n, c);
    if m == 0 || n == 0 {
        return;
    }
    let threads = drive::threads(dims, threads);
    drive::with_packed(kernel, n, k, b.columns(), threads, |packed| {
        drive::product(kernel, k, a.rows(), packed, c, accumulate, threads);
    });
}

#[track_caller]
fn block(m: usize, n: usize, c: MatrixMut<'_>) -> BlockMut<'_, f32> {
    BlockMut::new(c.data, m, 0, n, c.row_stride)
}

/// A right matrix `[k, n]` in bf16, in the order in which the kernel reads it, for any number of products.
#[derive(Clone, Debug)]
pub struct PackedBf16 {
    kernel: Kernel,
    n: usize,
    k: usize,
    packed: Packed,
}

impl PackedBf16 {
    /// Packs `b`, `[k, n]`. For weights `[outputs, inputs]` that is the transposed view of them.
    ///
    /// # Panics
    ///
    /// If the slice is shorter than the dimensions and strides reach.
    #[track_caller]
    pub fn new(n: usize, k: usize, b: MatrixBf16<'_>) -> Self {
        Self::with_kernel(Kernel::chosen(), n, k, b)
    }

    #[track_caller]
    fn with_kernel(kernel: Kernel, n: usize, k: usize, b: MatrixBf16<'_>) -> Self {
        b.assert_reaches("b", [k, n]);
        let mut packed = Packed::default();
        packed.fill(kernel, n, k, b.columns(), 1);
        Self {
            kernel,
            n,
            k,
            packed,
        }
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Rows: the inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes held on the heap, the padding of the layout included.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// The columns one after the other, `[n, k]`: of weights `[outputs, inputs]` what was packed. Subnormal numbers are zeros.
    pub fn unpack(&self) -> Vec<bf16> {
        self.packed.columns(self.n, self.k)
    }

    /// `c = a · b`, or `c += a · b`, with `a` `[m, k]` and `c` `[m, n]`: the bits of [`gemm_bf16`].
    ///
    /// # Panics
    ///
    /// As [`gemm_bf16`].
    #[track_caller]
    pub fn product(
        &self,
        m: usize,
        a: MatrixBf16<'_>,
        c: MatrixMut<'_>,
        accumulate: Accumulate,
        threads: Threads,
    ) {
        let Self {
            kernel,
            n,
            k,
            ref packed,
        } = *self;
        a.assert_reaches("a", [m, k]);
        let c = block(m, n, c);
        if m == 0 || n == 0 {
            return;
        }
        let threads = drive::threads(Dims { m, n, k }, threads);
        drive::product(kernel, k, a.rows(), packed, c, accumulate, threads);
    }
}
