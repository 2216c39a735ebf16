//! The grader: from a folder of untrusted submissions to grades that can be defended.
//!
//! The verdict is made in a process the student's code never ran in, from values the student's code had to compute; everything else is depth.
//!
//! ```text
//! SUBMISSIONS -> intake -> policy, graft -> workshop (compile and link in cells) -> examine (one cell per check, judged here) -> results
//!                                                 course, questions (the reference's answers) ------^
//! ```
//!
//! `model` is what comes out, as data; `sandbox` is the cell; `batch` a whole class. Grading needs Linux; the data types do not.

#[cfg(target_os = "linux")]
pub mod attack;
#[cfg(target_os = "linux")]
pub mod batch;
pub mod clean;
#[cfg(target_os = "linux")]
pub mod cli;
#[cfg(target_os = "linux")]
pub mod commands;
pub mod compare;
pub mod course;
#[cfg(target_os = "linux")]
pub mod examine;
#[cfg(target_os = "linux")]
pub mod grading;
pub mod graft;
pub mod intake;
pub mod misconceptions;
pub mod model;
pub mod policy;
pub mod questions;
pub mod receipts;
pub mod report;
pub mod results;
pub mod rooms;
pub mod sandbox;
pub mod seal;
#[cfg(target_os = "linux")]
pub mod slurm;
#[cfg(target_os = "linux")]
pub mod workshop;

/// There is no grader elsewhere: untrusted code wants walls that only Linux has.
#[cfg(not(target_os = "linux"))]
pub mod cli {
    use std::process::ExitCode;

    use tito::failure::{self, Failure};

    /// Says so.
    pub fn main() -> ExitCode {
        let error = Failure::environment("untrusted code is graded on Linux only")
            .help("use a Linux machine, a container or a virtual machine; students test themselves with `tito test`");
        failure::report(&error.into(), false)
    }
}
