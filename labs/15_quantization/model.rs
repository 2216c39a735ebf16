//! The networks of the lab, and how they are trained.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::Result;
use tinytorch_core::data::{DataLoader, ImageDataset};
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::optim::schedule::Cosine;
use tinytorch_core::optim::{Adam, AdamConfig};
use tinytorch_core::train::{CrossEntropy, EpochRecord, Progress, StepHook, Trainer};

/// Examples per optimizer step.
pub const BATCH: usize = 32;

/// Two convolutions of 32 and 64 channels with batch norm, and a linear layer, for images `[1, 8, 8]`.
pub fn network(seed: u64) -> Result<Sequential> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    Ok(Sequential::new()
        .with_named(
            "conv1",
            Conv2d::new(Conv2dConfig::new(1, 32, 3).padding(1), rng)?,
        )
        .with_named("norm1", BatchNorm2d::new(32))
        .with_named("relu1", Relu)
        .with_named("pool1", MaxPool2d::new(2))
        .with_named(
            "conv2",
            Conv2d::new(Conv2dConfig::new(32, 64, 3).padding(1), rng)?,
        )
        .with_named("norm2", BatchNorm2d::new(64))
        .with_named("relu2", Relu)
        .with_named("pool2", MaxPool2d::new(2))
        .with_named("flatten", Flatten)
        .with_named("classes", Linear::new(64 * 2 * 2, 10, rng)))
}

/// As [`network`], the way a small device would have it: depthwise separable, three layers of convolutions in a row before
/// each pooling, each with its batch norm.
pub fn separable(seed: u64) -> Result<Sequential> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let mut model = Sequential::new();
    let layers = [
        ("conv", Conv2dConfig::new(1, 32, 3).padding(1)),
        ("depth1", Conv2dConfig::new(32, 32, 3).padding(1).groups(32)),
        ("point1", Conv2dConfig::new(32, 64, 1)),
        ("depth2", Conv2dConfig::new(64, 64, 3).padding(1).groups(64)),
        ("point2", Conv2dConfig::new(64, 64, 1)),
    ];
    for (name, config) in layers {
        if name == "depth2" {
            model = model.with_named("pool1", MaxPool2d::new(2));
        }
        model = model
            .with_named(name, Conv2d::new(config.bias(false), rng)?)
            .with_named(
                format!("{name}_norm"),
                BatchNorm2d::new(config.out_channels),
            )
            .with_named(format!("{name}_relu"), Relu);
    }
    Ok(model
        .with_named("pool2", MaxPool2d::new(2))
        .with_named("flatten", Flatten)
        .with_named("classes", Linear::new(64 * 2 * 2, 10, rng)))
}

/// Batches of training images, in an order that `seed` fixes.
pub fn loader(data: &ImageDataset, seed: u64) -> Result<DataLoader<ImageDataset>> {
    Ok(DataLoader::new(data.clone(), BATCH)?.shuffle(seed))
}

/// A [`network`] trained from `seed` for `epochs` epochs.
///
/// `after_epoch` is told what each epoch was like.
pub fn train(
    data: &ImageDataset,
    seed: u64,
    epochs: u64,
    after_epoch: impl FnMut(&EpochRecord),
) -> Result<Sequential> {
    let model = network(seed)?;
    train_with(&model, data, seed, epochs, Nothing, after_epoch)?;
    Ok(model)
}

/// Trains a model for `epochs` epochs; the step shrinks along a cosine. It is left in evaluation mode.
///
/// `after_epoch` is told what each epoch was like.
pub fn train_model(
    model: &dyn Layer,
    data: &ImageDataset,
    seed: u64,
    epochs: u64,
    after_epoch: impl FnMut(&EpochRecord),
) -> Result<()> {
    train_with(model, data, seed, epochs, Nothing, after_epoch)
}

/// Takes part in no step.
struct Nothing;

impl StepHook for Nothing {}

/// As [`train_model`], with somebody who takes part in every step.
pub fn train_with(
    model: &dyn Layer,
    data: &ImageDataset,
    seed: u64,
    epochs: u64,
    hook: impl StepHook,
    mut after_epoch: impl FnMut(&EpochRecord),
) -> Result<()> {
    let loader = loader(data, seed)?;
    let config = AdamConfig {
        learning_rate: 5e-3,
        ..AdamConfig::default()
    };
    let adam = Adam::new(model.named_parameters(), config);
    let steps = epochs * loader.batches() as u64;
    let mut trainer = Trainer::new(model, adam, CrossEntropy)
        .schedule(Cosine::new(config.learning_rate, 0.0, steps)?)
        .hook(hook)
        .progress(Progress::Silent);
    for epoch in 1..=epochs {
        if let Some(record) = trainer.fit(&loader, None, epoch)?.last() {
            after_epoch(record);
        }
    }
    drop(trainer);
    model.set_training(false);
    Ok(())
}
