//! What can go wrong, and the exit code it becomes.

use std::fmt;
use std::process::ExitCode;

/// How a command that ran to its end ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Good,
    /// Exit code 1: exercises unfinished, a check failed, something refused until they are done.
    WorkLeft,
    /// The exit code of a program that was run for the student.
    Code(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Good => ExitCode::SUCCESS,
            Outcome::WorkLeft => ExitCode::from(1),
            Outcome::Code(code) => ExitCode::from(code),
        }
    }
}

/// Whose turn it is to repair something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The student has work left.
    WorkLeft,
    /// The command was called wrongly.
    Usage,
    /// The machine, the installation or a file that is not the student's.
    Environment,
}

/// An error with an exit code and, where there is one, the command that repairs it.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    help: Option<String>,
}

impl Failure {
    /// The student has work left: exit code 1.
    pub fn work(message: impl Into<String>) -> Self {
        Failure::new(Kind::WorkLeft, message)
    }

    /// The command was called wrongly: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Kind::Usage, message)
    }

    /// The machine is not as it should be: exit code 3.
    pub fn environment(message: impl Into<String>) -> Self {
        Failure::new(Kind::Environment, message)
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure {
            kind,
            message: message.into(),
            help: None,
        }
    }

    /// Adds what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints an error and chooses the exit code. What is not a [`Failure`] is the environment's.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let failure = error.downcast_ref::<Failure>();
    let kind = failure.map_or(Kind::Environment, |failure| failure.kind);
    let help = failure.and_then(|failure| failure.help.as_deref());
    let code = match kind {
        Kind::WorkLeft => 1,
        Kind::Usage => 2,
        Kind::Environment => 3,
    };
    let message = format!("{error:#}");
    if json {
        let value = serde_json::json!({
            "error": { "message": message, "help": help, "exit_code": code }
        });
        crate::ui::print_json(&value);
    } else {
        crate::ui::complain(&message, help);
    }
    ExitCode::from(code)
}
