//! The kernel for Intel's matrix unit: `tdpbusd` multiplies 16 rows of 64 bytes with 64 x 16 weights, 16 384 multiply-adds in 16 cycles.
//!
//! Weights lie as for [`Avx512Vnni`], activations too unless they are multiplied where they lie (`drive.rs`). That kernel also takes what is
//! too small for the unit: tiles of few rows, which reading the weights bounds anyway, and windows of images. A tile is 32 rows by
//! 32 columns: four tile registers are sums, two hold activations, two weights (`unit.rs`, `product.rs`). Sums leave the unit through
//! memory, and end as those of the other kernel do, while the unit computes the next ones (`beside.rs`).
#![expect(unsafe_code, reason = "calls that need CPU features")]

mod beside;
mod drive;
mod product;
mod unit;

use super::avx512_vnni::Avx512Vnni;
use super::lines::Lines;
use super::tiled;
use super::windows::WindowKernel;
use super::{GemmI8, Task};
use crate::amx;
use unit::{COLUMNS, ROWS};

/// Inputs of a window from which gathering it pays.
const GATHERED_INPUTS: usize = 128;
/// Rows below which the vector kernel is as fast.
const FEW_ROWS: usize = 4;

/// The proof that this CPU has AMX-INT8 beside what [`Avx512Vnni`] needs, and that the system lets this process use it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amx {
    vectors: Avx512Vnni,
}

impl Amx {
    /// The kernel, if this CPU can run it and the system permits it.
    pub fn new() -> Option<Self> {
        let vectors = Avx512Vnni::new()?;
        amx::permitted_with(amx::INT8).then_some(Self { vectors })
    }
}

impl GemmI8 for Amx {
    fn name(&self) -> &'static str {
        "i8i8i32-avx512amx-32x32"
    }

    fn tile(&self) -> [usize; 2] {
        [ROWS, COLUMNS]
    }

    fn pack(&self, n: usize, k: usize, weights: &[i8]) -> Lines {
        tiled::pack::<Avx512Vnni>(n, k, weights)
    }

    fn activation_shift(&self) -> i32 {
        self.vectors.activation_shift()
    }

    fn windows(&self, inputs: usize) -> Option<&dyn WindowKernel> {
        // The unit reads rows of whole blocks: gathering a window takes longer than multiplying it if it is small.
        (inputs < GATHERED_INPUTS).then_some(&self.vectors)
    }

    fn multiply_adds(&self, rows: usize) -> u64 {
        if rows < FEW_ROWS {
            self.vectors.multiply_adds(rows)
        } else {
            1200
        }
    }

    fn ceiling(&self) -> Option<u64> {
        // SAFETY: the CPU has the instructions and the system permits them because `self` is the proof of it.
        Some(unsafe { unit::ceiling() })
    }

    fn run(&self, task: Task<'_>) {
        if task.rows() < FEW_ROWS {
            self.vectors.run(task);
        } else {
            drive::run(self, task);
        }
    }
}
