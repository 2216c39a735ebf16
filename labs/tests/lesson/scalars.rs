//! Sections 4.1 and 4.2: one value, eight widths, four channels.

use super::normal;
use ndarray::{ArrayD, IxDyn};
use tinytorch_labs::table::Table;
use tinytorch_quantization::metrics::sqnr_db;
use tinytorch_quantization::{
    CodeRange, QParams, ValueRange, choose_qparams, choose_qparams_per_channel, dequantize,
    quantize, symmetric_scale,
};

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, v| v.abs().max(max))
}

/// There and back with one symmetric scale.
fn round_trip(values: &[f32], codes: CodeRange) -> (f32, Vec<f32>) {
    let scale = symmetric_scale(largest(values), codes).expect("the values are finite");
    let qparams = QParams::symmetric(scale);
    let quantized = quantize(values, qparams, codes).expect("the values are finite");
    (scale, dequantize(&quantized, qparams))
}

pub fn asymmetric() -> String {
    let range = ValueRange {
        min: -1.0,
        max: 2.0,
    };
    let qparams = choose_qparams(range, CodeRange::INT8).expect("the range is good");
    let values = [-1.0, -0.5, 0.0, 0.3, 2.0, 2.5];
    let codes = quantize(&values, qparams, CodeRange::INT8).expect("the values are finite");
    let back = dequantize(&codes, qparams);
    let mut table = Table::new(["value", "code", "reads back as", "value − that"]);
    for ((value, code), back) in values.iter().zip(&codes).zip(&back) {
        let error = value - back;
        table.row([
            format!("{value:.2}"),
            code.to_string(),
            format!("{back:.5}"),
            format!("{error:.5}"),
        ]);
    }
    let QParams { scale, zero_point } = qparams;
    format!(
        "scale = {scale:.7}   zero_point = {zero_point}   scale / 2 = {:.5}\n\n{table}",
        scale / 2.0
    )
}

pub fn bits() -> String {
    let values = normal(65_536, 1.0);
    let mut table = Table::new(["bits", "codes", "step", "SQNR dB"]);
    for bits in (2..=8).rev() {
        let codes = CodeRange::narrow(bits);
        let (scale, back) = round_trip(&values, codes);
        let sqnr = sqnr_db(&values, &back);
        table.row([
            bits.to_string(),
            codes.len().to_string(),
            format!("{scale:.4}"),
            format!("{sqnr:.1}"),
        ]);
    }
    table.to_string()
}

pub fn channels() -> String {
    let deviations = [4.0, 0.5, 0.05, 0.02];
    let (inputs, codes) = (256, CodeRange::INT8_NARROW);
    let noise = normal(4 * inputs, 1.0);
    let weights: Vec<f32> = noise
        .iter()
        .enumerate()
        .map(|(index, v)| deviations[index / inputs] * v)
        .collect();
    let array = ArrayD::from_shape_vec(IxDyn(&[4, inputs]), weights.clone()).expect("4 rows");
    let own = choose_qparams_per_channel(array.view(), 0, codes).expect("the values are finite");
    let (scale, common_back) = round_trip(&weights, codes);
    let mut table = Table::new([
        "channel",
        "max |w|",
        "codes used, one scale",
        "SQNR dB",
        "own scale: SQNR dB",
    ]);
    for (channel, own) in own.iter().enumerate() {
        let part = channel * inputs..(channel + 1) * inputs;
        let values = &weights[part.clone()];
        let used = (largest(values) / scale).round_ties_even() as usize * 2 + 1;
        let common = sqnr_db(values, &common_back[part]);
        let quantized = quantize(values, *own, codes).expect("the values are finite");
        let own = sqnr_db(values, &dequantize(&quantized, *own));
        table.row([
            channel.to_string(),
            format!("{:.4}", largest(values)),
            used.to_string(),
            format!("{common:.1}"),
            format!("{own:.1}"),
        ]);
    }
    table.to_string()
}
