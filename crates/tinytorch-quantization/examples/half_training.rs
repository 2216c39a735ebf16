//! What half precision gains in training: seconds per step and bytes of activations, f32 beside bf16 and f16.
//!
//! ```text
//! cargo run --release -p tinytorch-quantization --example half_training -- [TURNS]
//! ```
//!
//! The three take turns, step by step, on the same data; medians are printed, with the quartiles. A step is forwards,
//! backwards and Adam on the master weights. For f32 the bytes are those of the tensors that the tape holds on to: the input
//! and the output of every layer but the last.

use std::error::Error;
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::loss::cross_entropy;
use tinytorch_core::nn::{
    Conv2d, Conv2dConfig, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::optim::{Adam, AdamConfig, Optimizer};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_kernels::gemm_bf16::{bf16_is_fast, bf16_kernel_name};
use tinytorch_quantization::latency::quantile;
use tinytorch_quantization::{Half, HalfModel};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let turns: usize = std::env::args()
        .nth(1)
        .map_or(Ok(15), |text| text.parse())?;
    println!(
        "product of bf16: {}, fast: {}",
        bf16_kernel_name(),
        bf16_is_fast()
    );
    println!(
        "model                                  type  ms per step (quartiles)    ratio  activations"
    );
    let rng = &mut ChaCha8Rng::seed_from_u64(0);
    let wide = Sequential::new()
        .with(Linear::new(1024, 2048, rng))
        .with(Relu)
        .with(Linear::new(2048, 2048, rng))
        .with(Relu)
        .with(Linear::new(2048, 10, rng));
    race(
        "1024-2048-2048-10, batch 512",
        &wide,
        &Tensor::randn(&[512, 1024], rng),
        turns,
    )?;
    let conv = |inputs, outputs, rng: &mut _| {
        Conv2d::new(Conv2dConfig::new(inputs, outputs, 3).padding(1), rng)
    };
    let images = Sequential::new()
        .with(conv(32, 64, rng)?)
        .with(Relu)
        .with(conv(64, 64, rng)?)
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(conv(64, 128, rng)?)
        .with(Relu)
        .with(Flatten)
        .with(Linear::new(128 * 8 * 8, 10, rng));
    race(
        "3 convolutions, 16x16, batch 32",
        &images,
        &Tensor::randn(&[32, 32, 16, 16], rng),
        turns,
    )
}

fn race(name: &str, model: &Sequential, x: &Tensor, turns: usize) -> Result<()> {
    let classes: Vec<usize> = (0..x.shape()[0]).map(|i| i % 10).collect();
    let halves = [Half::Bf16, Half::F16].map(|half| HalfModel::new(model, half));
    let models: [(&str, &dyn Layer); 3] =
        [("f32", model), ("bf16", &halves[0]), ("f16", &halves[1])];
    let mut adam = Adam::new(model.named_parameters(), AdamConfig::default());
    let mut seconds = [const { Vec::new() }; 3];
    // The first turn warms up.
    for turn in 0..=turns {
        for ((_, model), seconds) in models.iter().zip(&mut seconds) {
            let started = Instant::now();
            model.zero_grad();
            cross_entropy(&model.forward(x)?, &classes)?.backward()?;
            adam.step()?;
            if turn > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    let bytes = [
        f32_bytes(model, x)?,
        halves[0].saved_bytes(),
        halves[1].saved_bytes(),
    ];
    let reference = quantile(&seconds[0], 0.5);
    for (((kind, _), seconds), bytes) in models.iter().zip(&seconds).zip(bytes) {
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| quantile(seconds, share));
        println!(
            "{name:<38} {kind:<5} {:>7.1} ({:.1} to {:.1}) {:>12.2} {:>9.1} KiB",
            1e3 * middle,
            1e3 * low,
            1e3 * high,
            reference / middle,
            bytes as f64 / 1024.0
        );
    }
    Ok(())
}

fn f32_bytes(model: &Sequential, x: &Tensor) -> Result<usize> {
    let mut x = x.clone();
    let mut kept = 0;
    for (_, layer) in model.shared() {
        // A flattened image shares its storage with the image.
        kept += if layer.as_any().is::<Flatten>() {
            0
        } else {
            x.len() * size_of::<f32>()
        };
        x = no_grad(|| layer.forward(&x))?;
    }
    Ok(kept)
}
