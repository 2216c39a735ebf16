//! From a stage to the layer that takes its place in a quantized model.

use std::sync::Arc;

use crate::composite::{Chain, Join, QBranches, QResidual};
use crate::conv::QConv2d;
use crate::embedding::QEmbedding;
use crate::error::{Error, Result};
use crate::folded::{Folded, Operation};
use crate::framework::nn::{Embedding, Layer};
use crate::join::{QAdd, QConcat};
use crate::linear::{QLinear, quantize_bias};
use crate::narrow::{NarrowOperation, NarrowWeight, QNarrow};
use crate::packed::PackedTensor;
use crate::precision::Precision;
use crate::qlayer::{FloatLayer, QLayer};
use crate::scheme::QParams;
use crate::stage::{Plan, Stage};

impl Stage {
    /// The layer that takes its place in a quantized model.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] that names weight or bias, with channel and index; those of [`QLinear::from_parts`] and
    /// [`QConv2d::from_parts`]; [`Error::BadRescale`] that names the place where two ways meet.
    pub fn quantize(&self, input: QParams, output: QParams) -> Result<QLayer> {
        let real = |reason: &Option<String>| {
            let reason = reason.clone()?;
            let output = self.written.then_some(output);
            Some((reason, output))
        };
        match &self.plan {
            Plan::Weighted { .. } => self.weighted(input, output),
            Plan::Same(layer) => Ok(QLayer::clone(layer)),
            Plan::Narrow { precision, .. } => {
                self.narrow(*precision, self.written.then_some(output))
            }
            Plan::Float(reason) => Ok(QLayer::Float(FloatLayer {
                layer: own_copy(&self.layers[0]),
                reason: reason.clone(),
                output: self.written.then_some(output),
            })),
            Plan::Embedding => {
                let table = self.embedding()?.weight().array();
                QEmbedding::quantize(table.view(), output)
                    .map(QLayer::Embedding)
                    .map_err(|error| error.in_tensor(&format!("{}.weight", self.name)))
            }
            Plan::Residual { relu, real: reason } => {
                let mut ends = Vec::new();
                let mut ways = Vec::new();
                for branch in &self.branches {
                    let (way, end) = way(branch, input, None)?;
                    ways.push(way);
                    ends.push(end);
                }
                let (Some(shortcut), Some(body)) = (ways.pop(), ways.pop()) else {
                    unreachable!("a residual layer is prepared with two ways");
                };
                let sum = match real(reason) {
                    Some((reason, output)) => Join::Real { reason, output },
                    None => QAdd::new(ends[0], ends[1], output, *relu)
                        .map(Join::Codes)
                        .map_err(|error| error.in_layer(&self.name))?,
                };
                Ok(QLayer::Residual(Box::new(QResidual {
                    body,
                    shortcut,
                    sum,
                })))
            }
            Plan::Concat { real: reason } => {
                let real = real(reason);
                let shared = real.is_none().then_some(output);
                let ways = self
                    .branches
                    .iter()
                    .map(|way_in| way(way_in, input, shared));
                let (branches, ends): (Vec<_>, Vec<_>) =
                    ways.collect::<Result<Vec<_>>>()?.into_iter().unzip();
                let join = match real {
                    Some((reason, output)) => Join::Real { reason, output },
                    None => QConcat::new(ends, output)
                        .map(Join::Codes)
                        .map_err(|error| error.in_layer(&self.name))?,
                };
                Ok(QLayer::Concat(Box::new(QBranches { branches, join })))
            }
        }
    }

    fn weighted(&self, input: QParams, output: QParams) -> Result<QLayer> {
        let Some(mut folded) = self.folded()? else {
            unreachable!("only layers with weights are planned as such");
        };
        if let Some(bias) = &self.corrected_bias {
            folded.bias.clone_from(bias);
        }
        self.check_bias(&folded.bias)?;
        self.write(&folded, input, output)
            .map_err(|error| match error {
                Error::NotFinite { .. } => error.in_tensor(&format!("{}.weight", self.name)),
                error => error.in_layer(&self.name),
            })
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

    fn narrow(&self, precision: Precision, output: Option<QParams>) -> Result<QLayer> {
        let named = |error: Error| error.in_tensor(&format!("{}.weight", self.name));
        let (weight, bias, operation, relu) = match self.fold()? {
            Some(mut folded) => {
                if let Some(bias) = &self.corrected_bias {
                    folded.bias.clone_from(bias);
                }
                self.check_bias(&folded.bias)?;
                let operation = NarrowOperation::Product(folded.operation);
                (folded.weight, folded.bias, operation, folded.relu)
            }
            None => {
                let table = self.embedding()?.weight().array().into_owned();
                (table, Vec::new(), NarrowOperation::Embedding, false)
            }
        };
        let narrow = match (precision, &self.codes) {
            (Precision::Dynamic, Some(codes)) => Ok(NarrowWeight::Dynamic(codes.clone())),
            (Precision::WeightOnly { .. }, Some(codes)) => {
                PackedTensor::pack(codes).map(NarrowWeight::Codes)
            }
            _ => precision.write(operation, weight.view(), self.weights),
        };
        let layer = QNarrow::from_parts(narrow.map_err(named)?, bias, operation, relu, output);
        Ok(QLayer::Narrow(Box::new(
            layer.map_err(|error| error.in_layer(&self.name))?,
        )))
    }

    pub(crate) fn embedding(&self) -> Result<&Embedding> {
        let layer = self.layers[0].as_any().downcast_ref();
        layer.ok_or(Error::Unsupported {
            what: "an embedding that is none",
        })
    }
}

/// A layer that nothing changes any more: what is done to the original afterwards, training or a change of its mode, must not reach a
/// model that was converted. A layer of a foreign type that has no copy of itself stays shared.
fn own_copy(layer: &Arc<dyn Layer>) -> Arc<dyn Layer> {
    let Some(copy) = layer.copied() else {
        return layer.clone();
    };
    copy.set_training(false);
    copy
}

/// The stage of a way whose output can be given the parameters in which all ways shall end, if there is one.
pub(crate) fn writes_shared(stages: &[Stage]) -> Option<usize> {
    let last = stages.iter().rposition(|stage| !stage.is_monotone());
    last.filter(|&index| stages[index].chooses_output())
}

/// The layers of a way and what the codes at its end mean. If all ways shall end alike (`shared`), the last layer that chooses
/// its output takes that, as long as only layers follow that keep the meaning of codes and their order.
fn way(stages: &[Stage], input: QParams, shared: Option<QParams>) -> Result<(Chain, QParams)> {
    let shared = writes_shared(stages).zip(shared);
    let mut current = input;
    let mut layers = Vec::with_capacity(stages.len());
    for (index, stage) in stages.iter().enumerate() {
        let output = match shared {
            Some((chooses, output)) if chooses == index => output,
            _ => stage.output_qparams(current)?,
        };
        layers.push((stage.name.clone(), stage.quantize(current, output)?));
        current = output;
    }
    Ok((layers, current))
}
