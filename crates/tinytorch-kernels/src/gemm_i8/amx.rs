//! The kernel for Intel's matrix unit: `tdpbusd` multiplies 16 rows of 64 bytes with 64 x 16 weights, 16 384 multiply-adds in 16 cycles.
//!
//! Activations and weights lie as for [`Avx512Vnni`], which also takes what is too small for the unit: tiles of few rows, which
//! reading the weights bounds anyway, and windows of images. A tile is 32 rows by 32 columns: four tile registers are sums, two hold
//! activations, two weights. Sums leave the unit through memory, and end as those of the other kernel do.
#![expect(
    unsafe_code,
    reason = "instructions that only assembly has, and calls that need CPU features"
)]

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::avx512_vnni::finish::finish;
use super::avx512_vnni::{Avx512Vnni, one_row};
use super::ending::Ending;
use super::lines::Lines;
use super::tiled::{self, BLOCK, Block, Micro, Panel, Place};
use super::windows::WindowKernel;
use super::{GemmI8, Task};

/// Rows of a tile register; of weights, groups of four.
const ROWS: usize = 16;
/// Columns of a tile register: 32-bit sums, or words of four codes.
const LANES: usize = 16;
/// Bytes of a group of a whole panel.
const GROUP_BYTES: usize = 2 * LANES * 4;
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
        [<Self as Micro>::ROWS, Self::COLUMNS]
    }

    fn pack(&self, n: usize, k: usize, weights: &[i8]) -> Lines {
        tiled::pack::<Self>(n, k, weights)
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
            1000
        }
    }

    fn ceiling(&self) -> Option<u64> {
        // SAFETY: the CPU has the instructions and the system permits them because `self` is the proof of it.
        Some(unsafe { ceiling() })
    }

    fn run(&self, task: Task<'_>) {
        tiled::run(self, task);
    }
}

impl Micro for Amx {
    const COLUMNS: usize = 2 * LANES;
    const LANES: usize = LANES;
    const ROWS: usize = 2 * ROWS;
    const CODES: usize = 4;
    const FLIP: Option<u8> = Avx512Vnni::FLIP;

    fn encode(&self, codes: &[i8], words: &mut [i32]) {
        self.vectors.encode(codes, words);
    }

    fn tile(&self, rows: usize, activations: &[Block], panel: Panel<'_>, place: Place<'_, '_>) {
        if rows < FEW_ROWS {
            return Micro::tile(&self.vectors, rows, activations, panel, place);
        }
        let mut sums = Sums([[0; 2 * LANES]; 2 * ROWS]);
        // SAFETY: the CPU has the instructions and the system permits them because `self` is the proof of it.
        unsafe { multiply(rows, activations, panel, &mut sums) };
        let wide = panel.width > LANES;
        let full = panel.width.is_multiple_of(LANES);
        // SAFETY: the CPU has the features because `self` is the proof of it.
        unsafe {
            match (wide, full) {
                (true, true) => end::<2, true>(&sums, rows, panel.width, place),
                (true, false) => end::<2, false>(&sums, rows, panel.width, place),
                (false, true) => end::<1, true>(&sums, rows, panel.width, place),
                (false, false) => end::<1, false>(&sums, rows, panel.width, place),
            }
        }
    }

    fn four_panels(
        &self,
        activations: &[Block],
        panels: [Panel<'_>; 4],
        ending: &mut Ending<'_>,
        offsets: &[i32],
        columns: [usize; 4],
    ) {
        // SAFETY: the CPU has the features because `self.vectors` is the proof of it.
        unsafe { one_row::four_panels(activations, panels, ending, offsets, columns) };
    }
}

/// `tdpbusd` alone, into four sums in turns, as [`multiply`] does it.
///
/// # Safety
///
/// As [`multiply`].
unsafe fn ceiling() -> u64 {
    const ROUNDS: u64 = 2000;
    let shapes = Shapes::of(2 * ROWS);
    // SAFETY: works in the registers of the unit, which the configuration has set to zero, and releases it.
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
    // 16 rows of 64 codes times 16 columns, each product added.
    ROUNDS * 4 * 2 * (ROWS * 64 * LANES) as u64
}

/// Sums of a tile.
#[repr(C, align(64))]
struct Sums([[i32; 2 * LANES]; 2 * ROWS]);

/// What the unit is told about its registers: palette 1, then bytes of a row and number of rows of each.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Registers 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights.
    fn of(rows: usize) -> Self {
        let (upper, lower) = (rows.min(ROWS) as u8, rows.saturating_sub(ROWS).max(1) as u8);
        let mut shapes = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        shapes.row_bytes[..8].fill(64);
        let all = ROWS as u8;
        shapes.rows[..8].copy_from_slice(&[upper, upper, lower, lower, upper, lower, all, all]);
        shapes
    }
}

/// The last groups of a panel, filled up with zeros to as many as a register has, and what vectors read beyond a narrow group.
#[repr(C, align(64))]
struct Tail([i8; ROWS * GROUP_BYTES + 64]);

/// Writes the sums of a tile of `rows` rows.
///
/// # Safety
///
/// The CPU must have AMX-INT8, and the system must have permitted it.
unsafe fn multiply(rows: usize, activations: &[Block], panel: Panel<'_>, sums: &mut Sums) {
    let Panel {
        weights,
        width,
        groups,
    } = panel;
    let stride = 4 * width;
    let vectors = width.div_ceil(LANES);
    assert!((1..=2 * ROWS).contains(&rows) && (1..=2 * LANES).contains(&width));
    assert!(groups == 0 || (groups - 1) * stride + vectors * 64 <= weights.len());
    assert!(activations.len() == rows * groups.div_ceil(BLOCK));
    let (steps, rest) = (groups / ROWS, groups % ROWS);
    let mut tail = Tail([0; _]);
    let tail_start = if rest > 0 {
        // The vectors of the last group reach beyond it; what is there does not matter, and is not copied.
        let last = &weights[steps * ROWS * stride..][..rest * stride];
        tail.0[..last.len()].copy_from_slice(last);
        tail.0.as_ptr()
    } else {
        weights.as_ptr()
    };
    let shapes = Shapes::of(rows);
    let arguments = Arguments {
        shapes: &shapes,
        activations: activations.as_ptr().cast(),
        weights: weights.as_ptr(),
        tail: tail_start,
        stride,
        // From the last words of a block to the first ones of the row's next.
        skip: (rows - 1) * size_of::<Block>(),
        steps,
        steps_and_tail: steps + usize::from(rest > 0),
        sums,
    };
    // SAFETY: see `blocks_of_two` for what is read.
    unsafe {
        match (rows > ROWS, vectors > 1) {
            (true, true) => arguments.run::<true, true>(),
            (true, false) => arguments.run::<true, false>(),
            (false, true) => arguments.run::<false, true>(),
            (false, false) => arguments.run::<false, false>(),
        }
    }
}

/// Where everything is that a tile is computed from.
struct Arguments<'a> {
    shapes: &'a Shapes,
    activations: *const i8,
    weights: *const i8,
    tail: *const i8,
    stride: usize,
    skip: usize,
    steps: usize,
    steps_and_tail: usize,
    sums: &'a mut Sums,
}

/// The loop over the inner dimension, 16 groups at a time, with these instructions for a step.
macro_rules! steps {
    ($arguments:expr, [$($step:literal),*], [$($store:literal),*]) => {
        // SAFETY: what is read and written is what `Arguments::run` names. Between the configuration and the release of the
        // unit nothing else runs, and no other code has anything in its registers.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "xor {step:e}, {step:e}",
                "jmp 4f",
                "2:",
                // The last groups, if they do not fill a register, lie elsewhere.
                "cmp {step}, {steps}",
                "cmove {weights}, {tail}",
                $($step,)*
                "lea {weights}, [{weights} + 8 * {stride}]",
                "lea {weights}, [{weights} + 8 * {stride}]",
                "add {activations}, 64",
                "inc {step}",
                // Four steps to a block.
                "test {step:e}, 3",
                "jnz 4f",
                "add {activations}, {skip}",
                "4:",
                "cmp {step}, {all}",
                "jne 2b",
                "mov {step:e}, 128",
                $($store,)*
                "tilerelease",
                shapes = in(reg) $arguments.shapes,
                activations = inout(reg) $arguments.activations => _,
                weights = inout(reg) $arguments.weights => _,
                tail = in(reg) $arguments.tail,
                stride = in(reg) $arguments.stride,
                skip = in(reg) $arguments.skip,
                steps = in(reg) $arguments.steps,
                all = in(reg) $arguments.steps_and_tail,
                sums = in(reg) $arguments.sums.0.as_mut_ptr(),
                row = in(reg) size_of::<Block>(),
                step = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    };
}

impl Arguments<'_> {
    /// Computes the sums: of more than 16 rows if `TALL`, of more than 16 columns if `WIDE`.
    ///
    /// # Safety
    ///
    /// The unit must be there and permitted. `activations` must have a block for every row and 64 groups; `weights` whole vectors
    /// for each group of `steps` times 16, `stride` bytes apart; `tail` for 16 groups if there is one more step.
    unsafe fn run<const TALL: bool, const WIDE: bool>(self) {
        match (TALL, WIDE) {
            (true, true) => steps!(
                self,
                [
                    "tileloadd tmm4, [{activations} + {row}]",
                    "tileloadd tmm6, [{weights} + {stride}]",
                    "tileloadd tmm7, [{weights} + {stride} + 64]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{activations} + {row} + 4096]",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "tdpbusd tmm3, tmm5, tmm7"
                ],
                [
                    "tilestored [{sums} + {step}], tmm0",
                    "tilestored [{sums} + {step} + 64], tmm1",
                    "tilestored [{sums} + {step} + 2048], tmm2",
                    "tilestored [{sums} + {step} + 2112], tmm3"
                ]
            ),
            (true, false) => steps!(
                self,
                [
                    "tileloadd tmm4, [{activations} + {row}]",
                    "tileloadd tmm6, [{weights} + {stride}]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{activations} + {row} + 4096]",
                    "tdpbusd tmm2, tmm5, tmm6"
                ],
                [
                    "tilestored [{sums} + {step}], tmm0",
                    "tilestored [{sums} + {step} + 2048], tmm2"
                ]
            ),
            (false, true) => steps!(
                self,
                [
                    "tileloadd tmm4, [{activations} + {row}]",
                    "tileloadd tmm6, [{weights} + {stride}]",
                    "tileloadd tmm7, [{weights} + {stride} + 64]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tdpbusd tmm1, tmm4, tmm7"
                ],
                [
                    "tilestored [{sums} + {step}], tmm0",
                    "tilestored [{sums} + {step} + 64], tmm1"
                ]
            ),
            (false, false) => steps!(
                self,
                [
                    "tileloadd tmm4, [{activations} + {row}]",
                    "tileloadd tmm6, [{weights} + {stride}]",
                    "tdpbusd tmm0, tmm4, tmm6"
                ],
                ["tilestored [{sums} + {step}], tmm0"]
            ),
        }
    }
}

/// Ends the sums, some rows at a time from registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn end<const VECTORS: usize, const FULL: bool>(
    sums: &Sums,
    rows: usize,
    width: usize,
    place: Place<'_, '_>,
) {
    const AT_ONCE: usize = 8;
    let Place {
        ending,
        offsets,
        row: first,
        column,
    } = place;
    let mut row = 0;
    while row < rows {
        let place = Place {
            ending: &mut *ending,
            offsets,
            row: first + row,
            column,
        };
        if rows - row >= AT_ONCE {
            finish::<AT_ONCE, VECTORS, FULL>(load(sums, row), width, place);
            row += AT_ONCE;
        } else {
            finish::<1, VECTORS, FULL>(load(sums, row), width, place);
            row += 1;
        }
    }
}

/// The sums of some rows.
#[target_feature(enable = "avx512f")]
#[inline]
fn load<const ROWS: usize, const VECTORS: usize>(
    sums: &Sums,
    row: usize,
) -> [[__m512i; VECTORS]; ROWS] {
    let mut loaded = [[_mm512_setzero_si512(); VECTORS]; ROWS];
    for (loaded, sums) in loaded.iter_mut().zip(&sums.0[row..row + ROWS]) {
        for (loaded, sums) in loaded.iter_mut().zip(sums.as_chunks::<LANES>().0) {
            // SAFETY: a reference to 16 sums.
            *loaded = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
        }
    }
    loaded
}
