//! Every command from the outside: what it prints, with which code it ends, what it leaves on disk.
//!
//! The tests run on a made-up course (`tests/course`) that each copies to a folder of its own. They share a target folder of their own, so
//! that they neither wait for the `cargo test` that runs them nor build the exam's crate more than once.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod browse;
mod course;
mod crash;
mod export;
mod lost;
mod maintain;
mod release;
mod testing;
