//! Layers whose weights alone are narrow, and tables, that train with the errors of their deployed version.
//!
//! ```text
//! weight -> codes (per channel or group), bf16 -> ŵ                  the gradient of ŵ is that of the weight
//!                                                \
//! x (real values) ------------------------- product in f32 -> relu   gives the gradient
//! x ---------------------------------- the deployed layer            gives the value
//! ```
//!
//! In: real values, or indices. Out: the real values that the deployed layer gives, bit for bit, with a gradient. The step of a
//! weight follows its largest magnitude, that of its channel or its group, so that no weight is ever clipped and the straight-through
//! gradient is 1 everywhere (N14). A batch norm is folded with its running moments when the layer is made.
//!
//! Source: Bengio et al. 2013, arXiv 1308.3432, for the straight-through gradient; Jacob et al. 2018 for weights in the forward pass
//! as they will be.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::embedding::QEmbedding;
use crate::error::{Error, Result};
use crate::folded::Operation;
use crate::framework::nn::{Layer, indices};
use crate::framework::{self, Tensor, is_recording};
use crate::narrow::{NarrowOperation, QNarrow};
use crate::narrow_step::NarrowStep;
use crate::precision::Precision;
use crate::qat_activation::FakeQuantize;
use crate::qat_layer::with_value;
use crate::qlayer::QLayer;
use crate::scheme::{QParams, Scheme, Symmetry, ValueRange};
use crate::stage::Stage;

/// A layer in training that takes real values: weight-only, dynamic or bf16, and embeddings of every precision.
///
/// | tensor | shape | |
/// |---|---|---|
/// | `weight` | `[out, ...]`, or `[count, width]` | as it is trained, not rounded; a batch norm is folded in |
/// | `bias` | `[out]` | none for an embedding |
#[derive(Debug)]
pub struct QatNarrow {
    weight: Tensor,
    /// Empty for an embedding.
    bias: Tensor,
    operation: NarrowOperation,
    relu: bool,
    /// `None` for a table of codes that are those of activations.
    precision: Option<Precision>,
    /// How weights are written that are codes, unless the precision says so.
    weights: Scheme,
    /// How a table of the codes of activations is written.
    symmetry: Symmetry,
    training: AtomicBool,
}

impl QatNarrow {
    /// A layer with the weights of this stage. `precision` is `None` for a table of the codes of activations.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if a batch norm does not fit; [`Error::NotFinite`], and those of
    /// [`QNarrow::from_parts`], for what could not be deployed.
    pub(crate) fn new(stage: &Stage, precision: Option<Precision>) -> Result<Self> {
        let (weight, bias, operation, relu) = match stage.fold()? {
            Some(folded) => {
                let operation = NarrowOperation::Product(folded.operation);
                (folded.weight, folded.bias, operation, folded.relu)
            }
            None => {
                let table = stage.embedding()?.weight().array().into_owned();
                (table, Vec::new(), NarrowOperation::Embedding, false)
            }
        };
        let outputs = bias.len();
        let bias = Tensor::new(bias, &[outputs])?;
        let layer = Self {
            weight: Tensor::from_array(weight).with_grad(),
            bias: match operation {
                NarrowOperation::Embedding => bias,
                NarrowOperation::Product(_) => bias.with_grad(),
            },
            operation,
            relu,
            precision,
            weights: stage.weights,
            symmetry: stage.symmetry(),
            training: AtomicBool::new(true),
        };
        match precision {
            Some(precision) => _ = layer.narrow(precision, None)?,
            None => _ = layer.table()?,
        }
        Ok(layer)
    }

    /// The weight as it is trained. `[out, in]`, `[out, in / groups, kh, kw]`, or `[count, width]`.
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The deployed layer, whose real output is written as `output` for an integer layer behind it.
    ///
    /// # Errors
    ///
    /// Those of [`QatNarrow::new`].
    pub(crate) fn quantize(&self, output: Option<QParams>) -> Result<QLayer> {
        Ok(match self.precision {
            Some(precision) => QLayer::Narrow(Box::new(self.narrow(precision, output)?)),
            None => QLayer::Embedding(self.table()?),
        })
    }

    fn narrow(&self, precision: Precision, output: Option<QParams>) -> Result<QNarrow> {
        let weight = self.weight.array();
        let narrow = precision.write(self.operation, weight.view(), self.weights);
        let narrow = narrow.map_err(|error| error.in_tensor("weight"))?;
        let bias = self.bias.to_vec();
        QNarrow::from_parts(narrow, bias, self.operation, self.relu, output)
    }

    fn table(&self) -> Result<QEmbedding> {
        let weight = self.weight.array();
        let qparams = QEmbedding::qparams_as(weight.view(), self.symmetry)?;
        QEmbedding::quantize(weight.view(), qparams)
    }

    /// Lets what its codes are written with follow the table, which is what the codes of its output mean.
    ///
    /// # Errors
    ///
    /// [`Error::Framework`] never: the range has the shape of a range.
    pub(crate) fn tell_range(&self, output: &FakeQuantize) -> Result<()> {
        let zero = ValueRange { min: 0.0, max: 0.0 };
        let values = self.weight.array();
        let range = values.iter().fold(zero, |range, &x| ValueRange {
            min: range.min.min(x),
            max: range.max.max(x),
        });
        output.set_range(range)
    }

    /// The value of the deployed layer, with a gradient if one is recorded.
    ///
    /// # Errors
    ///
    /// Those of the deployed layer.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (value, rounded) = match self.precision {
            Some(precision) => {
                let layer = self.narrow(precision, None)?;
                let value = NarrowStep::new(&layer)?.forward(x)?;
                (value, layer.weight().dequantize())
            }
            None => {
                let table = self.table()?;
                let value = Tensor::from_array(table.forward_definition(x)?.dequantize());
                (value, Tensor::from_array(table.table().dequantize()))
            }
        };
        if !is_recording() {
            return Ok(value);
        }
        let weight = with_value(&self.weight, &rounded);
        let y = match self.operation {
            NarrowOperation::Embedding => {
                let &[count, width] = weight.shape() else {
                    return Err(Error::Unsupported {
                        what: "a table that is not [count, width]",
                    });
                };
                let rows = weight.index_select(0, &indices(x, count)?)?;
                rows.reshape(&[x.shape(), &[width]].concat())?
            }
            NarrowOperation::Product(Operation::Linear) => x.linear(&weight, Some(&self.bias))?,
            NarrowOperation::Product(Operation::Conv2d(options)) => {
                x.conv2d(&weight, Some(&self.bias), options)?
            }
        };
        let y = if self.relu { y.relu() } else { y };
        Ok(with_value(&y, &value))
    }
}

impl Layer for QatNarrow {
    fn forward(&self, x: &Tensor) -> framework::Result<Tensor> {
        self.apply(x).map_err(Error::into_framework)
    }

    fn kind(&self) -> &'static str {
        match self.operation {
            NarrowOperation::Embedding => "qat_embedding",
            NarrowOperation::Product(Operation::Linear) => "qat_narrow_linear",
            NarrowOperation::Product(Operation::Conv2d(_)) => "qat_narrow_conv2d",
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        let mut parameters = vec![("weight".to_owned(), self.weight.clone())];
        if self.operation != NarrowOperation::Embedding {
            parameters.push(("bias".to_owned(), self.bias.clone()));
        }
        parameters
    }

    fn own_training(&self) -> Option<bool> {
        Some(self.training.load(Ordering::Relaxed))
    }

    fn set_training(&self, training: bool) {
        self.training.store(training, Ordering::Relaxed);
    }
}
