//! One training step and one inference of the CNN of the digits, on one thread and on two.
//!
//! `cargo bench -p tinytorch-core --bench training`. A step is forward, cross-entropy, backward and Adam. Before criterion's
//! own output it prints medians of interleaved runs on one thread and on two.

mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rayon::{ThreadPool, ThreadPoolBuilder};
use support::{Training, cnn, interleaved, mlp, one_thread, print_head, print_ratio, rng};
use tinytorch_core::nn::{Layer, Sequential};
use tinytorch_core::{Tensor, no_grad};

fn infer(model: &Sequential, x: &Tensor) {
    black_box(no_grad(|| model.forward(x)).expect("the shapes fit"));
}

/// Prints the times of `first` on this thread and of `second` on two.
fn compare(name: &str, two: &ThreadPool, first: impl FnMut(), mut second: impl FnMut() + Send) {
    print_ratio(name, interleaved(first, || two.install(&mut second)));
}

fn ratios(_: &mut Criterion) {
    one_thread();
    let two = ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .expect("threads can be started");
    print_head("", "1 thread", "2 threads");
    for batch in [32, 128] {
        let digits = || Training::new(cnn(8, 16, 32), &[batch, 1, 8, 8]);
        let (mut first, mut second) = (digits(), digits());
        let name = format!("digits CNN, training step, batch {batch}");
        compare(&name, &two, || first.step(), || second.step());
    }
    let digits = cnn(8, 16, 32);
    for batch in [1, 64] {
        let x = Tensor::randn(&[batch, 1, 8, 8], &mut rng());
        let name = format!("digits CNN, inference, batch {batch}");
        compare(&name, &two, || infer(&digits, &x), || infer(&digits, &x));
    }
    let wide = mlp(&[784, 1024, 1024, 10]);
    let x = Tensor::randn(&[128, 784], &mut rng());
    let name = "MLP 784-1024-1024-10, inference, batch 128";
    compare(name, &two, || infer(&wide, &x), || infer(&wide, &x));
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digits CNN");
    let mut training = Training::new(cnn(8, 16, 32), &[32, 1, 8, 8]);
    group.bench_function("training step, batch 32", |b| b.iter(|| training.step()));
    let model = cnn(8, 16, 32);
    for batch in [1, 64] {
        let x = Tensor::randn(&[batch, 1, 8, 8], &mut rng());
        group.bench_function(format!("inference, batch {batch}"), |b| {
            b.iter(|| infer(&model, &x))
        });
    }
    group.finish();
}

criterion_group!(benches, ratios, steps);
criterion_main!(benches);
