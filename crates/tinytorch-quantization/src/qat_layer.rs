//! A linear layer or a convolution that trains with the errors of its integer version.
//!
//! In: real values that have codes. Out: the real values that the integer layer gives, bit for bit, with a gradient.
//!
//! ```text
//! weight, bias --- fold batch norm --- step of each channel --- round --> ŵ
//!                                                                          \
//! x (has codes) ------------------------------------------- product in f32 --> relu -> round        gives the gradient
//!      \
//!       codes -> integer product -> requantize (N12) ------------------------------> codes -> real  gives the value
//! ```
//!
//! The product in `f32` rounds its sums and the integers do not, so now and then a code differs by one. The value that is
//! handed on is therefore the integer layer's; the product in `f32` is there for its gradient. In evaluation without
//! recording it is left out.
//!
//! A batch norm behind a convolution stays alive in training: it normalizes with the moments of the batch what the
//! *rounded* weights give, and its running moments follow. The weights are rounded as they will be when it is folded with
//! those running moments: multiplied by `γ / √(running variance + eps)`, rounded, divided again. Evaluation, conversion, and
//! training once the batch norm is frozen, fold it.
//!
//! Sources: Jacob et al. 2018, section 3.2; Krishnamoorthi 2018, arXiv 1806.08342, section 3.2.2 (moments of the batch
//! while training, running moments afterwards, freezing).

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::{ArrayD, Axis, IxDyn};

use crate::conv::QConv2d;
use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::folded::Operation;
use crate::framework::nn::{BatchNorm2d, Layer};
use crate::framework::{self, Tensor, is_recording};
use crate::layer::smallest_scale;
use crate::learned::{
    fake_quantize_learned, fake_quantize_learned_per_channel, gradient_scale, initial_step,
};
use crate::linear::{QLinear, quantize_bias};
use crate::per_channel::choose_qparams_per_channel;
use crate::qat_activation::{FakeQuantize, SMALLEST_STEP, at_least_smallest};
use crate::qlayer::QLayer;
use crate::qmodel::QModel;
use crate::qparams::symmetric_scale;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, Granularity, QParams, Scheme, Symmetry};

/// A linear layer or a convolution with fake-quantized weights and outputs.
///
/// | tensor | shape | |
/// |---|---|---|
/// | `weight` | `[out, ...]` | as it is trained, not rounded and not folded |
/// | `bias` | `[out]` | as it is trained |
/// | `weight_scale` | `[out]`, or `[1]` per tensor | only if steps are learned; per channel it is that of the weight before folding |
/// | `norm.*` | `[out]` | of the batch norm, if there is one |
/// | `output.*` | | see [`FakeQuantize`] |
#[derive(Debug)]
pub struct QatLayer {
    weight: Tensor,
    bias: Tensor,
    norm: Option<BatchNorm2d>,
    norm_frozen: AtomicBool,
    operation: Operation,
    relu: bool,
    /// Symmetric; one scale for all, or one for each output.
    scheme: Scheme,
    weight_scale: Option<Tensor>,
    input: Arc<FakeQuantize>,
    output: Arc<FakeQuantize>,
    training: AtomicBool,
}

/// What a [`QatLayer`] is made of.
pub(crate) struct Parts {
    pub weight: ArrayD<f32>,
    pub bias: Vec<f32>,
    pub norm: Option<BatchNorm2d>,
    pub operation: Operation,
    pub relu: bool,
    pub scheme: Scheme,
    /// Whether the steps of the weights are trained.
    pub learned: bool,
    pub input: Arc<FakeQuantize>,
    pub output: Arc<FakeQuantize>,
}

/// Weight and bias with the batch norm folded in, and the factors that did it.
struct Effective {
    /// One for each output; 1 where there is no batch norm.
    factors: Vec<f32>,
    weight: ArrayD<f32>,
    bias: Vec<f32>,
}

impl QatLayer {
    pub(crate) fn new(parts: Parts) -> Result<Self> {
        let Parts {
            weight,
            bias,
            norm,
            operation,
            relu,
            scheme,
            learned,
            input,
            output,
        } = parts;
        let rows = matches!(
            scheme.granularity,
            Granularity::PerTensor | Granularity::PerChannel { axis: 0 }
        );
        if scheme.symmetry != Symmetry::Symmetric || !rows {
            return Err(Error::Unsupported {
                what: "training a static layer with weights that are not symmetric, are in groups (those train weight-only), or whose channels do not lie along axis 0",
            });
        }
        scheme.codes.check_i8()?;
        let outputs = bias.len();
        let mut layer = Self {
            weight: Tensor::from_array(weight).with_grad(),
            bias: Tensor::new(bias, &[outputs])?.with_grad(),
            norm,
            norm_frozen: AtomicBool::new(false),
            operation,
            relu,
            scheme,
            weight_scale: None,
            input,
            output,
            training: AtomicBool::new(true),
        };
        if learned {
            layer.weight_scale = Some(layer.first_steps()?.with_grad());
        }
        Ok(layer)
    }

    /// Where learned steps begin: LSQ's first step, or min-max's where that is smaller.
    fn first_steps(&self) -> Result<Tensor> {
        let codes = self.scheme.codes;
        let values = self.weight.array();
        let step = |values: &mut dyn Iterator<Item = f32>| {
            let values: Vec<f32> = values.collect();
            check_finite(&values)?;
            let max_abs = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let widest = symmetric_scale(max_abs, codes)?;
            Ok(match initial_step(values, codes) {
                step if step > SMALLEST_STEP => step.min(widest),
                _ => widest,
            })
        };
        let steps: Vec<f32> = match self.scheme.granularity {
            Granularity::PerTensor => {
                vec![step(&mut self.folded()?.weight.iter().copied())?]
            }
            _ => values
                .outer_iter()
                .map(|row| step(&mut row.iter().copied()))
                .collect::<Result<_>>()?,
        };
        let count = steps.len();
        Ok(Tensor::new(steps, &[count])?)
    }

    /// The weight as it is trained, neither folded nor rounded. `[out, in]` or `[out, in / groups, kh, kw]`.
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias as it is trained. Shape `[out]`.
    #[must_use]
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// The batch norm behind it, if it has one.
    #[must_use]
    pub fn norm(&self) -> Option<&BatchNorm2d> {
        self.norm.as_ref()
    }

    /// The learned steps of the weights, if they are learned. `[out]`, or `[1]` per tensor.
    #[must_use]
    pub fn weight_scale(&self) -> Option<&Tensor> {
        self.weight_scale.as_ref()
    }

    /// What rounds its output.
    #[must_use]
    pub fn output(&self) -> &FakeQuantize {
        &self.output
    }

    /// The weight as the integer layer has it: folded, and each value where a code is. `[out, in]` or
    /// `[out, in / groups, kh, kw]`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with channel and index; [`Error::NothingObserved`] before any training.
    pub fn rounded_weight(&self) -> Result<Tensor> {
        let (weight, _) = self.codes(self.input.qparams()?)?;
        Ok(Tensor::from_array(weight.dequantize()))
    }

    /// Whether the batch norm uses its running moments also in training.
    pub fn freeze_batch_norm(&self, frozen: bool) {
        self.norm_frozen.store(frozen, Ordering::Relaxed);
    }

    /// Whether a batch norm normalizes with the moments of the batch.
    fn norm_lives(&self) -> Option<&BatchNorm2d> {
        let lives =
            self.training.load(Ordering::Relaxed) && !self.norm_frozen.load(Ordering::Relaxed);
        self.norm.as_ref().filter(|_| lives)
    }

    /// # Errors
    ///
    /// [`Error::NotFinite`] with the name of the tensor within the layer, channel and index.
    fn folded(&self) -> Result<Effective> {
        let mut weight = self.weight.array().into_owned();
        let mut bias = self.bias.to_vec();
        let mut factors = vec![1.0; bias.len()];
        finite_rows(&weight).map_err(|error| error.in_tensor("weight"))?;
        check_finite(&bias).map_err(|error| error.in_tensor("bias"))?;
        if let Some(norm) = &self.norm {
            let (gamma, beta) = (norm.weight().to_vec(), norm.bias().to_vec());
            let (mean, deviation) = (norm.running_mean().to_vec(), deviations(norm));
            for (channel, mut row) in weight.axis_iter_mut(Axis(0)).enumerate() {
                let factor = gamma[channel] / deviation[channel];
                row.mapv_inplace(|w| w * factor);
                bias[channel] = (bias[channel] - mean[channel]) * factor + beta[channel];
                factors[channel] = factor;
            }
            finite_rows(&weight).map_err(|error| error.in_tensor("weight"))?;
            check_finite(&bias).map_err(|error| error.in_tensor("bias"))?;
        }
        Ok(Effective {
            factors,
            weight,
            bias,
        })
    }

    /// The scale of the folded weight, `[out]` or `[1]`, as a tensor through which the gradient of learned steps flows.
    ///
    /// A bias that would not fit beside the products raises it, as in [`crate::layer::quantize_parts`].
    fn scale(&self, folded: &Effective, input_scale: f32) -> Result<Tensor> {
        let codes = self.scheme.codes;
        let products = folded.weight.len() / folded.bias.len().max(1);
        let mut needed: Vec<f32> = folded
            .bias
            .iter()
            .map(|&bias| smallest_scale(bias, input_scale, products).max(f32::MIN_POSITIVE))
            .collect();
        let scale = match (self.scheme.granularity, &self.weight_scale) {
            (Granularity::PerTensor, learned) => {
                needed = vec![needed.iter().fold(f32::MIN_POSITIVE, |a, b| a.max(*b))];
                match learned {
                    Some(scale) => at_least_smallest(scale),
                    None => {
                        let weight = folded.weight.iter();
                        let max_abs = weight.fold(0.0_f32, |max, x| max.max(x.abs()));
                        Tensor::full(&[1], symmetric_scale(max_abs, codes)?)
                    }
                }
            }
            (_, Some(scale)) => {
                let magnitudes: Vec<f32> = folded.factors.iter().map(|f| f.abs()).collect();
                let count = magnitudes.len();
                at_least_smallest(scale).try_mul(&Tensor::new(magnitudes, &[count])?)?
            }
            (_, None) => {
                let pairs = choose_qparams_per_channel(folded.weight.view(), 0, codes)?;
                let count = pairs.len();
                Tensor::new(pairs.iter().map(|pair| pair.scale).collect(), &[count])?
            }
        };
        let count = needed.len();
        Ok(scale.maximum(&Tensor::new(needed, &[count])?)?)
    }

    /// Weight and bias in integers, the batch norm folded with its running moments.
    fn codes(&self, input: QParams) -> Result<(QTensor, Vec<i32>)> {
        let folded = self.folded()?;
        let scale = self.scale(&folded, input.scale)?.to_vec();
        let codes = self.scheme.codes;
        let parameters: Vec<QParams> = scale.iter().copied().map(QParams::symmetric).collect();
        let weight = match self.scheme.granularity {
            Granularity::PerTensor => {
                QTensor::quantize_with(folded.weight.view(), parameters[0], codes)?
            }
            _ => QTensor::quantize_per_channel(folded.weight.view(), 0, parameters, codes)?,
        };
        let bias = quantize_bias(&folded.bias, input.scale, &weight.row_scales())?;
        Ok((weight, bias))
    }

    /// The integer layer for an input that means this.
    pub(crate) fn quantize(&self, input: QParams) -> Result<QLayer> {
        let (weight, bias) = self.codes(input)?;
        let (output, relu) = (self.output.qparams()?, self.relu);
        match self.operation {
            Operation::Linear => {
                QLinear::from_parts(weight, bias, input, output, relu).map(QLayer::Linear)
            }
            Operation::Conv2d(options) => {
                QConv2d::from_parts(weight, bias, options, input, output, relu).map(QLayer::Conv2d)
            }
        }
    }

    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let input = self.input.qparams()?;
        // A range that still follows must see the values, and only the product in `f32` gives those.
        let integers_only = !is_recording() && !self.training.load(Ordering::Relaxed);
        if integers_only && self.has_integers() {
            return run(self.quantize(input)?, input, x);
        }
        let y = self.simulated(x, input)?;
        let y = if self.relu { y.relu() } else { y };
        let y = self.output.apply(&y)?;
        if self.norm_lives().is_some() || !self.has_integers() {
            return Ok(y);
        }
        Ok(with_value(&y, &run(self.quantize(input)?, input, x)?))
    }

    /// Whether there is an integer version: activations of fewer bits can only be simulated.
    pub(crate) fn has_integers(&self) -> bool {
        self.input.codes() == CodeRange::INT8 && self.output.codes() == CodeRange::INT8
    }

    /// What comes before ReLU and rounding, in `f32`, with rounded weights.
    fn simulated(&self, x: &Tensor, input: QParams) -> Result<Tensor> {
        let folded = self.folded()?;
        let outputs = folded.bias.len();
        // Where the factor is 0, so that nothing can be divided by it, the weight is rounded as it is.
        let usable: Vec<f32> = (folded.factors.iter())
            .map(|&factor| if factor == 0.0 { 1.0 } else { factor })
            .collect();
        let mut column = vec![1; self.weight.rank()];
        column[0] = outputs;
        let usable = Tensor::new(usable, &[outputs])?;
        let along_rows = |t: &Tensor| t.reshape(&column);
        let weight = self.weight.try_mul(&along_rows(&usable)?)?;
        let scale = self.scale(&folded, input.scale)?;
        let zero_points = Tensor::zeros(scale.shape());
        let codes = self.scheme.codes;
        let factor = gradient_scale(weight.len() / scale.len(), codes);
        let rounded = match self.scheme.granularity {
            Granularity::PerTensor => {
                fake_quantize_learned(&weight, &scale, &zero_points, codes, factor)?
            }
            _ => {
                fake_quantize_learned_per_channel(&weight, 0, &scale, &zero_points, codes, factor)?
            }
        };
        let Some(norm) = &self.norm else {
            return self.product(x, &rounded, &self.bias);
        };
        if self.norm_lives().is_some() {
            let unfolded = rounded.try_div(&along_rows(&usable)?)?;
            return Ok(norm.forward(&self.product(x, &unfolded, &self.bias)?)?);
        }
        let deviation = Tensor::new(deviations(norm), &[outputs])?;
        let factor = norm.weight().try_div(&deviation)?;
        // 1, or 0 where the factor is: here for the gradient of γ.
        let weight = rounded.try_mul(&along_rows(&factor.try_div(&usable)?)?)?;
        let bias = self.bias.try_sub(norm.running_mean())?;
        let bias = bias.try_mul(&factor)?.try_add(norm.bias())?;
        self.product(x, &weight, &bias)
    }

    fn product(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        Ok(match self.operation {
            Operation::Linear => x.linear(weight, Some(bias))?,
            Operation::Conv2d(options) => x.conv2d(weight, Some(bias), options)?,
        })
    }
}

/// N5 for a weight `[out, ...]`, with the channel and the index in the whole of it.
fn finite_rows(weight: &ArrayD<f32>) -> Result<()> {
    let per_row = (weight.len() / weight.shape()[0].max(1)).max(1);
    let mut values = weight.iter().enumerate();
    match values.find_map(|(i, &value)| Error::not_finite(value, i, Some(i / per_row))) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// `√(running variance + eps)`.
fn deviations(norm: &BatchNorm2d) -> Vec<f32> {
    let variances = norm.running_var().to_vec();
    let deviation = |variance: f32| (variance + norm.eps()).sqrt();
    variances.into_iter().map(deviation).collect()
}

/// Runs one integer layer on real values that have codes.
pub(crate) fn run(layer: QLayer, input: QParams, x: &Tensor) -> Result<Tensor> {
    let model = QModel::new(input, vec![(layer.kind().to_owned(), layer)])?;
    model.forward(x).map_err(|error| match error {
        Error::Layer { error, .. } => *error,
        error => error,
    })
}

/// A tensor with the values of one and the gradient of another.
pub(crate) fn with_value(gradient: &Tensor, value: &Tensor) -> Tensor {
    Tensor::from_op("integers", value.array(), &[gradient], |upstream| {
        Ok(vec![Some(upstream.clone())])
    })
}

/// A copy of a batch norm, with tensors of its own.
pub(crate) fn copied(norm: &BatchNorm2d) -> Result<BatchNorm2d> {
    let channels = norm.weight().len();
    let copy = BatchNorm2d::with(channels, norm.eps(), norm.momentum());
    for ((_, target), (_, source)) in copy.named_tensors().iter().zip(norm.named_tensors()) {
        let values = source.array().into_owned();
        target.assign(&Tensor::from_array(
            values
                .into_shape_with_order(IxDyn(&[channels]))
                .map_err(|_| Error::Unsupported {
                    what: "a batch norm without one value for each channel",
                })?,
        ))?;
    }
    Ok(copy)
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
        let norm = self.norm.as_ref();
        let norm = norm.map(|norm| ("norm".to_owned(), norm as &dyn Layer));
        norm.into_iter()
            .chain([("output".to_owned(), &*self.output as &dyn Layer)])
            .collect()
    }

    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        let mut parameters = vec![
            ("weight".to_owned(), self.weight.clone()),
            ("bias".to_owned(), self.bias.clone()),
        ];
        if let Some(scale) = &self.weight_scale {
            parameters.push(("weight_scale".to_owned(), scale.clone()));
        }
        parameters
    }

    fn own_training(&self) -> Option<bool> {
        Some(self.training.load(Ordering::Relaxed))
    }

    fn set_training(&self, training: bool) {
        self.training.store(training, Ordering::Relaxed);
        for (_, child) in self.children() {
            child.set_training(training);
        }
    }
}
