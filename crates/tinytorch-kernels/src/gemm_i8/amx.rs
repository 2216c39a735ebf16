//! The kernel for Intel's matrix unit: `tdpbusd` multiplies 16 rows of 64 bytes with 64 x 16 weights, 16 384 multiply-adds in 16 cycles.
//!
//! Activations and weights lie as for [`Avx512Vnni`], which also takes what is too small for the unit: tiles of few rows, which
//! reading the weights bounds anyway, and windows of images. A tile is 32 rows by 32 columns: four tile registers are sums, two hold
//! activations, two weights (`unit.rs`). Sums leave the unit through memory, and end as those of the other kernel do, while the
//! unit computes the next ones (`drive.rs`).
#![expect(
    unsafe_code,
    reason = "instructions that only assembly has, and calls that need CPU features"
)]

mod drive;
mod unit;

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

use super::avx512_vnni::Avx512Vnni;
use super::lines::Lines;
use super::tiled;
use super::windows::WindowKernel;
use super::{GemmI8, Task};
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
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        let vectors = Avx512Vnni::new()?;
        PERMITTED
            .get_or_init(|| has_amx_int8() && permitted())
            .then_some(Self { vectors })
    }
}

/// Whether the CPU knows the instructions.
fn has_amx_int8() -> bool {
    // Miri cannot ask the CPU.
    if cfg!(miri) || __cpuid(0).eax < 7 {
        return false;
    }
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    __cpuid_count(7, 0).edx & (TILE | INT8) == TILE | INT8
}

/// Asks the system for the unit: its registers are 8 KiB for every thread, which a process must want to have.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: this request changes nothing but what the process is permitted; a system call may overwrite rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    result == 0
}

/// Elsewhere it is not known how to ask.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
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
