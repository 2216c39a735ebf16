//! `Tensor::conv2d` against the matrix product it is lowered to.
//!
//! `cargo bench -p tinytorch-core --bench conv2d`. Before criterion's own output it prints medians of interleaved runs of
//! the whole convolution and of one `gemm_f32` of the same multiply-adds, its columns already in place; their ratio is what
//! lowering, the result's memory and cutting into blocks cost. Depthwise convolutions have one product per channel, which
//! the kernel's time counts as well. One thread.

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use support::{interleaved, one_thread, print_head, print_ratio, rng};
use tinytorch_core::{Conv2dOptions, Tensor};
use tinytorch_kernels::{Accumulate, Dims, MatrixMut, MatrixRef, Threads, gemm_f32};

/// Batch, inputs, outputs, side of the image, side of the kernel, stride, groups; padded to keep the side at stride 1.
const CASES: [[usize; 7]; 8] = [
    [1, 1, 16, 8, 3, 1, 1],
    [64, 1, 16, 8, 3, 1, 1],
    [64, 16, 32, 4, 3, 1, 1],
    [1, 32, 64, 14, 3, 1, 1],
    [16, 32, 64, 14, 3, 1, 1],
    [16, 32, 64, 14, 3, 2, 1],
    [16, 64, 64, 14, 1, 1, 1],
    [16, 32, 32, 14, 3, 1, 32],
];

struct Convolution {
    name: String,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    options: Conv2dOptions,
    dims: Dims,
    columns: Vec<f32>,
    products: Vec<f32>,
}

impl Convolution {
    fn new([batch, inputs, outputs, side, kernel, stride, groups]: [usize; 7]) -> Self {
        let mut rng = rng();
        let padding = kernel / 2;
        let x = Tensor::randn(&[batch, inputs, side, side], &mut rng);
        let weight = Tensor::randn(&[outputs, inputs / groups, kernel, kernel], &mut rng);
        let bias = Tensor::randn(&[outputs], &mut rng);
        let options = Conv2dOptions {
            stride: [stride; 2],
            padding: [padding; 2],
            groups,
        };
        let out_side = (side + 2 * padding - kernel) / stride + 1;
        let dims = Dims {
            m: outputs / groups,
            n: batch * out_side * out_side,
            k: inputs / groups * kernel * kernel,
        };
        let name = format!(
            "{batch}x{inputs}x{side}x{side} -> {outputs}, {kernel}x{kernel}, stride {stride}, groups {groups}"
        );
        let columns = Tensor::randn(&[dims.k, dims.n], &mut rng).to_vec();
        Self {
            name,
            x,
            weight,
            bias,
            options,
            dims,
            columns,
            products: vec![0.0; dims.m * dims.n],
        }
    }

    fn convolution(&self) {
        black_box(
            self.x
                .conv2d(&self.weight, Some(&self.bias), self.options)
                .expect("the shapes fit"),
        );
    }

    fn kernel(&mut self, weight: &[f32]) {
        let Dims { m, n, k } = self.dims;
        for weight in weight.chunks_exact(m * k) {
            let (a, b) = (
                MatrixRef::row_major(weight, k),
                MatrixRef::row_major(&self.columns, n),
            );
            let c = MatrixMut::row_major(&mut self.products, n);
            gemm_f32(self.dims, a, b, c, Accumulate::Overwrite, Threads::One);
        }
        black_box(&self.products);
    }
}

fn ratios(_: &mut Criterion) {
    one_thread();
    print_head("images -> outputs", "conv2d", "gemm_f32");
    for case in CASES {
        let (whole, mut kernel) = (Convolution::new(case), Convolution::new(case));
        let weight = whole.weight.to_vec();
        let times = interleaved(|| whole.convolution(), || kernel.kernel(&weight));
        print_ratio(&whole.name, times);
    }
}

fn convolutions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("conv2d");
    for case in CASES {
        let convolution = Convolution::new(case);
        group.bench_function(BenchmarkId::from_parameter(&convolution.name), |b| {
            b.iter(|| convolution.convolution());
        });
    }
    group.finish();
}

criterion_group!(benches, ratios, convolutions);
criterion_main!(benches);
