//! What would help, and how much: each remedy is tried in the simulation.

use ndarray::Axis;
use serde::Serialize;

use super::refused::{is_refusal, without_refused};
use super::report::Share;
use super::simulate::{Node, Simulation, Source, Switches, join, write, written};
use super::weights::{Input, Weights};
use crate::convert::calibrate;
use crate::error::Result;
use crate::framework::Tensor;
use crate::parameters::pair_for;
use crate::prepare::Prepared;
use crate::qtensor::QTensor;
use crate::repair::layer::Statistics;
use crate::repair::{RoundingOptions, equalize};
use crate::scheme::{CodeRange, Granularity, QParams, Scheme, Symmetry, ValueRange};

/// What may be done about an error, the cheapest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Calibrate with [`Calibration::MinMax`](crate::Calibration::MinMax): nothing is clipped. Costs nothing.
    CalibrateMinMax,
    /// [`repair`](crate::repair()) with equalization alone, which calibrates again. Costs one pass over the data, and no byte.
    Equalize,
    /// [`repair`](crate::repair()) with bias correction alone. Costs one pass over the data, and no byte.
    CorrectBias,
    /// [`repair`](crate::repair()) with learned rounding, which corrects the biases as well. Costs seconds to minutes, and no
    /// byte.
    LearnRounding,
    /// A scale for each output channel instead of one for all: some bytes for each channel.
    ScalePerChannel,
    /// Eight bits for the weights.
    EightBits,
    /// This layer stays in `f32`: four bytes for each weight, and slower.
    KeepFloat(String),
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Self::CalibrateMinMax => "calibrate with min-max".to_owned(),
            Self::Equalize => "equalize channels across layers".to_owned(),
            Self::CorrectBias => "correct the biases".to_owned(),
            Self::LearnRounding => "learn the rounding".to_owned(),
            Self::ScalePerChannel => "a scale per channel".to_owned(),
            Self::EightBits => "8 bits for weights".to_owned(),
            Self::KeepFloat(layer) => format!("keep `{layer}` in f32"),
        };
        f.pad(&text)
    }
}

/// What a remedy would change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// What would be done.
    pub remedy: Remedy,
    /// By how much the error would fall.
    pub gain: f64,
}

const ALL_ON: Switches<'static> = &|_, _, _| true;

/// Predictions for all remedies that apply, the cheapest first.
pub(super) fn predict(
    prepared: &Prepared,
    simulation: &Simulation<'_>,
    batches: &[Tensor],
    layers: &[Share],
    all: f64,
    measure: &dyn Fn(&[Tensor]) -> f64,
) -> Result<Vec<Prediction>> {
    let mut predictions = Vec::new();
    let mut remedies = Vec::new();
    if simulation.input.is_some() || simulation.nodes.iter().any(has_range) {
        remedies.push(Remedy::CalibrateMinMax);
    }
    let has_weights = simulation.sites.iter().any(|site| site.channels > 0);
    if has_weights {
        remedies.push(Remedy::CorrectBias);
    }
    let schemes = schemes(&simulation.nodes);
    if !schemes.is_empty() {
        remedies.push(Remedy::LearnRounding);
    }
    if schemes
        .iter()
        .any(|s| s.granularity == Granularity::PerTensor)
    {
        remedies.push(Remedy::ScalePerChannel);
    }
    if schemes
        .iter()
        .any(|s| s.codes.len() < CodeRange::INT8_NARROW.len())
    {
        remedies.push(Remedy::EightBits);
    }
    for remedy in remedies {
        let flow = batches.iter().map(|x| (x.clone(), x.clone())).collect();
        let outputs = match run(simulation, &remedy, flow) {
            // It does not apply: no layer can be written that way.
            Err(error) if is_refusal(&error) => continue,
            outputs => outputs?,
        };
        let gain = all - measure(&outputs);
        predictions.push(Prediction { remedy, gain });
    }
    if let Some(equalized) = equalized(prepared, batches)? {
        let (equalized, _) = without_refused(&equalized)?;
        let equalized = Simulation::new(&equalized)?;
        let outputs = batches.iter().map(|x| equalized.run(x, ALL_ON));
        let gain = all - measure(&outputs.collect::<Result<Vec<_>>>()?);
        let remedy = Remedy::Equalize;
        let cheaper = predictions.partition_point(|p| p.remedy < remedy);
        predictions.insert(cheaper, Prediction { remedy, gain });
    }
    // Of the layers, the one whose weights and bias make the largest error.
    let mut names: Vec<&str> = layers.iter().map(|share| share.layer.as_str()).collect();
    names.dedup();
    let of_weights = |share: &&Share| {
        !matches!(
            share.source,
            Source::ActivationRounding | Source::ActivationClipping
        )
    };
    let error = |name: &&str| -> f64 {
        let own = layers.iter().filter(|share| share.layer == **name);
        own.filter(of_weights).map(|share| share.gain).sum()
    };
    if let Some(worst) = names
        .into_iter()
        .max_by(|a, b| error(a).total_cmp(&error(b)))
    {
        let site = simulation.sites.iter().position(|site| site.name == worst);
        let on = |at: usize, source: Source, _: usize| {
            let of_activations = matches!(
                source,
                Source::ActivationRounding | Source::ActivationClipping
            );
            Some(at) != site || of_activations
        };
        let outputs = batches.iter().map(|x| simulation.run(x, &on));
        let gain = all - measure(&outputs.collect::<Result<Vec<_>>>()?);
        let remedy = Remedy::KeepFloat(worst.to_owned());
        predictions.push(Prediction { remedy, gain });
    }
    Ok(predictions)
}

/// The model with its channels equalized, calibrated with the batches; `None` if no two layers can share scales.
fn equalized(prepared: &Prepared, batches: &[Tensor]) -> Result<Option<Prepared>> {
    let mut copy = prepared.copy();
    if equalize(&mut copy)?.pairs.is_empty() {
        return Ok(None);
    }
    copy.forget_observations()?;
    calibrate(&mut copy, batches.iter().cloned())?;
    Ok(Some(copy))
}

/// Whether calibration found a range for it, or for what is inside of it.
fn has_range(node: &Node<'_>) -> bool {
    match node {
        Node::Weighted { output, .. } => output.is_some(),
        Node::Table { output, .. } | Node::Plain { output, .. } => output.is_some(),
        Node::Ways {
            output, branches, ..
        } => output.is_some() || branches.iter().flatten().any(has_range),
    }
}

/// The schemes of all weights that are codes.
fn schemes(nodes: &[Node<'_>]) -> Vec<Scheme> {
    let mut found = Vec::new();
    for node in nodes {
        match node {
            Node::Weighted { weights, .. } if weights.are_codes() => {
                found.push(weights.folded.scheme);
            }
            Node::Ways { branches, .. } => {
                branches
                    .iter()
                    .for_each(|branch| found.extend(schemes(branch)));
            }
            Node::Weighted { .. } | Node::Table { .. } | Node::Plain { .. } => {}
        }
    }
    found
}

/// What flows, as the real model and as the integer model sees it, batch by batch.
type Flow = Vec<(Tensor, Tensor)>;

/// Runs the integer model with a remedy; the outputs for all batches.
fn run(simulation: &Simulation<'_>, remedy: &Remedy, flow: Flow) -> Result<Vec<Tensor>> {
    let mut start = Vec::with_capacity(flow.len());
    let input = remedied_range(simulation.input, &flow, remedy)?;
    for (real, got) in flow {
        start.push((real, write(got, input, 0, ALL_ON)?));
    }
    let end = chain(&simulation.nodes, remedy, start)?;
    Ok(end.into_iter().map(|(_, got)| got).collect())
}

fn chain(nodes: &[Node<'_>], remedy: &Remedy, mut flow: Flow) -> Result<Flow> {
    for node in nodes {
        flow = through(node, remedy, flow)?;
    }
    Ok(flow)
}

fn through(node: &Node<'_>, remedy: &Remedy, flow: Flow) -> Result<Flow> {
    let off: Switches<'_> = &|_, _, _| false;
    match node {
        Node::Weighted {
            site,
            weights,
            output,
        } => {
            let changed = remedied_weights(weights, remedy, &flow)?;
            let weights = changed.as_ref().unwrap_or(weights);
            let mut before = Vec::with_capacity(flow.len());
            for (real, got) in &flow {
                before.push((
                    weights.compute(real, *site, off)?,
                    weights.compute(got, *site, ALL_ON)?,
                ));
            }
            if *remedy == Remedy::CorrectBias {
                let outputs = weights.folded.bias.len();
                let shift = mean_error(weights, &before, outputs)?;
                for (_, got) in &mut before {
                    let axis = weights.channel_axis(got);
                    let mut shape = vec![1; got.shape().len()];
                    shape[axis] = outputs;
                    *got = got.try_add(&Tensor::new(shift.clone(), &shape)?)?;
                }
            }
            let after: Vec<_> = before
                .into_iter()
                .map(|(real, got)| (weights.activated(real), weights.activated(got)))
                .collect();
            let output = remedied_range(*output, &after, remedy)?;
            written_flow(after, output, *site)
        }
        Node::Table {
            site,
            stage,
            read,
            output,
        } => {
            let mut after = Vec::with_capacity(flow.len());
            for (real, got) in &flow {
                after.push((stage.compute(real)?, read.forward_definition(got)?));
            }
            let output = remedied_range(*output, &after, remedy)?;
            written_flow(after, output, *site)
        }
        Node::Plain {
            site,
            stage,
            output,
        } => {
            let mut after = Vec::with_capacity(flow.len());
            for (real, got) in &flow {
                after.push((stage.compute(real)?, stage.compute(got)?));
            }
            written_flow(after, *output, *site)
        }
        Node::Ways {
            site,
            stage,
            branches,
            output,
        } => {
            let mut ends = Vec::with_capacity(branches.len());
            for branch in branches {
                ends.push(chain(branch, remedy, flow.clone())?);
            }
            let mut after = Vec::with_capacity(flow.len());
            for batch in 0..flow.len() {
                let of = |side: fn(&(Tensor, Tensor)) -> &Tensor| {
                    let ends: Vec<Tensor> =
                        ends.iter().map(|end| side(&end[batch]).clone()).collect();
                    join(stage, &ends)
                };
                after.push((of(|pair| &pair.0)?, of(|pair| &pair.1)?));
            }
            let output = remedied_range(*output, &after, remedy)?;
            written_flow(after, output, *site)
        }
    }
}

fn written_flow(flow: Flow, output: Option<QParams>, site: usize) -> Result<Flow> {
    let Some(output) = output else {
        return Ok(flow);
    };
    flow.into_iter()
        .map(|(real, got)| {
            let got = written(&got, output, site, 1, ALL_ON)?;
            Ok((real, got))
        })
        .collect()
}

/// Of each channel, the mean of what is missing.
fn mean_error(weights: &Weights, flow: &Flow, outputs: usize) -> Result<Vec<f32>> {
    let (mut sums, mut count) = (vec![0.0_f64; outputs], 0);
    for (real, got) in flow {
        let difference = real.array().into_owned() - got.array();
        let axis = weights.channel_axis(got);
        for (sum, values) in sums.iter_mut().zip(difference.axis_iter(Axis(axis))) {
            *sum += values.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        count += got.len() / outputs;
    }
    Ok(sums
        .iter()
        .map(|sum| (sum / count.max(1) as f64) as f32)
        .collect())
}

/// The range that min-max calibration would give, if that is the remedy.
fn remedied_range(
    output: Option<QParams>,
    flow: &Flow,
    remedy: &Remedy,
) -> Result<Option<QParams>> {
    if *remedy != Remedy::CalibrateMinMax || output.is_none() {
        return Ok(output);
    }
    let mut range = ValueRange { min: 0.0, max: 0.0 };
    for (real, _) in flow {
        for x in real.to_vec() {
            range.min = range.min.min(x);
            range.max = range.max.max(x);
        }
    }
    // A zero point of 0 is that of symmetric activations. By chance it is also that of a range whose ends are about alike, for which
    // either way gives nearly the same.
    let symmetry = match output {
        Some(QParams { zero_point: 0, .. }) => Symmetry::Symmetric,
        _ => Symmetry::Asymmetric,
    };
    pair_for(range, symmetry, CodeRange::INT8).map(Some)
}

/// The weights as the remedy would write them, if it is one for weights.
fn remedied_weights(weights: &Weights, remedy: &Remedy, flow: &Flow) -> Result<Option<Weights>> {
    if !weights.are_codes() {
        return Ok(None);
    }
    let folded = &weights.folded;
    let input_scale = match weights.input {
        Input::Codes(qparams) => Some(qparams.scale),
        Input::Real => None,
    };
    let scheme = match remedy {
        Remedy::LearnRounding => {
            let multiplied = flow.iter().map(|(real, got)| {
                let got = weights.multiplied(got)?;
                Ok((real.clone(), got))
            });
            let statistics = Statistics::of(folded, &multiplied.collect::<Result<Vec<_>>>()?)?;
            let options = RoundingOptions::default();
            let codes = statistics.learn_codes(folded, input_scale, true, options)?;
            let mut weights = weights.rewritten(&codes);
            weights.read_bias = statistics.corrected_bias(folded, &weights.read);
            return Ok(Some(weights));
        }
        Remedy::ScalePerChannel if folded.scheme.granularity == Granularity::PerTensor => Scheme {
            granularity: Granularity::PerChannel { axis: 0 },
            ..folded.scheme
        },
        Remedy::EightBits => Scheme {
            codes: CodeRange::INT8_NARROW,
            ..folded.scheme
        },
        _ => return Ok(None),
    };
    let weight = folded.weight.view();
    let codes = match input_scale {
        Some(scale) => crate::layer::quantize_parts(weight, &folded.bias, scheme, scale)?.0,
        None => QTensor::quantize(weight, scheme)?,
    };
    Ok(Some(weights.rewritten(&codes)))
}
