//! Training for few bits: fake quantization, quantization-aware training, half precision.

mod deploy;
mod errors;
mod half;
mod half_scaling;
mod half_steps;
mod learned;
mod train;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::data::{DataLoader, Targets, TensorDataset};
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::optim::{Adam, AdamConfig};
use tinytorch_core::train::{CrossEntropy, Progress, Trainer};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::{
    CodeRange, Error, PrepareOptions, QParams, QatOptions, Scheme, fake_quantize,
    fake_quantize_per_channel, metrics, prepare_qat,
};

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// The gradient of `Σ exp(y)` at `x`, where `y` is what `f` makes of it.
fn gradient(x: &[f32], shape: &[usize], f: impl Fn(&Tensor) -> Tensor) -> (Vec<f32>, Vec<f32>) {
    let x = Tensor::new(x.to_vec(), shape)
        .expect("the shape fits")
        .with_grad();
    let y = f(&x);
    y.exp().sum().backward().expect("a scalar");
    (y.to_vec(), x.grad().expect("a leaf").to_vec())
}

#[test]
fn the_gradient_is_that_of_the_rest_inside_and_zero_outside() {
    let qparams = QParams {
        scale: 0.5,
        zero_point: 1,
    };
    let codes = CodeRange::signed(3);
    // Codes −4..=3 with zero point 1 mean −2.5 to 1; half a step beyond still rounds to the last code.
    let x = [-3.0, -2.74, -2.5, 0.1, 1.0, 1.24, 1.26, 9.0];
    let (y, got) = gradient(&x, &[2, 4], |x| {
        fake_quantize(x, qparams, codes).expect("finite")
    });
    assert_eq!(y, [-2.5, -2.5, -2.5, 0.0, 1.0, 1.0, 1.0, 1.0]);
    let inside = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0];
    let expected: Vec<f32> = y
        .iter()
        .zip(inside)
        .map(|(y, inside)| y.exp() * inside)
        .collect();
    assert_eq!(got, expected);
}

#[test]
fn each_channel_has_its_own_steps_and_its_own_mask() {
    let qparams = [QParams::symmetric(1.0), QParams::symmetric(0.25)];
    let f = |x: &Tensor| {
        fake_quantize_per_channel(x, 1, &qparams, CodeRange::narrow(2)).expect("finite")
    };
    let (y, got) = gradient(&[0.9, 0.9, 0.2, 0.2], &[2, 2], f);
    assert_eq!(y, [1.0, 0.25, 0.0, 0.25]);
    assert_eq!(got, [1.0_f32.exp(), 0.0, 1.0, 0.25_f32.exp()]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// On average over dither the staircase is a clamp, so the straight-through gradient is the derivative of
    /// that average: here it is computed by finite differences, one whole step wide, of the sum over a period.
    #[test]
    fn the_gradient_is_the_slope_of_the_dithered_quantizer(
        scale in 0.01_f32..10.0,
        zero_point in -8_i32..=7,
        place in -20.0_f32..20.0,
    ) {
        let (qparams, codes) = (QParams { scale, zero_point }, CodeRange::signed(4));
        let real = |code: i32| scale * (code - zero_point) as f32;
        let x = place * scale;
        // Away from the last half step at both ends, where average and mask differ by design.
        prop_assume!((x - real(codes.min)).abs() > scale && (x - real(codes.max)).abs() > scale);
        let average = |x: f32| {
            let steps = 64;
            let dithered: Vec<f32> = (0..steps)
                .map(|i| x + scale * ((i as f32 + 0.5) / steps as f32 - 0.5))
                .collect();
            let x = Tensor::new(dithered, &[steps]).expect("a vector");
            let y = fake_quantize(&x, qparams, codes).expect("finite").to_vec();
            y.iter().map(|&y| f64::from(y)).sum::<f64>() / steps as f64
        };
        let slope = (average(x + scale / 2.0) - average(x - scale / 2.0)) / f64::from(scale);
        let tensor = Tensor::new(vec![x], &[1]).expect("one").with_grad();
        fake_quantize(&tensor, qparams, codes).expect("finite").sum().backward().expect("a scalar");
        let gradient = tensor.grad().expect("a leaf").to_vec()[0];
        // One of 64 dithered values may fall to the other side of a step: 1/64 at each end.
        prop_assert!((slope - f64::from(gradient)).abs() <= 2.0 / 64.0, "{slope}, not {gradient}");
    }
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    let x = Tensor::new(vec![0.0, f32::NAN], &[1, 2]).expect("two");
    let error = fake_quantize(&x, QParams::symmetric(1.0), CodeRange::INT8);
    assert!(matches!(error, Err(Error::NotFinite { place, .. }) if place.index == 1));
}

fn network(rng: &mut ChaCha8Rng) -> Sequential {
    Sequential::new()
        .with(Conv2d::new(Conv2dConfig::new(1, 4, 3).padding(1), rng).expect("good"))
        .with(BatchNorm2d::new(4))
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(Flatten)
        .with(Linear::new(16, 3, rng))
}

/// Blobs of three classes: images with a bright row, a bright column or a bright diagonal.
fn stripes(count: usize, rng: &mut ChaCha8Rng) -> (Tensor, Vec<usize>) {
    let noise = Tensor::randn(&[count, 1, 4, 4], rng);
    let labels: Vec<usize> = (0..count).map(|i| i % 3).collect();
    let images = &noise * 0.3;
    images.update(|mut values| {
        for (i, &label) in labels.iter().enumerate() {
            for j in 0..4 {
                let place = [[1, j], [j, 1], [j, j]][label];
                values[[i, 0, place[0], place[1]]] += 1.5;
            }
        }
    });
    (images, labels)
}

fn loader(x: &Tensor, labels: &[usize]) -> DataLoader<TensorDataset> {
    let dataset = TensorDataset::new(x, Targets::Classes(labels.to_vec())).expect("fits");
    DataLoader::new(dataset, 32)
        .expect("a batch size")
        .shuffle(3)
}

fn share_right(scores: &Tensor, labels: &[usize]) -> f64 {
    metrics::accuracy(&scores.to_vec(), 3, labels)
}

#[test]
fn a_model_trained_with_two_bit_weights_learns_and_converts() {
    let rng = &mut rng(5);
    let model = network(rng);
    let (x, labels) = stripes(384, rng);
    let data = loader(&x, &labels);
    let adam = |model: &dyn Layer| Adam::new(model.named_parameters(), AdamConfig::default());
    let mut trainer = Trainer::new(&model, adam(&model), CrossEntropy).progress(Progress::Silent);
    trainer.fit(&data, None, 8).expect("it trains");

    let options = PrepareOptions {
        weights: Scheme {
            codes: CodeRange::narrow(2),
            ..Scheme::WEIGHTS
        },
        ..PrepareOptions::default()
    };
    let qat = prepare_qat(&model, &options.clone().into()).expect("known layers");
    let untrained = qat.convert().expect_err("no range is known yet");
    let message = untrained.to_string();
    assert!(
        message.starts_with("`input`: nothing was observed"),
        "{message}"
    );
    let mut trainer = Trainer::new(&qat, adam(&qat), CrossEntropy).progress(Progress::Silent);
    trainer.fit(&data, None, 6).expect("it trains");
    qat.freeze(true);
    trainer.fit(&data, None, 8).expect("it trains");

    qat.set_training(false);
    let pretended = no_grad(|| qat.forward(&x)).expect("fits");
    let quantized = qat.convert().expect("it was trained");
    let real = quantized.forward(&x).expect("fits");
    assert!(
        share_right(&real, &labels) > 0.9,
        "{}",
        share_right(&real, &labels)
    );
    // What was evaluated is what is deployed.
    assert_eq!(pretended.to_vec(), real.to_vec());
}

#[test]
fn the_ranges_of_a_qat_model_are_saved_with_its_weights() {
    let rng = &mut rng(6);
    let model = network(rng);
    let qat = prepare_qat(&model, &QatOptions::default()).expect("known layers");
    let (x, _) = stripes(8, rng);
    no_grad(|| qat.forward(&x)).expect("fits");
    let names: Vec<String> = qat
        .named_buffers()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names,
        [
            "quantize_input.range",
            "0.norm.running_mean",
            "0.norm.running_var",
            "0.output.range",
            "5.output.range"
        ]
    );

    let other = prepare_qat(&model, &QatOptions::default()).expect("known layers");
    for ((_, target), (_, source)) in other.named_tensors().iter().zip(qat.named_tensors()) {
        target.assign(&source).expect("the same shapes");
    }
    let (one, two) = (
        qat.convert().expect("ranges"),
        other.convert().expect("ranges"),
    );
    assert_eq!(
        one.forward(&x).expect("fits").to_vec(),
        two.forward(&x).expect("fits").to_vec()
    );
}
