//! One place of a prepared model: what computes it, what watches it, and what it will become.
//!
//! In: a layer of a trained model, or several that will become one. Out: ranges, and a [`QLayer`]. Between preparing and
//! converting, a stage may be given other weights ([`Stage::set_folded`]) or codes of its own ([`Stage::set_weight_codes`]): that
//! is how a repair is put in.

use std::fmt;
use std::sync::Arc;

use ndarray::ArrayD;

use crate::calibration::SketchObserver;
use crate::conv::QConv2d;
use crate::error::{Error, Result};
use crate::finite::{check_finite, check_finite_channels};
use crate::fold::fold_batch_norm;
use crate::framework::nn::{BatchNorm2d, Conv2d, Layer, Linear, Relu};
use crate::framework::{Conv2dOptions, Tensor, no_grad};
use crate::layer::check_weight;
use crate::linear::{QLinear, quantize_bias};
use crate::observer::Observer;
use crate::qlayer::{FloatLayer, QLayer};
use crate::qparams::choose_qparams;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams, Scheme, ValueRange};

/// What a stage will become.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// A linear layer or a convolution, perhaps with batch norm and ReLU behind it.
    Weighted { relu: bool },
    /// A layer whose output is written like its input.
    Same(Box<QLayer>),
    /// A layer that stays in `f32`, and why.
    Float(String),
}

/// What a stage will become, for those who make something else of it.
pub(crate) enum Role<'a> {
    Weighted,
    Same(&'a QLayer),
    Float(&'a str),
}

/// What a layer with weights computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `y = x · weightᵀ + bias`
    Linear,
    /// A convolution.
    Conv2d(Conv2dOptions),
}

/// A layer with weights, with the batch norm behind it folded in: what will be quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// `[out, in]`, or `[out, in / groups, kernel height, kernel width]`.
    pub weight: ArrayD<f32>,
    /// `[out]`; zeros if the layer has none.
    pub bias: Vec<f32>,
    /// Which product it is.
    pub operation: Operation,
    /// Whether a ReLU follows and joins the layer.
    pub relu: bool,
    /// How the weights will be written.
    pub scheme: Scheme,
}

/// One place of the model with its observer: a single layer, or several that will become one.
pub struct Stage {
    name: String,
    /// What computes it in `f32`, one after the other.
    layers: Vec<Arc<dyn Layer>>,
    plan: Plan,
    weights: Scheme,
    observer: SketchObserver,
    /// Codes to use for the weight instead of the nearest ones.
    codes: Option<QTensor>,
    /// The bias of the integer layer, where it is not the real one.
    corrected_bias: Option<Vec<f32>>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("name", &self.name)
            .field("layers", &self.kinds())
            .field("plan", &self.plan)
            .field("observer", &self.observer)
            .finish_non_exhaustive()
    }
}

impl Stage {
    pub(crate) fn new(
        name: String,
        layers: Vec<Arc<dyn Layer>>,
        plan: Plan,
        weights: Scheme,
        observer: SketchObserver,
    ) -> Self {
        Self {
            name,
            layers,
            plan,
            weights,
            observer,
            codes: None,
            corrected_bias: None,
        }
    }

    /// The dotted name of its (first) layer.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kinds of its layers, in order: `conv2d`, `batch_norm2d`, `relu`.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        self.layers.iter().map(|layer| layer.kind()).collect()
    }

    /// Computes its output in `f32`, without recording.
    ///
    /// # Errors
    ///
    /// Those of the layers.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let run = |x: Tensor, layer: &Arc<dyn Layer>| layer.forward(&x);
        Ok(no_grad(|| self.layers.iter().try_fold(x.clone(), run))?)
    }

    /// Shows its observer an output.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] that names the stage.
    pub fn observe(&mut self, output: &Tensor) -> Result<()> {
        observe(&mut self.observer, output, &self.name)
    }

    /// The range of the outputs that were observed.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the stage.
    pub fn range(&self) -> Result<ValueRange> {
        self.observer
            .range()
            .map_err(|error| error.in_tensor(&self.name))
    }

    /// What the codes of its output shall mean if those of its input mean `input`: the same for pooling and the like,
    /// and what fits the observed range for all others.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the stage, [`Error::BadRange`].
    pub fn output_qparams(&self, input: QParams) -> Result<QParams> {
        match self.plan {
            Plan::Same(_) => Ok(input),
            Plan::Weighted { .. } | Plan::Float(_) => {
                choose_qparams(self.range()?, CodeRange::INT8)
            }
        }
    }

    /// The layer that takes its place in a quantized model.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] that names weight or bias, with channel and index; those of [`QLinear::from_parts`] and
    /// [`QConv2d::from_parts`].
    pub fn quantize(&self, input: QParams, output: QParams) -> Result<QLayer> {
        match &self.plan {
            Plan::Weighted { .. } => {}
            Plan::Same(layer) => return Ok(QLayer::clone(layer)),
            Plan::Float(reason) => return Ok(QLayer::Float(self.in_float(reason, output))),
        }
        let Some(mut folded) = self.folded()? else {
            let reason = format!("no integer {}", self.layers[0].kind());
            return Ok(QLayer::Float(self.in_float(&reason, output)));
        };
        if let Some(bias) = &self.corrected_bias {
            folded.bias.clone_from(bias);
        }
        self.check_bias(&folded.bias)?;
        let named = |error: Error| error.in_tensor(&format!("{}.weight", self.name));
        self.write(&folded, input, output).map_err(named)
    }

    fn write(&self, folded: &Folded, input: QParams, output: QParams) -> Result<QLayer> {
        let Folded {
            weight,
            bias,
            operation,
            relu,
            scheme,
        } = folded;
        let (weight, bias) = match &self.codes {
            Some(codes) => {
                let bias = quantize_bias(bias, input.scale, &codes.row_scales())?;
                (codes.clone(), bias)
            }
            None => crate::layer::quantize_parts(weight.view(), bias, *scheme, input.scale)?,
        };
        match *operation {
            Operation::Linear => {
                QLinear::from_parts(weight, bias, input, output, *relu).map(QLayer::Linear)
            }
            Operation::Conv2d(options) => {
                QConv2d::from_parts(weight, bias, options, input, output, *relu).map(QLayer::Conv2d)
            }
        }
    }

    /// The weight and the bias that will be quantized, with the batch norm folded in; `None` for a layer without weights, and
    /// for one that stays in `f32`.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if a batch norm does not fit the convolution before it.
    pub fn folded(&self) -> Result<Option<Folded>> {
        let Plan::Weighted { relu } = self.plan else {
            return Ok(None);
        };
        let first = self.layers[0].as_any();
        let (mut weight, mut bias, operation) = if let Some(layer) = first.downcast_ref::<Linear>()
        {
            let bias = bias_of(layer.bias(), layer.out_features());
            (layer.weight().array().into_owned(), bias, Operation::Linear)
        } else if let Some(layer) = first.downcast_ref::<Conv2d>() {
            let weight = layer.weight().array().into_owned();
            let bias = bias_of(layer.bias(), weight.shape()[0]);
            (weight, bias, Operation::Conv2d(layer.options()))
        } else {
            return Ok(None);
        };
        let norms = self.layers.iter();
        for norm in norms.filter_map(|layer| layer.as_any().downcast_ref::<BatchNorm2d>()) {
            (weight, bias) = fold_batch_norm(weight.view(), &bias, norm)?;
        }
        Ok(Some(Folded {
            weight,
            bias,
            operation,
            relu,
            scheme: self.weights,
        }))
    }

    /// Replaces weight and bias (and with them the batch norm) by others of the same shapes. From now on
    /// [`Stage::forward`] computes with them; learned codes and a corrected bias are forgotten. The original model is
    /// not touched.
    ///
    /// What the observers saw before stays: if the outputs change by more than a little,
    /// [`Prepared::forget_observations`](crate::Prepared::forget_observations) and calibrate again.
    ///
    /// | argument | shape |
    /// |---|---|
    /// | `weight` | that of [`Stage::folded`] |
    /// | `bias` | `[out]` |
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the stage has no weights, [`Error::ShapeMismatch`], [`Error::NotFinite`] that names weight or
    /// bias; then nothing has changed.
    pub fn set_folded(&mut self, weight: ArrayD<f32>, bias: Vec<f32>) -> Result<()> {
        let folded = self.folded_or_error()?;
        self.check_replacement(&folded, weight.shape(), bias.len())?;
        let named = |error: Error| error.in_tensor(&format!("{}.weight", self.name));
        check_finite_channels(&weight.view(), 0).map_err(named)?;
        self.check_bias(&bias)?;
        self.replace(folded, weight, bias)?;
        self.forget_repair();
        Ok(())
    }

    /// Replaces the bias alone, `[out]`. Codes of the weight stay, and so does a corrected bias.
    ///
    /// # Errors
    ///
    /// As [`Stage::set_folded`].
    pub fn set_bias(&mut self, bias: Vec<f32>) -> Result<()> {
        let mut folded = self.folded_or_error()?;
        self.check_replacement(&folded, folded.weight.shape(), bias.len())?;
        self.check_bias(&bias)?;
        let weight = std::mem::take(&mut folded.weight);
        self.replace(folded, weight, bias)
    }

    /// Writes the weight with these codes instead of the nearest ones: what learned rounding gives. They replace the weight of
    /// the integer layer alone; [`Stage::forward`] still computes with the real one.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the stage has no weights, or if the codes are not symmetric, one scale for all or one for each
    /// output; [`Error::ShapeMismatch`] if they have not the shape of the weight; [`Error::BadCodeRange`] if they do not fit an
    /// `i8`.
    pub fn set_weight_codes(&mut self, codes: QTensor) -> Result<()> {
        let folded = self.folded_or_error()?;
        self.check_replacement(&folded, codes.shape(), folded.bias.len())?;
        check_weight(&codes)?;
        self.codes = Some(codes);
        Ok(())
    }

    /// Gives the integer layer another bias, `[out]`, than the real layer has: what bias correction gives.
    /// [`Stage::forward`] still computes with the real one. `None` takes it back.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the stage has no weights, [`Error::ShapeMismatch`], [`Error::NotFinite`].
    pub fn set_corrected_bias(&mut self, bias: Option<Vec<f32>>) -> Result<()> {
        if let Some(bias) = &bias {
            let folded = self.folded_or_error()?;
            self.check_replacement(&folded, folded.weight.shape(), bias.len())?;
            self.check_bias(bias)?;
        }
        self.corrected_bias = bias;
        Ok(())
    }

    /// The bias that [`Stage::set_corrected_bias`] gave, if it did.
    #[must_use]
    pub fn corrected_bias(&self) -> Option<&[f32]> {
        self.corrected_bias.as_deref()
    }

    /// Takes learned codes and a corrected bias back: the stage will be written by plain rounding.
    pub fn forget_repair(&mut self) {
        self.codes = None;
        self.corrected_bias = None;
    }

    /// The codes that [`Stage::set_weight_codes`] gave, if it did.
    #[must_use]
    pub fn weight_codes(&self) -> Option<&QTensor> {
        self.codes.as_ref()
    }

    fn folded_or_error(&self) -> Result<Folded> {
        let unsupported = Error::Unsupported {
            what: "other weights for a layer that has none to quantize",
        };
        self.folded()?
            .ok_or_else(|| unsupported.in_layer(&self.name))
    }

    fn check_replacement(&self, folded: &Folded, weight: &[usize], bias: usize) -> Result<()> {
        if weight == folded.weight.shape() && bias == folded.bias.len() {
            return Ok(());
        }
        let error = Error::ShapeMismatch {
            operation: "replacing weights",
            expected: format!(
                "a weight {:?} and {} biases",
                folded.weight.shape(),
                folded.bias.len()
            ),
            got: if weight == folded.weight.shape() {
                vec![bias]
            } else {
                weight.to_vec()
            },
        };
        Err(error.in_layer(&self.name))
    }

    fn replace(&mut self, folded: Folded, weight: ArrayD<f32>, bias: Vec<f32>) -> Result<()> {
        let outputs = bias.len();
        let (weight, bias) = (
            Tensor::from_array(weight),
            Some(Tensor::new(bias, &[outputs])?),
        );
        let layer: Arc<dyn Layer> = match folded.operation {
            Operation::Linear => Arc::new(Linear::from_parts(weight, bias)?),
            Operation::Conv2d(options) => Arc::new(Conv2d::from_parts(weight, bias, options)?),
        };
        self.layers = vec![layer];
        if folded.relu {
            self.layers.push(Arc::new(Relu));
        }
        Ok(())
    }

    /// Gives it an observer that saw nothing.
    pub(crate) fn watch(&mut self, observer: SketchObserver) {
        self.observer = observer;
    }

    pub(crate) fn observer(&self) -> &SketchObserver {
        &self.observer
    }

    pub(crate) fn observer_mut(&mut self) -> &mut SketchObserver {
        &mut self.observer
    }

    /// Whether the codes of its output get parameters of their own, from what was observed.
    pub(crate) fn has_own_range(&self) -> bool {
        !matches!(self.plan, Plan::Same(_))
    }

    pub(crate) fn role(&self) -> Role<'_> {
        match &self.plan {
            Plan::Weighted { .. } => Role::Weighted,
            Plan::Same(layer) => Role::Same(layer),
            Plan::Float(reason) => Role::Float(reason),
        }
    }

    pub(crate) fn layers(&self) -> &[Arc<dyn Layer>] {
        &self.layers
    }

    fn check_bias(&self, bias: &[f32]) -> Result<()> {
        check_finite(bias).map_err(|error| error.in_tensor(&format!("{}.bias", self.name)))
    }

    fn in_float(&self, reason: &str, output: QParams) -> FloatLayer {
        FloatLayer {
            layer: self.layers[0].clone(),
            reason: reason.to_owned(),
            output,
        }
    }
}

/// The bias, or zeros.
pub(crate) fn bias_of(bias: Option<&Tensor>, outputs: usize) -> Vec<f32> {
    bias.map_or_else(|| vec![0.0; outputs], Tensor::to_vec)
}

/// Shows an observer the values of a tensor that has a name.
pub(crate) fn observe(observer: &mut dyn Observer, values: &Tensor, name: &str) -> Result<()> {
    let values = values.array();
    let values = values.as_standard_layout();
    let slice = values.as_slice().unwrap_or_default();
    observer
        .observe(slice)
        .map_err(|error| error.in_tensor(name))
}
