//! The training loop.

use std::path::PathBuf;

use super::early_stopping::{EarlyStopState, EarlyStopping};
use super::error::TrainError;
use super::evaluate::evaluate;
use super::hook::{Proceed, StepHook};
use super::metrics::{EpochRecord, Metrics, Tally};
use super::objective::Objective;
use super::progress::{EpochProgress, Progress};
use crate::data::{Batch, BatchSource};
use crate::nn::Layer;
use crate::optim::{Optimizer, Schedule, clip_grad_norm};
use crate::{Result, Tensor, Values};

/// Trains a model: see the example of [this module](super).
///
/// One `Trainer` is one training. It counts its epochs, so [`fit`](Self::fit) may be called again with a larger
/// number of epochs, in this process or, by way of a checkpoint, in another.
pub struct Trainer<'a> {
    pub(super) model: &'a dyn Layer,
    pub(super) optimizer: Box<dyn Optimizer + 'a>,
    objective: Box<dyn Objective + 'a>,
    pub(super) hook: Option<Box<dyn StepHook + 'a>>,
    schedule: Option<Box<dyn Schedule + 'a>>,
    clip_norm: Option<f32>,
    pub(super) early_stopping: Option<EarlyStopping>,
    checkpoint: Option<PathBuf>,
    progress: Progress,
    pub(super) state: TrainerState,
}

/// What a training remembers from epoch to epoch, beside the weights in the model.
#[derive(Default)]
pub(super) struct TrainerState {
    /// Optimizer steps taken: the time of the schedule.
    pub(super) steps: u64,
    /// One entry per finished epoch.
    pub(super) history: Vec<EpochRecord>,
    pub(super) early: EarlyStopState,
    /// The weights of the best epoch, if early stopping watches.
    pub(super) best: Option<Snapshot>,
    /// The weights of the last epoch, while the model holds the best ones.
    pub(super) last: Option<Snapshot>,
    /// What the training batches are, from the first epoch on.
    pub(super) batches: Option<String>,
}

/// The values of all parameters and buffers, by name. Storage is shared until the model changes.
pub(super) type Snapshot = Vec<(String, Values)>;

impl<'a> Trainer<'a> {
    /// A training of `model`, whose parameters `optimizer` holds. It shows its progress
    /// ([`Progress::Auto`]) and does nothing else that is not asked for below.
    pub fn new(
        model: &'a dyn Layer,
        optimizer: impl Optimizer + 'a,
        objective: impl Objective + 'a,
    ) -> Self {
        Self {
            model,
            optimizer: Box::new(optimizer),
            objective: Box::new(objective),
            hook: None,
            schedule: None,
            clip_norm: None,
            early_stopping: None,
            checkpoint: None,
            progress: Progress::Auto,
            state: TrainerState::default(),
        }
    }

    /// Lets the schedule set the learning rate before every step.
    #[must_use]
    pub fn schedule(mut self, schedule: impl Schedule + 'a) -> Self {
        self.schedule = Some(Box::new(schedule));
        self
    }

    /// Shortens the gradients of a step, taken as one vector, to this length if they are longer.
    #[must_use]
    pub fn clip_norm(mut self, length: f32) -> Self {
        self.clip_norm = Some(length);
        self
    }

    /// Stops when the validation no longer improves, and leaves the model with its best weights.
    #[must_use]
    pub fn early_stopping(mut self, rule: EarlyStopping) -> Self {
        self.early_stopping = Some(rule);
        self
    }

    /// Lets `hook` take part in every step.
    #[must_use]
    pub fn hook(mut self, hook: impl StepHook + 'a) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Saves a checkpoint after every epoch.
    ///
    /// The file is replaced as a whole: after Ctrl-C or a crash it holds the last epoch that was finished.
    #[must_use]
    pub fn checkpoint_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.checkpoint = Some(path.into());
        self
    }

    /// Chooses how to show what happens.
    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// The finished epochs.
    pub fn history(&self) -> &[EpochRecord] {
        &self.state.history
    }

    /// Whether early stopping has ended this training.
    pub fn stopped_early(&self) -> bool {
        self.state.early.stopped
    }

    /// Trains until `epochs` epochs are finished, counted from the very start of this training, or early
    /// stopping ends it. Nothing happens if they already are.
    ///
    /// With early stopping the model then holds the weights of its best epoch; a later `fit` or a
    /// checkpoint goes on from the last one nevertheless.
    ///
    /// # Errors
    ///
    /// [`TrainError`] if there are no batches, if they are not those this training began with, if the loss is
    /// not finite, or if early stopping has nothing to watch; and the errors of data, model, optimizer, hook
    /// and checkpoint. The model then is where the failed step found it, its buffers (running moments, ranges) included;
    /// random generators have gone on. The same holds of a step that is skipped.
    pub fn fit(
        &mut self,
        train: &dyn BatchSource,
        validation: Option<&dyn BatchSource>,
        epochs: u64,
    ) -> Result<&[EpochRecord]> {
        self.check_batches(train)?;
        if let Some(last) = self.state.last.take() {
            restore(self.model, &last)?;
        }
        while self.epoch() < epochs && !self.state.early.stopped {
            self.run_epoch(train, validation, epochs)?;
            if let Some(path) = &self.checkpoint {
                self.save_checkpoint(path)?;
            }
        }
        if let Some(best) = &self.state.best {
            self.state.last = Some(snapshot(self.model));
            restore(self.model, best)?;
        }
        Ok(&self.state.history)
    }

    /// The number of finished epochs, which is also the number of the next.
    fn epoch(&self) -> u64 {
        self.state.history.len() as u64
    }

    fn check_batches(&mut self, train: &dyn BatchSource) -> Result<(), TrainError> {
        if train.batch_count() == 0 {
            return Err(TrainError::NoBatches("train on"));
        }
        let got = train.description();
        match &self.state.batches {
            Some(expected) if *expected != got => Err(TrainError::OtherBatches {
                expected: expected.clone(),
                got,
            }),
            _ => {
                self.state.batches = Some(got);
                Ok(())
            }
        }
    }

    fn run_epoch(
        &mut self,
        train: &dyn BatchSource,
        validation: Option<&dyn BatchSource>,
        epochs: u64,
    ) -> Result<()> {
        let epoch = self.epoch();
        let progress = EpochProgress::start(self.progress, epoch, epochs, train.batch_count());
        self.model.set_training(true);
        let (mut tally, mut skipped_steps) = (Tally::default(), 0);
        for (index, batch) in train.epoch_batches(epoch).enumerate() {
            let proceed = self.run_step(&batch?, (epoch, index as u64), &mut tally)?;
            skipped_steps += u64::from(proceed == Proceed::Skip);
            progress.batch_done(tally.metrics());
        }
        let train = match tally.metrics() {
            // Not one step was taken, so there is nothing to take the mean of.
            None if skipped_steps > 0 => Metrics::NOTHING,
            metrics => metrics.ok_or(TrainError::NoBatches("train on"))?,
        };
        let validation = match validation {
            Some(data) => Some(evaluate(self.model, data, self.objective.as_ref())?),
            None => None,
        };
        if let Some(rule) = &self.early_stopping {
            let score = rule.score(validation.as_ref())?;
            if self.state.early.observe(rule, score) {
                self.state.best = Some(snapshot(self.model));
            }
        }
        let record = EpochRecord {
            epoch,
            learning_rate: self.optimizer.learning_rate(),
            train,
            validation,
            skipped_steps,
        };
        progress.finish(&record);
        self.state.history.push(record);
        Ok(())
    }

    fn run_step(&mut self, batch: &Batch, at: (u64, u64), tally: &mut Tally) -> Result<Proceed> {
        let before = Before::now(self.model);
        let judged = self.judge_step(batch, at, tally);
        if !matches!(judged, Ok(Proceed::Step)) {
            before.put_back()?;
        }
        // The optimizer shall find storage that nobody shares, so that it need not copy the weights.
        drop(before);
        let proceed = judged?;
        if proceed == Proceed::Step {
            if let Some(length) = self.clip_norm {
                clip_grad_norm(self.optimizer.parameters(), length)?;
            }
            if let Some(schedule) = &self.schedule {
                let rate = schedule.learning_rate(self.state.steps);
                self.optimizer.set_learning_rate(rate);
            }
            self.optimizer.step()?;
            self.state.steps += 1;
        }
        if let Some(hook) = &mut self.hook {
            hook.after_step(self.model, proceed)?;
        }
        Ok(proceed)
    }

    /// Computes loss and gradients, and says whether they are worth a step.
    fn judge_step(
        &mut self,
        batch: &Batch,
        (epoch, index): (u64, u64),
        tally: &mut Tally,
    ) -> Result<Proceed> {
        self.model.zero_grad();
        let outputs = self.model.forward(&batch.inputs)?;
        let mut loss = self.objective.loss(&outputs, &batch.targets)?;
        let value = loss.item()?;
        if !value.is_finite() {
            if let Some(hook) = &mut self.hook
                && hook.check_loss(value)? == Proceed::Skip
            {
                return Ok(Proceed::Skip);
            }
            let loss = value.to_string();
            let diverged = TrainError::Diverged {
                epoch,
                batch: index,
                loss,
            };
            return Err(diverged.into());
        }
        tally.add(
            batch,
            value,
            self.objective.correct(&outputs, &batch.targets)?,
        );
        if let Some(hook) = &mut self.hook {
            loss = hook.change_loss(loss)?;
        }
        loss.backward()?;
        match &mut self.hook {
            Some(hook) => hook.check_gradients(self.optimizer.parameters()),
            None => Ok(Proceed::Step),
        }
    }
}

/// What a model held before a step. The forward pass of a layer in training may change what it holds, as a batch norm does
/// its running moments; a step that is not taken must not, or one batch of infinities stays in them for ever.
struct Before(Vec<(Tensor, u64, Values)>);

impl Before {
    /// Shares the storage of all parameters and buffers until somebody writes to them.
    fn now(model: &dyn Layer) -> Self {
        let tensors = model.named_tensors().into_iter();
        let held = tensors.map(|(_, tensor)| {
            let (version, values) = (tensor.version(), tensor.array());
            (tensor, version, values)
        });
        Self(held.collect())
    }

    /// Gives those that have changed their values back.
    fn put_back(&self) -> Result<()> {
        for (tensor, version, values) in &self.0 {
            if tensor.version() != *version {
                tensor.assign(&Tensor::from_array(values.clone()))?;
            }
        }
        Ok(())
    }
}

/// The values of a model's parameters and buffers now.
pub(super) fn snapshot(model: &dyn Layer) -> Snapshot {
    let tensors = model.named_tensors().into_iter();
    tensors
        .map(|(name, tensor)| (name, tensor.array()))
        .collect()
}

/// Gives a model the values of a snapshot of it.
fn restore(model: &dyn Layer, snapshot: &Snapshot) -> Result<()> {
    for ((_, tensor), (_, values)) in model.named_tensors().iter().zip(snapshot) {
        tensor.assign(&Tensor::from_array(values.clone()))?;
    }
    Ok(())
}
