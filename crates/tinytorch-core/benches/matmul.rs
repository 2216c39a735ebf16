//! `Tensor::matmul` and `Linear` against the product they rest on.
//!
//! `cargo bench -p tinytorch-core --bench matmul`. `gemm_f32` is one call of the `gemm` crate behind checks; what the checks
//! cost is measured in `tinytorch-kernels`, bench `gemm_f32`, which may call that crate's unsafe function. Before
//! criterion's own output it prints medians of interleaved runs and their ratio: what allocating the result and the
//! handles around it cost. One thread.

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use support::{interleaved, one_thread, print_head, print_ratio, rng};
use tinytorch_core::nn::{Layer, Linear};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_kernels::{Accumulate, Dims, MatrixMut, MatrixRef, Threads, gemm_f32};

/// `[m, n, k]`.
const SHAPES: [(usize, usize, usize); 7] = [
    (1, 128, 784),
    (1, 1024, 1024),
    (8, 768, 768),
    (32, 128, 784),
    (128, 128, 784),
    (256, 256, 256),
    (512, 512, 512),
];

/// Operands as tensors, and the same numbers for the kernel.
struct Product {
    dims: Dims,
    a: Tensor,
    b: Tensor,
    layer: Linear,
    kernel_a: Vec<f32>,
    kernel_b: Vec<f32>,
    kernel_c: Vec<f32>,
}

impl Product {
    fn new((m, n, k): (usize, usize, usize)) -> Self {
        let mut rng = rng();
        let (a, b) = (
            Tensor::randn(&[m, k], &mut rng),
            Tensor::randn(&[k, n], &mut rng),
        );
        let layer = Linear::without_bias(k, n, &mut rng);
        let (kernel_a, kernel_b) = (a.to_vec(), b.to_vec());
        Self {
            dims: Dims { m, n, k },
            a,
            b,
            layer,
            kernel_a,
            kernel_b,
            kernel_c: vec![0.0; m * n],
        }
    }

    fn name(&self, what: &str) -> String {
        let Dims { m, n, k } = self.dims;
        format!("{what} {m}x{k}x{n}")
    }

    fn matmul(&self) {
        black_box(self.a.matmul(&self.b).expect("the shapes fit"));
    }

    fn linear(&self) {
        black_box(no_grad(|| self.layer.forward(&self.a)).expect("the shapes fit"));
    }

    /// The kernel alone, into memory that is there; `transposed` reads b as `[n, k]`, as a linear layer does.
    fn kernel(&mut self, transposed: bool) {
        let Dims { n, k, .. } = self.dims;
        let b = if transposed {
            MatrixRef::row_major(&self.kernel_b, k).transposed()
        } else {
            MatrixRef::row_major(&self.kernel_b, n)
        };
        let (a, c) = (
            MatrixRef::row_major(&self.kernel_a, k),
            MatrixMut::row_major(&mut self.kernel_c, n),
        );
        gemm_f32(self.dims, a, b, c, Accumulate::Overwrite, Threads::One);
        black_box(&self.kernel_c);
    }
}

fn ratios(_: &mut Criterion) {
    one_thread();
    print_head("m x k x n", "tensor", "gemm_f32");
    for shape in SHAPES {
        let (tensors, mut kernel) = (Product::new(shape), Product::new(shape));
        let times = interleaved(|| tensors.matmul(), || kernel.kernel(false));
        print_ratio(&tensors.name("matmul"), times);
        let times = interleaved(|| tensors.linear(), || kernel.kernel(true));
        print_ratio(&tensors.name("linear"), times);
    }
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matmul");
    for shape in SHAPES {
        let mut product = Product::new(shape);
        group.bench_function(BenchmarkId::from_parameter(product.name("matmul")), |b| {
            b.iter(|| product.matmul())
        });
        group.bench_function(BenchmarkId::from_parameter(product.name("linear")), |b| {
            b.iter(|| product.linear())
        });
        group.bench_function(BenchmarkId::from_parameter(product.name("gemm_f32")), |b| {
            b.iter(|| product.kernel(false));
        });
    }
    group.finish();
}

criterion_group!(benches, ratios, products);
criterion_main!(benches);
