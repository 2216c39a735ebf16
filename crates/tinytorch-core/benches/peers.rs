//! Our side of the comparison with PyTorch; `peers.py` drives it and measures the other side in turns.
//!
//! Reads lines `model calls` and answers each with the seconds that so many calls took. Threads: `RAYON_NUM_THREADS`.

mod support;

use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

use support::{Training, cnn, mlp, rng};
use tinytorch_core::nn::{Layer, Sequential};
use tinytorch_core::{Tensor, no_grad};

/// One call of a model.
type Run = Box<dyn FnMut()>;

fn inference(model: Sequential, shape: &[usize]) -> Run {
    let x = Tensor::randn(shape, &mut rng());
    Box::new(move || {
        black_box(no_grad(|| model.forward(&x)).expect("the shapes fit"));
    })
}

fn training(model: Sequential, shape: &[usize]) -> Run {
    let mut training = Training::new(model, shape);
    Box::new(move || training.step())
}

/// The names are those of `peers.py`.
fn models() -> Vec<(&'static str, Run)> {
    let (small, wide) = ([784, 128, 64, 10], [784, 1024, 1024, 10]);
    vec![
        (
            "mlp_784_128_64_10/batch_1",
            inference(mlp(&small), &[1, 784]),
        ),
        (
            "mlp_784_128_64_10/batch_128",
            inference(mlp(&small), &[128, 784]),
        ),
        (
            "mlp_784_1024_1024_10/batch_1",
            inference(mlp(&wide), &[1, 784]),
        ),
        (
            "mlp_784_1024_1024_10/batch_128",
            inference(mlp(&wide), &[128, 784]),
        ),
        (
            "cnn_28_32_64/batch_1",
            inference(cnn(28, 32, 64), &[1, 1, 28, 28]),
        ),
        (
            "cnn_28_32_64/batch_64",
            inference(cnn(28, 32, 64), &[64, 1, 28, 28]),
        ),
        (
            "digits_cnn_8_16_32/batch_1",
            inference(cnn(8, 16, 32), &[1, 1, 8, 8]),
        ),
        (
            "digits_cnn_8_16_32/batch_64",
            inference(cnn(8, 16, 32), &[64, 1, 8, 8]),
        ),
        (
            "digits_cnn_8_16_32/training_step_batch_32",
            training(cnn(8, 16, 32), &[32, 1, 8, 8]),
        ),
        (
            "mlp_784_128_64_10/training_step_batch_128",
            training(mlp(&small), &[128, 784]),
        ),
    ]
}

fn main() {
    let mut models = models();
    if !std::env::args().any(|argument| argument == "--serve") {
        println!("the models below answer to peers.py (see there):");
        models.iter().for_each(|(name, _)| println!("  {name}"));
        return;
    }
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text");
        let (name, calls) = line.split_once(' ').expect("model and calls");
        let calls: u32 = calls.parse().expect("a count");
        let (_, run) = models
            .iter_mut()
            .find(|(known, _)| *known == name)
            .expect("a model of the list");
        let start = Instant::now();
        (0..calls).for_each(|_| run());
        writeln!(out, "{}", start.elapsed().as_secs_f64()).expect("peers.py is listening");
        out.flush().expect("peers.py is listening");
    }
}
