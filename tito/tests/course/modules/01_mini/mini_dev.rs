//! The map of a made-up module.

pub mod extra;
#[path = "../../crates/mini/src/given.rs"]
pub mod given;
pub mod halves;
pub mod sums;
