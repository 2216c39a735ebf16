//! Module 15.

use tinytorch_quantization as subject;

#[path = "../15_quantization/exam/mod.rs"]
pub mod exam;
