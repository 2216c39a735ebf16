//! What the quantized linear layer and the quantized convolution have in common: how their parts come to be, and
//! what must hold for them to work.

use ndarray::ArrayViewD;

use crate::error::{Error, Result};
use crate::finite::{check_finite, check_finite_channels};
use crate::gemm::MAX_K;
use crate::linear::quantize_bias;
use crate::per_channel::choose_qparams_per_channel;
use crate::qparams::symmetric_scale;
use crate::qtensor::{Parameters, QTensor};
use crate::requantize::multipliers;
use crate::scheme::{CodeRange, Granularity, QParams, Scheme, Symmetry};

/// Writes weight and bias of a layer as integers.
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `weight` | `[out, ...]` | real weights |
/// | `bias` | `[out]` | real bias |
/// | `scheme` | | symmetric; per tensor, or per channel along axis 0 |
/// | `input_scale` | | scale of the codes that will come in |
///
/// A channel whose weights are tiny beside its bias would have steps so small that the bias overflows the accumulator.
/// Its scale is raised until the bias fits: its weights lose codes, but beside such a bias they do not count. A dead
/// channel of a convolution folded with its batch norm is like that. ONNX Runtime's quantizer does the same.
///
/// # Errors
///
/// [`Error::NotFinite`] with index and channel, [`Error::Unsupported`] for another scheme,
/// [`Error::ShapeMismatch`], [`Error::TooManyProducts`], [`Error::BadCodeRange`].
pub fn quantize_parts(
    weight: ArrayViewD<'_, f32>,
    bias: &[f32],
    scheme: Scheme,
    input_scale: f32,
) -> Result<(QTensor, Vec<i32>)> {
    check_scheme(scheme)?;
    let outputs = check_shape(weight.shape(), bias.len())?;
    check_finite_channels(&weight, 0)?;
    check_finite(bias)?;
    let codes = scheme.codes;
    let mut scales: Vec<f32> = match scheme.granularity {
        Granularity::PerChannel { .. } => {
            let qparams = choose_qparams_per_channel(weight.view(), 0, codes)?;
            qparams.iter().map(|pair| pair.scale).collect()
        }
        Granularity::PerTensor => {
            let max_abs = weight.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            vec![symmetric_scale(max_abs, codes)?; outputs]
        }
        Granularity::PerGroup { .. } => return Err(not_in_rows()),
    };
    let products = weight.len() / outputs;
    for (scale, bias) in scales.iter_mut().zip(bias) {
        *scale = scale.max(smallest_scale(*bias, input_scale, products));
    }
    let parameters = match scheme.granularity {
        Granularity::PerChannel { axis } => Parameters::PerChannel {
            axis,
            qparams: scales.iter().copied().map(QParams::symmetric).collect(),
        },
        Granularity::PerTensor => {
            let scale = scales.iter().fold(0.0_f32, |max, scale| max.max(*scale));
            scales.fill(scale);
            Parameters::PerTensor(QParams::symmetric(scale))
        }
        Granularity::PerGroup { .. } => return Err(not_in_rows()),
    };
    let weight = QTensor::quantize_as(weight, parameters, codes)?;
    let bias = quantize_bias(bias, input_scale, &scales)?;
    Ok((weight, bias))
}

/// The smallest weight scale with which `bias` fits beside the products in an `i32`.
pub(crate) fn smallest_scale(bias: f32, input_scale: f32, products: usize) -> f32 {
    let room = f64::from(room_for_bias(products)).max(1.0);
    let needed = f64::from(bias.abs()) / (room * f64::from(input_scale));
    // Rounding to f32 may go down, rounding of the bias up: one part in a million covers both.
    (needed * 1.000_001) as f32
}

/// N11: what so many products leave of an `i32`.
fn room_for_bias(products: usize) -> i32 {
    // Not more than MAX_K of them, so this fits.
    i32::MAX - 255 * 128 * products as i32
}

/// Checks what a layer relies on, so that its forward pass can neither panic nor overflow. `weight` is `[out, in]` or
/// `[out, in / groups, kh, kw]`, `bias` is `[out]`.
///
/// # Errors
///
/// [`Error::ShapeMismatch`], [`Error::TooManyProducts`], [`Error::Unsupported`], [`Error::AccumulatorOverflow`],
/// [`Error::BadMultiplier`], [`Error::BadQParams`].
pub fn check_parts(weight: &QTensor, bias: &[i32], input: QParams, output: QParams) -> Result<()> {
    let outputs = check_shape(weight.shape(), bias.len())?;
    input.check(CodeRange::INT8)?;
    output.check(CodeRange::INT8)?;
    check_weight(weight)?;
    let room = room_for_bias(weight.as_slice().len() / outputs);
    let too_large = |bias: &i32| bias.unsigned_abs() > room.unsigned_abs();
    if let Some(channel) = bias.iter().position(too_large) {
        return Err(Error::AccumulatorOverflow { channel });
    }
    multipliers(input.scale, &weight.row_scales(), output.scale).map(|_| ())
}

/// Checks that the codes of a weight are symmetric, fit an `i8`, and have one scale, or one for each output. Shape
/// `[out, ..]`.
///
/// # Errors
///
/// [`Error::Unsupported`], [`Error::BadCodeRange`].
pub fn check_weight(weight: &QTensor) -> Result<()> {
    let (symmetric, rows) = match weight.parameters() {
        Parameters::PerTensor(qparams) => (qparams.zero_point == 0, true),
        Parameters::PerChannel { axis, qparams } => {
            (qparams.iter().all(|pair| pair.zero_point == 0), *axis == 0)
        }
        // Scales that change within a row cannot be taken out of its sum of products.
        Parameters::PerGroup { .. } => (false, false),
    };
    if symmetric && rows {
        return weight.range().check_i8();
    }
    Err(not_in_rows())
}

/// The number of outputs, if weight and bias fit together and an `i32` can sum the products.
fn check_shape(weight: &[usize], bias: usize) -> Result<usize> {
    let mismatch = |expected: &str| Error::ShapeMismatch {
        operation: "a quantized layer",
        expected: expected.to_owned(),
        got: weight.to_vec(),
    };
    let (&outputs, inputs) = weight
        .split_first()
        .ok_or_else(|| mismatch("a weight [out, ...]"))?;
    if outputs == 0 || inputs.contains(&0) {
        return Err(mismatch("at least one output and one input"));
    }
    if bias != outputs {
        return Err(mismatch(&format!(
            "as many outputs as the bias has, {bias}"
        )));
    }
    let products = inputs.iter().product();
    if products > MAX_K {
        return Err(Error::TooManyProducts {
            k: products,
            limit: MAX_K,
        });
    }
    Ok(outputs)
}

fn check_scheme(scheme: Scheme) -> Result<()> {
    let rows = matches!(
        scheme.granularity,
        Granularity::PerTensor | Granularity::PerChannel { axis: 0 }
    );
    if scheme.symmetry == Symmetry::Symmetric && rows {
        scheme.codes.check_i8()
    } else {
        Err(not_in_rows())
    }
}

/// An integer product needs weights without a zero point and with one scale for each output at most.
fn not_in_rows() -> Error {
    Error::Unsupported {
        what: "an integer product with weights that are not symmetric, are in groups, or whose channels do not lie along axis 0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn a_bias_that_dwarfs_its_weights_raises_their_scale() {
        let weight = arr2(&[[1e-20, -1e-20], [1.0, -1.0]]).into_dyn();
        let (weight, bias) =
            quantize_parts(weight.view(), &[0.5, 0.5], Scheme::WEIGHTS, 0.01).expect("it fits");
        assert_eq!(weight.as_slice(), [0, 0, 127, -127]);
        let scales = weight.row_scales();
        assert_eq!(scales[1], 1.0 / 127.0);
        for (code, scale) in bias.iter().zip(scales) {
            // The bias reads back as 0.5; its code was rounded to f32 precision at most.
            let real = f64::from(*code) * 0.01_f32 as f64 * f64::from(scale);
            assert!((real - 0.5).abs() <= 0.01 * f64::from(scale), "{real}");
        }
        let unit = QParams::symmetric(0.01);
        assert_eq!(check_parts(&weight, &bias, unit, unit), Ok(()));
    }

    #[test]
    fn what_could_overflow_is_refused() {
        let weight = |code: i8, count: usize| {
            let unit = Parameters::PerTensor(QParams::symmetric(1.0));
            QTensor::new(vec![code; count], &[1, count], unit, CodeRange::INT8).expect("good")
        };
        let unit = QParams::symmetric(1.0);
        let full = weight(-128, MAX_K);
        assert_eq!(check_parts(&full, &[0], unit, unit), Ok(()));
        assert_eq!(
            check_parts(&full, &[1000], unit, unit),
            Err(Error::AccumulatorOverflow { channel: 0 })
        );
        assert_eq!(check_parts(&full, &[127], unit, unit), Ok(()));
        assert!(check_parts(&weight(0, MAX_K + 1), &[0], unit, unit).is_err());
        assert!(check_parts(&weight(0, 2), &[0, 0], unit, unit).is_err());
    }
}
