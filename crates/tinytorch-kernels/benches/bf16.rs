//! The bf16 product against our own `f32` product, one thread: both sides as they lie in memory (training), and with the
//! right side packed once (inference).

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tinytorch_kernels::{
    Accumulate, Dims, MatrixMut, MatrixRef, PackedBf16, Threads, gemm_bf16, gemm_f32,
};

/// `m, k, n`.
const SHAPES: [[usize; 3]; 6] = [
    [1, 1024, 1024],
    [32, 784, 128],
    [256, 1024, 1024],
    [512, 512, 512],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
];

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0)
        .collect()
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bf16");
    group.sample_size(10);
    for [m, k, n] in SHAPES {
        let dims = Dims { m, n, k };
        let (a, b) = (values(m * k), values(k * n));
        let mut c = vec![0.0; m * n];
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        // As in a linear layer: weights [n, k].
        let (a, b) = (
            MatrixRef::row_major(&a, k),
            MatrixRef::row_major(&b, k).transposed(),
        );
        let name = format!("{m}x{k}x{n}");
        group.bench_function(BenchmarkId::new("f32", &name), |bencher| {
            bencher.iter(|| {
                let out = MatrixMut::row_major(black_box(&mut c), n);
                gemm_f32(dims, a, b, out, Accumulate::Overwrite, Threads::One);
            });
        });
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| {
                let out = MatrixMut::row_major(black_box(&mut c), n);
                gemm_bf16(
                    dims,
                    a.into(),
                    b.into(),
                    out,
                    Accumulate::Overwrite,
                    Threads::One,
                );
            });
        });
        // dyᵀ · x: both transposed.
        let (at, bt) = (
            MatrixRef {
                row_stride: 1,
                column_stride: m,
                ..a
            },
            MatrixRef {
                row_stride: n,
                column_stride: 1,
                ..b
            },
        );
        group.bench_function(BenchmarkId::new("backward", &name), |bencher| {
            bencher.iter(|| {
                let out = MatrixMut::row_major(black_box(&mut c), n);
                gemm_bf16(
                    dims,
                    at.into(),
                    bt.into(),
                    out,
                    Accumulate::Overwrite,
                    Threads::One,
                );
            });
        });
        let packed = PackedBf16::new(n, k, b.into());
        group.bench_function(BenchmarkId::new("packed", &name), |bencher| {
            bencher.iter(|| {
                let out = MatrixMut::row_major(black_box(&mut c), n);
                packed.product(m, a.into(), out, Accumulate::Overwrite, Threads::One);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
