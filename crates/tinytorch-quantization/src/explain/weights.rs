//! A layer with weights, of which each source of error can be swapped.
//!
//! In: the real weight and bias, and what the quantized layer computes with. Out: the layer in `f32`, output by output with what is
//! on. Of the input only what the layer itself rounds belongs here: dynamic layers and bf16 do that, and the rounding counts to
//! the layer that does it.

use ndarray::{ArrayD, Axis};

use super::simulate::{Source, Switches};
use crate::error::Result;
use crate::folded::{Folded, Operation};
use crate::framework::{Tensor, no_grad};
use crate::narrow::{NarrowWeight, QNarrow};
use crate::parameters::Parameters;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams};

/// How a layer reads its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Input {
    /// As codes that mean this.
    Codes(QParams),
    /// As real values, of which the layer may round what it multiplies.
    Real,
}

/// A weight and a bias, real, clipped, and as the quantized layer reads them.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub folded: Folded,
    pub input: Input,
    clipped: ArrayD<f32>,
    pub read: ArrayD<f32>,
    pub read_bias: Vec<f32>,
    /// The quantized layer, if it is one between real values.
    narrow: Option<QNarrow>,
}

impl Weights {
    /// Of an integer layer. `codes` are `[out, in]` or `[out, in / groups, kh, kw]`, `bias` is `[out]`.
    pub fn integer(folded: Folded, codes: &QTensor, bias: &[i32], input: QParams) -> Self {
        let scales = codes.row_scales();
        let read_bias = bias.iter().zip(&scales).map(|(&code, &scale)| {
            (f64::from(code) * f64::from(input.scale) * f64::from(scale)) as f32
        });
        Self {
            clipped: clipped(&folded, codes.parameters(), codes.range()),
            read: codes.dequantize(),
            read_bias: read_bias.collect(),
            input: Input::Codes(input),
            narrow: None,
            folded,
        }
    }

    /// Of a layer between real values. bf16 reaches as far as `f32`, so it clips nothing.
    pub fn narrow(folded: Folded, layer: &QNarrow) -> Self {
        let clipped = match layer.weight() {
            NarrowWeight::Dynamic(codes) => clipped(&folded, codes.parameters(), codes.range()),
            NarrowWeight::Codes(codes) => clipped(&folded, &codes.parameters(), codes.range()),
            NarrowWeight::Bf16 { .. } => folded.weight.clone(),
        };
        Self {
            clipped,
            read: layer.weight().dequantize().array().into_owned(),
            read_bias: layer.bias().to_vec(),
            input: Input::Real,
            narrow: Some(layer.clone()),
            folded,
        }
    }

    /// Whether the weights are codes.
    pub fn are_codes(&self) -> bool {
        let weight = self.narrow.as_ref().map(QNarrow::weight);
        !matches!(weight, Some(NarrowWeight::Bf16 { .. }))
    }

    /// The same layer with a weight that was written otherwise, and the bias as it is. `codes` have its shape.
    pub fn rewritten(&self, codes: &QTensor) -> Self {
        Self {
            clipped: clipped(&self.folded, codes.parameters(), codes.range()),
            read: codes.dequantize(),
            ..self.clone()
        }
    }

    /// What the layer multiplies with its weights. The shape of `x`.
    pub fn multiplied(&self, x: &Tensor) -> Result<Tensor> {
        match &self.narrow {
            Some(layer) => layer.multiplied(x),
            None => Ok(x.clone()),
        }
    }

    /// The layer without its ReLU, with what is on. `[.., in]` to `[.., out]`, or `[batch, in, height, width]` to
    /// `[batch, out, out height, out width]`.
    pub fn compute(&self, x: &Tensor, site: usize, on: Switches<'_>) -> Result<Tensor> {
        let mut weight = self.folded.weight.clone();
        let mut bias = self.folded.bias.clone();
        for (row, mut values) in weight.axis_iter_mut(Axis(0)).enumerate() {
            let (clips, rounds) = (
                on(site, Source::WeightClipping, row),
                on(site, Source::WeightRounding, row),
            );
            let clipped = self.clipped.index_axis(Axis(0), row);
            let read = self.read.index_axis(Axis(0), row);
            if clips && rounds {
                values.assign(&read);
            } else if clips {
                values.assign(&clipped);
            } else if rounds {
                values += &(&read - &clipped);
            }
            if on(site, Source::Bias, row) {
                bias[row] = self.read_bias[row];
            }
        }
        let outputs = bias.len();
        let (weight, bias) = (Tensor::from_array(weight), Tensor::new(bias, &[outputs])?);
        let product = |x: &Tensor| {
            Ok(no_grad(|| match self.folded.operation {
                Operation::Linear => x.matmul(&weight.transpose()?)?.try_add(&bias),
                Operation::Conv2d(options) => x.conv2d(&weight, Some(&bias), options),
            })?)
        };
        let rounds: Vec<bool> = (0..outputs)
            .map(|row| on(site, Source::ActivationRounding, row))
            .collect();
        let any = self.narrow.is_some() && rounds.contains(&true);
        if !any {
            return product(x);
        }
        let rounded = product(&self.multiplied(x)?)?;
        if !rounds.contains(&false) {
            return Ok(rounded);
        }
        // Some outputs with what the layer rounds, the others without.
        let mut y = product(x)?.array().into_owned();
        let axis = Axis(self.channel_axis(&rounded));
        let rounded = rounded.array();
        for (row, _) in rounds.iter().enumerate().filter(|(_, rounds)| **rounds) {
            y.index_axis_mut(axis, row)
                .assign(&rounded.index_axis(axis, row));
        }
        Ok(Tensor::from_array(y))
    }

    /// The axis of the channels of its output: behind a convolution the second, behind a linear layer the last. `y` is
    /// `[.., out]` or `[batch, out, height, width]`.
    pub fn channel_axis(&self, y: &Tensor) -> usize {
        match self.folded.operation {
            Operation::Linear => y.shape().len().saturating_sub(1),
            Operation::Conv2d(_) => 1,
        }
    }

    /// The output with its ReLU, if there is one; any shape, which stays.
    pub fn activated(&self, y: Tensor) -> Tensor {
        if self.folded.relu {
            no_grad(|| y.relu())
        } else {
            y
        }
    }
}

/// The real weight, cut to what its codes reach.
fn clipped(folded: &Folded, parameters: &Parameters, codes: CodeRange) -> ArrayD<f32> {
    let mut clipped = folded.weight.as_standard_layout().into_owned();
    let shape = clipped.shape().to_vec();
    if let Some(values) = clipped.as_slice_mut() {
        for (places, pair) in parameters.runs(&shape) {
            let real = |code: i32| (code - pair.zero_point) as f32 * pair.scale;
            let (low, high) = (real(codes.min), real(codes.max));
            values[places]
                .iter_mut()
                .for_each(|w| *w = w.clamp(low, high));
        }
    }
    clipped
}
