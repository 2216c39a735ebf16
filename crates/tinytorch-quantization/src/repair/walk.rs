//! From the first layer to the last: each is repaired for the inputs that the repaired layers before it will really give.

use super::layer::Statistics;
use super::report::{LayerReport, noise_and_signal, ratio};
use super::rounding::RoundingOptions;
use crate::composite::Takes;
use crate::error::{Error, Result};
use crate::folded::Folded;
use crate::framework::Tensor;
use crate::prepare::Prepared;
use crate::qlayer::QLayer;
use crate::qmodel::QModel;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams};
use crate::stage::{Stage, demands_codes};

/// Learns codes (if `rounding`) and biases (if `bias`) of all layers with weights.
///
/// # Errors
///
/// Those of the layers.
pub(super) fn walk(
    prepared: &mut Prepared,
    batches: &[Tensor],
    rounding: Option<RoundingOptions>,
    bias: bool,
) -> Result<Vec<LayerReport>> {
    let meaning = prepared.input_qparams()?;
    // Some models begin with a layer that reads real values.
    let written = demands_codes(prepared.stages(), true);
    // What flows, as the real model and as the integer model sees it.
    let mut flow = Vec::with_capacity(batches.len());
    for batch in batches {
        let got = if written {
            rounded(batch, meaning).map_err(|error| error.in_tensor("input"))?
        } else {
            batch.clone()
        };
        flow.push((batch.clone(), got));
    }
    let mut walk = Walk {
        rounding,
        bias,
        reports: Vec::new(),
    };
    walk.chain(prepared.stages_mut(), meaning, written, flow)?;
    Ok(walk.reports)
}

struct Walk {
    rounding: Option<RoundingOptions>,
    bias: bool,
    reports: Vec<LayerReport>,
}

impl Walk {
    /// One stage after another; the stages inside of one before the one itself. `on_codes`: what enters is codes.
    fn chain(
        &mut self,
        stages: &mut [Stage],
        mut meaning: QParams,
        mut on_codes: bool,
        mut flow: Vec<(Tensor, Tensor)>,
    ) -> Result<()> {
        for stage in stages {
            let name = stage.name().to_owned();
            let named = |error: Error| error.in_layer(&name);
            let output = stage.output_qparams(meaning)?;
            let expected = flow.iter().map(|(real, _)| stage.compute(real));
            let expected: Vec<Tensor> = expected.collect::<Result<_>>()?;
            let inside = stage.takes() == Takes::Codes || stage.takes_either() && on_codes;
            for branch in stage.branches_mut() {
                self.chain(branch, meaning, inside, flow.clone())?;
            }
            let mut got = if stage.takes_either() && !on_codes {
                // Alone, such a layer would be given codes.
                let got = flow.iter().map(|(_, got)| stage.compute(got));
                got.collect::<Result<_>>()?
            } else {
                run(stage, meaning, output, &flow).map_err(named)?
            };
            if let Some(folded) = stage.with_codes()? {
                let before = error(&expected, &got);
                learn(stage, &folded, &flow, meaning, self.rounding, self.bias).map_err(named)?;
                let better = run(stage, meaning, output, &flow).map_err(named)?;
                let after = error(&expected, &better);
                // What was learned was learned in f64 and in front of the ReLU. It is kept only if it holds behind it.
                let kept = after < before;
                if kept {
                    got = better;
                } else {
                    stage.forget_repair();
                }
                self.reports.push(LayerReport {
                    name: name.clone(),
                    before,
                    after,
                    kept,
                });
            }
            if !stage.takes_either() {
                on_codes = !stage.gives_real() || stage.is_read_as_codes();
            }
            flow = expected.into_iter().zip(got).collect();
            meaning = output;
        }
        Ok(())
    }
}

fn learn(
    stage: &mut Stage,
    folded: &Folded,
    flow: &[(Tensor, Tensor)],
    input: QParams,
    rounding: Option<RoundingOptions>,
    bias: bool,
) -> Result<()> {
    // A layer between real values is read as it will be: its weights, and what it multiplies.
    let narrow = match stage.is_narrow() {
        true => match stage.quantize(input, input)? {
            QLayer::Narrow(layer) => Some(layer),
            _ => None,
        },
        false => None,
    };
    let statistics = match &narrow {
        Some(layer) => {
            let multiplied = |(real, got): &(Tensor, Tensor)| {
                let got = layer.multiplied(got)?;
                Ok((real.clone(), got))
            };
            let flow = flow.iter().map(multiplied).collect::<Result<Vec<_>>>()?;
            Statistics::of(folded, &flow)?
        }
        None => Statistics::of(folded, flow)?,
    };
    let weight = match (rounding, &narrow) {
        (Some(options), _) => {
            let scale = narrow.is_none().then_some(input.scale);
            let codes = statistics.learn_codes(folded, scale, bias, options)?;
            let weight = codes.dequantize();
            stage.set_weight_codes(codes)?;
            weight
        }
        (None, Some(layer)) => layer.weight().dequantize().array().into_owned(),
        (None, None) => {
            let weight = folded.weight.view();
            let (codes, _) =
                crate::layer::quantize_parts(weight, &folded.bias, folded.scheme, input.scale)?;
            codes.dequantize()
        }
    };
    if bias {
        let corrected = statistics.corrected_bias(folded, &weight);
        stage.set_corrected_bias(Some(corrected))?;
    }
    Ok(())
}

/// The outputs of the stage as an integer layer, on what flows.
fn run(
    stage: &Stage,
    input: QParams,
    output: QParams,
    flow: &[(Tensor, Tensor)],
) -> Result<Vec<Tensor>> {
    let layer = stage.quantize(input, output)?;
    // Real values that the next layer will read as codes.
    let written = layer.real_output();
    let layer = QModel::new(input, vec![(stage.name().to_owned(), layer)])?;
    flow.iter()
        .map(|(_, got)| match written {
            Some(written) => rounded(&layer.forward(got)?, written),
            None => layer.forward(got),
        })
        .collect()
}

/// Each value as its code reads back.
fn rounded(x: &Tensor, qparams: QParams) -> Result<Tensor> {
    let codes = QTensor::quantize_with(x.array().view(), qparams, CodeRange::INT8)?;
    Ok(Tensor::from_array(codes.dequantize()))
}

fn error(expected: &[Tensor], got: &[Tensor]) -> f64 {
    let pairs = expected.iter().zip(got);
    let sums = pairs.map(|(x, y)| noise_and_signal(&x.to_vec(), &y.to_vec()));
    let (noise, signal) = sums.fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    ratio(noise, signal)
}
