//! Sections 4.4 and 4.5: the integer product, requantization, bytes.

use super::normal;
use ndarray::{ArrayD, IxDyn};
use tinytorch_labs::table::Table;
use tinytorch_quantization::{CodeRange, Dims, QLinear, QParams, Scheme, gemm_i8};

fn dot(a: [i32; 2], b: [i32; 2]) -> i32 {
    a[0] * b[0] + a[1] * b[1]
}

pub fn product() -> String {
    let (a, b) = ([1_i8, 2, 3, 4], [5_i8, 6, 7, 8]);
    let (za, zb) = (1, 2);
    let mut sums = [0; 4];
    gemm_i8(Dims { m: 2, n: 2, k: 2 }, &a, za, &b, zb, &mut sums);
    let mut table = Table::new([
        "row of a",
        "row of b",
        "by hand",
        "Σab",
        "−za Σb",
        "−zb Σa",
        "k za zb",
        "sum",
    ]);
    for (index, sum) in sums.iter().enumerate() {
        let row = |m: [i8; 4], i: usize| [i32::from(m[2 * i]), i32::from(m[2 * i + 1])];
        let (a, b) = (row(a, index / 2), row(b, index % 2));
        let by_hand = dot(a.map(|v| v - za), b.map(|v| v - zb));
        assert_eq!(by_hand, *sum);
        table.row([
            format!("{a:?}"),
            format!("{b:?}"),
            by_hand.to_string(),
            dot(a, b).to_string(),
            (-za * (b[0] + b[1])).to_string(),
            (-zb * (a[0] + a[1])).to_string(),
            (2 * za * zb).to_string(),
            sum.to_string(),
        ]);
    }
    format!("z_a = {za}   z_b = {zb}   k = 2\n\n{table}")
}

pub fn requantize() -> String {
    let (sums, multiplier, zero_point) = ([0, 100, 1000, 20_000, -1000, -20_000], 0.0125_f32, -10);
    let multipliers = [multiplier; 6];
    let code = |codes| tinytorch_quantization::requantize(&sums, &multipliers, zero_point, codes);
    let relu = CodeRange {
        min: zero_point,
        max: 127,
    };
    let mut table = Table::new(["sum", "sum · multiplier", "code", "with ReLU"]);
    for ((sum, code), rectified) in sums.iter().zip(code(CodeRange::INT8)).zip(code(relu)) {
        table.row([
            sum.to_string(),
            format!("{:.2}", *sum as f32 * multiplier),
            code.to_string(),
            rectified.to_string(),
        ]);
    }
    table.to_string()
}

pub fn memory() -> String {
    let (inputs, outputs) = (784, 128);
    let weight = ArrayD::from_shape_vec(IxDyn(&[outputs, inputs]), normal(outputs * inputs, 0.05));
    let weight = weight.expect("the shape holds the values");
    let (bias, qparams) = (vec![0.0; outputs], QParams::symmetric(0.05));
    let layer = QLinear::quantize(
        weight.view(),
        &bias,
        Scheme::WEIGHTS,
        qparams,
        qparams,
        false,
    );
    let layer = layer.expect("the values are finite");
    let f32_bytes = 4 * (weight.len() + bias.len());
    let parameters = size_of::<QParams>();
    let rows = [
        ("weights", 4 * weight.len(), weight.len()),
        ("a scale and zero point per output", 0, outputs * parameters),
        ("bias, i32 in place of f32", 4 * outputs, 4 * outputs),
        (
            "scale and zero point of input and output",
            0,
            2 * parameters,
        ),
        ("is there a ReLU?", 0, size_of::<bool>()),
    ];
    let mut table = Table::new(["what", "f32 bytes", "INT8 bytes"]);
    for (what, before, after) in rows {
        table.row([what.to_owned(), before.to_string(), after.to_string()]);
    }
    assert_eq!(
        rows.iter().map(|row| row.2).sum::<usize>(),
        layer.memory_bytes()
    );
    table.row([
        "sum".to_owned(),
        f32_bytes.to_string(),
        layer.memory_bytes().to_string(),
    ]);
    format!(
        "{table}\nratio {:.3}\n",
        f32_bytes as f64 / layer.memory_bytes() as f64
    )
}
