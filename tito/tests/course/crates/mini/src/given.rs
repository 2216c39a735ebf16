//! Given, in both crates.

/// The number halves are made with.
pub const TWO: f32 = 2.0;
