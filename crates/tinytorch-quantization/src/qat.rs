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
use crate::fake_quantize::fake_quantize;
use crate::folded::{Folded, bias_of};
use crate::framework::nn::{BatchNorm2d, Conv2d, Layer, Sequential};
use crate::framework::{self, Tensor, is_recording};
use crate::prepare::{Calibration, PrepareOptions, Prepared, prepare};
use crate::qat_layer::{Parts, copied, run, with_value};
use crate::qlayer::{FloatLayer, QLayer};
use crate::qmodel::QModel;
use crate::scheme::{CodeRange, QParams, Scheme};
use crate::stage::{Role, Stage};

pub use crate::qat_activation::FakeQuantize;
pub use crate::qat_layer::QatLayer;

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
        Self {
            prepare: PrepareOptions {
                weights: Scheme::weights(bits),
                ..PrepareOptions::default()
            },
            weight_steps: Steps::Learned,
            ..Self::default()
        }
    }

    fn activation(&self) -> Result<Arc<FakeQuantize>> {
        let constant = match self.prepare.calibration {
            Calibration::MovingAverage(constant) => constant,
            _ => AVERAGING_CONSTANT,
        };
        Ok(Arc::new(match self.activation_steps {
            Steps::Observed => FakeQuantize::new(constant, self.activations)?,
            Steps::Learned => FakeQuantize::learned(self.activations)?,
        }))
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

/// One layer of a [`QatModel`].
enum Part {
    Weighted(QatLayer),
    /// Its output is written like its input.
    Same {
        layer: Arc<dyn Layer>,
        quantized: QLayer,
        codes: Option<Arc<FakeQuantize>>,
    },
    /// Not quantized; what it gives to the next layer is, if that one computes in integers.
    Float {
        layer: Arc<dyn Layer>,
        reason: String,
        output: Arc<FakeQuantize>,
        rounds: bool,
    },
}

/// A model that trains with the errors of INT8 in its forward pass.
pub struct QatModel {
    input: Arc<FakeQuantize>,
    /// Whether a layer reads the input as codes.
    reads_input: bool,
    parts: Vec<(String, Part)>,
}

impl std::fmt::Debug for QatModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = self
            .parts
            .iter()
            .map(|(name, part)| (name, part.layer().kind()));
        f.debug_map().entries(parts).finish()
    }
}

/// Makes a model for quantization-aware training from a trained one.
///
/// Weights, biases and batch norms are copied: the original is not trained, except for layers that stay in `f32`, which
/// both share. Dropout is left out.
///
/// # Errors
///
/// [`Error::NoSuchLayer`], [`Error::BadAveragingConstant`], [`Error::BadCodeRange`], [`Error::Unsupported`] for weights that
/// are not symmetric, [`Error::ShapeMismatch`] if a batch norm does not fit the convolution before it, [`Error::NotFinite`]
/// if a weight is not.
pub fn prepare_qat(model: &Sequential, options: &QatOptions) -> Result<QatModel> {
    let prepared = prepare(model, &options.prepare)?;
    let input = options.activation()?;
    let reads_input = reads_codes(&prepared, 0, true);
    let mut current = input.clone();
    // Whether what flows is codes, or was rounded to what has codes.
    let mut on_codes = reads_input;
    let mut parts = Vec::new();
    for (index, stage) in prepared.stages().iter().enumerate() {
        let part = match stage.role() {
            Role::Weighted => {
                let output = options.activation()?;
                let named = |error: Error| error.in_tensor(&format!("{}.weight", stage.name()));
                let parts = weighted(stage, options, current, output.clone())?;
                current = output;
                on_codes = true;
                Part::Weighted(QatLayer::new(parts).map_err(named)?)
            }
            Role::Same(quantized) => Part::Same {
                layer: stage.layers()[0].clone(),
                quantized: quantized.clone(),
                codes: on_codes.then(|| current.clone()),
            },
            Role::Other => {
                let error = Error::Unsupported {
                    what: "quantization-aware training of sums, concatenations and embeddings",
                };
                return Err(error.in_layer(stage.name()));
            }
            Role::Float(reason) => {
                current = options.activation()?;
                on_codes = reads_codes(&prepared, index + 1, false);
                Part::Float {
                    layer: stage.layers()[0].clone(),
                    reason: reason.to_owned(),
                    output: current.clone(),
                    rounds: on_codes,
                }
            }
        };
        parts.push((stage.name().to_owned(), part));
    }
    let model = QatModel {
        input,
        reads_input,
        parts,
    };
    model.set_training(true);
    Ok(model)
}

/// Whether what enters the stage of this index is read as codes, by it or, through stages that take either, by one behind;
/// `otherwise` if all stages from there on take either.
fn reads_codes(prepared: &Prepared, index: usize, otherwise: bool) -> bool {
    let behind = prepared.stages().get(index..).unwrap_or_default();
    crate::stage::demands_codes(behind, otherwise)
}

/// What a weighted stage is made of.
fn weighted(
    stage: &Stage,
    options: &QatOptions,
    input: Arc<FakeQuantize>,
    output: Arc<FakeQuantize>,
) -> Result<Parts> {
    let Some(folded) = stage.folded()? else {
        return Err(Error::Unsupported {
            what: "a weighted layer that is neither linear nor a convolution",
        });
    };
    let Folded {
        mut weight,
        mut bias,
        operation,
        relu,
        scheme,
    } = folded;
    let first = stage.layers()[0].as_any();
    let mut norm = None;
    if let (BatchNormTraining::Live, Some(layer)) =
        (options.batch_norm, first.downcast_ref::<Conv2d>())
    {
        let mut norms = stage.layers().iter();
        if let Some(found) = norms.find_map(|layer| layer.as_any().downcast_ref::<BatchNorm2d>()) {
            weight = layer.weight().array().into_owned();
            bias = bias_of(layer.bias(), weight.shape()[0]);
            norm = Some(copied(found)?);
        }
    }
    Ok(Parts {
        weight,
        bias,
        norm,
        operation,
        relu,
        scheme,
        learned: options.weight_steps == Steps::Learned,
        input,
        output,
    })
}

impl Part {
    fn layer(&self) -> &dyn Layer {
        match self {
            Self::Weighted(layer) => layer,
            Self::Same { layer, .. } | Self::Float { layer, .. } => &**layer,
        }
    }

    fn output(&self) -> Option<&FakeQuantize> {
        match self {
            Self::Weighted(layer) => Some(layer.output()),
            Self::Float { output, .. } => Some(output),
            Self::Same { .. } => None,
        }
    }

    fn forward(&self, x: &Tensor) -> framework::Result<Tensor> {
        match self {
            Self::Weighted(layer) => layer.forward(x),
            Self::Same {
                layer,
                quantized: QLayer::AvgPool2d(_),
                codes: Some(codes),
            } => self
                .averaged(&**layer, codes, x)
                .map_err(Error::into_framework),
            // What only picks values that have codes gives values that have codes.
            Self::Same { layer, .. } => layer.forward(x),
            Self::Float {
                layer,
                output,
                rounds,
                ..
            } => {
                let y = layer.forward(x)?;
                if *rounds {
                    return output.forward(&y);
                }
                // Real values go on as they are, as in the integer model; their range is wanted all the same.
                output.observe(&y).map_err(Error::into_framework)?;
                Ok(y)
            }
        }
    }

    /// A mean of values that have codes has none as a rule: it is rounded to one, as the integers do.
    fn averaged(&self, layer: &dyn Layer, codes: &FakeQuantize, x: &Tensor) -> Result<Tensor> {
        let qparams = codes.qparams()?;
        let Self::Same { quantized, .. } = self else {
            return Ok(layer.forward(x)?);
        };
        let integers = codes.codes() == CodeRange::INT8;
        if integers && !is_recording() {
            return run(quantized.clone(), qparams, x);
        }
        let y = fake_quantize(&layer.forward(x)?, qparams, codes.codes())?;
        if !integers {
            return Ok(y);
        }
        Ok(with_value(&y, &run(quantized.clone(), qparams, x)?))
    }
}

impl QatModel {
    /// The linear layers and convolutions, by name.
    pub fn weighted_layers(&self) -> impl Iterator<Item = (&str, &QatLayer)> {
        self.parts.iter().filter_map(|(name, part)| match part {
            Part::Weighted(layer) => Some((name.as_str(), layer)),
            Part::Same { .. } | Part::Float { .. } => None,
        })
    }

    /// What rounds the input and the output of every layer that has a range of its own.
    pub fn activations(&self) -> impl Iterator<Item = &FakeQuantize> {
        let outputs = self.parts.iter().filter_map(|(_, part)| part.output());
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
        let mut input: QParams = first;
        let mut layers = Vec::with_capacity(self.parts.len());
        for (name, part) in &self.parts {
            let layer = match part {
                Part::Weighted(layer) => {
                    let named = |error: Error| error.in_tensor(&format!("{name}.weight"));
                    layer.quantize(input).map_err(named)?
                }
                Part::Same { quantized, .. } => quantized.clone(),
                Part::Float {
                    layer,
                    reason,
                    output,
                    rounds,
                } => {
                    layer.set_training(false);
                    let qparams = output.qparams().map_err(|error| error.in_tensor(name))?;
                    QLayer::Float(FloatLayer {
                        layer: layer.clone(),
                        reason: reason.clone(),
                        output: rounds.then_some(qparams),
                    })
                }
            };
            input = layer.output(input);
            layers.push((name.clone(), layer));
        }
        QModel::new(first, layers)
    }
}

impl Layer for QatModel {
    fn forward(&self, x: &Tensor) -> framework::Result<Tensor> {
        // What no layer reads as codes stays as it comes, as in the integer model.
        let x = if self.reads_input {
            self.input.forward(x)?
        } else {
            self.input.observe(x).map_err(Error::into_framework)?;
            x.clone()
        };
        self.parts
            .iter()
            .try_fold(x, |x, (_, part)| part.forward(&x))
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
        for (name, part) in &self.parts {
            children.push((name.clone(), part.layer()));
            if let Part::Float { output, .. } = part {
                children.push((format!("{name}.output"), &**output));
            }
        }
        children
    }
}
