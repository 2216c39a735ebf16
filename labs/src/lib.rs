//! What the experiments of all modules share: a table, a stopwatch, a mean
//! with its spread.
//!
//! A lab is a program that measures on the spot. It prints no figure that it
//! did not compute in the same run, and says so where it prints them.

pub mod stopwatch;
pub mod summary;
pub mod table;
