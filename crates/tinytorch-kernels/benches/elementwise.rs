//! The loops over elements, one thread, in bytes of `f32` per second: 64 Ki values (256 KiB, in cache) and 32 Mi (128 MiB,
//! from memory). `narrow` moves the same bytes without arithmetic: the bound of `quantize` from memory.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tinytorch_kernels::histogram::{
    BINS, FRACTION, OCTAVES, count_magnitudes, kept, octave, start,
};
use tinytorch_kernels::{
    Quantize, Requantize, dequantize_i8_f32, min_max, quantize_f32_i8, requantize_i32_i8,
};

fn elementwise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("elementwise");
    group.sample_size(20);
    for len in [1 << 16, 1 << 25] {
        let values: Vec<f32> = (0..len)
            .map(|i| ((i * 7919) % 10007) as f32 / 1000.0 - 5.0)
            .collect();
        let sums: Vec<i32> = values.iter().map(|value| (value * 1e5) as i32).collect();
        let mut codes = vec![0_i8; len];
        let mut reals = vec![0.0_f32; len];
        let by = Quantize {
            scale: 0.037,
            zero_point: 3,
            min: -128,
            max: 127,
        };
        group.throughput(Throughput::BytesDecimal(4 * len as u64));
        group.bench_function(BenchmarkId::new("narrow", len), |bencher| {
            bencher.iter(|| narrow(black_box(&values), &mut codes));
        });
        group.bench_function(BenchmarkId::new("copy", len), |bencher| {
            bencher.iter(|| reals.copy_from_slice(black_box(&values)));
        });
        group.bench_function(BenchmarkId::new("quantize", len), |bencher| {
            bencher.iter(|| quantize_f32_i8(black_box(&values), by, &mut codes));
        });
        group.bench_function(BenchmarkId::new("dequantize", len), |bencher| {
            bencher.iter(|| dequantize_i8_f32(black_box(&codes), 0.037, 3, &mut reals));
        });
        let multipliers = vec![1e-4; 1024];
        let ending = Requantize {
            bias: &[],
            multipliers: &multipliers,
            zero_point: 3,
            min: -128,
            max: 127,
        };
        group.bench_function(BenchmarkId::new("requantize", len), |bencher| {
            bencher.iter(|| requantize_i32_i8(black_box(&sums), &ending, &mut codes));
        });
        group.bench_function(BenchmarkId::new("min_max", len), |bencher| {
            bencher.iter(|| min_max(black_box(&values)));
        });
    }
    group.finish();
}

/// Counting magnitudes, as calibration does: values that fill all bins, half of them zeros, all the same; and one by one, with the
/// place of each octave in a table.
fn histogram(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("histogram");
    group.sample_size(20);
    let len = 1 << 20;
    let spread: Vec<f32> = (0..len)
        .map(|i| ((i * 7919) % 10007) as f32 / 1000.0 - 5.0)
        .collect();
    let half_zeros: Vec<f32> = spread.iter().map(|value| value.max(0.0)).collect();
    let mut counts = vec![0; 2 * BINS];
    group.throughput(Throughput::BytesDecimal(4 * len as u64));
    for (name, values) in [
        ("spread", spread),
        ("half zeros", half_zeros),
        ("all the same", vec![4.5; len]),
    ] {
        let top = octave(5.0);
        group.bench_function(BenchmarkId::new("kernel", name), |bencher| {
            bencher.iter(|| count_magnitudes(black_box(&values), top, &mut counts));
        });
        group.bench_function(BenchmarkId::new("one by one", name), |bencher| {
            bencher.iter(|| one_by_one(black_box(&values), top, &mut counts));
        });
    }
    group.finish();
}

fn one_by_one(values: &[f32], top: u32, counts: &mut [u64]) -> u64 {
    let (mut starts, mut shifts, mut zeros) = ([0; 256], [FRACTION + 1; 256], 0);
    for d in 0..OCTAVES {
        let exponent = top as usize - d;
        starts[exponent] = start(d);
        shifts[exponent] = FRACTION - kept(d);
    }
    for &value in values {
        if value == 0.0 {
            zeros += 1;
            continue;
        }
        let bits = value.to_bits();
        let exponent = (bits >> FRACTION & 0xFF) as usize;
        let bin = starts[exponent] + ((bits & 0x7F_FFFF) >> shifts[exponent]) as usize;
        let side = if value < 0.0 { BINS } else { 0 };
        counts[side + bin] = counts[side + bin].saturating_add(1);
    }
    zeros
}

/// Reads every value and writes one byte of it.
fn narrow(values: &[f32], out: &mut [i8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn avx512(values: &[f32], out: &mut [i8]) {
            for (out, &value) in out.iter_mut().zip(values) {
                *out = (value.to_bits() >> 16) as i8;
            }
        }
        // SAFETY: the CPU has the features, as just asked.
        #[expect(unsafe_code, reason = "a call that needs CPU features")]
        return unsafe { avx512(values, out) };
    }
    for (out, &value) in out.iter_mut().zip(values) {
        *out = (value.to_bits() >> 16) as i8;
    }
}

criterion_group!(benches, elementwise, histogram);
criterion_main!(benches);
