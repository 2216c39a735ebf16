//! Switches the hidden checks on where their folder is: a student's release leaves it out.

use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(hidden)");
    println!("cargo::rerun-if-changed=15_quantization/exam/hidden");
    if Path::new("15_quantization/exam/hidden").is_dir() {
        println!("cargo::rustc-cfg=hidden");
    }
}
