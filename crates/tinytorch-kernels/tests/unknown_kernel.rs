//! A kernel that is asked for and is not there is an error everywhere, also in loops that are no product: nobody shall measure or
//! test one kernel and believe it is another.

use std::process::Command;

use tinytorch_kernels::histogram::{BINS, count_magnitudes};
use tinytorch_kernels::{
    Dims, MatrixMut, MatrixRef, PackedBf16, PackedF32, PackedInt4, PackedInt8, PackedWeights,
    Quantize, Requantize, Threads, dequantize_i8_f32, gemm_bf16, min_max, quantize_f32_i8,
    requantize_i32_i8,
};

/// Which entry the child process calls.
const ENTRY: &str = "TINYTORCH_TEST_ENTRY";

const ENTRIES: [(&str, fn()); 11] = [
    ("PackedWeights", || {
        PackedWeights::new(1, 1, &[1]);
    }),
    ("PackedInt4", || {
        PackedInt4::new(1, 1, 8, &[1], &[1.0]);
    }),
    ("PackedInt8", || {
        PackedInt8::new(1, 1, 8, &[1], &[1.0]);
    }),
    ("PackedF32", || {
        PackedF32::new(1, 1, MatrixRef::row_major(&[1.0], 1));
    }),
    ("PackedBf16", || {
        PackedBf16::new(1, 1, MatrixRef::row_major(&[1.0], 1).into());
    }),
    ("gemm_bf16", || {
        let one = MatrixRef::row_major(&[1.0], 1);
        let (mut c, dims) = ([0.0], Dims { m: 1, n: 1, k: 1 });
        let c = MatrixMut::row_major(&mut c, 1);
        let overwrite = tinytorch_kernels::Accumulate::Overwrite;
        gemm_bf16(dims, one.into(), one.into(), c, overwrite, Threads::One);
    }),
    ("quantize_f32_i8", || {
        let (scale, zero_point, min, max) = (1.0, 0, -128, 127);
        let by = Quantize {
            scale,
            zero_point,
            min,
            max,
        };
        let _ = quantize_f32_i8(&[1.0], by, &mut [0]);
    }),
    ("dequantize_i8_f32", || {
        dequantize_i8_f32(&[1], 1.0, 0, &mut [0.0]);
    }),
    ("requantize_i32_i8", || {
        let by = Requantize {
            bias: &[],
            multipliers: &[1.0],
            zero_point: 0,
            min: -128,
            max: 127,
        };
        requantize_i32_i8(&[1], &by, &mut [0]);
    }),
    ("min_max", || {
        let _ = min_max(&[1.0]);
    }),
    ("count_magnitudes", || {
        count_magnitudes(&[1.0], 127, &mut [0; 2 * BINS]);
    }),
];

#[test]
fn a_kernel_that_there_is_not_is_refused_by_every_entry() {
    let this = std::env::current_exe().expect("the test's own file");
    for (name, _) in ENTRIES {
        let output = Command::new(&this)
            .args(["--ignored", "--exact", "entry_of_the_child", "--nocapture"])
            .env("TINYTORCH_KERNEL", "sse9")
            .env(ENTRY, name)
            .output()
            .expect("the test runs itself");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let message = "TINYTORCH_KERNEL=sse9 names no kernel that this CPU can run; it has";
        assert!(said.contains(message), "{name} said: {said}");
        assert!(!output.status.success(), "{name}");
    }
}

#[test]
#[ignore = "the process that the test above starts"]
fn entry_of_the_child() {
    let Ok(name) = std::env::var(ENTRY) else {
        return;
    };
    let (_, entry) = (ENTRIES.iter())
        .find(|(entry, _)| *entry == name)
        .expect("an entry's name");
    entry();
}
