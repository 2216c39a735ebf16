//! The layers a quantized model may have, each by its definition.
//!
//! In: codes. Out: codes. What runs fast is made from these (see `qmodel.rs`) and must give the same codes.

use std::fmt;
use std::sync::Arc;

use crate::composite::{QBranches, QResidual, Takes};
use crate::conv::QConv2d;
use crate::definition;
use crate::embedding::QEmbedding;
use crate::error::{Error, Result};
use crate::framework::nn::Layer;
use crate::framework::{Pool2dOptions, Tensor, no_grad};
use crate::linear::QLinear;
use crate::narrow::QNarrow;
use crate::pool::{ImageSize, avg_pool, max_pool, pooled_size};
use crate::qtensor::{Parameters, QTensor};
use crate::scheme::QParams;

/// One layer of a quantized model.
#[derive(Clone, Debug)]
pub enum QLayer {
    /// A linear layer, with or without a ReLU.
    Linear(QLinear),
    /// A convolution, with or without a ReLU.
    Conv2d(QConv2d),
    /// The largest of each window. Codes keep their meaning.
    MaxPool2d(Pool2dOptions),
    /// The mean of each window. Codes keep their meaning.
    AvgPool2d(Pool2dOptions),
    /// A ReLU on its own. Codes keep their meaning.
    Relu,
    /// `[batch, ..]` to `[batch, everything else]`.
    Flatten,
    /// A layer that stays in `f32`.
    Float(FloatLayer),
    /// Two ways that are added.
    Residual(Box<QResidual>),
    /// Several ways that are joined.
    Concat(Box<QBranches>),
    /// A table of codes.
    Embedding(QEmbedding),
    /// Narrow weights between real values: dynamic, weight-only, bf16.
    Narrow(Box<QNarrow>),
}

/// What stands for the meaning of codes where there are none: real values that no layer reads as codes.
pub(crate) const NO_CODES: QParams = QParams::symmetric(1.0);

/// A layer that was not quantized, and why.
#[derive(Clone)]
pub struct FloatLayer {
    /// The layer, a copy of the one that was converted; a type that does not give one ([`Layer::copied`]) is shared with the original.
    pub layer: Arc<dyn Layer>,
    /// Why it stays as it is.
    pub reason: String,
    /// How to write its output for an integer layer behind it; `None` if none is, and it stays real.
    pub output: Option<QParams>,
}

impl fmt::Debug for FloatLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FloatLayer")
            .field("layer", &self.layer.kind())
            .field("reason", &self.reason)
            .field("output", &self.output)
            .finish()
    }
}

impl FloatLayer {
    /// Runs the layer without recording.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(no_grad(|| self.layer.forward(x))?)
    }
}

impl QLayer {
    /// What the layer's codes mean if those of its input mean `input`. Scale 1 and zero point 0 stand for real values that
    /// no layer reads as codes.
    #[must_use]
    pub fn output(&self, input: QParams) -> QParams {
        let own = match self {
            Self::Linear(layer) => Some(layer.output()),
            Self::Conv2d(layer) => Some(layer.output()),
            Self::Embedding(layer) => Some(layer.output()),
            Self::Float(_) | Self::Residual(_) | Self::Concat(_) | Self::Narrow(_) => {
                self.real_output()
            }
            Self::MaxPool2d(_) | Self::AvgPool2d(_) | Self::Relu | Self::Flatten => Some(input),
        };
        own.unwrap_or(NO_CODES)
    }

    /// The codes that a layer which may give real values writes them with.
    pub(crate) fn real_output(&self) -> Option<QParams> {
        match self {
            Self::Float(layer) => layer.output,
            Self::Residual(layer) => layer.sum.output(),
            Self::Concat(layer) => layer.join.output(),
            Self::Narrow(layer) => layer.output(),
            _ => None,
        }
    }

    /// What it must be given.
    pub(crate) fn takes(&self) -> Takes {
        match self {
            Self::Linear(_) | Self::Conv2d(_) => Takes::Codes,
            Self::MaxPool2d(_) | Self::AvgPool2d(_) | Self::Relu | Self::Flatten => Takes::Either,
            Self::Float(_) | Self::Embedding(_) | Self::Narrow(_) => Takes::Real,
            Self::Residual(layer) => layer.takes(),
            Self::Concat(layer) => layer.takes(),
        }
    }

    /// A word for the kind of layer.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::Conv2d(_) => "conv2d",
            Self::MaxPool2d(_) => "max_pool2d",
            Self::AvgPool2d(_) => "avg_pool2d",
            Self::Relu => "relu",
            Self::Flatten => "flatten",
            Self::Float(layer) => layer.layer.kind(),
            Self::Residual(_) => "residual",
            Self::Concat(_) => "concat",
            Self::Embedding(_) => "embedding",
            Self::Narrow(layer) => layer.kind(),
        }
    }

    /// The bytes its parameters take: codes, scales and biases, or `f32` if it was not quantized.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Linear(layer) => layer.memory_bytes(),
            Self::Conv2d(layer) => layer.memory_bytes(),
            Self::Float(layer) => f32_bytes(&*layer.layer),
            Self::Residual(layer) => layer.memory_bytes(),
            Self::Concat(layer) => layer.memory_bytes(),
            Self::Embedding(layer) => layer.memory_bytes(),
            Self::Narrow(layer) => layer.memory_bytes(),
            Self::MaxPool2d(_) | Self::AvgPool2d(_) | Self::Relu | Self::Flatten => 0,
        }
    }

    /// Computes the layer by its definition. A layer in `f32` is given what the codes mean, and its result is written as
    /// codes. `[batch, ..]` to `[batch, ..]`, as the layer in `f32`.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::OtherQParams`], [`Error::NotFinite`] from a layer in `f32`; [`Error::NoCodes`] if it
    /// gives real values and nobody chose codes for them.
    pub fn forward_definition(&self, x: &QTensor) -> Result<QTensor> {
        let layer = [(self.kind().to_owned(), self.clone())];
        definition::run(&layer, definition::Exact::Codes(x.clone()), "input")
            .and_then(|y| y.into_codes(self.kind()))
            .map_err(|error| match error {
                Error::Layer { error, .. } => *error,
                error => error,
            })
    }

    /// The definition of a layer that works on codes.
    pub(crate) fn on_codes(&self, x: &QTensor) -> Result<QTensor> {
        match self {
            Self::Linear(layer) => {
                // Like the layer it came from: any axes in front of the last.
                let Some((&inputs, front)) = x.shape().split_last().filter(|(_, f)| f.len() > 1)
                else {
                    return layer.forward_definition(x);
                };
                let rows = front.iter().product();
                let y = layer.forward_definition(&x.clone().reshape(&[rows, inputs])?)?;
                let shape = [front, &[layer.bias().len()]].concat();
                y.reshape(&shape)
            }
            Self::Conv2d(layer) => layer.forward_definition(x),
            Self::MaxPool2d(options) => pooled("max_pool2d", x, *options, |codes, size, out| {
                max_pool(codes, size, *options, out)
            }),
            Self::AvgPool2d(options) => {
                let zero_point = per_tensor(x)?.zero_point;
                pooled("avg_pool2d", x, *options, |codes, size, out| {
                    avg_pool(codes, zero_point, size, *options, out)
                })
            }
            Self::Relu => {
                let zero = per_tensor(x)?.zero_point as i8;
                let codes = x.as_slice().iter().map(|&code| code.max(zero)).collect();
                QTensor::new(codes, x.shape(), x.parameters().clone(), x.range())
            }
            Self::Flatten => {
                let shape = flattened(x.shape())?;
                x.clone().reshape(&shape)
            }
            _ => Err(Error::Unsupported {
                what: "codes for a layer that takes real values",
            }),
        }
    }

    /// The definition of a layer that works on real values.
    pub(crate) fn on_real(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::MaxPool2d(options) => x.max_pool2d(*options)?,
            Self::AvgPool2d(options) => x.avg_pool2d(*options)?,
            Self::Relu => x.relu(),
            Self::Flatten => x.flatten_from(1)?,
            Self::Float(float) => float.forward(x)?,
            Self::Narrow(layer) => layer.forward_definition(x)?,
            _ => {
                return Err(Error::Unsupported {
                    what: "real values for a layer that takes codes",
                });
            }
        })
    }
}

/// The bytes of a layer's parameters and buffers in `f32`.
#[must_use]
pub fn f32_bytes(layer: &dyn Layer) -> usize {
    let tensors = layer.named_tensors();
    tensors
        .iter()
        .map(|(_, tensor)| tensor.len() * size_of::<f32>())
        .sum()
}

/// `[batch, ..]` to `[batch, everything else]`.
pub(crate) fn flattened(shape: &[usize]) -> Result<[usize; 2]> {
    match shape {
        [batch, rest @ ..] => Ok([*batch, rest.iter().product()]),
        [] => Err(Error::ShapeMismatch {
            operation: "flatten",
            expected: "[batch, ..]".to_owned(),
            got: Vec::new(),
        }),
    }
}

fn per_tensor(x: &QTensor) -> Result<QParams> {
    x.qparams().ok_or(Error::Unsupported {
        what: "activations with parameters per channel",
    })
}

/// Pools `[batch, channels, height, width]`, by way of channels last.
fn pooled(
    operation: &'static str,
    x: &QTensor,
    options: Pool2dOptions,
    pool: impl Fn(&[i8], ImageSize, [usize; 2]) -> Vec<i8>,
) -> Result<QTensor> {
    let out = pooled_size(operation, options, x.shape())?;
    let &[batch, channels, height, width] = x.shape() else {
        unreachable!("`pooled_size` wants four axes");
    };
    let size = ImageSize {
        batch,
        height,
        width,
        channels,
    };
    let last = channels_last(x.as_slice(), [batch, channels, height * width]);
    let codes = pool(&last, size, out);
    let codes = channels_first(&codes, [batch, channels, out[0] * out[1]]);
    let shape = [batch, channels, out[0], out[1]];
    let meaning = Parameters::PerTensor(per_tensor(x)?);
    QTensor::new(codes, &shape, meaning, x.range())
}

/// `[batch, channels, places]` to `[batch, places, channels]`.
pub(crate) fn channels_last(codes: &[i8], [batch, channels, places]: [usize; 3]) -> Vec<i8> {
    transposed(codes, batch, [channels, places])
}

/// `[batch, places, channels]` to `[batch, channels, places]`; the sizes are those of the result.
pub(crate) fn channels_first(codes: &[i8], [batch, channels, places]: [usize; 3]) -> Vec<i8> {
    transposed(codes, batch, [places, channels])
}

fn transposed(codes: &[i8], batch: usize, [rows, columns]: [usize; 2]) -> Vec<i8> {
    if rows == 1 || columns == 1 {
        return codes.to_vec();
    }
    let mut result = Vec::with_capacity(codes.len());
    for matrix in codes.chunks_exact((rows * columns).max(1)).take(batch) {
        for column in 0..columns {
            result.extend(matrix[column..].iter().step_by(columns));
        }
    }
    result
}
