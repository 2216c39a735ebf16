//! Deliberate accidents, so that tests can show what a crash or a full disk leaves behind.
//!
//! Every step that changes something on disk calls [`step`]. `TITO_FAIL_AT=7` kills the process at the seventh step, as a power cut
//! would; `TITO_FULL_AT=7` makes that step fail as a full disk does. Without these variables nothing happens.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static STEPS: AtomicU64 = AtomicU64::new(0);

/// Counts one step of writing.
///
/// # Errors
///
/// The error of a full disk, at the step a test asked for.
pub fn step() -> io::Result<()> {
    static LIMITS: OnceLock<(Option<u64>, Option<u64>)> = OnceLock::new();
    let (die, full) = *LIMITS.get_or_init(|| (number("TITO_FAIL_AT"), number("TITO_FULL_AT")));
    if die.is_none() && full.is_none() {
        return Ok(());
    }
    let step = STEPS.fetch_add(1, Ordering::Relaxed) + 1;
    if die == Some(step) {
        std::process::abort();
    }
    if full == Some(step) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
