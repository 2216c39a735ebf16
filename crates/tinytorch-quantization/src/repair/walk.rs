//! From the first layer to the last: each is repaired for the inputs that the repaired layers before it will really give.

use super::layer::Statistics;
use super::report::{LayerReport, noise_and_signal, ratio};
use super::rounding::RoundingOptions;
use crate::error::Result;
use crate::framework::Tensor;
use crate::prepare::Prepared;
use crate::qlayer::QLayer;
use crate::qmodel::QModel;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams};
use crate::stage::Stage;

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
    let mut meaning = prepared.input_qparams()?;
    // What flows, as the real model and as the integer model sees it.
    let mut flow = Vec::with_capacity(batches.len());
    for batch in batches {
        let got = rounded(batch, meaning).map_err(|error| error.in_tensor("input"))?;
        flow.push((batch.clone(), got));
    }
    let mut reports = Vec::new();
    for stage in prepared.stages_mut() {
        let output = stage.output_qparams(meaning)?;
        let expected = flow.iter().map(|(real, _)| stage.forward(real));
        let expected: Vec<Tensor> = expected.collect::<Result<_>>()?;
        let named = stage.name().to_owned();
        let mut got = run(stage, meaning, output, &flow).map_err(|error| error.in_layer(&named))?;
        if let Some(folded) = stage.folded()? {
            let before = error(&expected, &got);
            let learned = learn(stage, &folded, &flow, meaning, rounding, bias);
            learned.map_err(|error| error.in_layer(&named))?;
            let better =
                run(stage, meaning, output, &flow).map_err(|error| error.in_layer(&named))?;
            let after = error(&expected, &better);
            // What was learned was learned in f64 and in front of the ReLU. It is kept only if it holds behind it.
            let kept = after < before;
            if kept {
                got = better;
            } else {
                stage.forget_repair();
            }
            reports.push(LayerReport {
                name: named,
                before,
                after,
                kept,
            });
        }
        flow = expected.into_iter().zip(got).collect();
        meaning = output;
    }
    Ok(reports)
}

fn learn(
    stage: &mut Stage,
    folded: &crate::folded::Folded,
    flow: &[(Tensor, Tensor)],
    input: QParams,
    rounding: Option<RoundingOptions>,
    bias: bool,
) -> Result<()> {
    let statistics = Statistics::of(folded, flow)?;
    let weight = match rounding {
        Some(options) => {
            let codes = statistics.learn_codes(folded, Some(input.scale), bias, options)?;
            let weight = codes.dequantize();
            stage.set_weight_codes(codes)?;
            weight
        }
        None => {
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
    let in_float = matches!(layer, QLayer::Float(_));
    let layer = QModel::new(input, vec![(stage.name().to_owned(), layer)])?;
    flow.iter()
        .map(|(_, got)| {
            let y = layer.forward(got)?;
            if in_float { rounded(&y, output) } else { Ok(y) }
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
