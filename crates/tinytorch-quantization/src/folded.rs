//! The weights of a stage: what will be quantized, and how a repair puts others in their place.
//!
//! In: a layer of the trained model, with the batch norm behind it. Out: one weight and one bias. Between preparing and
//! converting they may be replaced, by real numbers ([`Stage::set_folded`]: equalization, bias correction) or by codes
//! ([`Stage::set_weight_codes`]: learned rounding).

use std::sync::Arc;

use ndarray::ArrayD;

use crate::error::{Error, Result};
use crate::finite::{check_finite, check_finite_channels};
use crate::fold::fold_batch_norm;
use crate::framework::nn::{BatchNorm2d, Conv2d, Layer, Linear, Relu};
use crate::framework::{Conv2dOptions, Tensor};
use crate::layer::check_weight;
use crate::narrow::{NarrowOperation, NarrowWeight, QNarrow};
use crate::packed::PackedTensor;
use crate::precision::Precision;
use crate::qtensor::QTensor;
use crate::scheme::Scheme;
use crate::stage::{Plan, Stage};

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

impl Stage {
    /// The weight and the bias that will be quantized, with the batch norm folded in; `None` for a layer without weights, and
    /// for one that takes real values.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if a batch norm does not fit the convolution before it.
    pub fn folded(&self) -> Result<Option<Folded>> {
        match self.plan {
            Plan::Weighted { .. } => self.fold(),
            _ => Ok(None),
        }
    }

    /// As [`Stage::folded`], also for weights that will be codes between real values: dynamic and weight-only, but not bf16.
    pub(crate) fn with_codes(&self) -> Result<Option<Folded>> {
        match self.plan {
            Plan::Narrow {
                precision: Precision::Bf16,
                ..
            } => Ok(None),
            _ => self.fold(),
        }
    }

    /// As [`Stage::folded`], also for weights that will be narrow between real values.
    pub(crate) fn fold(&self) -> Result<Option<Folded>> {
        let (Plan::Weighted { relu } | Plan::Narrow { relu, .. }) = self.plan else {
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
        let named = |error: Error| error.in_tensor(&format!("{}.weight", self.name()));
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
    /// the quantized layer alone; [`Stage::forward`] still computes with the real one.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the stage has no weights that become codes, or if the codes are not symmetric, one scale for all
    /// or one for each output, for weight-only layers also one for each group; [`Error::ShapeMismatch`] if they have not the
    /// shape of the weight; [`Error::BadCodeRange`] if they do not fit an `i8`.
    pub fn set_weight_codes(&mut self, codes: QTensor) -> Result<()> {
        let folded = self.with_codes()?.ok_or_else(|| self.no_weights())?;
        self.check_replacement(&folded, codes.shape(), folded.bias.len())?;
        match self.plan {
            Plan::Narrow {
                precision: Precision::WeightOnly { .. },
                ..
            } => {
                // The layer that they make knows what it can read.
                let weight = NarrowWeight::Codes(PackedTensor::pack(&codes)?);
                let operation = NarrowOperation::Product(folded.operation);
                QNarrow::from_parts(weight, folded.bias, operation, folded.relu, None)
                    .map_err(|error| error.in_layer(self.name()))?;
            }
            _ => check_weight(&codes)?,
        }
        self.codes = Some(codes);
        Ok(())
    }

    /// Gives the quantized layer another bias, `[out]`, than the real layer has: what bias correction gives.
    /// [`Stage::forward`] still computes with the real one. `None` takes it back.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the stage has no weights, [`Error::ShapeMismatch`], [`Error::NotFinite`].
    pub fn set_corrected_bias(&mut self, bias: Option<Vec<f32>>) -> Result<()> {
        if let Some(bias) = &bias {
            let folded = self.fold()?.ok_or_else(|| self.no_weights())?;
            self.check_replacement(&folded, folded.weight.shape(), bias.len())?;
            self.check_bias(bias)?;
        }
        self.corrected_bias = bias;
        Ok(())
    }

    /// The bias that [`Stage::set_corrected_bias`] gave, if it did. Shape `[out]`.
    #[must_use]
    pub fn corrected_bias(&self) -> Option<&[f32]> {
        self.corrected_bias.as_deref()
    }

    /// Takes learned codes and a corrected bias back: the stage will be written by plain rounding.
    pub fn forget_repair(&mut self) {
        self.codes = None;
        self.corrected_bias = None;
    }

    /// The codes that [`Stage::set_weight_codes`] gave, if it did. Shape `[out, in]` or `[out, in / groups, kh, kw]`.
    #[must_use]
    pub fn weight_codes(&self) -> Option<&QTensor> {
        self.codes.as_ref()
    }

    fn folded_or_error(&self) -> Result<Folded> {
        self.folded()?.ok_or_else(|| self.no_weights())
    }

    fn no_weights(&self) -> Error {
        let unsupported = Error::Unsupported {
            what: "other weights for a layer that has none to quantize",
        };
        unsupported.in_layer(self.name())
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
        Err(error.in_layer(self.name()))
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

    pub(crate) fn check_bias(&self, bias: &[f32]) -> Result<()> {
        check_finite(bias).map_err(|error| error.in_tensor(&format!("{}.bias", self.name())))
    }
}

/// The bias, or zeros.
pub(crate) fn bias_of(bias: Option<&Tensor>, outputs: usize) -> Vec<f32> {
    bias.map_or_else(|| vec![0.0; outputs], Tensor::to_vec)
}
