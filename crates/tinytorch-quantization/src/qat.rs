//! Quantization-aware training: layers that compute in `f32` and already feel what INT8 will do to them.
//!
//! ```text
//! prepare_qat(model) -> QatModel     weights copied, batch norm folded, fake quantization at every place
//! train it like any other            Trainer, optimizer, loss: a QatModel is a Layer
//! QatModel::convert() -> QModel      the same scales, now for real integers
//! ```
//!
//! In: a trained model. Out: a model that was trained some more with its rounding errors in the forward pass. Ranges
//! of activations are moving averages, kept as buffers: they are saved with the weights.
//!
//! Source: Jacob et al. 2018, section 3.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::conv::QConv2d;
use crate::error::{Error, Result};
use crate::fake_quantize::{fake_quantize, fake_quantize_per_channel};
use crate::framework::nn::{Layer, Sequential};
use crate::framework::{self, Tensor};
use crate::linear::QLinear;
use crate::observer::{MovingAverageMinMaxObserver, Observer};
use crate::per_channel::choose_qparams_per_channel;
use crate::prepare::{PrepareOptions, prepare};
use crate::qlayer::{FloatLayer, QLayer};
use crate::qmodel::QModel;
use crate::qparams::{choose_qparams, symmetric_scale};
use crate::scheme::{CodeRange, Granularity, QParams, Scheme, ValueRange};
use crate::stage::{Folded, Operation, Role};

/// A layer that changes no shape and only rounds: each value to the nearest that has a code.
///
/// In training it watches the values and follows their range; in evaluation, or frozen, the range stays. The range is
/// the buffer `range`, `[2]`: smallest and largest, NaN until a value came.
#[derive(Debug)]
pub struct FakeQuantize {
    range: Tensor,
    averaging_constant: f32,
    codes: CodeRange,
    training: AtomicBool,
    frozen: AtomicBool,
}

impl FakeQuantize {
    /// A layer that rounds to `codes` and follows ranges with this averaging constant.
    ///
    /// # Errors
    ///
    /// [`Error::BadAveragingConstant`], [`Error::BadCodeRange`].
    pub fn new(averaging_constant: f32, codes: CodeRange) -> Result<Self> {
        MovingAverageMinMaxObserver::new(averaging_constant)?;
        codes.check()?;
        Ok(Self {
            range: Tensor::full(&[2], f32::NAN),
            averaging_constant,
            codes,
            training: AtomicBool::new(true),
            frozen: AtomicBool::new(false),
        })
    }

    /// The range so far.
    #[must_use]
    pub fn range(&self) -> Option<ValueRange> {
        match *self.range.to_vec().as_slice() {
            [min, max] if !(min.is_nan() || max.is_nan()) => Some(ValueRange { min, max }),
            _ => None,
        }
    }

    /// What the codes mean.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`], [`Error::BadRange`].
    pub fn qparams(&self) -> Result<QParams> {
        let range = self
            .range()
            .ok_or(Error::NothingObserved { tensor: None })?;
        choose_qparams(range, self.codes)
    }

    /// Whether the range stays as it is, also in training.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
    }

    /// Follows the range, in training, and rounds.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the index; [`Error::NothingObserved`] in evaluation before any training.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (training, frozen) = (&self.training, &self.frozen);
        let follows = self.range().is_none() || !frozen.load(Ordering::Relaxed);
        if training.load(Ordering::Relaxed) && follows {
            let mut observer =
                MovingAverageMinMaxObserver::resume(self.averaging_constant, self.range())?;
            let values = x.array();
            let values = values.as_standard_layout();
            observer.observe(values.as_slice().unwrap_or_default())?;
            let ValueRange { min, max } = observer.range()?;
            self.range.assign(&Tensor::new(vec![min, max], &[2])?)?;
        }
        fake_quantize(x, self.qparams()?, self.codes)
    }
}

impl Layer for FakeQuantize {
    fn forward(&self, x: &Tensor) -> framework::Result<Tensor> {
        self.apply(x).map_err(Error::into_framework)
    }

    fn kind(&self) -> &'static str {
        "fake_quantize"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn own_buffers(&self) -> Vec<(String, Tensor)> {
        vec![("range".to_owned(), self.range.clone())]
    }

    fn set_training(&self, training: bool) {
        self.training.store(training, Ordering::Relaxed);
    }
}

/// A linear layer or a convolution with fake-quantized weights and outputs.
#[derive(Debug)]
pub struct QatLayer {
    weight: Tensor,
    bias: Tensor,
    operation: Operation,
    relu: bool,
    scheme: Scheme,
    output: FakeQuantize,
}

impl QatLayer {
    /// The weight as it is trained, not rounded.
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias as it is trained.
    #[must_use]
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// The weight as the forward pass sees it: each value where a code is.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with channel and index.
    pub fn rounded_weight(&self) -> Result<Tensor> {
        let codes = self.scheme.codes;
        match self.scheme.granularity {
            Granularity::PerTensor => {
                let values = self.weight.array();
                let max_abs = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                let qparams = QParams::symmetric(symmetric_scale(max_abs, codes)?);
                fake_quantize(&self.weight, qparams, codes)
            }
            Granularity::PerChannel { axis } => {
                let values = self.weight.array();
                let qparams = choose_qparams_per_channel(values.view(), axis, codes)?;
                fake_quantize_per_channel(&self.weight, axis, &qparams, codes)
            }
            Granularity::PerGroup { .. } => Err(Error::Unsupported {
                what: "training with weights in groups",
            }),
        }
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.rounded_weight()?;
        let y = match self.operation {
            Operation::Linear => x.matmul(&weight.transpose()?)?.try_add(&self.bias)?,
            Operation::Conv2d(options) => x.conv2d(&weight, Some(&self.bias), options)?,
        };
        let y = if self.relu { y.relu() } else { y };
        self.output.apply(&y)
    }

    fn quantize(&self, input: QParams) -> Result<QLayer> {
        let (weight, bias) = (self.weight.array(), self.bias.to_vec());
        let (weight, scheme, relu) = (weight.view(), self.scheme, self.relu);
        let output = self.output.qparams()?;
        match self.operation {
            Operation::Linear => {
                QLinear::quantize(weight, &bias, scheme, input, output, relu).map(QLayer::Linear)
            }
            Operation::Conv2d(options) => {
                QConv2d::quantize(weight, &bias, options, scheme, input, output, relu)
                    .map(QLayer::Conv2d)
            }
        }
    }
}

impl Layer for QatLayer {
    fn forward(&self, x: &Tensor) -> framework::Result<Tensor> {
        self.apply(x).map_err(Error::into_framework)
    }

    fn kind(&self) -> &'static str {
        match self.operation {
            Operation::Linear => "qat_linear",
            Operation::Conv2d(_) => "qat_conv2d",
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn children(&self) -> Vec<(String, &dyn Layer)> {
        vec![("output".to_owned(), &self.output)]
    }

    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        vec![
            ("weight".to_owned(), self.weight.clone()),
            ("bias".to_owned(), self.bias.clone()),
        ]
    }
}

/// One layer of a [`QatModel`].
enum Part {
    Weighted(QatLayer),
    /// Its output is written like its input.
    Same {
        layer: Arc<dyn Layer>,
        quantized: QLayer,
    },
    /// Not quantized; what it gives to the next layer is.
    Float {
        layer: Arc<dyn Layer>,
        reason: String,
        output: FakeQuantize,
    },
}

/// A model that trains with the errors of INT8 in its forward pass.
pub struct QatModel {
    input: FakeQuantize,
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

/// The averaging constant of activations in quantization-aware training, if no other is asked for.
const AVERAGING_CONSTANT: f32 = 0.01;

/// Makes a model for quantization-aware training from a trained one.
///
/// Weights and biases are copied: the original is not trained, except for layers that stay in `f32`, which both share.
/// Dropout is left out. Batch norms are folded into the convolutions before them,
/// with their running statistics, so the new model has none of those. Of `options`, the calibration counts only if it is a
/// moving average: its constant is used.
///
/// # Errors
///
/// [`Error::NoSuchLayer`], [`Error::BadAveragingConstant`], [`Error::BadCodeRange`], [`Error::ShapeMismatch`] if a batch norm
/// does not fit the convolution before it.
pub fn prepare_qat(model: &Sequential, options: &PrepareOptions) -> Result<QatModel> {
    let constant = match options.calibration {
        crate::prepare::Calibration::MovingAverage(constant) => constant,
        _ => AVERAGING_CONSTANT,
    };
    let output = || FakeQuantize::new(constant, CodeRange::INT8);
    let prepared = prepare(model, options)?;
    let mut parts = Vec::new();
    for stage in prepared.stages() {
        let part = match stage.role() {
            Role::Weighted => {
                let Some(folded) = stage.folded()? else {
                    return Err(Error::Unsupported {
                        what: "a weighted layer that is neither linear nor a convolution",
                    });
                };
                let Folded {
                    weight,
                    bias,
                    operation,
                    relu,
                    scheme,
                } = folded;
                let outputs = bias.len();
                Part::Weighted(QatLayer {
                    weight: Tensor::from_array(weight).with_grad(),
                    bias: Tensor::new(bias, &[outputs])?.with_grad(),
                    operation,
                    relu,
                    scheme,
                    output: output()?,
                })
            }
            Role::Same(quantized) => Part::Same {
                layer: stage.layers()[0].clone(),
                quantized: quantized.clone(),
            },
            Role::Float(reason) => Part::Float {
                layer: stage.layers()[0].clone(),
                reason: reason.to_owned(),
                output: output()?,
            },
        };
        parts.push((stage.name().to_owned(), part));
    }
    let model = QatModel {
        input: output()?,
        parts,
    };
    model.set_training(true);
    Ok(model)
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
            Self::Weighted(layer) => Some(&layer.output),
            Self::Float { output, .. } => Some(output),
            Self::Same { .. } => None,
        }
    }
}

impl QatModel {
    /// Lets the ranges of all activations stay as they are (`true`), or follow again in training. Towards the end of
    /// a training, ranges that no longer move let the weights settle.
    pub fn freeze(&self, frozen: bool) {
        self.input.freeze(frozen);
        for output in self.parts.iter().filter_map(|(_, part)| part.output()) {
            output.freeze(frozen);
        }
    }

    /// The integer model with the weights and ranges that were trained.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the place, if the model was never run in training; those of
    /// [`QModel::new`].
    pub fn convert(&self) -> Result<QModel> {
        let first = self
            .input
            .qparams()
            .map_err(|error| error.in_tensor("input"))?;
        let mut input = first;
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
                } => {
                    layer.set_training(false);
                    QLayer::Float(FloatLayer {
                        layer: layer.clone(),
                        reason: reason.clone(),
                        output: output.qparams().map_err(|error| error.in_tensor(name))?,
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
        let mut x = self.input.forward(x)?;
        let last = self.parts.len().saturating_sub(1);
        for (index, (_, part)) in self.parts.iter().enumerate() {
            x = part.layer().forward(&x)?;
            // A layer in f32 at the end gives its values as they are, as in the integer model.
            if let Part::Float { output, .. } = part {
                let rounded = output.forward(&x)?;
                x = if index == last { x } else { rounded };
            }
        }
        Ok(x)
    }

    fn kind(&self) -> &'static str {
        "qat_model"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn children(&self) -> Vec<(String, &dyn Layer)> {
        let mut children: Vec<(String, &dyn Layer)> =
            vec![("quantize_input".to_owned(), &self.input)];
        for (name, part) in &self.parts {
            children.push((name.clone(), part.layer()));
            if let Part::Float { output, .. } = part {
                children.push((format!("{name}.output"), output));
            }
        }
        children
    }
}
