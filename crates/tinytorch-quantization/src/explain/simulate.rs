//! The integer model once more, in `f32`, with every source of its error on a switch of its own.
//!
//! In: a calibrated model. Out: nodes that compute what the integer model computes if all switches are on, and what the model in
//! `f32` computes if all are off. For a weight `w`, with `clip` to what its codes reach and `ŵ` what is read back:
//!
//! ```text
//! w + clipping · (clip(w) − w) + rounding · (ŵ − clip(w))
//! ```
//!
//! and the same for activations, and `b + bias · (b̂ − b)`.

use ndarray::{Axis, IxDyn};
use serde::Serialize;

use super::weights::Weights;
use crate::composite::Takes;
use crate::error::Result;
use crate::framework::{Tensor, no_grad};
use crate::narrow::QNarrow;
use crate::prepare::Prepared;
use crate::qlayer::QLayer;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams};
use crate::stage::{Plan, Stage, demands_codes};
use crate::stage_layer::writes_shared;

/// What makes an integer model differ from the one in `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Weights between two codes go to one of them.
    WeightRounding,
    /// Weights beyond the largest code.
    WeightClipping,
    /// Activations between two codes.
    ActivationRounding,
    /// Activations beyond the range that calibration found.
    ActivationClipping,
    /// The bias of the integer layer is not the real one: it was rounded, or corrected.
    Bias,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::WeightRounding,
        Self::WeightClipping,
        Self::ActivationRounding,
        Self::ActivationClipping,
        Self::Bias,
    ];
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::WeightRounding => "weight rounding",
            Self::WeightClipping => "weight clipping",
            Self::ActivationRounding => "activation rounding",
            Self::ActivationClipping => "activation clipping",
            Self::Bias => "bias",
        })
    }
}

/// Whether a source is on in a channel (output of the layer) of a site.
pub(super) type Switches<'a> = &'a dyn Fn(usize, Source, usize) -> bool;

/// One place that adds errors.
#[derive(Debug)]
pub(super) struct Site {
    pub name: String,
    /// Whether it has weights, which may be a table.
    pub has_weights: bool,
    /// Outputs of its weight; 0 without, and for a table.
    pub channels: usize,
}

/// One stage, to be run.
pub(super) enum Node<'a> {
    /// A layer with weights; its output is written with codes, or not.
    Weighted {
        site: usize,
        weights: Box<Weights>,
        output: Option<QParams>,
    },
    /// A table of narrow numbers.
    Table {
        site: usize,
        stage: &'a Stage,
        read: Box<QNarrow>,
        output: Option<QParams>,
    },
    /// Computed as it is; its output is written with codes, or not.
    Plain {
        site: usize,
        stage: &'a Stage,
        output: Option<QParams>,
    },
    /// Ways that are added or joined.
    Ways {
        site: usize,
        stage: &'a Stage,
        branches: Vec<Vec<Node<'a>>>,
        output: Option<QParams>,
    },
}

/// The whole model.
pub(super) struct Simulation<'a> {
    pub sites: Vec<Site>,
    pub input: Option<QParams>,
    pub nodes: Vec<Node<'a>>,
}

impl<'a> Simulation<'a> {
    /// # Errors
    ///
    /// Those of converting.
    pub fn new(prepared: &'a Prepared) -> Result<Self> {
        let meaning = prepared.input_qparams()?;
        let input = demands_codes(prepared.stages(), true).then_some(meaning);
        let mut sites = vec![Site {
            name: prepared.input_name().to_owned(),
            has_weights: false,
            channels: 0,
        }];
        let nodes = nodes(
            prepared.stages(),
            meaning,
            input.is_some(),
            None,
            &mut sites,
        )?;
        Ok(Self {
            sites,
            input,
            nodes,
        })
    }

    /// The output for one batch. `[batch, ..]` as the model takes it, to `[batch, ..]` as it gives it.
    pub fn run(&self, x: &Tensor, on: Switches<'_>) -> Result<Tensor> {
        let x = match self.input {
            Some(qparams) => written(x, qparams, 0, 1, on)?,
            None => x.clone(),
        };
        self.nodes.iter().try_fold(x, |x, node| node.run(&x, on))
    }
}

/// The nodes of stages. What enters them means `meaning` if it is codes, and is codes if `on_codes`. The ways of a concatenation
/// shall end in `shared`.
fn nodes<'a>(
    stages: &'a [Stage],
    mut meaning: QParams,
    mut on_codes: bool,
    shared: Option<QParams>,
    sites: &mut Vec<Site>,
) -> Result<Vec<Node<'a>>> {
    let mut nodes = Vec::with_capacity(stages.len());
    let shared = writes_shared(stages).zip(shared);
    for (index, stage) in stages.iter().enumerate() {
        let output = match shared {
            Some((writes, output)) if writes == index => output,
            _ => stage.output_qparams(meaning)?,
        };
        let meets_codes = matches!(stage.plan, Plan::Concat { real: None });
        let end = meets_codes.then_some(output);
        let inside = match stage.takes() {
            Takes::Codes => true,
            Takes::Real => false,
            Takes::Either => on_codes,
        };
        let mut branches = Vec::new();
        for branch in stage.branches() {
            branches.push(self::nodes(branch, meaning, inside, end, sites)?);
        }
        let layer = stage.quantize(meaning, output);
        let layer = layer.map_err(|error| error.in_layer(stage.name()))?;
        let site = sites.len();
        let written = written_as(&layer, output, inside);
        let weights = match (&layer, stage.fold()?) {
            (QLayer::Linear(integer), Some(folded)) => {
                let (weight, bias) = (integer.weight(), integer.bias());
                Some(Weights::integer(folded, weight, bias, meaning))
            }
            (QLayer::Conv2d(integer), Some(folded)) => {
                let (weight, bias) = (integer.weight(), integer.bias());
                Some(Weights::integer(folded, weight, bias, meaning))
            }
            (QLayer::Narrow(narrow), Some(folded)) => Some(Weights::narrow(folded, narrow)),
            _ => None,
        };
        sites.push(Site {
            name: stage.name().to_owned(),
            has_weights: weights.is_some() || matches!(layer, QLayer::Narrow(_)),
            channels: weights.as_ref().map_or(0, |own| own.folded.bias.len()),
        });
        let same = matches!(
            layer,
            QLayer::MaxPool2d(_) | QLayer::AvgPool2d(_) | QLayer::Relu | QLayer::Flatten
        );
        nodes.push(match (layer, weights) {
            (_, Some(weights)) => Node::Weighted {
                site,
                weights: Box::new(weights),
                output: written,
            },
            (QLayer::Narrow(read), None) => Node::Table {
                site,
                stage,
                read,
                output: written,
            },
            (QLayer::Residual(_) | QLayer::Concat(_), None) => Node::Ways {
                site,
                stage,
                branches,
                output: written,
            },
            _ => Node::Plain {
                site,
                stage,
                output: written,
            },
        });
        if !same {
            on_codes = written.is_some();
        }
        meaning = output;
    }
    Ok(nodes)
}

/// How the output of a layer is written, if it is; `on_codes` says whether codes come in.
fn written_as(layer: &QLayer, output: QParams, on_codes: bool) -> Option<QParams> {
    match layer {
        QLayer::Linear(_) | QLayer::Conv2d(_) | QLayer::Embedding(_) => Some(output),
        // The mean of codes is rounded to a code, that of real values is not.
        QLayer::AvgPool2d(_) => on_codes.then_some(output),
        // The codes of these are codes that came in.
        QLayer::MaxPool2d(_) | QLayer::Relu | QLayer::Flatten => None,
        QLayer::Float(_) | QLayer::Residual(_) | QLayer::Concat(_) | QLayer::Narrow(_) => {
            layer.real_output()
        }
    }
}

impl Node<'_> {
    /// `[batch, ..]` to `[batch, ..]`, as the layer.
    pub fn run(&self, x: &Tensor, on: Switches<'_>) -> Result<Tensor> {
        match self {
            Self::Weighted {
                site,
                weights,
                output,
            } => {
                let y = weights.activated(weights.compute(x, *site, on)?);
                let axis = weights.channel_axis(&y);
                match *output {
                    Some(qparams) => written(&y, qparams, *site, axis, on),
                    None => Ok(y),
                }
            }
            Self::Table {
                site,
                stage,
                read,
                output,
            } => {
                let y = match on(*site, Source::WeightRounding, 0) {
                    true => read.forward_definition(x)?,
                    false => stage.compute(x)?,
                };
                write(y, *output, *site, on)
            }
            Self::Plain {
                site,
                stage,
                output,
            } => write(stage.compute(x)?, *output, *site, on),
            Self::Ways {
                site,
                stage,
                branches,
                output,
            } => {
                let ends = branches.iter().map(|branch| {
                    let start = x.clone();
                    branch.iter().try_fold(start, |x, node| node.run(&x, on))
                });
                let ends = ends.collect::<Result<Vec<_>>>()?;
                write(join(stage, &ends)?, *output, *site, on)
            }
        }
    }
}

/// What a sum or a concatenation makes of the ends of its ways.
pub(super) fn join(stage: &Stage, ends: &[Tensor]) -> Result<Tensor> {
    Ok(no_grad(|| match (&stage.plan, ends) {
        (Plan::Residual { relu, .. }, [left, right]) => {
            let sum = left.try_add(right)?;
            Ok(if *relu { sum.relu() } else { sum })
        }
        (_, ends) => Tensor::concat(&ends.iter().collect::<Vec<_>>(), 1),
    })?)
}

pub(super) fn write(
    y: Tensor,
    qparams: Option<QParams>,
    site: usize,
    on: Switches<'_>,
) -> Result<Tensor> {
    match qparams {
        Some(qparams) => written(&y, qparams, site, 1, on),
        None => Ok(y),
    }
}

/// An activation, clipped and rounded where that is on, with channels along `axis`.
pub(super) fn written(
    y: &Tensor,
    qparams: QParams,
    site: usize,
    axis: usize,
    on: Switches<'_>,
) -> Result<Tensor> {
    let codes = CodeRange::INT8;
    let values = y.array();
    let read = QTensor::quantize_with(values.view(), qparams, codes)?.dequantize();
    let real = |code: i32| qparams.scale * (code - qparams.zero_point) as f32;
    let (low, high) = (real(codes.min), real(codes.max));
    let mut result = values.into_owned();
    let channels = result.shape().get(axis).copied().unwrap_or(1);
    let per_channel: Vec<(bool, bool)> = (0..channels.max(1))
        .map(|channel| {
            (
                on(site, Source::ActivationClipping, channel),
                on(site, Source::ActivationRounding, channel),
            )
        })
        .collect();
    let along_channels = result.ndim() > axis;
    let mix = |value: &mut f32, read: f32, (clips, rounds): (bool, bool)| {
        let clipped = value.clamp(low, high);
        *value = match (clips, rounds) {
            (true, true) => read,
            (true, false) => clipped,
            (false, true) => *value + (read - clipped),
            (false, false) => *value,
        };
    };
    if along_channels {
        for (channel, &flags) in per_channel.iter().enumerate() {
            let values = result.index_axis_mut(Axis(axis), channel);
            let read = read.index_axis(Axis(axis), channel);
            for (value, read) in values.into_iter().zip(read) {
                mix(value, *read, flags);
            }
        }
    } else {
        let shape = IxDyn(result.shape());
        debug_assert_eq!(read.raw_dim(), shape);
        for (value, read) in result.iter_mut().zip(&read) {
            mix(value, *read, per_channel[0]);
        }
    }
    Ok(Tensor::from_array(result))
}
