//! Checkpoints: a training that stops and goes on is, bit for bit, one that never stopped.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::data::{DataLoader, ImageDataset, RandomShift, ordered_split};
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Dropout, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::optim::schedule::warmup_cosine;
use tinytorch_core::optim::{AdamConfig, AdamW, Optimizer, Sgd, SgdConfig};
use tinytorch_core::safetensors::{WeightsError, read_tensors, save_weights};
use tinytorch_core::train::{
    CrossEntropy, EarlyStopping, EpochRecord, Proceed, Progress, StepHook, TrainError, Trainer,
};
use tinytorch_core::{Error, Result, RngState, Tensor};

/// Dropout and batch normalization: a generator and buffers to be saved.
fn model(seed: u64) -> Sequential {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let features = Sequential::new()
        .with(Conv2d::new(Conv2dConfig::new(1, 4, 3).padding(1), rng).unwrap())
        .with(BatchNorm2d::new(4))
        .with(Relu)
        .with(MaxPool2d::new(2));
    Sequential::new()
        .with_named("features", features)
        .with(Flatten)
        .with(Dropout::new(0.3, rng).unwrap())
        .with(Linear::new(64, 10, rng))
}

fn data() -> (DataLoader<ImageDataset>, DataLoader<ImageDataset>) {
    let digits = ordered_split().unwrap();
    let few: Vec<usize> = (0..200).collect();
    let train = DataLoader::new(digits.train.select(&few).unwrap(), 32).unwrap();
    let train = train
        .shuffle(5)
        .transform(RandomShift { most: 1 })
        .transform_seed(6);
    (train, DataLoader::new(digits.test, 64).unwrap())
}

/// Counts its steps and every 5th time prevents one: has a state that matters.
#[derive(Default)]
struct EveryFifth(u64);

impl StepHook for EveryFifth {
    fn check_gradients(&mut self, _: &[(String, Tensor)]) -> Result<Proceed> {
        self.0 += 1;
        Ok(if self.0.is_multiple_of(5) {
            Proceed::Skip
        } else {
            Proceed::Step
        })
    }

    fn state(&self) -> String {
        self.0.to_string()
    }

    fn load_state(&mut self, state: &str) -> Result<()> {
        let reason = format!("`{state}` is not a count");
        self.0 = state.parse().map_err(|_| Error::Argument {
            operation: "hook",
            reason,
        })?;
        Ok(())
    }
}

/// Everything a trainer can have: schedule, clipping, early stopping, hook.
fn trainer(model: &dyn Layer) -> Trainer<'_> {
    let config = AdamConfig {
        weight_decay: 0.01,
        ..AdamConfig::default()
    };
    let adamw = AdamW::new(model.named_parameters(), config);
    Trainer::new(model, adamw, CrossEntropy)
        .schedule(warmup_cosine(2e-2, 8, 40).unwrap())
        .clip_norm(1.0)
        .early_stopping(EarlyStopping::on_loss(3))
        .hook(EveryFifth::default())
        .progress(Progress::Silent)
}

type Bits = (Vec<(String, Vec<u32>)>, Vec<(String, RngState)>);

fn bits(model: &dyn Layer) -> Bits {
    let tensors = model.named_tensors().into_iter();
    let tensors = tensors
        .map(|(name, t)| (name, t.to_vec().into_iter().map(f32::to_bits).collect()))
        .collect();
    (tensors, model.named_rng_states())
}

fn run(trainer: &mut Trainer<'_>, epochs: u64) -> Vec<EpochRecord> {
    let (train, validation) = data();
    trainer
        .fit(&train, Some(&validation), epochs)
        .unwrap()
        .to_vec()
}

#[test]
fn three_epochs_saved_loaded_and_three_more_are_six() {
    let folder = tempfile::tempdir().unwrap();
    let (first, whole) = (folder.path().join("first"), folder.path().join("whole"));

    let straight = model(1);
    let mut straight_trainer = trainer(&straight);
    let expected = run(&mut straight_trainer, 6);

    let before = model(1);
    let mut before_trainer = trainer(&before);
    run(&mut before_trainer, 3);
    before_trainer.save_checkpoint(&first).unwrap();

    // Fresh objects with other weights and another generator.
    let after = model(2);
    let mut after_trainer = trainer(&after);
    after_trainer.load_checkpoint(&first).unwrap();
    let history = run(&mut after_trainer, 6);

    assert_eq!(history, expected);
    assert_eq!(bits(&after), bits(&straight));
    // Not only the model: all that is remembered, to the byte of the file.
    straight_trainer.save_checkpoint(&whole).unwrap();
    after_trainer.save_checkpoint(&first).unwrap();
    assert_eq!(std::fs::read(first).unwrap(), std::fs::read(whole).unwrap());
}

#[test]
fn fit_may_be_called_again_and_goes_on_from_the_last_epoch_and_not_from_the_best() {
    let (one, two) = (model(1), model(1));
    let expected = run(&mut trainer(&one), 5);
    let mut halves = trainer(&two);
    run(&mut halves, 2);
    run(&mut halves, 4);
    assert_eq!(run(&mut halves, 5), expected);
    assert_eq!(bits(&two), bits(&one));
}

#[test]
fn momentum_is_resumed_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let sgd = |model: &dyn Layer| {
        let config = SgdConfig {
            learning_rate: 0.05,
            momentum: 0.9,
            weight_decay: 1e-4,
        };
        Sgd::new(model.named_parameters(), config)
    };
    let (train, _) = data();
    let (one, two, three) = (model(1), model(1), model(7));
    let quiet = |model| Trainer::new(model, sgd(model), CrossEntropy).progress(Progress::Silent);
    quiet(&one).fit(&train, None, 4).unwrap();
    // Saved by itself after every epoch this time.
    quiet(&two)
        .checkpoint_to(&path)
        .fit(&train, None, 2)
        .unwrap();
    let mut resumed = quiet(&three);
    resumed.load_checkpoint(&path).unwrap();
    resumed.fit(&train, None, 4).unwrap();
    assert_eq!(bits(&three), bits(&one));
}

/// A checkpoint of two epochs, in its folder.
fn checkpoint() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let model = model(1);
    let mut trainer = trainer(&model);
    run(&mut trainer, 2);
    trainer.save_checkpoint(&path).unwrap();
    (folder, path)
}

/// The error of loading, which must change neither the model nor how its training goes on.
fn refusal<'a>(model: &'a Sequential, mut trainer: Trainer<'a>, path: &Path) -> Error {
    let before = bits(model);
    let error = trainer.load_checkpoint(path).unwrap_err();
    assert_eq!(bits(model), before);
    assert!(trainer.history().is_empty());
    error
}

#[test]
fn a_checkpoint_of_another_model_changes_nothing() {
    let (_folder, path) = checkpoint();
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let other = model(3).with(Linear::new(10, 10, rng));
    let error = refusal(&other, trainer(&other), &path);
    assert!(
        matches!(error, Error::Weights(WeightsError::Missing { .. })),
        "{error}"
    );
    // Weights alike, but without the dropout's generator.
    let features = Sequential::new()
        .with(Conv2d::new(Conv2dConfig::new(1, 4, 3).padding(1), rng).unwrap())
        .with(BatchNorm2d::new(4))
        .with(Relu)
        .with(MaxPool2d::new(2));
    let other = Sequential::new()
        .with_named("features", features)
        .with(Flatten)
        .with(Relu)
        .with(Linear::new(64, 10, rng));
    let error = refusal(&other, trainer(&other), &path);
    assert!(error.to_string().contains("random generators"), "{error}");
}

#[test]
fn a_checkpoint_of_another_kind_of_training_changes_nothing() {
    let (_folder, path) = checkpoint();
    let model = model(3);
    let config = SgdConfig {
        momentum: 0.9,
        ..SgdConfig::default()
    };
    let sgd = || Sgd::new(model.named_parameters(), config);
    let new = |optimizer| {
        Trainer::new(&model, optimizer, CrossEntropy)
            .early_stopping(EarlyStopping::on_loss(3))
            .progress(Progress::Silent)
    };
    let error = refusal(&model, new(sgd()).hook(EveryFifth(77)), &path);
    assert!(matches!(error, Error::UnexpectedEntry { .. }), "{error}");
    let error = refusal(&model, new(sgd()), &path);
    assert!(
        error.to_string().ends_with("it was made with a hook"),
        "{error}"
    );
    let bare = Trainer::new(&model, sgd(), CrossEntropy);
    let error = refusal(&model, bare, &path);
    assert!(
        error
            .to_string()
            .ends_with("it was made with early stopping"),
        "{error}"
    );
}

#[test]
fn a_refused_checkpoint_leaves_hook_and_optimizer_as_they_were() {
    let (_folder, path) = checkpoint();
    let (tried, untried) = (model(3), model(3));
    // The hook's state fits and is loaded; then the optimizer refuses its own.
    let new = |model| {
        let config = SgdConfig {
            momentum: 0.9,
            ..SgdConfig::default()
        };
        let sgd = Sgd::new(Layer::named_parameters(model), config);
        Trainer::new(model, sgd, CrossEntropy)
            .early_stopping(EarlyStopping::on_loss(3))
            .hook(EveryFifth::default())
            .progress(Progress::Silent)
    };
    let (mut one, mut two) = (new(&tried), new(&untried));
    run(&mut one, 1);
    run(&mut two, 1);
    let error = one.load_checkpoint(&path).unwrap_err();
    assert!(matches!(error, Error::UnexpectedEntry { .. }), "{error}");
    assert_eq!(run(&mut one, 3), run(&mut two, 3));
    assert_eq!(bits(&tried), bits(&untried));
}

#[test]
fn weights_alone_are_no_checkpoint() {
    let (_folder, path) = checkpoint();
    let model = model(3);
    save_weights(&path, &model).unwrap();
    let error = refusal(&model, trainer(&model), &path);
    assert!(
        matches!(error, Error::Train(TrainError::CheckpointMismatch { .. })),
        "{error}"
    );
}

#[test]
fn a_damaged_checkpoint_changes_nothing() {
    let (_folder, path) = checkpoint();
    let good = std::fs::read(&path).unwrap();
    let model = model(3);
    // Every 97th byte, so that header, note and numbers all have their turn.
    for at in (0..good.len()).step_by(97) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        refusal(&model, trainer(&model), &path);
        std::fs::write(&path, &good[..at]).unwrap();
        refusal(&model, trainer(&model), &path);
    }
}

const CHILD: &str = "TINYTORCH_TEST_CHECKPOINT_CHILD";

/// Not a test of its own: the process that the next test kills. Trains for ever, saving after every epoch.
#[test]
fn a_training_to_be_killed() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let model = model(1);
    let path = PathBuf::from(path);
    let sgd = Sgd::new(model.named_parameters(), SgdConfig::default());
    let digits = ordered_split()
        .unwrap()
        .train
        .select(&[0, 1, 2, 3])
        .unwrap();
    let train = DataLoader::new(digits, 4).unwrap();
    let mut trainer = Trainer::new(&model, sgd, CrossEntropy)
        .progress(Progress::Silent)
        .checkpoint_to(&path);
    if path.exists() {
        trainer.load_checkpoint(&path).unwrap();
    }
    trainer.fit(&train, None, u64::MAX).unwrap();
}

#[test]
fn a_training_killed_at_any_moment_leaves_a_whole_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let mut finished = 0;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_training_to_be_killed"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Until the first save of all; then different moments within a step or a save.
        while round == 0 && !path.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the training failed");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(40 + 7 * round));
        assert!(child.try_wait().unwrap().is_none(), "the training failed");
        child.kill().unwrap();
        child.wait().unwrap();

        let model = model(9);
        let sgd = Sgd::new(model.named_parameters(), SgdConfig::default());
        assert!(!sgd.parameters().is_empty());
        let mut trainer = Trainer::new(&model, sgd, CrossEntropy).progress(Progress::Silent);
        trainer.load_checkpoint(&path).unwrap();
        assert!(
            trainer.history().len() >= finished,
            "the training went back"
        );
        finished = trainer.history().len();
        read_tensors(&path).unwrap();
    }
}
