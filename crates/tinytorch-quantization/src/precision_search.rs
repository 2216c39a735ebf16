//! Which layer in which precision? A search that always holds its best so far.
//!
//! In: a trained model, images to calibrate with, examples to judge by. Out: for every choice that was tried accuracy, loss,
//! bytes and seconds, all measured in this run, and the frontier of them.
//!
//! ```text
//! 1. the model as it was trained                       so that there is always an answer
//! 2. every precision everywhere
//! 3. every layer alone in every precision              its sensitivity: what it costs, what it saves
//! 4. all layers by their sensitivity: from f32, the step that saves most for the least divergence comes first
//! 5. neighbours of the frontier, one layer changed
//! ```
//!
//! Each call of [`PrecisionSearch::step`] tries one choice; stop whenever you like. A choice that cannot be converted is noted
//! with its reason and is no error. The layers are those with weights: linear layers, convolutions and embeddings. With
//! `require_full_coverage` choices that leave a layer in `f32` are refused, but for the model as it was trained.
//!
//! The calibration data flows through the model once for every way in which its layers are joined, and not for every choice. So the
//! model must stay as it is while the search is under way.
//!
//! ```
//! use rand::SeedableRng;
//! use tinytorch_core::Tensor;
//! use tinytorch_core::nn::{Linear, Relu, Sequential};
//! use tinytorch_quantization::{Examples, Found, PrecisionSearch, SearchOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new()
//!     .with_named("hidden", Linear::new(16, 32, rng))
//!     .with(Relu)
//!     .with_named("last", Linear::new(32, 4, rng));
//! let inputs = Tensor::randn(&[64, 16], rng);
//! let labels = (0..64).map(|i| i % 4).collect();
//! let examples = Examples { inputs: inputs.clone(), labels, classes: 4 };
//!
//! let mut search = PrecisionSearch::new(&model, vec![inputs], examples, SearchOptions::default())?;
//! for _ in 0..12 {
//!     search.step()?;
//! }
//! for point in search.frontier() {
//!     println!("{:.3} ± {:.3}, {} bytes, {:.2e} s", point.accuracy, point.accuracy_error, point.bytes, point.seconds);
//! }
//! assert!(search.frontier().iter().any(|point| point.is_f32()));
//! match search.fastest_above(0.9) {
//!     Found::Met(point) => println!("{:?}", point.precisions),
//!     Found::Missed(best) => println!("no choice reaches 90 %, this one {:.1} %", 100.0 * best.accuracy),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Sources: per-layer sensitivity by divergence of the outputs and a greedy order of gain for cost as in Nagel et al. 2021,
//! arXiv 2106.08295, section 3.7, and in HAWQ-V2, Dong et al. 2020, arXiv 1911.03852.

pub use crate::search_options::{Examples, Refused, SearchOptions, Sensitivity};

use std::collections::VecDeque;
use std::time::Instant;

use crate::convert::convert;
use crate::error::{Error, Result};
use crate::framework::nn::{Embedding, Layer, Sequential};
use crate::framework::{Tensor, no_grad};
use crate::frontier::{
    Found, PrecisionPoint, accuracy_errors, fastest_above, frontier, smallest_above,
};
use crate::latency::Latency;
use crate::metrics::{answers, kl_divergence, mean_cross_entropy, sqnr_db};
use crate::observed::Observed;
use crate::precision::Precision;
use crate::prepare::{PrepareOptions, prepare};
use crate::qmodel::QModel;
use crate::stage::Role;

/// A search under way. See the module.
pub struct PrecisionSearch<'a> {
    model: &'a Sequential,
    calibration: Vec<Tensor>,
    examples: Examples,
    options: SearchOptions,
    layers: Vec<String>,
    /// What `f32` answers: scores, and whether they are right.
    scores: Vec<f32>,
    right: Vec<bool>,
    points: Vec<PrecisionPoint>,
    sensitivities: Vec<Sensitivity>,
    refused: Vec<Refused>,
    tried: Vec<Vec<Precision>>,
    queue: VecDeque<Vec<Precision>>,
    /// Whether the choices by sensitivity are in the queue.
    ordered: bool,
    observed: Observed,
}

impl<'a> PrecisionSearch<'a> {
    /// Measures the model as it was trained, and makes ready to try others. `model` is put into evaluation mode.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyCalibration`] without examples (without calibration data only choices with static layers are refused), [`Error::Unsupported`] if the model has no layer with weights,
    /// [`Error::ShapeMismatch`] if it does not give `[examples, classes]` or there are not as many labels; those of [`prepare`].
    pub fn new(
        model: &'a Sequential,
        calibration: Vec<Tensor>,
        examples: Examples,
        options: SearchOptions,
    ) -> Result<Self> {
        let uncovered = PrepareOptions {
            require_full_coverage: false,
            ..options.prepare.clone()
        };
        let prepared = prepare(model, &uncovered)?;
        let mut layers = Vec::new();
        for stage in prepared.all_stages() {
            let kept = matches!(stage.role(), Role::Float(_));
            let table = stage
                .layers()
                .iter()
                .any(|layer| layer.as_any().is::<Embedding>());
            if !kept && (table || stage.folded()?.is_some()) {
                layers.push(stage.name().to_owned());
            }
        }
        if layers.is_empty() {
            return Err(Error::Unsupported {
                what: "a search over precisions of a model without weights that can be quantized",
            });
        }
        let count = examples.labels.len();
        if count == 0 {
            return Err(Error::EmptyCalibration);
        }
        let output = no_grad(|| model.forward(&examples.inputs))?;
        if output.shape() != [count, examples.classes] {
            return Err(Error::ShapeMismatch {
                operation: "a search over precisions",
                expected: format!("outputs [{count}, {}]", examples.classes),
                got: output.shape().to_vec(),
            });
        }
        if let Some(label) = examples
            .labels
            .iter()
            .find(|&&label| label >= examples.classes)
        {
            return Err(Error::ShapeMismatch {
                operation: "a search over precisions",
                expected: format!("labels below {}", examples.classes),
                got: vec![*label],
            });
        }
        let scores = output.to_vec();
        let right = right(&scores, &examples);
        let in_f32 = vec![Precision::Float; layers.len()];
        let mut search = Self {
            model,
            calibration,
            examples,
            options,
            layers,
            scores,
            right,
            points: Vec::new(),
            sensitivities: Vec::new(),
            refused: Vec::new(),
            tried: Vec::new(),
            queue: VecDeque::new(),
            ordered: false,
            observed: Observed::default(),
        };
        let point = search.measure(&in_f32)?.0;
        search.points.push(point);
        search.tried.push(in_f32.clone());
        for &choice in &search.options.choices {
            search.queue.push_back(vec![choice; in_f32.len()]);
        }
        for layer in 0..in_f32.len() {
            for &choice in &search.options.choices {
                let mut one = in_f32.clone();
                one[layer] = choice;
                search.queue.push_back(one);
            }
        }
        Ok(search)
    }

    /// Tries one more choice. `false` if there is none left.
    ///
    /// # Errors
    ///
    /// None that depends on the choice: what cannot be made is [`PrecisionSearch::refused`].
    pub fn step(&mut self) -> Result<bool> {
        loop {
            let Some(choice) = self.next() else {
                return Ok(false);
            };
            if self.tried.contains(&choice) {
                continue;
            }
            self.tried.push(choice.clone());
            match self.measure(&choice) {
                Ok((point, scores)) => {
                    self.note_sensitivity(&choice, &point, &scores);
                    self.points.push(point);
                }
                Err(error) => self.refused.push(Refused {
                    precisions: self.named(&choice),
                    error,
                }),
            }
            return Ok(true);
        }
    }

    /// Tries choices until there is none left or `stop` says so, which is asked before each.
    ///
    /// # Errors
    ///
    /// As [`PrecisionSearch::step`].
    pub fn run(&mut self, mut stop: impl FnMut(&Self) -> bool) -> Result<()> {
        while !stop(self) && self.step()? {}
        Ok(())
    }

    fn next(&mut self) -> Option<Vec<Precision>> {
        if let Some(choice) = self.queue.pop_front() {
            return Some(choice);
        }
        if !self.ordered {
            self.ordered = true;
            let by_bytes = self.in_order(|s| s.bytes_saved as f64);
            let by_seconds = self.in_order(|s| s.seconds_saved);
            // In turn, so that stopping early has seen something of both.
            for pair in by_bytes.into_iter().zip(by_seconds) {
                self.queue.extend([pair.0, pair.1]);
            }
        } else {
            self.queue = self.neighbours().into();
        }
        self.queue.pop_front()
    }

    /// From `f32` step by step: next comes the change of one layer that saves most for the divergence that it adds.
    fn in_order(&self, saved: impl Fn(&Sensitivity) -> f64) -> Vec<Vec<Precision>> {
        let mut current = vec![Precision::Float; self.layers.len()];
        let mut path = Vec::new();
        loop {
            let of = |layer: usize, precision: Precision| {
                let mut all = self.sensitivities.iter();
                all.find(|s| s.layer == self.layers[layer] && s.precision == precision)
            };
            let mut best: Option<(f64, usize, Precision)> = None;
            for (layer, &precision) in current.iter().enumerate() {
                let before = of(layer, precision);
                for &choice in &self.options.choices {
                    let Some(after) = of(layer, choice) else {
                        continue;
                    };
                    let gain = saved(after) - before.map_or(0.0, &saved);
                    if gain <= 0.0 {
                        continue;
                    }
                    let cost = after.kl - before.map_or(0.0, |before| before.kl);
                    // What costs nothing comes first, the largest gain before the others.
                    let value = gain / cost.max(1e-12);
                    if best.is_none_or(|(most, ..)| value > most) {
                        best = Some((value, layer, choice));
                    }
                }
            }
            let Some((_, layer, choice)) = best else {
                return path;
            };
            current[layer] = choice;
            path.push(current.clone());
        }
    }

    /// Points of the frontier with one layer changed that were not tried yet.
    fn neighbours(&self) -> Vec<Vec<Precision>> {
        let mut found = Vec::new();
        for point in self.frontier() {
            for layer in 0..self.layers.len() {
                for &choice in self.options.choices.iter().chain([&Precision::Float]) {
                    let mut other: Vec<Precision> = point
                        .precisions
                        .iter()
                        .map(|(_, precision)| *precision)
                        .collect();
                    other[layer] = choice;
                    if !self.tried.contains(&other) && !found.contains(&other) {
                        found.push(other);
                    }
                }
            }
        }
        found
    }

    fn named(&self, choice: &[Precision]) -> Vec<(String, Precision)> {
        self.layers
            .iter()
            .cloned()
            .zip(choice.iter().copied())
            .collect()
    }

    /// The model with these precisions, one for each layer.
    ///
    /// # Errors
    ///
    /// Those of [`prepare`], [`crate::convert::calibrate`] and [`convert`].
    pub fn convert(&self, precisions: &[(String, Precision)]) -> Result<QModel> {
        let mut options = self.options.prepare.clone();
        // Of equal names the last decides: these are the search's own.
        options.overrides.extend_from_slice(precisions);
        // The model as it was trained is what all others are held against, and the answer where nothing else is one.
        let is_f32 = |(_, precision): &(String, Precision)| *precision == Precision::Float;
        options.require_full_coverage &= !precisions.iter().all(is_f32);
        let mut prepared = prepare(self.model, &options)?;
        self.observed.observe(&mut prepared, &self.calibration)?;
        convert(&prepared)
    }

    fn measure(&self, choice: &[Precision]) -> Result<(PrecisionPoint, Vec<f32>)> {
        let precisions = self.named(choice);
        let model = self.convert(&precisions)?;
        let scores = model.forward(&self.examples.inputs)?.to_vec();
        let right = right(&scores, &self.examples);
        let (accuracy_error, gain_error) = accuracy_errors(&right, &self.right);
        let (seconds, seconds_error) = self.time(&model)?;
        let share = |right: &[bool]| {
            right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64
        };
        let point = PrecisionPoint {
            accuracy: share(&right),
            accuracy_error,
            gain: share(&right) - share(&self.right),
            gain_error,
            loss: mean_cross_entropy(&scores, self.examples.classes, &self.examples.labels),
            bytes: model.memory_bytes(),
            seconds,
            seconds_error,
            precisions,
        };
        Ok((point, scores))
    }

    fn time(&self, model: &QModel) -> Result<(f64, f64)> {
        let count = self.examples.labels.len();
        let batch = self.options.timed_batch.clamp(1, count);
        let x = self.examples.inputs.slice_axis(0, 0..batch)?;
        let mut durations = Vec::with_capacity(self.options.turns.max(1));
        // The first turn warms up.
        for turn in 0..=self.options.turns.max(1) {
            let started = Instant::now();
            std::hint::black_box(model.forward(&x)?);
            if turn > 0 {
                durations.push(started.elapsed());
            }
        }
        let unknown = (f64::NAN, f64::NAN);
        Ok(Latency::of(&durations).map_or(unknown, |latency| {
            (latency.median.as_secs_f64(), latency.median_error())
        }))
    }

    fn note_sensitivity(&mut self, choice: &[Precision], point: &PrecisionPoint, scores: &[f32]) {
        let mut changed = choice
            .iter()
            .enumerate()
            .filter(|(_, p)| **p != Precision::Float);
        let (Some((layer, &precision)), None) = (changed.next(), changed.next()) else {
            return;
        };
        let f32_point = &self.points[0];
        self.sensitivities.push(Sensitivity {
            layer: self.layers[layer].clone(),
            precision,
            loss_change: point.loss - f32_point.loss,
            kl: kl_divergence(&self.scores, scores, self.examples.classes),
            sqnr_db: sqnr_db(&self.scores, scores),
            bytes_saved: f32_point.bytes as i64 - point.bytes as i64,
            seconds_saved: f32_point.seconds - point.seconds,
        });
    }

    /// The layers whose precision is chosen, in order of computation.
    #[must_use]
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// All that was measured, the model in `f32` first.
    #[must_use]
    pub fn points(&self) -> &[PrecisionPoint] {
        &self.points
    }

    /// The sensitivities that are known so far.
    #[must_use]
    pub fn sensitivities(&self) -> &[Sensitivity] {
        &self.sensitivities
    }

    /// What could not be made, and why.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// The points that no other beats in accuracy, bytes and seconds, and `f32`: from the smallest to the largest. Never empty.
    #[must_use]
    pub fn frontier(&self) -> Vec<&PrecisionPoint> {
        frontier(&self.points)
    }

    /// The fastest that is at least this accurate; if none is, the most accurate, as [`Found::Missed`].
    pub fn fastest_above(&self, accuracy: f64) -> Found<'_> {
        fastest_above(&self.points, accuracy).unwrap_or(Found::Missed(&self.points[0]))
    }

    /// The smallest that is at least this accurate; if none is, the most accurate, as [`Found::Missed`].
    pub fn smallest_above(&self, accuracy: f64) -> Found<'_> {
        smallest_above(&self.points, accuracy).unwrap_or(Found::Missed(&self.points[0]))
    }
}

fn right(scores: &[f32], examples: &Examples) -> Vec<bool> {
    let answers = answers(scores, examples.classes);
    answers
        .iter()
        .zip(&examples.labels)
        .map(|(answer, label)| *answer == Some(*label))
        .collect()
}
