//! The exams, compiled against the reference.
//!
//! An exam lives in `NN_module/exam/` as ordinary modules that call the crate under test `subject`. Here the subject is the
//! reference; the runner that `tito` builds from the same files (`NN_module/runner.rs`) is linked to the student's crate instead.

pub mod quantization;
