//! The crate against vectors from ONNX, LiteRT and PyTorch, with the script that made them beside them.

mod dialects;
mod learned;
mod onnx;
mod onnx_nodes;
mod pytorch;
mod reader;
