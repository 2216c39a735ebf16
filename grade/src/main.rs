//! `tito-grade`, called through `cargo tito grade ...`; all of it is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A cell is this program, called by itself: nothing else may happen before it is locked.
    match tito_grade::sandbox::become_cell() {
        Some(code) => code,
        None => tito_grade::cli::main(),
    }
}
