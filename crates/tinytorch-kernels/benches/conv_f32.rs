//! The layers of a small CNN, each by itself, `f32`, channels last, one thread, and one bare product of a convolution's size.
//!
//! `cargo bench -p tinytorch-kernels --bench conv_f32`: microseconds of the fastest and of the median sample (of 300, ten calls each), and
//! Gop/s of the fastest (a multiplication and an addition count 1 each).

use std::hint::black_box;
use std::time::Instant;

use tinytorch_kernels::{
    Accumulate, Conv2dShape, Finish, Images, MatrixMut, MatrixRef, PackedConv2dF32, PackedF32,
    PoolWindow, Threads, max_pool2d_f32, transpose_f32,
};

const SAMPLES: usize = 300;
const CALLS: usize = 10;

fn measure(name: &str, multiply_adds: usize, mut call: impl FnMut()) {
    let mut times: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            (0..CALLS).for_each(|_| call());
            start.elapsed().as_secs_f64() / CALLS as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (least, median) = (times[0], times[SAMPLES / 2]);
    print!("{name:40} {:8.2} us {:8.2} us", 1e6 * least, 1e6 * median);
    match multiply_adds {
        0 => println!(),
        count => println!(" {:7.1} Gop/s", 2e-9 * count as f64 / least),
    }
}

/// Plain numbers, no subnormals: the time must not depend on them.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect()
}

fn finish(bias: &[f32]) -> Finish<'_> {
    Finish {
        bias,
        relu: true,
        accumulate: Accumulate::Overwrite,
        ..Finish::NOTHING
    }
}

/// A convolution 3x3 with padding 1, bias and ReLU on one image.
fn convolution(side: usize, [inputs, outputs]: [usize; 2], groups: usize) {
    let shape = Conv2dShape {
        in_channels: inputs,
        out_channels: outputs,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        groups,
    };
    let packed = PackedConv2dF32::new(shape, &values(outputs * shape.taps()));
    let images = Images {
        batch: 1,
        height: side,
        width: side,
    };
    let (input, bias) = (values(side * side * inputs), values(outputs));
    let mut out = vec![0.0; side * side * outputs];
    let name = format!("convolution {inputs}x{side}x{side} -> {outputs}, groups {groups}");
    measure(&name, out.len() * shape.taps(), || {
        packed.run(
            images,
            &input,
            finish(&bias),
            black_box(&mut out),
            Threads::One,
        );
    });
}

fn pooling(side: usize, channels: usize) {
    let window = PoolWindow {
        kernel: [2, 2],
        stride: [2, 2],
    };
    let images = Images {
        batch: 1,
        height: side,
        width: side,
    };
    let input = values(side * side * channels);
    let mut out = vec![0.0; input.len() / 4];
    measure(&format!("max pooling {channels}x{side}x{side}"), 0, || {
        max_pool2d_f32(window, images, channels, &input, black_box(&mut out));
    });
}

fn product(m: usize, k: usize, n: usize) {
    let (a, b, bias) = (values(m * k), values(k * n), values(n));
    let packed = PackedF32::new(k, n, MatrixRef::row_major(&b, k).transposed());
    let mut out = vec![0.0; m * n];
    measure(&format!("product {m}x{k}x{n}"), m * n * k, || {
        let (a, out) = (
            MatrixRef::row_major(&a, k),
            MatrixMut::row_major(black_box(&mut out), n),
        );
        packed.product(m, a, finish(&bias), out, Threads::One);
    });
}

fn main() {
    convolution(28, [1, 32], 1);
    pooling(28, 32);
    convolution(14, [32, 64], 1);
    pooling(14, 64);
    let (matrix, mut out) = (values(49 * 64), vec![0.0; 49 * 64]);
    measure("transposition 49x64", 0, || {
        transpose_f32(49, 64, &matrix, black_box(&mut out));
    });
    product(1, 3136, 10);
    product(196, 288, 64);
    convolution(28, [32, 32], 32);
}
