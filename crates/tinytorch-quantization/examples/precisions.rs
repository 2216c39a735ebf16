//! How fast a layer is in each precision, beside f32.
//!
//! ```text
//! cargo run --release -p tinytorch-quantization --example precisions -- [TURNS]
//! ```
//!
//! One layer at a time, real values in and out (but for static INT8, which turns them into codes and back). All precisions take
//! turns; medians, as times f32's speed, and the bytes held.

use std::error::Error;
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::nn::{Conv2d, Conv2dConfig, Layer, Linear, Sequential};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::latency::quantile;
use tinytorch_quantization::{Precision, PrepareOptions, QModel, calibrate, convert, prepare};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PRECISIONS: [(&str, Precision); 6] = [
    ("int8 static", Precision::STATIC),
    ("int8 dynamic", Precision::Dynamic),
    ("int8 weights", Precision::WEIGHT_ONLY_INT8),
    ("int4 weights", Precision::WEIGHT_ONLY_INT4),
    ("bf16", Precision::Bf16),
    ("f32 as QModel", Precision::Float),
];

fn main() -> Result<()> {
    let turns: usize = std::env::args().nth(1).map_or(Ok(9), |text| text.parse())?;
    println!(
        "bf16 product: {}",
        tinytorch_kernels::gemm_bf16::bf16_kernel_name()
    );
    let rng = &mut ChaCha8Rng::seed_from_u64(0);
    for (size, rows) in [(1024, 1), (1024, 8), (1024, 64), (1024, 256)] {
        let model = Sequential::new().with(Linear::new(size, size, rng));
        let x = Tensor::randn(&[rows, size], rng);
        race(&format!("linear {size}, {rows} row(s)"), &model, &x, turns)?;
    }
    for (channels, side, images) in [(64, 16, 1), (64, 16, 32), (128, 8, 8)] {
        let config = Conv2dConfig::new(channels, channels, 3).padding(1);
        let model = Sequential::new().with(Conv2d::new(config, rng)?);
        let x = Tensor::randn(&[images, channels, side, side], rng);
        let name = format!("conv 3x3 {channels}, {side}x{side}, {images} image(s)");
        race(&name, &model, &x, turns)?;
    }
    Ok(())
}

fn race(name: &str, model: &Sequential, x: &Tensor, turns: usize) -> Result<()> {
    let mut models: Vec<QModel> = Vec::new();
    for (_, precision) in PRECISIONS {
        let options = PrepareOptions {
            precision,
            ..PrepareOptions::default()
        };
        let mut prepared = prepare(model, &options)?;
        calibrate(&mut prepared, [x.clone()])?;
        models.push(convert(&prepared)?);
    }
    let mut seconds = vec![Vec::new(); models.len() + 1];
    // The first turn warms up. A turn is several calls, so that short ones can be timed.
    for turn in 0..=turns {
        for (index, seconds) in seconds.iter_mut().enumerate() {
            let started = Instant::now();
            let mut calls = 0;
            while calls == 0 || started.elapsed().as_millis() < 3 {
                match index.checked_sub(1) {
                    None => _ = std::hint::black_box(no_grad(|| model.forward(x))?),
                    Some(index) => _ = std::hint::black_box(models[index].forward(x)?),
                }
                calls += 1;
            }
            if turn > 0 {
                seconds.push(started.elapsed().as_secs_f64() / f64::from(calls));
            }
        }
    }
    let median = |seconds: &Vec<f64>| quantile(seconds, 0.5);
    let medians: Vec<f64> = seconds.iter().map(median).collect();
    println!("{name}: f32 {:.1} µs", 1e6 * medians[0]);
    for (((what, _), model), median) in PRECISIONS.iter().zip(&models).zip(&medians[1..]) {
        println!(
            "  {what:<14} {:>9.1} µs  {:>6.2} times as fast  {:>9} bytes",
            1e6 * median,
            medians[0] / median,
            model.memory_bytes()
        );
    }
    Ok(())
}
