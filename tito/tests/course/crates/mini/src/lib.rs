//! The library of a made-up module.

pub mod extra;
pub mod given;
pub mod halves;
pub mod sums;
