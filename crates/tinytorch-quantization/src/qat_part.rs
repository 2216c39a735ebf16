//! The layers of a model in quantization-aware training, and the ways it may branch.
//!
//! Each part computes on real values that have codes, and gives the real values that its integer version gives: those of
//! [`QatLayer`], and here those of pooling, sums and concatenations. Where ways meet, the codes of each are rescaled once, so
//! that is where a rounding is felt.

use std::sync::Arc;

use crate::composite::{Chain, Join, QBranches, QResidual};
use crate::error::{Error, Result};
use crate::fake_quantize::fake_quantize;
use crate::folded::{Folded, bias_of};
use crate::framework::nn::{BatchNorm2d, Conv2d, Layer};
use crate::framework::{Tensor, is_recording};
use crate::join::{QAdd, QConcat};
use crate::qat::{BatchNormTraining, QatOptions, Steps};
use crate::qat_activation::FakeQuantize;
use crate::qat_layer::{Parts, QatLayer, copied, run, with_value};
use crate::qat_narrow::QatNarrow;
use crate::qlayer::{FloatLayer, QLayer};
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams};
use crate::stage::{Role, Stage, demands_codes};

/// A part with its dotted name.
pub(crate) type Named = (String, Part);

/// One layer of a model in quantization-aware training.
pub(crate) enum Part {
    Weighted(Box<QatLayer>),
    /// Its output is written like its input.
    Same {
        layer: Arc<dyn Layer>,
        quantized: Box<QLayer>,
        codes: Option<Arc<FakeQuantize>>,
    },
    /// Not quantized; what it gives to the next layer is, if that one computes in integers.
    Float {
        layer: Arc<dyn Layer>,
        /// Whether the original has the same tensors, because the layer cannot be copied.
        shared: bool,
        reason: String,
        output: Arc<FakeQuantize>,
        rounds: bool,
    },
    /// Narrow weights between real values; what it gives to the next layer is rounded if that one computes in integers.
    Narrow {
        layer: Box<QatNarrow>,
        output: Arc<FakeQuantize>,
        rounds: bool,
    },
    /// A table of the codes of activations: what its output is written with follows the table.
    Table {
        layer: Box<QatNarrow>,
        output: Arc<FakeQuantize>,
    },
    /// Ways that are added (`sum`) or joined along axis 1.
    Ways {
        ways: Vec<Way>,
        /// `Some(relu)` for a sum.
        sum: Option<bool>,
        output: Arc<FakeQuantize>,
    },
}

/// One of the ways between a fork and a join, and what its end is written with.
pub(crate) struct Way {
    parts: Vec<Named>,
    end: Arc<FakeQuantize>,
}

/// The parts for these stages, and what their end is written with.
///
/// `current` is what their input is written with, if it is (`on_codes`); `after` says whether codes are wanted at the end.
pub(crate) fn build(
    stages: &[Stage],
    options: &QatOptions,
    mut current: Arc<FakeQuantize>,
    mut on_codes: bool,
    after: bool,
) -> Result<(Vec<Named>, Arc<FakeQuantize>)> {
    let mut parts = Vec::with_capacity(stages.len());
    for (index, stage) in stages.iter().enumerate() {
        let part = match stage.role() {
            Role::Weighted => {
                let output = options.activation()?;
                let named = |error: Error| error.inside(stage.name());
                let parts = weighted(stage, options, current, output.clone())?;
                current = output;
                on_codes = true;
                Part::Weighted(Box::new(QatLayer::new(parts).map_err(named)?))
            }
            Role::Same(quantized) => Part::Same {
                layer: stage.layers()[0].clone(),
                quantized: Box::new(quantized.clone()),
                codes: on_codes.then(|| current.clone()),
            },
            Role::Float(reason) => {
                current = options.activation()?;
                on_codes = demands_codes(&stages[index + 1..], after);
                let original = &stage.layers()[0];
                let copy = original.copied();
                Part::Float {
                    shared: copy.is_none() && !original.named_tensors().is_empty(),
                    layer: copy.unwrap_or_else(|| original.clone()),
                    reason: reason.to_owned(),
                    output: current.clone(),
                    rounds: on_codes,
                }
            }
            Role::Ways(sum) => {
                let output = options.activation()?;
                let way = |stages: &Vec<Stage>| {
                    let (parts, end) = build(stages, options, current.clone(), on_codes, true)?;
                    Ok(Way { parts, end })
                };
                let ways = stage.branches().iter().map(way).collect::<Result<_>>()?;
                current = output.clone();
                on_codes = true;
                Part::Ways { ways, sum, output }
            }
            Role::Narrow(precision) => {
                current = options.activation()?;
                on_codes = demands_codes(&stages[index + 1..], after);
                let layer = QatNarrow::new(stage, Some(precision));
                Part::Narrow {
                    layer: Box::new(layer.map_err(|error| error.inside(stage.name()))?),
                    output: current.clone(),
                    rounds: on_codes,
                }
            }
            Role::Table => {
                current = Arc::new(
                    FakeQuantize::new(1.0, options.activations)?
                        .with_symmetry(options.prepare.activations),
                );
                on_codes = true;
                let layer = QatNarrow::new(stage, None);
                Part::Table {
                    layer: Box::new(layer.map_err(|error| error.inside(stage.name()))?),
                    output: current.clone(),
                }
            }
            Role::Other => {
                let error = Error::Unsupported {
                    what: "quantization-aware training of ways that meet as real values",
                };
                return Err(error.in_layer(stage.name()));
            }
        };
        parts.push((stage.name().to_owned(), part));
    }
    Ok((parts, current))
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

/// All parts, those inside of others behind them.
pub(crate) fn all(parts: &[Named]) -> Vec<(&str, &Part)> {
    let mut found = Vec::new();
    for (name, part) in parts {
        found.push((name.as_str(), part));
        if let Part::Ways { ways, .. } = part {
            found.extend(ways.iter().flat_map(|way| all(&way.parts)));
        }
    }
    found
}

/// Computes the parts one after the other.
pub(crate) fn forward(parts: &[Named], x: &Tensor) -> Result<Tensor> {
    let run = |x: Tensor, (name, part): &Named| part.forward(name, &x);
    parts.iter().try_fold(x.clone(), run)
}

/// The integer layers, and what the codes at their end mean.
pub(crate) fn quantize(parts: &[Named], mut input: QParams) -> Result<(Chain, QParams)> {
    let mut layers = Vec::with_capacity(parts.len());
    for (name, part) in parts {
        let layer = part.quantize(name, input)?;
        input = layer.output(input);
        layers.push((name.clone(), layer));
    }
    Ok((layers, input))
}

impl Part {
    /// The layer that holds the parameters.
    pub fn layer(&self) -> Option<&dyn Layer> {
        match self {
            Self::Weighted(layer) => Some(&**layer),
            Self::Same { layer, .. } | Self::Float { layer, .. } => Some(&**layer),
            Self::Narrow { layer, .. } | Self::Table { layer, .. } => Some(&**layer),
            Self::Ways { .. } => None,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ways { sum: Some(_), .. } => "qat_sum",
            Self::Ways { sum: None, .. } => "qat_concat",
            _ => self.layer().map_or("qat", Layer::kind),
        }
    }

    /// What rounds its output, if it has a range of its own.
    pub fn output(&self) -> Option<&FakeQuantize> {
        match self {
            Self::Weighted(layer) => Some(layer.output()),
            Self::Float { output, .. }
            | Self::Narrow { output, .. }
            | Self::Table { output, .. }
            | Self::Ways { output, .. } => Some(output),
            Self::Same { .. } => None,
        }
    }

    fn quantize(&self, name: &str, input: QParams) -> Result<QLayer> {
        match self {
            Self::Weighted(layer) => layer.quantize(input).map_err(|error| error.inside(name)),
            Self::Same { quantized, .. } => Ok(QLayer::clone(quantized)),
            Self::Narrow {
                layer,
                output,
                rounds,
            } => {
                let qparams = output.qparams().map_err(|error| error.in_tensor(name))?;
                let quantized = layer.quantize(rounds.then_some(qparams));
                quantized.map_err(|error| error.inside(name))
            }
            Self::Table { layer, output } => {
                layer.tell_range(output)?;
                layer.quantize(None).map_err(|error| error.inside(name))
            }
            Self::Float {
                layer,
                reason,
                output,
                rounds,
                ..
            } => {
                // A copy, so that what is converted stays as it is when the training goes on.
                let layer = layer.copied().unwrap_or_else(|| layer.clone());
                layer.set_training(false);
                let qparams = output.qparams().map_err(|error| error.in_tensor(name))?;
                Ok(QLayer::Float(FloatLayer {
                    layer,
                    reason: reason.clone(),
                    output: rounds.then_some(qparams),
                }))
            }
            Self::Ways { ways, sum, output } => {
                let output = output.qparams().map_err(|error| error.in_tensor(name))?;
                let quantized = ways.iter().map(|way| quantize(&way.parts, input));
                let (mut chains, ends): (Vec<Chain>, Vec<QParams>) =
                    quantized.collect::<Result<Vec<_>>>()?.into_iter().unzip();
                let in_layer = |error: Error| error.in_layer(name);
                let Some(relu) = *sum else {
                    let join = Join::Codes(QConcat::new(ends, output).map_err(in_layer)?);
                    let branches = chains;
                    return Ok(QLayer::Concat(Box::new(QBranches { branches, join })));
                };
                let (Some(shortcut), Some(body)) = (chains.pop(), chains.pop()) else {
                    unreachable!("a residual layer is prepared with two ways");
                };
                let sum = QAdd::new(ends[0], ends[1], output, relu).map_err(in_layer)?;
                Ok(QLayer::Residual(Box::new(QResidual {
                    body,
                    shortcut,
                    sum: Join::Codes(sum),
                })))
            }
        }
    }

    fn forward(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let y = match self {
            Self::Weighted(layer) => layer.apply(x),
            Self::Same {
                layer,
                quantized,
                codes: Some(codes),
            } if matches!(**quantized, QLayer::AvgPool2d(_)) => {
                averaged(&**layer, quantized, codes, x)
            }
            // What only picks values that have codes gives values that have codes.
            Self::Same { layer, .. } => layer.forward(x).map_err(Error::from),
            Self::Float {
                layer,
                output,
                rounds,
                ..
            } => layer
                .forward(x)
                .map_err(Error::from)
                .and_then(|y| match rounds {
                    true => output.apply(&y),
                    // Real values go on as they are, as in the integer model; their range is wanted all the same.
                    false => output.observe(&y).map(|()| y),
                }),
            Self::Narrow {
                layer,
                output,
                rounds,
            } => layer.apply(x).and_then(|y| match rounds {
                true => output.apply(&y),
                false => output.observe(&y).map(|()| y),
            }),
            Self::Table { layer, output } => {
                let y = layer.tell_range(output).and_then(|()| layer.apply(x));
                match output.codes() {
                    CodeRange::INT8 => y,
                    // Fewer codes are only simulated.
                    codes => y.and_then(|y| fake_quantize(&y, output.qparams()?, codes)),
                }
            }
            Self::Ways { ways, sum, output } => {
                let ends = ways.iter().map(|way| forward(&way.parts, x));
                // The layers inside have named themselves.
                join(ways, &ends.collect::<Result<Vec<_>>>()?, *sum, output)
            }
        };
        y.map_err(|error| error.inside(name))
    }
}

/// A mean of values that have codes has none as a rule: it is rounded to one, as the integers do.
fn averaged(
    layer: &dyn Layer,
    quantized: &QLayer,
    codes: &FakeQuantize,
    x: &Tensor,
) -> Result<Tensor> {
    let qparams = codes.qparams()?;
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

/// Adds or joins the ends of ways: the gradient from `f32`, the value from rescaled codes.
fn join(ways: &[Way], ends: &[Tensor], sum: Option<bool>, output: &FakeQuantize) -> Result<Tensor> {
    let real = match (sum, ends) {
        (Some(relu), [body, shortcut]) => {
            let y = body.try_add(shortcut)?;
            if relu { y.relu() } else { y }
        }
        _ => Tensor::concat(&ends.iter().collect::<Vec<_>>(), 1)?,
    };
    let y = output.apply(&real)?;
    if output.codes() != CodeRange::INT8 {
        return Ok(y);
    }
    let written = output.qparams()?;
    let (mut codes, mut meanings) = (Vec::new(), Vec::new());
    for (way, end) in ways.iter().zip(ends) {
        let qparams = way.end.qparams()?;
        let end = end.array();
        codes.push(QTensor::quantize_with(
            end.view(),
            qparams,
            CodeRange::INT8,
        )?);
        meanings.push(qparams);
    }
    let joined = match (sum, codes.as_slice()) {
        (Some(relu), [body, shortcut]) => QAdd::new(meanings[0], meanings[1], written, relu)?
            .forward_definition(body, shortcut)?,
        _ => QConcat::new(meanings, written)?.forward_definition(&codes)?,
    };
    Ok(with_value(&y, &Tensor::from_array(joined.dequantize())))
}
