//! Intel's matrix unit, AMX: whether this CPU has it and the system permits it, and how its registers are laid out.
#![expect(
    unsafe_code,
    reason = "a system call that only assembly makes without a library, and instructions of the unit"
)]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows of a tile register; of a right side, words of the inner dimension.
pub(crate) const ROWS: usize = 16;
/// Bit of `edx` of leaf 7: products of 8-bit integers.
pub(crate) const INT8: u32 = 1 << 25;
/// The same: products of bf16.
pub(crate) const BF16: u32 = 1 << 22;

/// Whether the CPU has the unit with this part, and the system lets this process use it.
pub(crate) fn permitted_with(part: u32) -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    const TILE: u32 = 1 << 24;
    // Miri cannot ask the CPU.
    if cfg!(miri) || __cpuid(0).eax < 7 {
        return false;
    }
    let has = __cpuid_count(7, 0).edx & (TILE | part) == TILE | part;
    has && *PERMITTED.get_or_init(permitted)
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

/// What the unit is told about its registers: palette 1, then bytes of a row and number of rows of each.
#[repr(C, align(64))]
pub(crate) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// For a left side of so many rows, at most 32: registers 0 to 3 are sums, 4 and 5 the left side, 6 and 7 the right side.
    pub fn of(rows: usize) -> Self {
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

thread_local! {
    /// For how many rows the unit's registers are prepared on this thread; 0 if not at all.
    static PREPARED: Cell<usize> = const { Cell::new(0) };
    /// How often this thread has asked to [`hold`] the unit.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Leaves the unit prepared between products, until [`let_go`].
pub(crate) fn hold() {
    HELD.set(HELD.get() + 1);
}

/// Takes a [`hold`] back.
pub(crate) fn let_go() {
    HELD.set(HELD.get() - 1);
    release_unless_held();
}

fn release_unless_held() {
    if HELD.get() == 0 && PREPARED.take() != 0 {
        // SAFETY: it was prepared, so it is there.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// The unit while a thread uses it. Telling it about its registers takes a third of the time of a tile, so it is told when that
/// changes, and released when all is done, unless the thread [holds](hold) it: then the system need not save its registers any more.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    _not_send: PhantomData<*const ()>,
}

impl Unit {
    /// Prepares tiles of `rows` rows, at most 32. Nothing else may use the unit between this and the last instruction for the tile:
    /// another product on this thread leaves it without registers, or with those of other tiles.
    ///
    /// # Safety
    ///
    /// The CPU must have the unit, and the system must have permitted it.
    #[inline]
    pub unsafe fn prepare(&mut self, rows: usize) {
        assert!((1..=2 * ROWS).contains(&rows));
        if PREPARED.get() == rows {
            return;
        }
        PREPARED.set(rows);
        let shapes = Shapes::of(rows);
        // SAFETY: it is there and permitted. It reads the shapes, and sets its registers to zero, in which no other code has anything.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                shapes = in(reg) &shapes,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly)
            );
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        release_unless_held();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_released_when_nobody_holds_it_any_more() {
        if !permitted_with(INT8) {
            return;
        }
        let product = |rows| {
            let mut unit = Unit::default();
            // SAFETY: it is there and permitted.
            unsafe { unit.prepare(rows) };
        };
        product(32);
        assert_eq!(PREPARED.get(), 0);
        hold();
        hold();
        product(32);
        product(7);
        let_go();
        assert_eq!(PREPARED.get(), 7);
        let_go();
        assert_eq!(PREPARED.get(), 0);
    }

    #[test]
    fn it_is_released_when_what_held_it_panics() {
        if !permitted_with(INT8) {
            return;
        }
        let panics = || {
            let mut unit = Unit::default();
            // SAFETY: it is there and permitted.
            unsafe { unit.prepare(9) };
            panic!("as a product might");
        };
        std::panic::catch_unwind(|| crate::in_a_row(panics)).expect_err("it panics");
        assert_eq!((PREPARED.get(), HELD.get()), (0, 0));
    }
}
