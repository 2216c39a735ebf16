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

use ndarray::{ArrayD, Axis, IxDyn};
use serde::Serialize;

use crate::error::Result;
use crate::folded::{Folded, Operation};
use crate::framework::{Tensor, no_grad};
use crate::parameters::Parameters;
use crate::prepare::Prepared;
use crate::qlayer::QLayer;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams};
use crate::stage::{Plan, Stage, demands_codes};

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
    /// Outputs of its weight; 0 without.
    pub channels: usize,
}

/// A weight and a bias, real, clipped, and as the integers read back.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub folded: Folded,
    clipped: ArrayD<f32>,
    pub read: ArrayD<f32>,
    pub read_bias: Vec<f32>,
}

/// One stage, to be run.
pub(super) enum Node<'a> {
    Weighted {
        site: usize,
        weights: Box<Weights>,
        output: QParams,
        input: QParams,
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
        let input = demands_codes(prepared.stages(), false).then_some(meaning);
        let mut sites = vec![Site {
            name: "input".to_owned(),
            channels: 0,
        }];
        let nodes = nodes(prepared.stages(), meaning, &mut sites)?;
        Ok(Self {
            sites,
            input,
            nodes,
        })
    }

    /// The output for one batch.
    pub fn run(&self, x: &Tensor, on: Switches<'_>) -> Result<Tensor> {
        let x = match self.input {
            Some(qparams) => written(x, qparams, 0, on)?,
            None => x.clone(),
        };
        self.nodes.iter().try_fold(x, |x, node| node.run(&x, on))
    }
}

fn nodes<'a>(
    stages: &'a [Stage],
    mut meaning: QParams,
    sites: &mut Vec<Site>,
) -> Result<Vec<Node<'a>>> {
    let mut nodes = Vec::with_capacity(stages.len());
    for stage in stages {
        let output = stage.output_qparams(meaning)?;
        let mut branches = Vec::new();
        for branch in stage.branches() {
            branches.push(self::nodes(branch, meaning, sites)?);
        }
        let layer = stage.quantize(meaning, output);
        let layer = layer.map_err(|error| error.in_layer(stage.name()))?;
        let site = sites.len();
        let mut channels = 0;
        let node = match (&layer, stage.folded()?) {
            (QLayer::Linear(integer), Some(folded)) => {
                channels = folded.bias.len();
                let weights = Weights::new(folded, integer.weight(), integer.bias(), meaning);
                weighted(site, weights, meaning, output)
            }
            (QLayer::Conv2d(integer), Some(folded)) => {
                channels = folded.bias.len();
                let weights = Weights::new(folded, integer.weight(), integer.bias(), meaning);
                weighted(site, weights, meaning, output)
            }
            (QLayer::Residual(_) | QLayer::Concat(_), _) => Node::Ways {
                site,
                stage,
                branches,
                output: layer.real_output().or_else(|| codes(&layer, output)),
            },
            _ => Node::Plain {
                site,
                stage,
                output: match &layer {
                    // The codes of these are codes that came in.
                    QLayer::MaxPool2d(_) | QLayer::Relu | QLayer::Flatten => None,
                    layer => layer.real_output().or_else(|| codes(layer, output)),
                },
            },
        };
        sites.push(Site {
            name: stage.name().to_owned(),
            channels,
        });
        nodes.push(node);
        meaning = output;
    }
    Ok(nodes)
}

/// The meaning of a layer's codes, if it gives codes.
fn codes(layer: &QLayer, output: QParams) -> Option<QParams> {
    match layer {
        QLayer::Float(_) => None,
        QLayer::Residual(residual) => residual.sum.output(),
        QLayer::Concat(ways) => ways.join.output(),
        _ => Some(output),
    }
}

fn weighted<'a>(site: usize, weights: Weights, input: QParams, output: QParams) -> Node<'a> {
    Node::Weighted {
        site,
        weights: Box::new(weights),
        output,
        input,
    }
}

impl Weights {
    fn new(folded: Folded, codes: &QTensor, bias: &[i32], input: QParams) -> Self {
        let scales = codes.row_scales();
        let read_bias = bias.iter().zip(&scales).map(|(&code, &scale)| {
            (f64::from(code) * f64::from(input.scale) * f64::from(scale)) as f32
        });
        let read_bias = read_bias.collect();
        let read = codes.dequantize();
        Self::with_codes(folded, read, codes.parameters(), codes.range(), read_bias)
    }

    /// The same layer with a weight that was written otherwise, and the bias as it is.
    pub fn rewritten(&self, codes: &QTensor) -> Self {
        let (folded, bias) = (self.folded.clone(), self.read_bias.clone());
        Self::with_codes(
            folded,
            codes.dequantize(),
            codes.parameters(),
            codes.range(),
            bias,
        )
    }

    fn with_codes(
        folded: Folded,
        read: ArrayD<f32>,
        parameters: &Parameters,
        range: CodeRange,
        read_bias: Vec<f32>,
    ) -> Self {
        let pairs = parameters.pairs();
        let mut clipped = folded.weight.clone();
        for (row, mut values) in clipped.axis_iter_mut(Axis(0)).enumerate() {
            let scale = pairs[row.min(pairs.len() - 1)].scale;
            let (low, high) = (range.min as f32 * scale, range.max as f32 * scale);
            values.mapv_inplace(|w| w.clamp(low, high));
        }
        Self {
            folded,
            clipped,
            read,
            read_bias,
        }
    }

    /// The layer without its ReLU, with what is on.
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
        Ok(no_grad(|| match self.folded.operation {
            Operation::Linear => x.matmul(&weight.transpose()?)?.try_add(&bias),
            Operation::Conv2d(options) => x.conv2d(&weight, Some(&bias), options),
        })?)
    }

    pub fn activated(&self, y: Tensor) -> Tensor {
        if self.folded.relu {
            no_grad(|| y.relu())
        } else {
            y
        }
    }
}

impl Node<'_> {
    pub fn run(&self, x: &Tensor, on: Switches<'_>) -> Result<Tensor> {
        match self {
            Self::Weighted {
                site,
                weights,
                output,
                ..
            } => {
                let y = weights.activated(weights.compute(x, *site, on)?);
                written(&y, *output, *site, on)
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
        Some(qparams) => written(&y, qparams, site, on),
        None => Ok(y),
    }
}

/// An activation, clipped and rounded where that is on. Channels lie along axis 1.
pub(super) fn written(
    y: &Tensor,
    qparams: QParams,
    site: usize,
    on: Switches<'_>,
) -> Result<Tensor> {
    let codes = CodeRange::INT8;
    let values = y.array();
    let read = QTensor::quantize_with(values.view(), qparams, codes)?.dequantize();
    let real = |code: i32| qparams.scale * (code - qparams.zero_point) as f32;
    let (low, high) = (real(codes.min), real(codes.max));
    let mut result = values.into_owned();
    let channels = result.shape().get(1).copied().unwrap_or(1);
    let per_channel: Vec<(bool, bool)> = (0..channels.max(1))
        .map(|channel| {
            (
                on(site, Source::ActivationClipping, channel),
                on(site, Source::ActivationRounding, channel),
            )
        })
        .collect();
    let along_channels = result.ndim() > 1;
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
            let values = result.index_axis_mut(Axis(1), channel);
            let read = read.index_axis(Axis(1), channel);
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
