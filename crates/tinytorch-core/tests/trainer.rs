//! The training loop on the real digits, and each of its promises.
#![allow(clippy::unwrap_used)]

use std::any::Any;
use std::sync::Mutex;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::data::{
    BatchSource, DataLoader, Dataset, ImageDataset, RandomShift, Targets, TensorDataset,
    ordered_split, stratified_split,
};
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Dropout, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::optim::schedule::warmup_cosine;
use tinytorch_core::optim::{Adam, AdamConfig, Sgd, SgdConfig};
use tinytorch_core::train::{
    CrossEntropy, EarlyStopping, MeanSquaredError, Proceed, Progress, StepHook, TrainError,
    Trainer, evaluate,
};
use tinytorch_core::{Error, Result, Tensor, is_recording};

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn mlp(seed: u64) -> Sequential {
    let rng = &mut rng(seed);
    Sequential::new()
        .with(Flatten)
        .with(Linear::new(64, 32, rng))
        .with(Relu)
        .with(Linear::new(32, 10, rng))
}

fn cnn(seed: u64) -> Sequential {
    let rng = &mut rng(seed);
    Sequential::new()
        .with(Conv2d::new(Conv2dConfig::new(1, 8, 3).padding(1), rng).unwrap())
        .with(BatchNorm2d::new(8))
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(Flatten)
        .with(Dropout::new(0.2, rng).unwrap())
        .with(Linear::new(8 * 4 * 4, 10, rng))
}

fn adam(model: &dyn Layer, learning_rate: f64) -> Adam {
    let config = AdamConfig {
        learning_rate,
        ..AdamConfig::default()
    };
    Adam::new(model.named_parameters(), config)
}

fn loader(data: ImageDataset) -> DataLoader<ImageDataset> {
    DataLoader::new(data, 64).unwrap().shuffle(1)
}

/// The first 256 digits.
fn few_digits() -> DataLoader<ImageDataset> {
    let indices: Vec<usize> = (0..256).collect();
    loader(ordered_split().unwrap().train.select(&indices).unwrap())
}

fn quiet<'a>(model: &'a dyn Layer, learning_rate: f64) -> Trainer<'a> {
    Trainer::new(model, adam(model, learning_rate), CrossEntropy).progress(Progress::Silent)
}

fn bits(model: &dyn Layer) -> Vec<u32> {
    let tensors = model.named_tensors().into_iter();
    tensors
        .flat_map(|(_, tensor)| tensor.to_vec())
        .map(f32::to_bits)
        .collect()
}

#[test]
fn a_small_network_reads_more_than_95_percent_of_the_digits() -> Result<()> {
    let digits = stratified_split()?;
    let (train, test) = (loader(digits.train), loader(digits.test));
    let model = mlp(1);
    let mut trainer = quiet(&model, 5e-3);
    let history = trainer.fit(&train, Some(&test), 20)?;
    assert_eq!(history.len(), 20);
    assert!(history[19].train.loss < history[0].train.loss);
    let metrics = evaluate(&model, &test, &CrossEntropy)?;
    assert!(metrics.accuracy.unwrap() > 0.95, "{metrics:?}");
    assert_eq!(history[19].validation, Some(metrics));
    Ok(())
}

#[test]
fn a_convolutional_network_reads_more_than_95_percent_of_them_in_few_epochs() -> Result<()> {
    let digits = stratified_split()?;
    let (train, test) = (loader(digits.train), loader(digits.test));
    let model = cnn(1);
    let steps = 6 * train.batches() as u64;
    let mut trainer = quiet(&model, 0.0)
        .schedule(warmup_cosine(1e-2, 10, steps)?)
        .clip_norm(5.0);
    trainer.fit(&train, None, 6)?;
    let metrics = evaluate(&model, &test, &CrossEntropy)?;
    assert!(metrics.accuracy.unwrap() > 0.95, "{metrics:?}");
    assert_eq!(metrics.examples, 360);
    Ok(())
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let train = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let model = cnn(3);
            let data = few_digits().transform(RandomShift { most: 1 });
            quiet(&model, 1e-2).fit(&data, None, 2).unwrap();
            bits(&model)
        })
    };
    let one = train(1);
    assert_eq!(train(2), one);
    assert_eq!(train(5), one);
}

#[test]
fn a_seed_decides_the_training_and_another_seed_another() -> Result<()> {
    let run = |model: Sequential, data: DataLoader<ImageDataset>| {
        quiet(&model, 1e-2)
            .fit(&data, None, 2)
            .map(|_| bits(&model))
    };
    assert_eq!(run(cnn(3), few_digits())?, run(cnn(3), few_digits())?);
    assert_ne!(run(cnn(3), few_digits())?, run(cnn(4), few_digits())?);
    assert_ne!(
        run(cnn(3), few_digits())?,
        run(cnn(3), few_digits().shuffle(2))?
    );
    Ok(())
}

/// Records how it was called; fails on demand.
struct Probe {
    training: Mutex<bool>,
    seen: Mutex<Vec<(bool, bool)>>,
    fails: bool,
}

impl Probe {
    fn new(fails: bool) -> Self {
        Self {
            training: Mutex::new(true),
            seen: Mutex::default(),
            fails,
        }
    }
}

impl Layer for Probe {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.seen
            .lock()
            .unwrap()
            .push((*self.training.lock().unwrap(), is_recording()));
        if self.fails {
            x.matmul(&Tensor::zeros(&[1, 1]))
        } else {
            Ok(x.clone())
        }
    }

    fn kind(&self) -> &'static str {
        "probe"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn own_training(&self) -> Option<bool> {
        Some(*self.training.lock().unwrap())
    }

    fn set_training(&self, training: bool) {
        *self.training.lock().unwrap() = training;
    }
}

fn probes(model: &Sequential) -> Vec<&Probe> {
    let children = model.children().into_iter();
    children
        .filter_map(|(_, child)| child.as_any().downcast_ref())
        .collect()
}

#[test]
fn evaluation_records_nothing_and_gives_every_layer_its_mode_back() {
    for fails in [false, true] {
        let model = mlp(1).with(Probe::new(false)).with(Probe::new(fails));
        let probes = probes(&model);
        // The first one is frozen, as a batch normalization may be.
        probes[0].set_training(false);
        let outcome = evaluate(&model, &few_digits(), &CrossEntropy);
        assert_eq!(outcome.is_err(), fails);
        assert_eq!(probes[1].seen.lock().unwrap()[0], (false, false));
        let modes = probes.iter().map(|p| p.own_training().unwrap());
        assert_eq!(modes.collect::<Vec<_>>(), [false, true]);
        assert!(is_recording());
    }
}

#[test]
fn evaluation_leaves_running_moments_and_generators_alone() -> Result<()> {
    let model = cnn(5);
    let (before, generators) = (bits(&model), model.named_rng_states());
    evaluate(&model, &few_digits(), &CrossEntropy)?;
    assert_eq!(
        (bits(&model), model.named_rng_states()),
        (before, generators)
    );
    Ok(())
}

#[test]
fn nothing_to_measure_or_train_on_is_an_error() {
    let empty = DataLoader::new(few_digits().dataset().select(&[]).unwrap(), 4).unwrap();
    let model = mlp(1);
    let error = evaluate(&model, &empty, &CrossEntropy).unwrap_err();
    assert_eq!(error, Error::Train(TrainError::NoBatches("measure")));
    let error = quiet(&model, 1e-3).fit(&empty, None, 1).unwrap_err();
    assert_eq!(error, Error::Train(TrainError::NoBatches("train on")));
}

#[test]
fn early_stopping_ends_with_the_weights_of_the_best_epoch() -> Result<()> {
    // Trained on 64 digits only, the network soon gets worse on the others.
    let few: Vec<usize> = (0..64).collect();
    let digits = ordered_split()?;
    let (train, test) = (loader(digits.train.select(&few)?), loader(digits.test));
    let model = mlp(1);
    let mut trainer = quiet(&model, 3e-2).early_stopping(EarlyStopping::on_loss(3));
    let history = trainer.fit(&train, Some(&test), 200)?.to_vec();
    assert!(trainer.stopped_early());
    let losses: Vec<f64> = history.iter().map(|r| r.validation.unwrap().loss).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(losses[losses.len() - 4], best);
    assert_eq!(evaluate(&model, &test, &CrossEntropy)?.loss, best);
    // It stays ended.
    assert_eq!(trainer.fit(&train, Some(&test), 300)?.len(), history.len());
    Ok(())
}

#[test]
fn early_stopping_without_a_validation_is_an_error() {
    let model = mlp(1);
    let mut trainer = quiet(&model, 1e-3).early_stopping(EarlyStopping::on_accuracy(3));
    let error = trainer.fit(&few_digits(), None, 3).unwrap_err();
    assert_eq!(
        error,
        Error::Train(TrainError::NothingToMonitor("accuracy"))
    );
    assert!(trainer.history().is_empty());
}

/// Multiplies the loss and divides the gradients by a power of two; skips every `skip`-th step.
#[derive(Default)]
struct Scaling {
    steps: u64,
    skip: u64,
}

const SCALE: f32 = 1024.0;

impl StepHook for Scaling {
    fn change_loss(&mut self, loss: Tensor) -> Result<Tensor> {
        loss.try_mul(&Tensor::scalar(SCALE))
    }

    fn check_gradients(&mut self, parameters: &[(String, Tensor)]) -> Result<Proceed> {
        for (_, parameter) in parameters {
            parameter.update_grad(|mut gradient| gradient /= SCALE);
        }
        self.steps += 1;
        let skipped = self.skip > 0 && self.steps.is_multiple_of(self.skip);
        Ok(if skipped {
            Proceed::Skip
        } else {
            Proceed::Step
        })
    }
}

#[test]
fn a_hook_may_scale_the_loss_and_unscale_the_gradients() -> Result<()> {
    // A power of two changes exponents only, so nothing is rounded differently.
    let (plain, scaled) = (mlp(1), mlp(1));
    quiet(&plain, 1e-2)
        .clip_norm(1.0)
        .fit(&few_digits(), None, 2)?;
    let mut trainer = quiet(&scaled, 1e-2).clip_norm(1.0).hook(Scaling::default());
    let history = trainer.fit(&few_digits(), None, 2)?;
    assert!(
        history[0].train.loss < 10.0,
        "the metrics show the loss before scaling"
    );
    assert_eq!(bits(&scaled), bits(&plain));
    Ok(())
}

#[test]
fn a_skipped_step_changes_no_weight_and_is_counted() -> Result<()> {
    // The second has a batch norm, whose running moments went on.
    for model in [mlp(1), cnn(1)] {
        let before = bits(&model);
        let mut trainer = quiet(&model, 1e-2).hook(Scaling {
            skip: 1,
            ..Scaling::default()
        });
        assert_eq!(trainer.fit(&few_digits(), None, 1)?[0].skipped_steps, 4);
        assert_eq!(bits(&model), before);
    }
    Ok(())
}

#[test]
fn a_training_that_diverges_leaves_running_moments_as_they_were() {
    // The square of 1e30 is infinite; "the model then is where the failed step found it" did not hold of its moments.
    let inputs = Tensor::new(vec![0.0, 1.0, 2.0, 3.0], &[4, 1, 1, 1]).unwrap();
    let targets = Targets::Values(Tensor::full(&[4, 1], 1e30));
    let data = DataLoader::new(TensorDataset::new(&inputs, targets).unwrap(), 4).unwrap();
    let model = Sequential::new()
        .with(BatchNorm2d::new(1))
        .with(Flatten)
        .with(Linear::new(1, 1, &mut rng(1)));
    let before = bits(&model);
    let sgd = Sgd::new(model.named_parameters(), SgdConfig::default());
    let mut trainer = Trainer::new(&model, sgd, MeanSquaredError).progress(Progress::Silent);
    let error = trainer.fit(&data, None, 1).unwrap_err();
    assert!(matches!(error, Error::Train(TrainError::Diverged { .. })));
    assert_eq!(bits(&model), before);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_training_and_says_where() {
    let inputs = Tensor::full(&[4, 1], f32::MAX);
    let targets = Targets::Values(Tensor::zeros(&[4, 1]));
    let data = DataLoader::new(TensorDataset::new(&inputs, targets).unwrap(), 2).unwrap();
    let model = Sequential::new().with(Linear::new(1, 1, &mut rng(1)));
    let sgd = Sgd::new(model.named_parameters(), SgdConfig::default());
    let mut trainer = Trainer::new(&model, sgd, MeanSquaredError).progress(Progress::Silent);
    let error = trainer.fit(&data, None, 1).unwrap_err();
    let loss = "inf".into();
    assert_eq!(
        error,
        Error::Train(TrainError::Diverged {
            epoch: 0,
            batch: 0,
            loss
        })
    );
}

/// Skips steps whose loss is not finite.
#[derive(Default)]
struct Lenient {
    told: Vec<String>,
}

impl StepHook for &mut Lenient {
    fn check_loss(&mut self, loss: f32) -> Result<Proceed> {
        self.told.push(format!("loss {loss}"));
        Ok(Proceed::Skip)
    }

    fn after_step(&mut self, _: &dyn Layer, proceed: Proceed) -> Result<()> {
        self.told.push(format!("{proceed:?}"));
        Ok(())
    }
}

#[test]
fn a_hook_may_skip_a_step_whose_loss_is_not_finite() -> Result<()> {
    let inputs = Tensor::new(vec![f32::MAX, f32::MAX, 1.0, 1.0], &[4, 1])?;
    let targets = Targets::Values(Tensor::zeros(&[4, 1]));
    let data = DataLoader::new(TensorDataset::new(&inputs, targets)?, 2)?;
    let model = Sequential::new().with(Linear::new(1, 1, &mut rng(1)));
    let mut hook = Lenient::default();
    let sgd = || Sgd::new(model.named_parameters(), SgdConfig::default());
    let mut trainer = Trainer::new(&model, sgd(), MeanSquaredError)
        .hook(&mut hook)
        .progress(Progress::Silent);
    let record = trainer.fit(&data, None, 1)?[0].clone();
    assert_eq!((record.skipped_steps, record.train.examples), (1, 2));
    assert!(record.train.loss.is_finite());
    drop(trainer);
    assert_eq!(hook.told, ["loss inf", "Skip", "Step"]);

    // An epoch without a single step has no mean.
    let before = bits(&model);
    let only_bad = TensorDataset::new(
        &Tensor::full(&[2, 1], f32::MAX),
        Targets::Values(Tensor::zeros(&[2, 1])),
    )?;
    let mut hook = Lenient::default();
    let mut trainer = Trainer::new(&model, sgd(), MeanSquaredError)
        .hook(&mut hook)
        .progress(Progress::Silent);
    let record = trainer.fit(&DataLoader::new(only_bad, 2)?, None, 1)?[0].clone();
    assert_eq!((record.skipped_steps, record.train.examples), (1, 0));
    assert!(record.train.loss.is_nan());
    assert_eq!(bits(&model), before);
    Ok(())
}

#[test]
fn a_line_is_fitted_through_points() -> Result<()> {
    // y = 2 x - 1
    let x: Vec<f32> = (0..32).map(|i| i as f32 / 16.0 - 1.0).collect();
    let y: Vec<f32> = x.iter().map(|x| 2.0 * x - 1.0).collect();
    let targets = Targets::Values(Tensor::new(y, &[32, 1])?);
    let data = TensorDataset::new(&Tensor::new(x, &[32, 1])?, targets)?;
    assert_eq!(data.len(), 32);
    let data = DataLoader::new(data, 8)?.shuffle(1);
    let model = Sequential::new().with(Linear::new(1, 1, &mut rng(1)));
    let config = SgdConfig {
        learning_rate: 0.2,
        ..SgdConfig::default()
    };
    let sgd = Sgd::new(model.named_parameters(), config);
    let mut trainer = Trainer::new(&model, sgd, MeanSquaredError).progress(Progress::Silent);
    let history = trainer.fit(&data, None, 50)?;
    assert_eq!(history[49].train.accuracy, None);
    // The slowest direction has curvature 2 · Var(x) = 2/3: 200 steps leave (1 - 0.2 · 2/3)^200 < 1e-12 of
    // the error, so only rounding of numbers near 1 is left; its square is below 1e-10.
    assert!(history[49].train.loss < 1e-10, "{:?}", history[49]);
    Ok(())
}

#[test]
fn going_on_with_other_batches_is_refused() -> Result<()> {
    let model = mlp(1);
    let mut trainer = quiet(&model, 1e-3);
    trainer.fit(&few_digits(), None, 1)?;
    let other = few_digits().shuffle(2);
    let error = trainer.fit(&other, None, 2).unwrap_err();
    let expected = TrainError::OtherBatches {
        expected: few_digits().description(),
        got: other.description(),
    };
    assert_eq!(error, Error::Train(expected));
    assert_eq!(trainer.fit(&few_digits(), None, 2)?.len(), 2);
    Ok(())
}
