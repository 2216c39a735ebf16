//! A recipe for quantization-aware training: from a trained model to a trained [`QatModel`] in one call.
//!
//! ```text
//!           warm-up   learning rate falls along a cosine              0
//! epochs    |---------|-----------------------------------------------|
//! batch norms         moments of the batch           | running moments
//! ranges              follow                         | stay
//! ```
//!
//! What it adds to a plain training: steps of their own length for scales, the `f32` model as a teacher
//! ([`crate::distill`]), and a last part in which nothing but the weights moves, so that what is trained is what is deployed.

use crate::distill::{Distillation, Distilled};
use crate::error::{Error, Result};
use crate::framework::data::BatchSource;
use crate::framework::nn::{Layer, Sequential};
use crate::framework::optim::schedule::warmup_cosine;
use crate::framework::optim::{Adam, AdamConfig, Optimizer};
use crate::framework::train::{CrossEntropy, EpochRecord, Proceed, Progress, StepHook, Trainer};
use crate::framework::{self, Tensor};
use crate::qat::{QatModel, QatOptions, prepare_qat};

/// How [`train_qat`] trains.
#[derive(Clone, Debug, PartialEq)]
pub struct QatRecipe {
    /// What is quantized, and how.
    pub qat: QatOptions,
    /// Epochs, from the trained model on.
    pub epochs: u64,
    /// The longest step of Adam, for weights, biases and batch norms.
    pub learning_rate: f64,
    /// The longest step for scales, as a share of their size, and for zero points, as a share of half of all codes.
    pub scale_learning_rate: f64,
    /// Which share of all steps comes before batch norms are frozen, from 0 to 1.
    pub freeze_batch_norm: f64,
    /// Which share of all steps comes before ranges and learned activation scales are frozen, from 0 to 1.
    pub freeze_ranges: f64,
    /// How much the model as it was counts as a teacher; `None` trains on classes alone.
    pub distillation: Option<Distillation>,
}

impl QatRecipe {
    /// Learned weights of so many bits, 20 epochs, the model as it was for a teacher.
    ///
    /// # Panics
    ///
    /// If `bits` is not in `2..=8`.
    #[must_use]
    #[track_caller]
    pub fn new(bits: u32) -> Self {
        Self {
            qat: QatOptions::learned(bits),
            epochs: 20,
            learning_rate: 2e-3,
            scale_learning_rate: 5e-3,
            freeze_batch_norm: 0.75,
            freeze_ranges: 0.75,
            distillation: Some(Distillation::default()),
        }
    }

    fn check(&self) -> Result<()> {
        let shares = [self.freeze_batch_norm, self.freeze_ranges];
        let rates = [self.learning_rate, self.scale_learning_rate];
        let bad = if self.epochs == 0 {
            "a training of no epochs"
        } else if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            "freezing after a share of the steps that is not in 0..=1"
        } else if rates.iter().any(|rate| !(rate.is_finite() && *rate > 0.0)) {
            "a learning rate that is not above 0"
        } else {
            return Ok(());
        };
        Err(Error::Unsupported { what: bad })
    }
}

/// What [`train_qat`] gives.
#[derive(Debug)]
pub struct QatTraining {
    /// The trained model, in evaluation mode, frozen.
    pub model: QatModel,
    /// What each epoch was like. The accuracy is that of the model as it trained, rounded as it will be.
    pub history: Vec<EpochRecord>,
}

/// Trains a classifier for its integer version.
///
/// `model` is not changed, except that it is put into evaluation mode, and for [`QatModel::shared_layers`], if there are any.
/// `after_epoch` is told what each epoch was like.
///
/// # Errors
///
/// Those of [`prepare_qat`] and of the training; [`Error::Layer`] for a layer that `model` would share as a teacher with the model
/// that learns; [`Error::Unsupported`] for a recipe with no epochs, with more steps than 64 bits
/// count, or with shares or rates out of their ranges.
pub fn train_qat(
    model: &Sequential,
    batches: &dyn BatchSource,
    recipe: &QatRecipe,
    mut after_epoch: impl FnMut(&EpochRecord),
) -> Result<QatTraining> {
    recipe.check()?;
    let qat = prepare_qat(model, &recipe.qat)?;
    if let (Some(_), Some(shared)) = (recipe.distillation, qat.shared_layers().next()) {
        let error = Error::Unsupported {
            what: "a teacher that changes while it teaches: implement `Layer::copied` for this layer, or train without distillation",
        };
        return Err(error.in_layer(shared));
    }
    let steps = recipe.epochs.checked_mul(batches.batch_count() as u64);
    let steps = steps.ok_or(Error::Unsupported {
        what: "a training of more steps than 64 bits count",
    })?;
    let warmup = (steps / 20).max(1);
    let schedule = warmup_cosine(recipe.learning_rate, warmup, steps.max(warmup + 1))?;
    let optimizer = QatAdam::new(&qat, recipe.learning_rate, recipe.scale_learning_rate);
    let freezing = Freezing::new(recipe, steps);
    let taught = Distilled::new(batches, model);
    let mut history = Vec::new();
    match recipe.distillation {
        Some(distillation) => {
            let mut trainer = Trainer::new(&qat, optimizer, distillation);
            trainer = trainer
                .schedule(schedule)
                .hook(freezing)
                .progress(Progress::Silent);
            fit(&mut trainer, &taught, recipe.epochs, &mut after_epoch)?;
            history.extend_from_slice(trainer.history());
        }
        None => {
            let mut trainer = Trainer::new(&qat, optimizer, CrossEntropy);
            trainer = trainer
                .schedule(schedule)
                .hook(freezing)
                .progress(Progress::Silent);
            fit(&mut trainer, batches, recipe.epochs, &mut after_epoch)?;
            history.extend_from_slice(trainer.history());
        }
    }
    qat.freeze(true);
    qat.freeze_batch_norm(true);
    qat.set_training(false);
    Ok(QatTraining {
        model: qat,
        history,
    })
}

fn fit(
    trainer: &mut Trainer<'_>,
    batches: &dyn BatchSource,
    epochs: u64,
    after_epoch: &mut dyn FnMut(&EpochRecord),
) -> Result<()> {
    for epoch in 1..=epochs {
        if let Some(record) = trainer.fit(batches, None, epoch)?.last() {
            after_epoch(record);
        }
    }
    Ok(())
}

/// Freezes batch norms and ranges of a [`QatModel`] after so many steps: give it to `Trainer::hook`.
#[derive(Clone, Debug)]
pub struct Freezing {
    batch_norm_after: u64,
    ranges_after: u64,
    steps: u64,
}

impl Freezing {
    /// Freezes batch norms after `batch_norm_after` steps, and ranges after `ranges_after`.
    #[must_use]
    pub fn after(batch_norm_after: u64, ranges_after: u64) -> Self {
        Self {
            batch_norm_after,
            ranges_after,
            steps: 0,
        }
    }

    fn new(recipe: &QatRecipe, steps: u64) -> Self {
        let after = |share: f64| (share * steps as f64).round() as u64;
        Self::after(after(recipe.freeze_batch_norm), after(recipe.freeze_ranges))
    }
}

impl StepHook for Freezing {
    fn after_step(&mut self, model: &dyn Layer, _proceed: Proceed) -> framework::Result<()> {
        self.steps += 1;
        if let Some(model) = model.as_any().downcast_ref::<QatModel>() {
            model.freeze_batch_norm(self.steps >= self.batch_norm_after);
            model.freeze(self.steps >= self.ranges_after);
        }
        Ok(())
    }

    fn state(&self) -> String {
        self.steps.to_string()
    }

    fn load_state(&mut self, state: &str) -> framework::Result<()> {
        self.steps = state.parse().map_err(|_| framework::Error::Argument {
            operation: "freezing",
            reason: format!("`{state}` is not a number of steps"),
        })?;
        Ok(())
    }
}

/// Adam with relative steps for scales.
///
/// Adam's steps have the length of the learning rate, whatever the gradient. Scales are small, and of many sizes: one
/// rate for all would be too long for some and nothing for others. So Adam is given their logarithms, and a rate is a
/// share of the scale. Zero points count codes; they are given as a share of half of all codes.
///
/// Source: Jain et al. 2020, "Trained Quantization Thresholds", arXiv 1903.08066, section 3.3, for the logarithm.
pub struct QatAdam {
    weights: Adam,
    scales: Adam,
    /// All parameters, in the order of the model.
    parameters: Vec<(String, Tensor)>,
    /// The parameters that `scales` stands for, and how.
    stands_for: Vec<(Tensor, Unit)>,
    /// `scale_learning_rate / learning_rate`
    ratio: f64,
}

/// How a parameter of a quantizer is given to Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    Logarithm,
    ShareOf(f32),
}

impl QatAdam {
    /// Adam for all parameters of a model, with these learning rates.
    #[must_use]
    pub fn new(model: &QatModel, learning_rate: f64, scale_learning_rate: f64) -> Self {
        let parameters = model.named_parameters();
        let (mut weights, mut scales, mut stands_for) = (Vec::new(), Vec::new(), Vec::new());
        let units = units(model);
        for (name, parameter) in &parameters {
            match units.iter().find(|(tensor, _)| tensor.is_same(parameter)) {
                Some((tensor, unit)) => {
                    scales.push((name.clone(), Tensor::zeros(tensor.shape()).with_grad()));
                    stands_for.push((tensor.clone(), *unit));
                }
                None => weights.push((name.clone(), parameter.clone())),
            }
        }
        let config = |learning_rate| AdamConfig {
            learning_rate,
            ..AdamConfig::default()
        };
        Self {
            weights: Adam::new(weights, config(learning_rate)),
            scales: Adam::new(scales, config(scale_learning_rate)),
            parameters,
            stands_for,
            ratio: scale_learning_rate / learning_rate,
        }
    }
}

/// The parameters of a model that are not weights.
fn units(model: &QatModel) -> Vec<(Tensor, Unit)> {
    let mut units = Vec::new();
    for (_, layer) in model.weighted_layers() {
        units.extend(
            layer
                .weight_scale()
                .map(|scale| (scale.clone(), Unit::Logarithm)),
        );
    }
    for activation in model.activations() {
        if let Some((scale, zero_point)) = activation.learned_parameters() {
            let half = activation.codes().len() as f32 / 2.0;
            units.push((scale.clone(), Unit::Logarithm));
            // That of symmetric activations is 0 and no parameter.
            if zero_point.requires_grad() {
                units.push((zero_point.clone(), Unit::ShareOf(half)));
            }
        }
    }
    units
}

impl Optimizer for QatAdam {
    fn step(&mut self) -> framework::Result<()> {
        for ((_, stand_in), (parameter, unit)) in
            self.scales.parameters().iter().zip(&self.stands_for)
        {
            let values = parameter.array();
            let (inner, slope) = match *unit {
                // d/d ln(s) = s · d/ds
                Unit::Logarithm => {
                    let usable = values.mapv(|s| s.max(f32::MIN_POSITIVE));
                    (usable.mapv(f32::ln), usable)
                }
                Unit::ShareOf(half) => (values.mapv(|z| z / half), values.mapv(|_| half)),
            };
            stand_in.assign(&Tensor::from_array(inner.into_shared()))?;
            match parameter.grad() {
                Some(gradient) => {
                    let slope = Tensor::from_array(slope);
                    stand_in.set_grad(&gradient.try_mul(&slope)?)?;
                }
                None => stand_in.zero_grad(),
            }
        }
        self.weights.step()?;
        self.scales.step()?;
        for ((_, stand_in), (parameter, unit)) in
            self.scales.parameters().iter().zip(&self.stands_for)
        {
            if parameter.grad().is_none() {
                continue;
            }
            let inner = stand_in.array();
            let values = match *unit {
                Unit::Logarithm => inner.mapv(f32::exp),
                Unit::ShareOf(half) => inner.mapv(|share| share * half),
            };
            parameter.assign(&Tensor::from_array(values))?;
        }
        Ok(())
    }

    fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    fn learning_rate(&self) -> f64 {
        self.weights.learning_rate()
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.weights.set_learning_rate(learning_rate);
        self.scales.set_learning_rate(learning_rate * self.ratio);
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = self.weights.state();
        state.extend(self.scales.state());
        state
    }

    fn load_state(&mut self, state: &[(String, Tensor)]) -> framework::Result<()> {
        let of_scales = |name: &str| {
            let scales = self.scales.parameters().iter();
            scales.map(|(scale, _)| scale).any(|scale| {
                name.strip_prefix(scale.as_str())
                    .is_some_and(|rest| rest.starts_with('.'))
            })
        };
        let (scales, weights): (Vec<_>, Vec<_>) =
            state.iter().cloned().partition(|(name, _)| of_scales(name));
        // If the second fails nothing of the first may have changed.
        let before = self.scales.state();
        self.scales.load_state(&scales)?;
        self.weights
            .load_state(&weights)
            .or_else(|error| self.scales.load_state(&before).and(Err(error)))
    }
}
