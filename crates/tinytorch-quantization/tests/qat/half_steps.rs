//! Steps in half precision that cannot be taken: what they leave alone, and when it is said that none ever will be.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng as Rng;
use tinytorch_core::data::{DataLoader, Targets, TensorDataset};
use tinytorch_core::nn::{BatchNorm2d, Conv2d, Conv2dConfig, Flatten, Layer, Linear, Sequential};
use tinytorch_core::optim::{Sgd, SgdConfig};
use tinytorch_core::train::{MeanSquaredError, Progress, TrainError, Trainer};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::{Half, HalfModel, LossScaler, LossScaling};

fn scaling(scale: f32) -> LossScaling {
    let scaler = LossScaler {
        scale,
        ..LossScaler::default()
    };
    LossScaling::new(scaler).expect("good numbers")
}

fn batches(x: &Tensor, targets: &Tensor, size: usize) -> DataLoader<TensorDataset> {
    let dataset = TensorDataset::new(x, Targets::Values(targets.clone())).expect("fits");
    DataLoader::new(dataset, size).expect("a batch size")
}

fn sgd(model: &HalfModel, learning_rate: f64) -> Sgd {
    let config = SgdConfig {
        learning_rate,
        ..SgdConfig::default()
    };
    Sgd::new(model.named_parameters(), config)
}

/// A convolution, a batch norm and a linear layer, for images of 2 x 2.
fn normalized() -> Sequential {
    let rng = &mut Rng::seed_from_u64(5);
    Sequential::new()
        .with(Conv2d::new(Conv2dConfig::new(1, 2, 1), rng).expect("a good configuration"))
        .with(BatchNorm2d::new(2))
        .with(Flatten)
        .with(Linear::new(8, 1, rng))
}

fn bits(model: &dyn Layer) -> Vec<Vec<u32>> {
    let tensors = model.named_tensors().into_iter();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    tensors.map(|(_, tensor)| bits(tensor.to_vec())).collect()
}

#[test]
fn a_skipped_step_leaves_running_moments_as_they_were() {
    // 1e5 is infinite in f16, and so was the mean of its channel: in the running mean it stayed, and every evaluation was NaN.
    let x = Tensor::randn(&[16, 1, 2, 2], &mut Rng::seed_from_u64(6));
    let target = Tensor::ones(&[16, 1]);
    let spoiled = Tensor::from_array(x.array());
    spoiled.update(|mut values| values[[5, 0, 0, 0]] = 1e5);

    // Whether the loss is not finite, or only the gradients of a loss scaled by 2^40.
    for (x, scale) in [(&spoiled, 8.0), (&x, 2.0_f32.powi(40))] {
        let model = normalized();
        let half = HalfModel::new(&model, Half::F16);
        let before = bits(&model);
        let mut trainer = Trainer::new(&half, sgd(&half, 0.01), MeanSquaredError)
            .hook(scaling(scale))
            .progress(Progress::Silent);
        let history = trainer.fit(&batches(x, &target, 16), None, 2);
        for epoch in history.expect("steps are skipped") {
            assert_eq!(epoch.skipped_steps, 1, "scale {scale}");
        }
        assert_eq!(bits(&model), before, "scale {scale}");
    }

    // One batch of four, the others go on.
    let model = normalized();
    let half = HalfModel::new(&model, Half::F16);
    let mut trainer = Trainer::new(&half, sgd(&half, 0.01), MeanSquaredError)
        .hook(scaling(8.0))
        .progress(Progress::Silent);
    let history = trainer.fit(&batches(&spoiled, &target, 4), None, 3);
    for epoch in history.expect("it trains") {
        assert_eq!((epoch.skipped_steps, epoch.train.examples), (1, 12));
    }
    let fresh = normalized();
    for ((name, held), (_, at_first)) in model.named_buffers().iter().zip(fresh.named_buffers()) {
        assert!(
            held.to_vec().iter().all(|value| value.is_finite()),
            "{name}"
        );
        assert_ne!(held.to_vec(), at_first.to_vec(), "{name}");
    }
    half.set_training(false);
    let y = no_grad(|| half.forward(&Tensor::ones(&[1, 1, 2, 2]))).expect("fits");
    assert!(y.to_vec()[0].is_finite());
}

#[test]
fn a_training_whose_gradients_never_fit_the_format_says_so() {
    // Outputs are off by 3e5, so the gradient, half of that for four of them, is infinite in f16 without any scale; the loss,
    // 9e10, is not. All steps were skipped, for as long as one liked, and the training was `Ok`.
    let x = Tensor::ones(&[4, 1]);
    let data = batches(&x, &Tensor::full(&[4, 1], 3e5), 4);
    let linear = || {
        let linear = Linear::from_parts(Tensor::ones(&[1, 1]), None).expect("[out, in]");
        Sequential::new().with(linear)
    };
    let model = linear();
    let half = HalfModel::new(&model, Half::F16);
    let scaling = LossScaling::default();
    let mut trainer = Trainer::new(&half, sgd(&half, 1e-3), MeanSquaredError)
        .hook(scaling.clone())
        .progress(Progress::Silent);
    let error = trainer.fit(&data, None, 40).expect_err("no step is taken");
    let steps = LossScaling::PATIENCE;
    assert_eq!(
        error,
        tinytorch_core::Error::Train(TrainError::GradientsOverflow { steps })
    );
    assert!(error.to_string().contains("train in bf16"), "{error}");
    // 65536 is halved 16 times; after that patience runs out, and the last step is not counted as skipped.
    assert_eq!(trainer.history().len(), 16 + steps as usize - 1);
    assert_eq!(scaling.scaler().scale, 1.0);
    assert_eq!(model.named_parameters()[0].1.to_vec(), [1.0]);

    // bf16 holds such gradients.
    let model = linear();
    let half = HalfModel::new(&model, Half::Bf16);
    let mut trainer =
        Trainer::new(&half, sgd(&half, 1e-3), MeanSquaredError).progress(Progress::Silent);
    trainer.fit(&data, None, 1).expect("it trains");
    assert!(model.named_parameters()[0].1.to_vec()[0] > 100.0);
}

#[test]
fn patience_begins_again_with_every_step_that_is_taken() {
    // Two batches: one that never fits, one that does.
    let x = Tensor::ones(&[2, 1]);
    let targets = Tensor::new(vec![3e5, 1.0], &[2, 1]).expect("two");
    let linear = Linear::from_parts(Tensor::ones(&[1, 1]), None).expect("[out, in]");
    let model = Sequential::new().with(linear);
    let half = HalfModel::new(&model, Half::F16);
    let mut trainer = Trainer::new(&half, sgd(&half, 1e-3), MeanSquaredError)
        .hook(scaling(1.0))
        .progress(Progress::Silent);
    let epochs = 2 * u64::from(LossScaling::PATIENCE);
    let history = trainer.fit(&batches(&x, &targets, 1), None, epochs);
    let history = history.expect("every other step is taken");
    assert!(history.iter().all(|epoch| epoch.skipped_steps == 1));
}

#[test]
fn a_batch_too_large_for_f16_is_skipped_and_counted_and_no_more_than_that() {
    // Such a batch ended the training, though only its own step is lost; in f32 and bf16 nothing is wrong with it.
    let x = Tensor::ones(&[16, 1]);
    x.update(|mut values| values[[5, 0]] = 1e5);
    let target = Tensor::ones(&[16, 1]);
    // Small enough that no gradient overflows.
    let scaling_of_one = scaling(1024.0);
    let linear = Linear::from_parts(Tensor::full(&[1, 1], 0.5), None).expect("[out, in]");
    let model = Sequential::new().with(linear);
    let half = HalfModel::new(&model, Half::F16);
    let mut trainer = Trainer::new(&half, sgd(&half, 0.1), MeanSquaredError)
        .hook(scaling_of_one.clone())
        .progress(Progress::Silent);
    let history = trainer
        .fit(&batches(&x, &target, 4), None, 3)
        .expect("it trains");
    for epoch in history {
        assert_eq!((epoch.skipped_steps, epoch.train.examples), (1, 12));
        assert!(epoch.train.loss.is_finite());
    }
    assert_eq!(scaling_of_one.scaler().scale, 1024.0 / 8.0);
    // Each step takes a fifth of what is missing: nine of them.
    let weight = model.named_parameters()[0].1.to_vec()[0];
    let missing = 0.5 * 0.8_f32.powi(9);
    // Outputs below 1 are off by 2^-12 at most, which the gradient doubles, and gradients up to 1 by as much twice, for each
    // row and for their sum; of that a tenth goes into each of nine steps.
    let off = 9.0 * 0.1 * 4.0 / 4096.0;
    assert!((1.0 - weight - missing).abs() <= off, "{weight}");

    // Where every batch is like that no scale helps: 1024 is halved 10 times, and then it is said.
    let scaling = scaling(1024.0);
    let mut trainer = Trainer::new(&half, sgd(&half, 0.1), MeanSquaredError)
        .hook(scaling.clone())
        .progress(Progress::Silent);
    let error = trainer
        .fit(&batches(&x, &target, 16), None, 20)
        .expect_err("diverged");
    assert!(
        matches!(
            &error,
            tinytorch_core::Error::Train(TrainError::Diverged { epoch: 10, .. })
        ),
        "{error}"
    );
    assert_eq!(scaling.scaler().scale, 1.0);
    let epochs = trainer.history();
    assert!(
        epochs
            .iter()
            .all(|epoch| epoch.skipped_steps == 1 && epoch.train.loss.is_nan())
    );
    assert_eq!(model.named_parameters()[0].1.to_vec()[0], weight);
}
