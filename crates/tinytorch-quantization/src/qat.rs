//! Quantization-aware training: a model that trains with the errors of its integer version, and becomes it.
//!
//! ```text
//! prepare_qat(model) -> QatModel     weights copied, fake quantization at every place
//! train it like any other            Trainer, optimizer, loss: a QatModel is a Layer; or `train_qat`, which does it all
//! QatModel::convert() -> QModel      the same codes
//! ```
//!
//! In: a trained model. Out: a model that was trained some more with its rounding errors in the forward pass.
//!
//! What is evaluated is what is deployed: in evaluation a [`QatModel`] gives the same bits as the [`QModel`] that
//! [`QatModel::convert`] makes of it. In training too, except behind a batch norm that still lives: that one normalizes with
//! the moments of the batch, which no deployed model has. See [`crate::qat_layer`].
//!
//! ```
//! use rand::SeedableRng;
//! use tinytorch_core::data::{DataLoader, Targets, TensorDataset};
//! use tinytorch_core::nn::{Layer, Linear, Relu, Sequential};
//! use tinytorch_core::optim::{Adam, AdamConfig};
//! use tinytorch_core::train::{CrossEntropy, Progress, Trainer};
//! use tinytorch_core::{Tensor, no_grad};
//! use tinytorch_quantization::{QatOptions, prepare_qat};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new()
//!     .with(Linear::new(8, 16, rng))
//!     .with(Relu)
//!     .with(Linear::new(16, 2, rng));
//! let x = Tensor::randn(&[64, 8], rng);
//! let classes = (0..64).map(|i| usize::from(x.array()[[i, 0]] > 0.0)).collect();
//! let data = DataLoader::new(TensorDataset::new(&x, Targets::Classes(classes))?, 16)?;
//!
//! let qat = prepare_qat(&model, &QatOptions::learned(4))?;
//! let adam = Adam::new(qat.named_parameters(), AdamConfig::default());
//! let mut trainer = Trainer::new(&qat, adam, CrossEntropy).progress(Progress::Silent);
//! trainer.fit(&data, None, 2)?;
//!
//! qat.set_training(false);
//! let evaluated = no_grad(|| qat.forward(&x))?;
//! let deployed = qat.convert()?.forward(&x)?;
//! assert_eq!(evaluated.to_vec(), deployed.to_vec());
//! # Ok(())
//! # }
//! ```
//!
//! Sources: Jacob et al. 2018, section 3; Krishnamoorthi 2018, section 3.2; Esser et al. 2020 for learned steps.

use std::any::Any;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::framework::nn::{Layer, Sequential};
use crate::framework::{self, Tensor};
use crate::ledger::Ledger;
use crate::prepare::{Calibration, PrepareOptions, prepare};
use crate::qat_part::{Named, Part, all, build, forward, quantize};
use crate::qmodel::QModel;
use crate::scheme::{CodeRange, Scheme, Symmetry};

pub use crate::qat_activation::FakeQuantize;
pub use crate::qat_layer::QatLayer;
pub use crate::qat_narrow::QatNarrow;

/// Where a scale comes from in quantization-aware training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steps {
    /// From the values: the largest magnitude of weights, a moving average of the range of activations.
    #[default]
    Observed,
    /// From the gradient: the scale is a parameter (LSQ).
    Learned,
}

/// What becomes of a batch norm behind a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchNormTraining {
    /// It trains on, with the moments of each batch, until it is frozen.
    #[default]
    Live,
    /// It is folded at once with the moments it came with, and its weight and bias are no parameters any more.
    Folded,
}

/// What [`prepare_qat`] may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct QatOptions {
    /// How weights are written, and which layers stay in `f32`. Of the calibration only a moving average counts: its
    /// constant is used for the ranges of activations, 0.01 otherwise.
    pub prepare: PrepareOptions,
    /// Where the scales of weights come from.
    pub weight_steps: Steps,
    /// Where the scales of activations come from.
    pub activation_steps: Steps,
    /// The codes of activations. Fewer than 8 bits are for study: they are simulated, and cannot be converted.
    pub activations: CodeRange,
    /// What becomes of batch norms.
    pub batch_norm: BatchNormTraining,
}

impl Default for QatOptions {
    /// 8 bits, observed, batch norms live.
    fn default() -> Self {
        Self {
            prepare: PrepareOptions::default(),
            weight_steps: Steps::default(),
            activation_steps: Steps::default(),
            activations: CodeRange::INT8,
            batch_norm: BatchNormTraining::default(),
        }
    }
}

impl QatOptions {
    /// Weights of so many bits with a learned step for each channel, activations of 8 bits with an observed range.
    ///
    /// # Panics
    ///
    /// If `bits` is not in `2..=8`.
    #[must_use]
    #[track_caller]
    pub fn learned(bits: u32) -> Self {
        assert!((2..=8).contains(&bits), "a weight has 2 to 8 bits");
        Self {
            prepare: PrepareOptions {
                weights: Scheme::weights(bits),
                ..PrepareOptions::default()
            },
            weight_steps: Steps::Learned,
            ..Self::default()
        }
    }

    pub(crate) fn activation(&self) -> Result<Arc<FakeQuantize>> {
        let constant = match self.prepare.calibration {
            Calibration::MovingAverage(constant) => constant,
            _ => AVERAGING_CONSTANT,
        };
        let (symmetry, codes) = (self.prepare.activations, self.activations);
        if symmetry == Symmetry::Symmetric && codes.min == 0 {
            return Err(Error::BadCodeRange {
                min: codes.min,
                max: codes.max,
                why: "have nothing below 0, as symmetric activations need",
            });
        }
        let layer = match self.activation_steps {
            Steps::Observed => FakeQuantize::new(constant, self.activations)?,
            Steps::Learned => FakeQuantize::learned(self.activations)?,
        };
        Ok(Arc::new(layer.with_symmetry(symmetry)))
    }
}

impl From<PrepareOptions> for QatOptions {
    fn from(prepare: PrepareOptions) -> Self {
        Self {
            prepare,
            ..Self::default()
        }
    }
}

/// The averaging constant of activations in quantization-aware training, if no other is asked for.
const AVERAGING_CONSTANT: f32 = 0.01;

/// A model that trains with the errors of INT8 in its forward pass.
pub struct QatModel {
    input: Arc<FakeQuantize>,
    /// Whether a layer reads the input as codes.
    reads_input: bool,
    parts: Vec<Named>,
    ledger: Ledger,
}

impl std::fmt::Debug for QatModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = all(&self.parts).into_iter();
        f.debug_map()
            .entries(parts.map(|(name, part)| (name, part.kind())))
            .finish()
    }
}

/// Makes a model for quantization-aware training from a trained one.
///
/// All layers are copied: the original is not trained. What cannot be copied, a layer of one's own without
/// [`Layer::copied`], stays in `f32`, and both share it: [`QatModel::shared_layers`]. Dropout is left out. Sums and concatenations are rounded where their ways meet.
///
/// Layers of every [`Precision`](crate::Precision) train with the errors of what they will be: static ones, with weights per tensor
/// or per channel, as [`QatLayer`]; dynamic, weight-only (also in groups) and bf16 ones, and embeddings, as [`QatNarrow`], whose steps
/// are never learned but follow the weights, and whose batch norm is folded at once. What is simulated alone, and cannot be
/// converted, are activations of fewer than 8 bits: no kernel computes with them, and in a byte each they would save nothing.
///
/// # Errors
///
/// [`Error::NoSuchLayer`], [`Error::BadAveragingConstant`], [`Error::BadCodeRange`], [`Error::Unsupported`] for weights that
/// are not symmetric and for ways that meet as real values, [`Error::ShapeMismatch`] if a batch norm does not fit the convolution before it, [`Error::NotFinite`]
/// if a weight is not.
pub fn prepare_qat(model: &Sequential, options: &QatOptions) -> Result<QatModel> {
    let prepared = prepare(model, &options.prepare)?;
    let input = options.activation()?;
    let reads_input = crate::stage::demands_codes(prepared.stages(), true);
    let (parts, _) = build(
        prepared.stages(),
        options,
        input.clone(),
        reads_input,
        false,
    )?;
    let model = QatModel {
        input,
        reads_input,
        parts,
        ledger: prepared.ledger().clone(),
    };
    model.set_training(true);
    Ok(model)
}

impl QatModel {
    /// The linear layers and convolutions, by name, those inside of sums and concatenations too.
    pub fn weighted_layers(&self) -> impl Iterator<Item = (&str, &QatLayer)> {
        all(&self.parts)
            .into_iter()
            .filter_map(|(name, part)| match part {
                Part::Weighted(layer) => Some((name, &**layer)),
                _ => None,
            })
    }

    /// What rounds the input and the output of every layer that has a range of its own.
    pub fn activations(&self) -> impl Iterator<Item = &FakeQuantize> {
        let parts = all(&self.parts).into_iter();
        let outputs = parts.filter_map(|(_, part)| part.output());
        std::iter::once(&*self.input).chain(outputs)
    }

    /// Lets the ranges of all activations stay as they are (`true`), or follow again in training. Towards the end of
    /// a training, ranges that no longer move let the weights settle.
    pub fn freeze(&self, frozen: bool) {
        self.activations().for_each(|a| a.freeze(frozen));
    }

    /// Lets all batch norms use their running moments also in training (`true`), or the moments of the batch again.
    /// From then on training computes, to the bit, what is deployed.
    ///
    /// Source: Krishnamoorthi 2018, section 3.2.2.
    pub fn freeze_batch_norm(&self, frozen: bool) {
        self.weighted_layers()
            .for_each(|(_, layer)| layer.freeze_batch_norm(frozen));
    }

    /// The integer model with the weights and ranges that were trained.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the place, if the model was never run in training; [`Error::Unsupported`] if
    /// activations have other codes than −128..=127; those of [`QModel::new`].
    pub fn convert(&self) -> Result<QModel> {
        if self.input.codes() != CodeRange::INT8 {
            return Err(Error::Unsupported {
                what: "activations in integers with other codes than -128..=127",
            });
        }
        let first = self
            .input
            .qparams()
            .map_err(|error| error.in_tensor("input"))?;
        let model = QModel::new(first, quantize(&self.parts, first)?.0)?;
        Ok(model.with_ledger(self.ledger.clone()))
    }

    /// The layers with tensors that belong to the original too, because they cannot be copied: training the one changes the other.
    pub fn shared_layers(&self) -> impl Iterator<Item = &str> {
        let shared =
            |(name, part)| matches!(part, &Part::Float { shared: true, .. }).then_some(name);
        all(&self.parts).into_iter().filter_map(shared)
    }

    /// What becomes of every operation of the model it was made from.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn run(&self, x: &Tensor) -> Result<Tensor> {
        // What no layer reads as codes stays as it comes, as in the integer model.
        let first = match self.reads_input {
            true => self.input.apply(x),
            false => self.input.observe(x).map(|()| x.clone()),
        };
        forward(
            &self.parts,
            &first.map_err(|error| error.in_tensor("input"))?,
        )
    }
}

impl Layer for QatModel {
    /// # Errors
    ///
    /// Those of the layers, as [`framework::Error::Foreign`]; [`Error::from`] makes of it what it was:
    /// [`Error::NotFinite`] that names tensor and index, [`Error::NothingObserved`] that names the tensor,
    /// [`Error::Layer`] that names the layer.
    fn forward(&self, x: &Tensor) -> framework::Result<Tensor> {
        self.run(x).map_err(Error::into_framework)
    }

    fn kind(&self) -> &'static str {
        "qat_model"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn children(&self) -> Vec<(String, &dyn Layer)> {
        let mut children: Vec<(String, &dyn Layer)> =
            vec![("quantize_input".to_owned(), &*self.input)];
        for (name, part) in all(&self.parts) {
            children.extend(part.layer().map(|layer| (name.to_owned(), layer)));
            // A weighted layer holds its own.
            if let (Some(output), false) = (part.output(), matches!(part, Part::Weighted(_))) {
                children.push((format!("{name}.output"), output));
            }
        }
        children
    }
}
