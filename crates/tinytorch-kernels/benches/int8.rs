//! The inner kernels of INT8, one thread: `cargo bench -p tinytorch-kernels --bench int8`.
//!
//! For the comparison with f32 and with the CPU's ceiling see the example `int8_against_f32`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tinytorch_kernels::{
    Conv2dShape, Images, PackedConv2d, PackedWeights, Quantize, Requantize, dequantize_i8_f32,
    kernels, min_max, quantize_f32_i8,
};

fn codes(len: usize) -> Vec<i8> {
    (0..len).map(|i| (i * 37 % 251) as i8).collect()
}

fn products(criterion: &mut Criterion) {
    for (m, k, n) in [
        (1, 1024, 1024),
        (8, 768, 768),
        (128, 784, 128),
        (256, 1024, 1024),
    ] {
        let mut group = criterion.benchmark_group(format!("product {m}x{k}x{n}"));
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        let (a, weights) = (codes(m * k), codes(n * k));
        let (bias, multipliers) = (vec![1; n], vec![1e-4; n]);
        let ending = Requantize {
            bias: &bias,
            multipliers: &multipliers,
            zero_point: 0,
            min: 0,
            max: 127,
        };
        for &kernel in kernels()
            .iter()
            .filter(|kernel| !kernel.name().contains("scalar"))
        {
            let packed = PackedWeights::with_kernel(kernel, n, k, &weights);
            let mut out = vec![0; m * n];
            group.bench_function(kernel.name(), |b| {
                b.iter(|| packed.requantized(m, &a, 3, &ending, black_box(&mut out)));
            });
        }
        group.finish();
    }
}

fn convolutions(criterion: &mut Criterion) {
    let images = Images {
        batch: 8,
        height: 28,
        width: 28,
    };
    for (name, in_channels, out_channels, groups) in [
        ("first layer", 1, 32, 1),
        ("second layer", 32, 64, 1),
        ("depthwise", 64, 64, 64),
    ] {
        let shape = Conv2dShape {
            in_channels,
            out_channels,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            groups,
        };
        let input = codes(8 * 28 * 28 * in_channels);
        let multipliers = vec![1e-3; out_channels];
        let ending = Requantize {
            bias: &[],
            multipliers: &multipliers,
            zero_point: 0,
            min: 0,
            max: 127,
        };
        let mut out = vec![0; 8 * 28 * 28 * out_channels];
        let mut group = criterion.benchmark_group(format!("convolution, {name}"));
        group.throughput(Throughput::Elements(2 * (out.len() * shape.taps()) as u64));
        let packed = PackedConv2d::new(shape, &codes(out_channels * shape.taps()));
        group.bench_function("requantized", |b| {
            b.iter(|| packed.requantized(images, &input, 3, &ending, black_box(&mut out)));
        });
        group.finish();
    }
}

fn elementwise(criterion: &mut Criterion) {
    // 256 KiB of f32: in the second cache.
    let reals: Vec<f32> = (0..64 * 1024)
        .map(|i| (i * 37 % 1009) as f32 * 0.013 - 6.5)
        .collect();
    let mut out = vec![0; reals.len()];
    let mut back = vec![0.0; reals.len()];
    let mut group = criterion.benchmark_group("elementwise, 64 Ki values");
    group.throughput(Throughput::Bytes(4 * reals.len() as u64));
    let by = Quantize {
        scale: 0.0513,
        zero_point: 3,
        min: -128,
        max: 127,
    };
    group.bench_function("quantize", |b| {
        b.iter(|| quantize_f32_i8(black_box(&reals), by, &mut out));
    });
    // Every quotient is a tie or an integer: none can do without the division.
    let ties: Vec<f32> = (0..64 * 1024).map(|i| (i % 200) as f32 * 0.25).collect();
    group.bench_function("quantize ties", |b| {
        b.iter(|| quantize_f32_i8(black_box(&ties), Quantize { scale: 0.5, ..by }, &mut out));
    });
    group.bench_function("dequantize", |b| {
        b.iter(|| dequantize_i8_f32(black_box(&out), 0.05, 3, &mut back));
    });
    group.bench_function("min_max", |b| b.iter(|| min_max(black_box(&reals))));
    group.bench_function("copy", |b| {
        b.iter(|| back.copy_from_slice(black_box(&reals)))
    });
    group.finish();
}

criterion_group!(benches, products, convolutions, elementwise);
criterion_main!(benches);
