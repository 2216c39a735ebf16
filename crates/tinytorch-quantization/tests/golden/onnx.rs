//! The ONNX operators, as its reference evaluator computes them. Our contract is the same: every code must be equal.

use ndarray::{ArrayViewD, IxDyn};
use tinytorch_core::Conv2dOptions;
use tinytorch_quantization::{
    CodeRange, Dims, Parameters, QConv2d, QParams, QTensor, ValueRange, choose_qparams, dequantize,
    gemm_i8, multipliers, quantize, quantize_per_channel, requantize,
};

use crate::reader::{Case, Golden};

/// The scale and the (shifted) zero point of a case quantized per tensor.
fn qparams(case: &Case<'_>) -> QParams {
    let zero_point = case.integers("zero_point")[0] - case.shift("zero_point");
    QParams {
        scale: case.floats("scale")[0],
        zero_point,
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    // −0.0 and 0.0 are the same real number; which of them `scale · 0` gives is not part of the contract.
    values.iter().map(|value| (value + 0.0).to_bits()).collect()
}

#[test]
fn quantize_linear_gives_the_same_codes_and_reads_back_the_same_reals() {
    Golden::open("onnx").each("op", "QuantizeLinear", |case| {
        let codes =
            quantize(&case.floats("x"), qparams(case), CodeRange::INT8).expect("finite values");
        assert_eq!(codes, case.codes("y"), "{}", case.name);
        let back = dequantize(&codes, qparams(case));
        assert_eq!(bits(&back), bits(&case.floats("back")), "{}", case.name);
    });
}

#[test]
fn quantize_linear_along_an_axis_gives_the_same_codes() {
    Golden::open("onnx").each("op", "QuantizeLinearPerAxis", |case| {
        let axis = usize::try_from(case.integer("axis")).expect("an axis");
        let values = case.floats("x");
        let values =
            ArrayViewD::from_shape(IxDyn(&case.shape("x")), &values).expect("its own shape");
        let qparams: Vec<_> = case
            .floats("scale")
            .iter()
            .map(|&scale| QParams {
                scale,
                zero_point: 0,
            })
            .collect();
        let codes =
            quantize_per_channel(values, axis, &qparams, CodeRange::INT8).expect("finite values");
        let codes: Vec<i8> = codes.iter().copied().collect();
        assert_eq!(codes, case.codes("y"), "{}", case.name);
    });
}

#[test]
fn dequantize_linear_gives_the_same_reals_for_every_code() {
    Golden::open("onnx").each("op", "DequantizeLinear", |case| {
        let reals = dequantize(&case.codes("x"), qparams(case));
        assert_eq!(bits(&reals), bits(&case.floats("y")), "{}", case.name);
    });
}

#[test]
fn dynamic_quantize_linear_chooses_the_same_parameters_and_codes() {
    Golden::open("onnx").each("op", "DynamicQuantizeLinear", |case| {
        let values = case.floats("x");
        let min = values.iter().copied().fold(f32::INFINITY, f32::min);
        let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let chosen =
            choose_qparams(ValueRange { min, max }, CodeRange::INT8).expect("a finite range");
        assert_eq!(chosen, qparams(case), "{}", case.name);
        let codes = quantize(&values, chosen, CodeRange::INT8).expect("finite values");
        assert_eq!(codes, case.codes("y"), "{}", case.name);
    });
}

/// ONNX keeps `b` as `[k, n]`; our product wants one row per output, `[n, k]`.
fn transposed(b: &[i8], k: usize, n: usize) -> Vec<i8> {
    (0..n * k).map(|i| b[i % k * n + i / k]).collect()
}

/// The exact sums of `a [m, k] · b [k, n]`.
fn sums(case: &Case<'_>, a_zero_point: i32, b_zero_point: i32) -> (Dims, Vec<i32>) {
    let (a_shape, b_shape) = (case.shape("a"), case.shape("b"));
    let dims = Dims {
        m: a_shape[0],
        n: b_shape[1],
        k: a_shape[1],
    };
    let b = transposed(&case.codes("b"), dims.k, dims.n);
    let mut c = vec![0; dims.m * dims.n];
    gemm_i8(
        dims,
        &case.codes("a"),
        a_zero_point,
        &b,
        b_zero_point,
        &mut c,
    );
    (dims, c)
}

#[test]
fn mat_mul_integer_gives_the_same_sums() {
    Golden::open("onnx").each("op", "MatMulInteger", |case| {
        let a_zero_point = case.integers("a_zero_point")[0] - case.shift("a");
        let (_, c) = sums(case, a_zero_point, case.integers("b_zero_point")[0]);
        assert_eq!(c, case.integers("c"), "{}", case.name);
    });
}

/// The evaluator multiplies by an f64, adds the zero point and then rounds; we round the product with an f32 first (N12).
/// Both give the same code unless `accumulator · multiplier` lies within a few ulp of a tie, as none of these does.
#[test]
fn q_linear_mat_mul_gives_the_same_codes() {
    Golden::open("onnx").each("op", "QLinearMatMul", |case| {
        let (dims, sums) = sums(case, case.integers("a_zero_point")[0], 0);
        let mut weight_scales = case.floats("b_scale");
        weight_scales.resize(dims.n, weight_scales[0]);
        let multipliers = multipliers(
            case.floats("a_scale")[0],
            &weight_scales,
            case.floats("y_scale")[0],
        );
        let zero_point = case.integers("y_zero_point")[0];
        let codes = requantize(
            &sums,
            &multipliers.expect("finite scales"),
            zero_point,
            CodeRange::INT8,
        );
        assert_eq!(codes, case.codes("y"), "{}", case.name);
    });
}

/// The same remark on rounding as above; and padding is the real number 0, so the code that means it.
#[test]
fn q_linear_conv_gives_the_same_codes() {
    Golden::open("onnx").each("op", "QLinearConv", |case| {
        let pair = |scale: &str, zero_point: &str| QParams {
            scale: case.floats(scale)[0],
            zero_point: case.integers(zero_point)[0],
        };
        let (input, output) = (
            pair("x_scale", "x_zero_point"),
            pair("y_scale", "y_zero_point"),
        );
        let scales = case.floats("w_scale");
        let qparams = scales.into_iter().map(|scale| QParams {
            scale,
            zero_point: 0,
        });
        let of_weight = Parameters::PerChannel {
            axis: 0,
            qparams: qparams.collect(),
        };
        let tensor = |name: &str, parameters, range| {
            QTensor::new(case.codes(name), &case.shape(name), parameters, range)
                .expect("its own shape")
        };
        let weight = tensor("w", of_weight, CodeRange::INT8_NARROW);
        let options = Conv2dOptions {
            stride: case.pair("stride"),
            padding: case.pair("padding"),
            groups: usize::try_from(case.integer("groups")).expect("a count"),
        };
        let bias = case.integers("bias");
        let layer = QConv2d::from_parts(weight, bias, options, input, output, false);
        let x = tensor("x", Parameters::PerTensor(input), CodeRange::INT8);
        let y = layer.expect("parts that fit").forward_definition(&x);
        let y = y.expect("an image of the right size");
        assert_eq!(y.shape(), case.shape("y"), "{}", case.name);
        assert_eq!(y.as_slice(), case.codes("y"), "{}", case.name);
    });
}
