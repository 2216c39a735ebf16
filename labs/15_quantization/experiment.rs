//! What an experiment is: a question, and a run that answers it.

use std::error::Error;
use std::fmt::Display;

use serde::Serialize;

use crate::lab::Lab;

/// The result of everything in the lab: whatever goes wrong ends it with a message.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One experiment.
pub trait Experiment {
    /// One word, as it is typed.
    fn name(&self) -> &'static str;

    /// What it answers.
    fn question(&self) -> &'static str;

    /// Measures.
    ///
    /// # Errors
    ///
    /// Those of training, quantizing and files.
    fn run(&self, lab: &Lab) -> Result<Box<dyn Finding>>;
}

/// What an experiment found: text for people, JSON for programs.
pub trait Finding: Display {
    /// The same, for programs.
    ///
    /// # Errors
    ///
    /// None for plain data.
    fn json(&self) -> serde_json::Result<serde_json::Value>;
}

impl<T: Display + Serialize> Finding for T {
    fn json(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(self)
    }
}
