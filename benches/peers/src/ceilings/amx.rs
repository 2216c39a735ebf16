//! `tdpbusd` alone: what the matrix unit of a CPU with AMX-INT8 does at most.

use std::arch::asm;

/// Multiplications in a row.
const ROUNDS: u64 = 10_000;
/// Operations of a call: four multiplications in each round, of 16 x 64 with 64 x 16 codes.
pub const OPERATIONS: usize = ROUNDS as usize * 4 * 16 * 64 * 16 * 2;

/// What the unit is told about its registers.
#[repr(C, align(64))]
struct Shapes([u8; 64]);

/// Whether this CPU has the unit and the system permits it: our kernels have asked.
pub fn is_there() -> bool {
    tinytorch_kernels::best().name().contains("-avx512amx")
}

/// Multiplies zeros, from registers.
///
/// # Safety
///
/// [`is_there`] must have said so.
pub unsafe fn tdpbusd() {
    let mut shapes = Shapes([0; 64]);
    shapes.0[0] = 1;
    for register in 0..8 {
        shapes.0[16 + 2 * register] = 64;
        shapes.0[48 + register] = 16;
    }
    // SAFETY: configures the unit, which zeroes its registers, works in them and releases it.
    unsafe {
        asm!(
            "ldtilecfg [{shapes}]",
            "2:",
            "tdpbusd tmm0, tmm4, tmm6",
            "tdpbusd tmm1, tmm4, tmm7",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            shapes = in(reg) &shapes,
            rounds = inout(reg) ROUNDS => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}
