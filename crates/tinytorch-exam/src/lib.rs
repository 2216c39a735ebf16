//! What a check is, how values leave the student's process, and how they are judged.
//!
//! The process that runs the student's code computes values and nothing else. Whether they are right is decided
//! elsewhere, in a process that code never ran in. This crate is what both sides share: the words they exchange
//! ([`Case`], [`Reply`]), the comparison ([`compare`], which needs only data), and the main function of the process in
//! the middle ([`serve`], the *runner*). It knows no module and no subject.
//!
//! ```text
//!  cases(seed) ──► Case ──► runner: run(case) calls the subject ──► Reply ──┐
//!        │                                                                  ├──► compare(judge, ..) ──► Verdict
//!        └───────► the same runner, linked to the reference ──► expected ───┘
//! ```
//!
//! # The protocol
//!
//! A runner is an executable whose `main` is `serve(checks, args)`. It knows these commands:
//!
//! | command | reads | writes |
//! |---|---|---|
//! | `run --reply FILE` | a [`Request`] as JSON on standard input, to its end | one [`ReplyLine`] as a line of JSON per case, to `FILE` |
//! | `list` | – | standard output: one check id per line |
//! | `expect --seed N [--visibility public\|hidden\|all] [--exercise ID] [--reply FILE]` | – | an [`ExamRecord`] as JSON, to `FILE` or standard output |
//!
//! - Standard output and standard error belong to the student's `println!`; in `run` nothing of the protocol is there.
//! - The reply file is opened, emptied, before any code of the subject runs, and each line is written with one call as soon as
//!   its case is computed. A line counts only if it ends in a newline and parses: no proper beginning of a JSON object
//!   is a JSON object, so a half-written line cannot pass for a whole one. Every line repeats the request's nonce, which
//!   tells a stale file from a fresh one. [`read_replies`] does all of that, and says for which case the reply is missing:
//!   that is the case in which the subject looped, aborted or left.
//! - Panics are caught and travel as [`Reply::Panicked`] with the place in the source; the `todo!` of an unfinished hole is
//!   recognised by [`Reply::unfinished`].
//! - Exit codes: 0 all cases answered (also if the answer is a panic), 2 wrong usage, 3 the request is malformed or names
//!   an unknown check, 4 the reply cannot be written. The message is on standard error. None of these is evidence for a grade.
//!
//! # Values in JSON
//!
//! `{"name": "codes", "shape": [2, 3], "value": {"i64": [1, 2, 3, 4, 5, 6]}}`; the other kinds are `f32`, `text` and `bool`. A
//! finite f32 is written as the decimal number of the f64 it equals, which reads back to the same bits even if the
//! parser is a few f64 units off; NaN and the infinities are written as their bits (`"0x7fc00000"`).

mod capture;
mod case;
mod check;
mod judge;
mod record;
mod request;
mod rng;
mod runner;
mod value;

pub use capture::run_case;
pub use case::{Case, Stop, refused};
pub use check::{Answer, Check, Visibility};
pub use judge::{Difference, Judge, Verdict, compare};
pub use record::{
    CaseRecord, CheckRecord, CheckVerdict, ExamRecord, MistakeRecord, SealedMistake, expect_check,
    judge_check, score,
};
pub use request::{MAX_REPLY_BYTES, Replies, ReplyLine, Request, parse_replies, read_replies};
pub use rng::Rng;
pub use runner::{answer, serve};
pub use value::{Named, Panic, Reply, Value, Values};
