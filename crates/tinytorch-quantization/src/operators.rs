//! The integer operators of ONNX, by definition: for models of other tools, and to check kernels with.
//!
//! In: codes and what they mean. Out: the exact sums or codes that the operator of the same name gives. Unlike the layers of
//! this library, whose weights are symmetric (N8), these take zero points on both sides. They are slow.
//!
//! Codes without a sign come in by [`QTensor::from_unsigned`], which shifts them and their zero points by 128: what they mean, and so
//! every sum, stays (N9).
//!
//! Source: ONNX operators QuantizeLinear, DequantizeLinear, MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv; all their
//! node tests that concern these types are run against the functions here (`tests/golden/onnx_nodes.rs`).

use ndarray::{ArrayD, IxDyn};

use crate::conv::{check_options, gather, output_shape};
use crate::dialect::{Dialect, Rescale};
use crate::error::{Error, Result};
use crate::framework::Conv2dOptions;
use crate::gemm::{MAX_K, MAX_K_BOTH_ASYMMETRIC, gemm_i8};
use crate::qtensor::{Parameters, QTensor};
use crate::scheme::{CodeRange, Dims, QParams};

/// Writes values as codes of up to 16 bits, whoever shares parameters: QuantizeLinear. One code for each value.
///
/// | argument | meaning |
/// |---|---|
/// | `values` | real values of a tensor of this `shape`, row-major |
/// | `parameters` | per tensor, per channel along any axis, or per group |
/// | `codes` | the codes there are |
///
/// # Errors
///
/// [`Error::ShapeMismatch`] if the shape holds another number of values; [`Error::NotFinite`] with the index;
/// [`Error::BadCodeRange`]; those of [`Parameters::check`].
pub fn quantize_linear(
    values: &[f32],
    shape: &[usize],
    parameters: &Parameters,
    codes: CodeRange,
) -> Result<Vec<i32>> {
    check_shape("quantize_linear", values.len(), shape)?;
    codes.check()?;
    parameters.check(shape, codes)?;
    crate::finite::check_finite(values)?;
    let mut written = Vec::with_capacity(values.len());
    for (range, pair) in parameters.runs(shape) {
        written.extend(Dialect::Onnx.quantize(&values[range], pair, codes)?);
    }
    Ok(written)
}

/// Reads codes of up to 16 bits as the real values they stand for, whoever shares parameters: DequantizeLinear. One value for each code:
/// `scale · (code − zero_point)`, the difference exact (N1).
///
/// | argument | meaning |
/// |---|---|
/// | `codes` | the codes of a tensor of this `shape`, row-major |
/// | `parameters` | per tensor, per channel along any axis, or per group |
/// | `range` | the codes there are |
///
/// # Errors
///
/// [`Error::ShapeMismatch`] if the shape holds another number of codes; [`Error::CodeOutOfRange`]; [`Error::BadCodeRange`]; those of
/// [`Parameters::check`].
pub fn dequantize_linear(
    codes: &[i32],
    shape: &[usize],
    parameters: &Parameters,
    range: CodeRange,
) -> Result<Vec<f32>> {
    check_shape("dequantize_linear", codes.len(), shape)?;
    range.check()?;
    parameters.check(shape, range)?;
    if let Some(index) = codes.iter().position(|&code| !range.contains(code)) {
        let CodeRange { min, max } = range;
        return Err(Error::CodeOutOfRange { index, min, max });
    }
    let mut values = Vec::with_capacity(codes.len());
    for (run, QParams { scale, zero_point }) in parameters.runs(shape) {
        let real = |&code: &i32| scale * (code - zero_point) as f32;
        values.extend(codes[run].iter().map(real));
    }
    Ok(values)
}

/// The exact sums of products of two tensors of codes: MatMulInteger. `[.., m, k]` and `[.., k, n]` to `[.., m, n]`, in units of both scales; the
/// leading axes are the same on both sides.
///
/// # Errors
///
/// [`Error::ShapeMismatch`]; [`Error::Unsupported`] unless each side has one zero point; [`Error::TooManyProducts`] (N11).
pub fn mat_mul_integer(a: &QTensor, b: &QTensor) -> Result<ArrayD<i32>> {
    let mismatch = || Error::ShapeMismatch {
        operation: "mat_mul_integer",
        expected: format!("[.., k, n] for {:?} as [.., m, k]", a.shape()),
        got: b.shape().to_vec(),
    };
    let ([left @ .., m, k], [right @ .., rows, n]) = (a.shape(), b.shape()) else {
        return Err(mismatch());
    };
    if left != right || k != rows {
        return Err(mismatch());
    }
    let (m, n, k) = (*m, *n, *k);
    let a_zero = one_pair(a)?.zero_point;
    let b_zero = one_pair(b)?.zero_point;
    check_products(k, b_zero)?;
    let mut sums = Vec::with_capacity(left.iter().product::<usize>() * m * n);
    for matrix in 0..left.iter().product() {
        let a = &a.as_slice()[matrix * m * k..][..m * k];
        let b = &b.as_slice()[matrix * k * n..][..k * n];
        let transposed: Vec<i8> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
        let mut c = vec![0; m * n];
        gemm_i8(Dims { m, n, k }, a, a_zero, &transposed, b_zero, &mut c);
        sums.append(&mut c);
    }
    array([left, &[m, n]].concat(), sums)
}

/// The exact sums of a convolution of codes: ConvInteger. Outside the image stands the zero point of `x`, which means 0.0.
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `x` | `[batch, in, height, width]` | one zero point |
/// | `weight` | `[out, in / groups, kernel height, kernel width]` | one zero point, or one for each output |
/// | result | `[batch, out, out height, out width]` | in units of both scales |
///
/// # Errors
///
/// [`Error::ShapeMismatch`], also for options that fit no convolution; [`Error::Unsupported`] for other parameters;
/// [`Error::TooManyProducts`] (N11).
pub fn conv_integer(x: &QTensor, weight: &QTensor, options: Conv2dOptions) -> Result<ArrayD<i32>> {
    check_options(weight.shape(), options)?;
    let shape = output_shape(weight.shape(), options, x.shape())?;
    let [batch, outputs, height, width] = shape;
    let x_zero = one_pair(x)?.zero_point;
    let pairs = output_pairs(weight)?;
    let k: usize = weight.shape()[1..].iter().product();
    for pair in &pairs {
        check_products(k, pair.zero_point)?;
    }
    let (m, each) = (height * width, outputs / options.groups);
    let mut sums = Vec::with_capacity(batch * outputs * m);
    for image in 0..batch {
        for group in 0..options.groups {
            let out = [height, width];
            let rows = gather(
                x,
                weight.shape(),
                options,
                x_zero as i8,
                (image, group),
                out,
            );
            let of_group = pairs.iter().enumerate().skip(group * each).take(each);
            for (output, pair) in of_group {
                let weight = &weight.as_slice()[output * k..][..k];
                let mut of_output = vec![0; m];
                let dims = Dims { m, n: 1, k };
                let w_zero = pair.zero_point;
                gemm_i8(dims, &rows, x_zero, weight, w_zero, &mut of_output);
                sums.append(&mut of_output);
            }
        }
    }
    array(shape.to_vec(), sums)
}

/// The product of two tensors of codes as codes of the output: QLinearMatMul. Shapes and errors as [`mat_mul_integer`], in steps of
/// `output.scale`.
///
/// # Errors
///
/// Also those of [`Dialect::requantize`].
pub fn q_linear_mat_mul(
    a: &QTensor,
    b: &QTensor,
    output: QParams,
    codes: CodeRange,
) -> Result<ArrayD<i32>> {
    let sums = mat_mul_integer(a, b)?;
    let scales = Rescale {
        input: one_pair(a)?.scale,
        weight: one_pair(b)?.scale,
        output: output.scale,
    };
    let shape = sums.shape().to_vec();
    let sums: Vec<i32> = sums.into_iter().collect();
    let written = Dialect::Onnx.requantize(&sums, scales, output.zero_point, codes)?;
    array(shape, written)
}

/// A convolution of codes as codes of the output: QLinearConv. Shapes as [`conv_integer`], in steps of `output.scale`.
///
/// `bias` has one value for each output, in steps of the scales of `x` and of that output's weights (N10); none, if it is
/// empty.
///
/// # Errors
///
/// Those of [`conv_integer`] and of [`Dialect::requantize`]; [`Error::AccumulatorOverflow`] if a sum and its bias do not fit an
/// `i32`; [`Error::ShapeMismatch`] for another number of biases.
pub fn q_linear_conv(
    x: &QTensor,
    weight: &QTensor,
    bias: &[i32],
    options: Conv2dOptions,
    output: QParams,
    codes: CodeRange,
) -> Result<ArrayD<i32>> {
    let sums = conv_integer(x, weight, options)?;
    let outputs = weight.shape()[0];
    if !bias.is_empty() && bias.len() != outputs {
        return Err(Error::ShapeMismatch {
            operation: "q_linear_conv",
            expected: format!("a bias for each of {outputs} outputs"),
            got: vec![bias.len()],
        });
    }
    let (shape, pairs) = (sums.shape().to_vec(), output_pairs(weight)?);
    let input = one_pair(x)?.scale;
    let sums: Vec<i32> = sums.into_iter().collect();
    let mut written = Vec::with_capacity(sums.len());
    let places = (shape[2] * shape[3]).max(1);
    for (index, sums) in sums.chunks(places).enumerate() {
        let channel = index % outputs;
        let bias = bias.get(channel).copied().unwrap_or(0);
        let with_bias = |sum: &i32| sum.checked_add(bias);
        let sums = sums.iter().map(with_bias).collect::<Option<Vec<i32>>>();
        let sums = sums.ok_or(Error::AccumulatorOverflow { channel })?;
        let scales = Rescale {
            input,
            weight: pairs[channel].scale,
            output: output.scale,
        };
        written.extend(Dialect::Onnx.requantize(&sums, scales, output.zero_point, codes)?);
    }
    array(shape, written)
}

/// A shape that holds as many values as there are.
fn check_shape(operation: &'static str, count: usize, shape: &[usize]) -> Result<()> {
    let product = |count: usize, &size: &usize| count.checked_mul(size);
    if shape.iter().try_fold(1, product) == Some(count) {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        operation,
        expected: format!("a shape for {count} values"),
        got: shape.to_vec(),
    })
}

/// N11.
fn check_products(k: usize, weight_zero: i32) -> Result<()> {
    let limit = if weight_zero == 0 {
        MAX_K
    } else {
        MAX_K_BOTH_ASYMMETRIC
    };
    if k <= limit {
        return Ok(());
    }
    Err(Error::TooManyProducts { k, limit })
}

fn one_pair(codes: &QTensor) -> Result<QParams> {
    codes.qparams().ok_or(Error::Unsupported {
        what: "a product with parameters per channel or group on this side",
    })
}

/// One pair for each output, also when they share one.
fn output_pairs(weight: &QTensor) -> Result<Vec<QParams>> {
    match weight.parameters() {
        Parameters::PerTensor(pair) => Ok(vec![*pair; weight.shape()[0]]),
        Parameters::PerChannel { axis: 0, qparams } => Ok(qparams.clone()),
        _ => Err(Error::Unsupported {
            what: "weights with parameters per group, or per channel along another axis than 0",
        }),
    }
}

fn array(shape: Vec<usize>, values: Vec<i32>) -> Result<ArrayD<i32>> {
    let count = values.len();
    ArrayD::from_shape_vec(IxDyn(&shape), values).map_err(|_| Error::ShapeMismatch {
        operation: "an integer product",
        expected: format!("a shape for {count} sums"),
        got: shape,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(codes: Vec<i8>, shape: &[usize], zero_point: i32) -> QTensor {
        let pair = QParams {
            scale: 0.5,
            zero_point,
        };
        QTensor::new(codes, shape, Parameters::PerTensor(pair), CodeRange::INT8).expect("good")
    }

    #[test]
    fn worked_example_product() {
        // [5 − 3, 7 − 3] · [4 + 2, 1 + 2] = 2 · 6 + 4 · 3.
        let (a, b) = (
            tensor(vec![5, 7], &[1, 2], 3),
            tensor(vec![4, 1], &[2, 1], -2),
        );
        let sums = mat_mul_integer(&a, &b).expect("good");
        assert_eq!((sums.shape(), sums[[0, 0]]), (&[1, 1][..], 24));
        // 24 · 0.5 · 0.5 / 2 = 3.
        let output = QParams {
            scale: 2.0,
            zero_point: 10,
        };
        let codes = q_linear_mat_mul(&a, &b, output, CodeRange::UINT8).expect("good");
        assert_eq!(codes[[0, 0]], 13);
        let error = mat_mul_integer(&a, &a).expect_err("[1, 2] · [1, 2]");
        assert!(matches!(error, Error::ShapeMismatch { .. }));
    }

    #[test]
    fn a_convolution_with_stride_padding_groups_and_zero_points_is_its_sum() {
        let options = Conv2dOptions {
            stride: [2, 1],
            padding: [1, 2],
            groups: 2,
        };
        let code = |i: usize| ((i * 37 + 11) % 200) as i8;
        let x = tensor((0..2 * 4 * 5 * 3).map(code).collect(), &[2, 4, 5, 3], -7);
        let zeros = [3, -5, 0, 100, -128, 9];
        let pair = |&zero_point: &i32| QParams {
            scale: 1.0,
            zero_point,
        };
        let qparams = zeros.iter().map(pair).collect();
        let weight: Vec<i8> = (0..6 * 2 * 3 * 2).map(|i| code(i + 5)).collect();
        let parameters = Parameters::PerChannel { axis: 0, qparams };
        let weight = QTensor::new(weight, &[6, 2, 3, 2], parameters, CodeRange::INT8);
        let weight = weight.expect("good");
        let got = conv_integer(&x, &weight, options).expect("good");
        assert_eq!(got.shape(), [2, 6, 3, 6]);
        let (xs, ws) = (x.codes(), weight.codes());
        for (at, &sum) in got.indexed_iter() {
            let (image, output, row, column) = (at[0], at[1], at[2], at[3]);
            let mut expected = 0;
            for (channel, i, j) in (0..12).map(|n| (n / 6, n / 2 % 3, n % 2)) {
                let y = (row * 2 + i) as isize - 1;
                let x = (column + j) as isize - 2;
                if (0..5).contains(&y) && (0..3).contains(&x) {
                    let input = output / 3 * 2 + channel;
                    let code = i32::from(xs[[image, input, y as usize, x as usize]]);
                    let weight = i32::from(ws[[output, channel, i, j]]) - zeros[output];
                    expected += (code + 7) * weight;
                }
            }
            assert_eq!(sum, expected, "{at:?}");
        }
        // A bias moves the sums of its output before they become codes.
        let output = QParams::symmetric(1000.0);
        let with = q_linear_conv(
            &x,
            &weight,
            &[0, 0, 0, 4000, 0, 0],
            options,
            output,
            CodeRange::INT8,
        );
        let without = q_linear_conv(&x, &weight, &[], options, output, CodeRange::INT8);
        let (with, without) = (with.expect("good"), without.expect("good"));
        for (at, &code) in with.indexed_iter() {
            // 4000 · 0.5 · 1 / 1000 = 2, if neither saturates.
            let raised = if at[1] == 3 { 2 } else { 0 };
            let expected = without[at.clone()] + raised;
            assert!(code == expected || expected > 127 || without[at] == -128);
        }
    }

    #[test]
    fn unsigned_codes_mean_what_they_meant() {
        let qparams = vec![
            QParams {
                scale: 0.5,
                zero_point: 200,
            },
            QParams {
                scale: 2.0,
                zero_point: 0,
            },
        ];
        let parameters = Parameters::PerChannel { axis: 0, qparams };
        let codes = [0, 255, 1, 2];
        let read = QTensor::from_unsigned(&codes, &[2, 2], parameters.clone()).expect("good");
        assert_eq!(read.as_slice(), [-128, 127, -127, -126]);
        let reals = dequantize_linear(
            &codes.map(i32::from),
            &[2, 2],
            &parameters,
            CodeRange::UINT8,
        );
        assert_eq!(reals, Ok(vec![-100.0, 27.5, 2.0, 4.0]));
        assert_eq!(Ok(read.dequantize().into_iter().collect()), reals);
        let back = quantize_linear(
            &[-100.0, 27.5, 2.0, 4.0],
            &[2, 2],
            &parameters,
            CodeRange::UINT8,
        );
        assert_eq!(back, Ok(vec![0, 255, 1, 2]));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let unit = Parameters::PerTensor(QParams::symmetric(1.0));
        let int8 = CodeRange::INT8;
        assert!(matches!(
            dequantize_linear(&[1, 300], &[2], &unit, int8),
            Err(Error::CodeOutOfRange { index: 1, .. })
        ));
        assert!(dequantize_linear(&[1, 3], &[usize::MAX, 2], &unit, int8).is_err());
        assert!(quantize_linear(&[f32::NAN], &[1], &unit, int8).is_err());
        let (x, weight) = (
            tensor(vec![0; 4], &[1, 1, 2, 2], 0),
            tensor(vec![0; 9], &[1, 1, 3, 3], 1),
        );
        assert!(conv_integer(&x, &weight, Conv2dOptions::default()).is_err());
        let k = MAX_K_BOTH_ASYMMETRIC + 1;
        let (a, b) = (
            tensor(vec![0; k], &[1, k], 0),
            tensor(vec![0; k], &[k, 1], 1),
        );
        let limit = MAX_K_BOTH_ASYMMETRIC;
        assert_eq!(
            mat_mul_integer(&a, &b),
            Err(Error::TooManyProducts { k, limit })
        );
        // The largest sum and a bias.
        let (x, weight) = (
            tensor(vec![127], &[1, 1, 1, 1], 0),
            tensor(vec![127], &[1, 1, 1, 1], 0),
        );
        let output = QParams::symmetric(1.0);
        let sum = q_linear_conv(
            &x,
            &weight,
            &[i32::MAX],
            Conv2dOptions::default(),
            output,
            int8,
        );
        assert_eq!(sum, Err(Error::AccumulatorOverflow { channel: 0 }));
    }
}
