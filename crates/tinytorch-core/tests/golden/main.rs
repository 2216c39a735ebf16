//! The crate against vectors from PyTorch, with the script that made them beside them.

mod batch_norm;
mod close;
mod optimizers;
mod pointwise;
mod reader;
mod sums;
