//! The whole way: a small network that learns, from the seed to the last bit.

#![allow(clippy::unwrap_used)]

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tinytorch_core::loss::cross_entropy;
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::optim::{Adam, AdamConfig, Optimizer, Sgd, SgdConfig};
use tinytorch_core::{Tensor, no_grad};

fn model(seed: u64) -> Sequential {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let features = Sequential::new()
        .with(Conv2d::new(Conv2dConfig::new(1, 8, 3).padding(1), rng).unwrap())
        .with(BatchNorm2d::new(8))
        .with(Relu)
        .with(MaxPool2d::new(2));
    Sequential::new()
        .with_named("features", features)
        .with(Flatten)
        .with_named("classifier", Linear::new(8 * 3 * 3, 3, rng))
}

/// Noisy images of a horizontal line, a vertical line, and a cross.
fn images(count: usize, seed: u64) -> (Tensor, Vec<usize>) {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let mut pixels = Vec::new();
    let classes: Vec<usize> = (0..count).map(|i| i % 3).collect();
    for class in &classes {
        let (row, column) = (rng.random_range(0..6), rng.random_range(0..6));
        for y in 0..6 {
            for x in 0..6 {
                let line = (y == row && *class != 1) || (x == column && *class != 0);
                pixels.push(f32::from(u8::from(line)) + 0.3 * rng.random::<f32>());
            }
        }
    }
    (Tensor::new(pixels, &[count, 1, 6, 6]).unwrap(), classes)
}

fn train(mut optimizer: impl Optimizer, model: &Sequential, steps: usize) -> Vec<f32> {
    let (x, classes) = images(60, 7);
    (0..steps)
        .map(|_| {
            let loss = cross_entropy(&model.forward(&x).unwrap(), &classes).unwrap();
            loss.backward().unwrap();
            optimizer.step().unwrap();
            optimizer.zero_grad();
            loss.item().unwrap()
        })
        .collect()
}

fn accuracy(model: &Sequential) -> f64 {
    let (x, classes) = images(300, 8);
    model.set_training(false);
    let guesses = no_grad(|| model.forward(&x).unwrap().argmax(1).unwrap()).to_vec();
    let right = guesses
        .iter()
        .zip(&classes)
        .filter(|(guess, class)| **guess as usize == **class);
    right.count() as f64 / 300.0
}

#[test]
fn a_network_learns_shapes_it_has_not_seen_before() {
    let with_adam = model(0);
    let config = AdamConfig {
        learning_rate: 0.01,
        ..AdamConfig::default()
    };
    train(
        Adam::new(with_adam.named_parameters(), config),
        &with_adam,
        60,
    );
    let with_sgd = model(0);
    let config = SgdConfig {
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 1e-4,
    };
    train(Sgd::new(with_sgd.named_parameters(), config), &with_sgd, 60);
    // Guessing gives a third.
    assert!(accuracy(&with_adam) > 0.8, "{}", accuracy(&with_adam));
    assert!(accuracy(&with_sgd) > 0.8, "{}", accuracy(&with_sgd));
}

#[test]
fn names_follow_the_nesting() {
    let names = |tensors: Vec<(String, Tensor)>| -> Vec<String> {
        tensors.into_iter().map(|(name, _)| name).collect()
    };
    let model = model(0);
    assert_eq!(
        names(model.named_parameters()),
        [
            "features.0.weight",
            "features.0.bias",
            "features.1.weight",
            "features.1.bias",
            "classifier.weight",
            "classifier.bias"
        ]
    );
    assert_eq!(
        names(model.named_buffers()),
        ["features.1.running_mean", "features.1.running_var"]
    );
}

#[test]
fn the_bits_depend_on_the_seed_and_not_on_the_number_of_threads() {
    let run = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let model = model(seed);
            let losses = train(
                Adam::new(model.named_parameters(), AdamConfig::default()),
                &model,
                5,
            );
            let weights = model
                .named_tensors()
                .into_iter()
                .flat_map(|(_, tensor)| tensor.to_vec());
            losses
                .into_iter()
                .chain(weights)
                .map(f32::to_bits)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(run(1, 0), run(3, 0));
    assert_ne!(run(1, 0), run(1, 1));
}
