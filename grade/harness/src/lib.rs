//! The main function of the process in which a submission runs while it is graded.
//!
//! The grader has locked this process into a cell (`tito-grade`, `sandbox`) before it became the runner; what is left to do can only be
//! done from inside, and is done before any code of the submission runs:
//!
//! 1. The pipe for replies, which came as standard output, moves to a descriptor of its own; what a submission prints goes to standard error.
//! 2. The process is made undumpable: `exec` had reset that.
//! 3. A last filter lists the system calls that computing needs; every other, `exec` among them, is refused.
//! 4. A line says so. A reply without that line was not made here: the machine failed, not the submission.
//!
//! Then the request is read and answered as `tinytorch_exam` describes, one line per case.

#[cfg(target_os = "linux")]
mod seal;

use std::process::ExitCode;

use tinytorch_exam::Check;

/// The argument that makes a runner answer sealed.
pub const ANSWER: &str = "answer";

/// What the first line of a sealed runner's output begins with.
pub const SEALED: &str = "sealed";

/// The main function of a runner: `answer` is the grader's word; all others are those of [`tinytorch_exam::serve`], for the reference.
pub fn main(module: &str, checks: &[Check]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == ANSWER) {
        answer(checks)
    } else {
        tinytorch_exam::serve(module, checks, arguments)
    }
}

#[cfg(target_os = "linux")]
fn answer(checks: &[Check]) -> ExitCode {
    use std::io::{Read, Write};
    let answered = (|| -> Result<(), String> {
        let mut replies = seal::take_replies().map_err(|error| error.to_string())?;
        seal::seal()?;
        writeln!(replies, "{SEALED}").map_err(|error| error.to_string())?;
        let mut request = String::new();
        std::io::stdin()
            .read_to_string(&mut request)
            .map_err(|error| error.to_string())?;
        tinytorch_exam::answer(checks, &request, &mut replies)
    })();
    match answered {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("runner: {why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn answer(_checks: &[Check]) -> ExitCode {
    eprintln!("runner: submissions are graded on Linux only");
    ExitCode::FAILURE
}
