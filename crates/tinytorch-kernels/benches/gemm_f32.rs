//! `gemm_f32` against the `gemm` crate called directly: what the checks and the wrapping cost.
//!
//! `cargo bench -p tinytorch-kernels --bench gemm_f32`. Before criterion's own output it prints one line per shape: the
//! medians of interleaved runs, their ratio, and Gop/s (a multiply and an add count 1 each). One thread.
#![expect(unsafe_code, reason = "the gemm crate takes raw pointers")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tinytorch_kernels::{Accumulate, Dims, MatrixMut, MatrixRef, Threads};

/// `[m, n, k]` and whether b is stored as `[n, k]`, one row per output, as a linear layer keeps its weight.
const SHAPES: [(usize, usize, usize, bool); 8] = [
    (1, 128, 784, true),
    (1, 1024, 1024, true),
    (1, 1024, 1024, false),
    (8, 768, 768, true),
    (32, 128, 784, true),
    (128, 3072, 768, true),
    (512, 512, 512, false),
    (512, 512, 512, true),
];

struct Product {
    dims: Dims,
    transposed: bool,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Product {
    fn new((m, n, k, transposed): (usize, usize, usize, bool)) -> Self {
        // Plain numbers, no subnormals: the time must not depend on them.
        let values = |count: usize| (0..count).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
        let dims = Dims { m, n, k };
        Self {
            dims,
            transposed,
            a: values(m * k),
            b: values(k * n),
            c: vec![0.0; m * n],
        }
    }

    fn name(&self) -> String {
        let Dims { m, n, k } = self.dims;
        format!(
            "{m}x{k}x{n}{}",
            if self.transposed { " transposed b" } else { "" }
        )
    }

    fn ours(&mut self) {
        let Dims { n, k, .. } = self.dims;
        let b = if self.transposed {
            MatrixRef::row_major(&self.b, k).transposed()
        } else {
            MatrixRef::row_major(&self.b, n)
        };
        let c = MatrixMut::row_major(&mut self.c, n);
        tinytorch_kernels::gemm_f32(
            self.dims,
            MatrixRef::row_major(&self.a, k),
            b,
            c,
            Accumulate::Overwrite,
            Threads::One,
        );
        black_box(&self.c);
    }

    fn direct(&mut self) {
        let Dims { m, n, k } = self.dims;
        let (b_column, b_row) = if self.transposed { (k, 1) } else { (1, n) };
        let product = gemm_f32::gemm::f32::get_gemm_fn();
        // As `gemm::gemm` does for a row-major result: c^T = b^T · a^T.
        // SAFETY: the vectors were allocated with exactly the elements that these strides reach, and c is borrowed alone.
        unsafe {
            product(
                n,
                m,
                k,
                self.c.as_mut_ptr(),
                n as isize,
                1,
                false,
                self.b.as_ptr(),
                b_row as isize,
                b_column as isize,
                self.a.as_ptr(),
                k as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm_common::Parallelism::None,
            );
        }
        black_box(&self.c);
    }
}

/// Median times of one call of each, measured in turns so that a slow moment of the machine meets both.
fn interleaved(mut first: impl FnMut(), mut second: impl FnMut()) -> [Duration; 2] {
    let once = time(1, &mut first).max(Duration::from_nanos(100));
    // A sample lasts about 0.5 ms, so that the clock's own cost does not show.
    let calls = (Duration::from_micros(500).as_nanos() / once.as_nanos()).clamp(1, 10_000) as u32;
    let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..101 {
        firsts.push(time(calls, &mut first));
        seconds.push(time(calls, &mut second));
    }
    [firsts, seconds].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

fn time(calls: u32, run: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        run();
    }
    start.elapsed() / calls
}

fn ratios(_: &mut Criterion) {
    println!(
        "{:<26} {:>11} {:>11} {:>7} {:>9}",
        "m x k x n", "gemm_f32", "gemm", "ratio", "Gop/s"
    );
    for shape in SHAPES {
        let (mut ours, mut direct) = (Product::new(shape), Product::new(shape));
        let [mine, theirs] = interleaved(|| ours.ours(), || direct.direct());
        let Dims { m, n, k } = ours.dims;
        let operations = 2.0 * (m * n * k) as f64;
        println!(
            "{:<26} {:>11} {:>11} {:>7.3} {:>9.1}",
            ours.name(),
            format!("{mine:.2?}"),
            format!("{theirs:.2?}"),
            mine.as_secs_f64() / theirs.as_secs_f64(),
            operations / mine.as_secs_f64() / 1e9,
        );
    }
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gemm_f32");
    for shape in SHAPES {
        let mut product = Product::new(shape);
        group.bench_function(BenchmarkId::new("gemm_f32", product.name()), |b| {
            b.iter(|| product.ours())
        });
        group.bench_function(BenchmarkId::new("gemm", product.name()), |b| {
            b.iter(|| product.direct())
        });
    }
    group.finish();
}

criterion_group!(benches, ratios, products);
criterion_main!(benches);
