//! Fake quantization: feel the rounding while training, and still learn.
//!
//! In: real values. Out: real values again, each moved to the nearest one that has a code. Training with them in the
//! forward pass teaches a network to live with the error; the straight-through gradient lets it learn at all, since
//! the true derivative of a staircase is zero nearly everywhere.

use ndarray::{ArrayD, ArrayViewD, Axis};

use crate::error::{Error, Result};
use crate::finite::check_finite_channels;
use crate::framework::Tensor;
use crate::scheme::{CodeRange, QParams};

/// Moves each value to the nearest one that has a code. **Exercise 15.10, first part**
///
/// # The maths
///
/// Quantize and dequantize in one go, without leaving `f32`:
///
/// ```text
/// code  = saturate(round(value / scale) + zero_point)
/// value ← scale · (code − zero_point)
/// ```
///
/// # Worked example
///
/// `scale = 0.5`, `zero_point = 0`, the codes −2..=1: the values `[0.3, −0.25, 9, −9]` become `[0.5, 0, 0.5, −1]`.
/// 0.3 is 0.6 steps, rounded to 1; −0.25 is half a step, a tie, to the even 0; the others saturate.
///
/// # Edge cases
///
/// - A value that has a code already is not moved.
/// - NaN stays NaN. It comes here only in a direct call: `fake_quantize` on tensors refuses it first.
///
/// # Panics
///
/// If there are values but no codes: `codes.min` is above `codes.max`.
#[must_use]
pub fn fake_quantize_values(values: &[f32], qparams: QParams, codes: CodeRange) -> Vec<f32> {
    let QParams { scale, zero_point } = qparams;
    // BEGIN SOLUTION 15.10a
    let zero_point = zero_point as f32;
    let moved = |value: &f32| {
        let code = (value / scale).round_ties_even() + zero_point;
        scale * (code.clamp(codes.min as f32, codes.max as f32) - zero_point)
    };
    values.iter().map(moved).collect()
    // END SOLUTION
}

/// Passes the gradient straight through, where the value was not saturated (N14). **Exercise 15.10, second part**
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `values` | `[n]` | what was fake-quantized |
/// | `upstream` | `[n]` | the gradient of the loss with respect to the result |
/// | result | `[n]` | the gradient of the loss with respect to `values` |
///
/// # The maths
///
/// Rounding is taken for the identity. Saturation is not: a value beyond the last code can move without changing
/// anything, so its gradient is 0.
///
/// ```text
/// code        = round(value / scale) + zero_point          before saturation
/// gradient[i] = upstream[i]   if codes.min ≤ code ≤ codes.max
///               0             otherwise
/// ```
///
/// # Worked example
///
/// `scale = 0.5`, `zero_point = 0`, the codes −2..=1, upstream all 1, the values `[0.3, 0.74, 0.76, −1.2, −1.3]`: the codes
/// before saturation are `1, 1, 2, −2, −3`, the gradient `[1, 1, 0, 1, 0]`.
///
/// # Edge cases
///
/// - A value just outside the range that still rounds to the last code keeps its gradient, as 0.74 does.
/// - NaN has no code: its gradient is 0.
///
/// # Panics
///
/// If `values` and `upstream` have different lengths.
///
/// Source: Bengio, Léonard, Courville 2013, arXiv 1308.3432; the mask is that of PyTorch's fake quantization.
#[must_use]
#[track_caller]
pub fn straight_through_gradient(
    values: &[f32],
    upstream: &[f32],
    qparams: QParams,
    codes: CodeRange,
) -> Vec<f32> {
    assert_eq!(values.len(), upstream.len(), "one gradient for each value");
    let QParams { scale, zero_point } = qparams;
    // BEGIN SOLUTION 15.10b
    let inside = |value: f32| {
        let code = (value / scale).round_ties_even() + zero_point as f32;
        codes.min as f32 <= code && code <= codes.max as f32
    };
    values
        .iter()
        .zip(upstream)
        .map(|(&value, &gradient)| if inside(value) { gradient } else { 0.0 })
        .collect()
    // END SOLUTION
}

/// Fake-quantizes a tensor, with the straight-through gradient. Any shape, which stays.
///
/// # Errors
///
/// [`Error::NotFinite`] with the index of the first value that is NaN or infinite; [`Error::BadQParams`],
/// [`Error::BadCodeRange`].
pub fn fake_quantize(x: &Tensor, qparams: QParams, codes: CodeRange) -> Result<Tensor> {
    // All values are one channel of a tensor with one more axis in front.
    let values = x.array().insert_axis(Axis(0));
    let output = along(values.view(), 0, &[qparams], codes)?;
    let output = output.index_axis_move(Axis(0), 0);
    Ok(Tensor::from_op(
        "fake_quantize",
        output,
        &[x],
        move |upstream| {
            let upstream = upstream.view().insert_axis(Axis(0));
            let gradient = gradient_along(values.view(), upstream, 0, &[qparams], codes);
            Ok(vec![Some(gradient.index_axis_move(Axis(0), 0))])
        },
    ))
}

/// Fake-quantizes every channel along `axis` with its own parameters, with the straight-through gradient. Any shape with that axis, which
/// stays; `qparams` is as long as the axis.
///
/// # Errors
///
/// Those of [`fake_quantize`], with the channel; [`Error::AxisOutOfRange`], [`Error::ParameterCount`].
pub fn fake_quantize_per_channel(
    x: &Tensor,
    axis: usize,
    qparams: &[QParams],
    codes: CodeRange,
) -> Result<Tensor> {
    let values = x.array();
    let output = along(values.view(), axis, qparams, codes)?;
    let qparams = qparams.to_vec();
    let name = "fake_quantize_per_channel";
    Ok(Tensor::from_op(name, output, &[x], move |upstream| {
        let gradient = gradient_along(values.view(), upstream.view(), axis, &qparams, codes);
        Ok(vec![Some(gradient)])
    }))
}

/// [`fake_quantize_values`] for every channel along `axis`.
fn along(
    values: ArrayViewD<'_, f32>,
    axis: usize,
    qparams: &[QParams],
    codes: CodeRange,
) -> Result<ArrayD<f32>> {
    codes.check()?;
    check_finite_channels(&values, axis)?;
    let channels = values.len_of(Axis(axis));
    if channels != qparams.len() {
        let got = qparams.len();
        return Err(Error::ParameterCount {
            axis,
            channels,
            got,
        });
    }
    qparams.iter().try_for_each(|pair| pair.check(codes))?;
    let mut result = ArrayD::zeros(values.raw_dim());
    for (channel, &pair) in qparams.iter().enumerate() {
        let values: Vec<f32> = values
            .index_axis(Axis(axis), channel)
            .iter()
            .copied()
            .collect();
        let moved = fake_quantize_values(&values, pair, codes);
        let mut target = result.index_axis_mut(Axis(axis), channel);
        target
            .iter_mut()
            .zip(moved)
            .for_each(|(value, new)| *value = new);
    }
    Ok(result)
}

/// [`straight_through_gradient`] for every channel along `axis`.
fn gradient_along(
    values: ArrayViewD<'_, f32>,
    upstream: ArrayViewD<'_, f32>,
    axis: usize,
    qparams: &[QParams],
    codes: CodeRange,
) -> ArrayD<f32> {
    let mut result = ArrayD::zeros(values.raw_dim());
    for (channel, &pair) in qparams.iter().enumerate() {
        let of = |array: &ArrayViewD<'_, f32>| -> Vec<f32> {
            array
                .index_axis(Axis(axis), channel)
                .iter()
                .copied()
                .collect()
        };
        let passed = straight_through_gradient(&of(&values), &of(&upstream), pair, codes);
        let mut target = result.index_axis_mut(Axis(axis), channel);
        target
            .iter_mut()
            .zip(passed)
            .for_each(|(value, new)| *value = new);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_BITS: CodeRange = CodeRange::signed(2);
    const HALVES: QParams = QParams::symmetric(0.5);

    #[test]
    fn worked_example_values() {
        assert_eq!(
            fake_quantize_values(&[0.3, -0.25, 9.0, -9.0], HALVES, TWO_BITS),
            [0.5, 0.0, 0.5, -1.0]
        );
    }

    #[test]
    fn a_value_that_has_a_code_is_not_moved() {
        let qparams = QParams {
            scale: 0.1,
            zero_point: -43,
        };
        let codes: Vec<i8> = (-128..=127).collect();
        let values = crate::quantize::dequantize(&codes, qparams);
        assert_eq!(
            fake_quantize_values(&values, qparams, CodeRange::INT8),
            values
        );
    }

    #[test]
    fn worked_example_gradient() {
        let values = [0.3, 0.74, 0.76, -1.2, -1.3];
        assert_eq!(
            straight_through_gradient(&values, &[1.0; 5], HALVES, TWO_BITS),
            [1.0, 1.0, 0.0, 1.0, 0.0]
        );
    }

    #[test]
    fn the_gradient_is_passed_on_as_it_is() {
        assert_eq!(
            straight_through_gradient(&[0.1, -0.6], &[-3.5, 0.25], HALVES, TWO_BITS),
            [-3.5, 0.25]
        );
    }

    #[test]
    fn the_zero_point_moves_the_range() {
        // Codes 0..=3 with zero point 1 mean −1 to 2.
        let qparams = QParams {
            scale: 1.0,
            zero_point: 1,
        };
        let codes = CodeRange { min: 0, max: 3 };
        assert_eq!(
            straight_through_gradient(&[-2.0, -1.0, 2.0, 3.0], &[1.0; 4], qparams, codes),
            [0.0, 1.0, 1.0, 0.0]
        );
    }
}
