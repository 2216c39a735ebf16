//! What a grade depends on, so that it can be repeated and defended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Isolation;

/// Hashes (SHA-256, hexadecimal) of everything that can change a grade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The exercise files as handed in: names and contents.
    pub submission: String,
    /// The course's sources that they are compiled with.
    pub course: String,
    /// The exam's sources, hidden checks included.
    pub exam: String,
    /// The judges of all checks: tolerances and bounds, so that a changed tolerance can be told from a changed check.
    pub judges: String,
    /// The cases and expected values that were asked.
    pub cases: String,
    /// The compiler.
    pub toolchain: String,
    /// The grader's own version.
    pub grader: String,
    /// All cases are drawn from it.
    pub seed: u64,
    /// Limits.
    pub limits: String,
    /// What came out: points and outcome of every check.
    pub outcome: String,
    /// What kept the submission apart.
    pub layers: Layers,
}

/// One wall between a submission and everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Only the files of the manifest, only text between the markers.
    Intake,
    /// Forbidden words are noticed.
    SourcePolicy,
    /// The compiler sees neither hidden checks nor the reference.
    CompileSandbox,
    /// An unprivileged user of its own.
    User,
    /// Limits on memory, time, files, processes.
    ResourceLimits,
    /// Nothing but the three pipes is open.
    Descriptors,
    /// Access to files, network and signals by Landlock.
    Landlock,
    /// Forbidden system calls.
    Seccomp,
    /// One process per check, killed with all it started.
    ProcessPerCheck,
    /// Values are judged in a process the submission never ran in.
    JudgedOutside,
}

/// Which layers were active, and how well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// All in all.
    pub isolation: Isolation,
    /// Active layers with their detail, such as `abi 7`.
    pub active: BTreeMap<Layer, String>,
    /// Missing ones, with the reason.
    pub missing: BTreeMap<Layer, String>,
}

impl Layer {
    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Intake => "L0 intake",
            Self::SourcePolicy => "L1 source policy",
            Self::CompileSandbox => "L2 compile sandbox",
            Self::User => "L4 user",
            Self::ResourceLimits => "L4 limits",
            Self::Descriptors => "L4 descriptors",
            Self::Landlock => "L4 Landlock",
            Self::Seccomp => "L4 seccomp",
            Self::ProcessPerCheck => "L4 process",
            Self::JudgedOutside => "L5 judged outside",
        }
    }
}
