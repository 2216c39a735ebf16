//! One row times weights of four bits, against eight bits and `f32`, one thread; in bytes of weights per second, so that what
//! is bound by memory shows the speed of memory.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tinytorch_kernels::gemm_i4::Codes8;
use tinytorch_kernels::{
    Accumulate, Dims, MatrixMut, MatrixRef, PackedInt4, PackedWeights, Scale, Threads, gemm_f32,
};

fn one_row(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("int4");
    group.sample_size(20);
    for size in [1024_usize, 4096] {
        let (n, k) = (size, size);
        let codes: Vec<i8> = (0..n * k).map(|i| (i * 89 % 15) as i8 - 7).collect();
        let scales = vec![0.01; n * k / 32];
        let a: Vec<f32> = (0..k).map(|i| (i % 17) as f32 - 8.0).collect();
        let a8: Vec<i8> = (0..k).map(|i| (i % 251) as u8 as i8).collect();
        let mut out = vec![0.0; n];
        let packed = PackedInt4::new(n, k, 32, &codes, &scales);
        group.throughput(Throughput::BytesDecimal(packed.bytes() as u64));
        group.bench_function(BenchmarkId::new("f32_int4", size), |bencher| {
            bencher.iter(|| packed.product_f32(1, black_box(&a), &[], &mut out, Threads::One));
        });
        let codes8 = Codes8 {
            codes: &a8,
            scales: &[0.1],
            zero_points: &[3],
        };
        group.bench_function(BenchmarkId::new("int8_int4", size), |bencher| {
            bencher.iter(|| packed.product_i8(1, black_box(codes8), &[], &mut out, Threads::One));
        });
        let int8 = PackedWeights::new(n, k, &codes);
        group.throughput(Throughput::BytesDecimal(int8.bytes() as u64));
        let (factors, ending) = (vec![0.01; n], |scales| Scale {
            scales,
            bias: &[],
            relu: false,
        });
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.expect("a pool of one thread");
        group.bench_function(BenchmarkId::new("int8_int8", size), |bencher| {
            pool.install(|| {
                bencher.iter(|| int8.scaled(1, black_box(&a8), 3, &ending(&factors), &mut out));
            });
        });
        let weights: Vec<f32> = codes.iter().map(|&code| f32::from(code)).collect();
        group.throughput(Throughput::BytesDecimal(4 * weights.len() as u64));
        group.bench_function(BenchmarkId::new("f32_f32", size), |bencher| {
            bencher.iter(|| {
                let dims = Dims { m: 1, n, k };
                let a = MatrixRef::row_major(black_box(&a), k);
                let b = MatrixRef::row_major(&weights, k).transposed();
                let c = MatrixMut::row_major(&mut out, n);
                gemm_f32(dims, a, b, c, Accumulate::Overwrite, Threads::One);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, one_row);
criterion_main!(benches);
