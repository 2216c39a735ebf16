//! What a batch costs to make, beside what a training step on it costs: is a second thread worth it?

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::data::{DataLoader, Dataset, ImageDataset, RandomShift, stratified_split};
use tinytorch_core::loss::cross_entropy;
use tinytorch_core::nn::{
    Conv2d, Conv2dConfig, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};

const BATCH: usize = 64;

/// A convolution of 16 channels, pooled, and a classifier: about as small as a useful network is.
fn network(channels: usize, side: usize) -> Sequential {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let conv = Conv2dConfig::new(channels, 16, 3).padding(1);
    Sequential::new()
        .with(Conv2d::new(conv, rng).expect("valid"))
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(Flatten)
        .with(Linear::new(16 * (side / 2) * (side / 2), 10, rng))
}

fn compare(c: &mut Criterion, name: &str, images: ImageDataset) {
    let [channels, side, _] = images.image_shape();
    let model = network(channels, side);
    let batch = images
        .batch(&(0..BATCH).collect::<Vec<_>>())
        .expect("enough images");
    let plain = DataLoader::new(images, BATCH).expect("valid").shuffle(1);
    let mut group = c.benchmark_group(format!("loader/{name}"));
    let first = |loader: &DataLoader<ImageDataset>| loader.epoch(0).next();
    group.bench_function("batch", |b| {
        let mut batches = plain.epoch(0);
        b.iter(|| {
            if let Some(batch) = batches.next() {
                black_box(batch).expect("valid");
            } else {
                batches = plain.epoch(0);
            }
        });
    });
    let shifted = plain.transform(RandomShift { most: 2 });
    group.bench_function("batch, random shift", |b| {
        b.iter(|| black_box(first(&shifted)))
    });
    group.bench_function("forward and backward", |b| {
        b.iter(|| {
            model.zero_grad();
            let classes = batch.targets.classes().expect("classes");
            let logits = model.forward(&batch.inputs).expect("valid");
            cross_entropy(&logits, classes)
                .expect("valid")
                .backward()
                .expect("valid");
        });
    });
    group.finish();
}

fn loader(c: &mut Criterion) {
    compare(c, "digits", stratified_split().expect("embedded").train);
    // Images of CIFAR-10's size; their content does not matter here.
    let pixels = (0..512 * 3 * 32 * 32).map(|i| (i % 251) as u8).collect();
    let cifar = ImageDataset::new(pixels, [3, 32, 32], vec![1; 512], 10, 255).expect("valid");
    compare(c, "cifar", cifar);
}

criterion_group!(benches, loader);
criterion_main!(benches);
