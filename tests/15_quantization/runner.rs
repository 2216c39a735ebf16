//! The runner of module 15: the exam's checks, linked to whatever crate is called `subject`.
//!
//! ```text
//! rustc --edition 2024 runner.rs --extern subject=... --extern tinytorch_exam=... --extern ndarray=... [--cfg hidden]
//! ```

extern crate subject;

mod exam;

fn main() -> std::process::ExitCode {
    let checks = exam::checks();
    tinytorch_exam::serve("15_quantization", &checks, std::env::args().skip(1))
}
