//! The crate against vectors from ONNX and PyTorch, with the script that made them beside them.

mod learned;
mod onnx;
mod pytorch;
mod reader;
