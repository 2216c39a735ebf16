//! Learned step size quantization (LSQ): the scale is a parameter like any other, and has a gradient.
//!
//! In: real values, a scale and a zero point as tensors. Out: each value moved to the nearest one that has a code, and
//! on the way back a gradient for the values, for the scale and for the zero point. With few bits the best scale
//! is a compromise between rounding what is inside and clipping what is outside; training finds it for the loss
//! itself, where an observer can only look at the values.
//!
//! With `v = x / s`, `q = round(v) + z` before saturation and `x̂` the value that was written:
//!
//! ```text
//!                 q < min             min ≤ q ≤ max            max < q
//! ∂x̂/∂x           0                   1                        0
//! ∂x̂/∂s           min − z             (x̂ − x) / s              max − z
//! ∂x̂/∂z           −s                  0                        −s
//! ```
//!
//! Sources: Esser et al. 2020, "Learned Step Size Quantization", arXiv 1902.08153, equations (2) and (3); the zero point as
//! in PyTorch's `_fake_quantize_learnable_per_tensor_affine`. Unlike PyTorch we divide by the scale (N4).

use ndarray::{ArrayD, ArrayViewD, Axis};

use crate::error::{Error, Result};
use crate::finite::check_finite_channels;
use crate::framework::Tensor;
use crate::scheme::{CodeRange, QParams};

/// The step to begin with: `2 · mean|v| / √max`, where `max` is the largest code.
///
/// 0 for values that are all 0, and for no values.
///
/// Source: Esser et al. 2020, section 2.1.
#[must_use]
pub fn initial_step(values: impl IntoIterator<Item = f32>, codes: CodeRange) -> f32 {
    let (sum, count) = values
        .into_iter()
        .fold((0.0_f64, 0_usize), |(sum, count), value| {
            (sum + f64::from(value.abs()), count + 1)
        });
    let mean = sum / count.max(1) as f64;
    (2.0 * mean / f64::from(codes.max.max(1)).sqrt()) as f32
}

/// What the gradient of a step is multiplied by: `1 / √(count · max)`, where `count` values share the step and `max` is the
/// largest code. It brings the updates of steps, relative to their size, to those of weights.
///
/// Source: Esser et al. 2020, section 2.2.
#[must_use]
pub fn gradient_scale(count: usize, codes: CodeRange) -> f32 {
    (1.0 / (count.max(1) as f64 * f64::from(codes.max.max(1))).sqrt()) as f32
}

/// Fake-quantizes a tensor with a scale and a zero point that are learned.
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `x` | any | real values |
/// | `scale` | `[1]` | above zero |
/// | `zero_point` | `[1]` | in codes; rounded and kept among the codes before it is used |
/// | `codes` | | the codes to write with |
/// | `factor` | | what the gradients of scale and zero point are multiplied by, see [`gradient_scale`] |
///
/// # Errors
///
/// [`Error::NotFinite`] with the index of the first value that is NaN or infinite; [`Error::BadQParams`] if the scale is not
/// above zero or not finite; [`Error::ParameterCount`], [`Error::BadCodeRange`].
pub fn fake_quantize_learned(
    x: &Tensor,
    scale: &Tensor,
    zero_point: &Tensor,
    codes: CodeRange,
    factor: f32,
) -> Result<Tensor> {
    learned(x, None, scale, zero_point, codes, factor)
}

/// Fake-quantizes every channel along `axis` with its own learned scale and zero point, both `[channels]`.
///
/// # Errors
///
/// Those of [`fake_quantize_learned`], with the channel; [`Error::AxisOutOfRange`].
pub fn fake_quantize_learned_per_channel(
    x: &Tensor,
    axis: usize,
    scale: &Tensor,
    zero_point: &Tensor,
    codes: CodeRange,
    factor: f32,
) -> Result<Tensor> {
    learned(x, Some(axis), scale, zero_point, codes, factor)
}

fn learned(
    x: &Tensor,
    axis: Option<usize>,
    scale: &Tensor,
    zero_point: &Tensor,
    codes: CodeRange,
    factor: f32,
) -> Result<Tensor> {
    codes.check()?;
    // All values are one channel of a tensor with one more axis in front.
    let (axis, values) = match axis {
        Some(axis) => (axis, x.array()),
        None => (0, x.array().insert_axis(Axis(0))),
    };
    check_finite_channels(&values.view(), axis)?;
    let steps = steps_of(&values.view(), axis, scale, zero_point, codes)?;
    let mut output = values.to_owned().into_owned();
    for (step, mut channel) in steps.iter().zip(output.axis_iter_mut(Axis(axis))) {
        channel.mapv_inplace(|value| step.moved(value));
    }
    let whole = x.shape().to_vec();
    let output = output
        .into_shape_with_order(whole.clone())
        .map_err(|_| Error::ShapeMismatch {
            operation: "fake_quantize_learned",
            expected: "the shape of the input".to_owned(),
            got: whole.clone(),
        })?;
    let inputs = [x, scale, zero_point];
    let wanted = inputs.map(Tensor::requires_grad);
    let shapes = [scale.shape().to_vec(), zero_point.shape().to_vec()];
    Ok(Tensor::from_op(
        "fake_quantize_learned",
        output,
        &inputs,
        move |upstream| {
            let mut to_x = upstream.clone();
            let view = to_x.view_mut();
            let mut view = if values.ndim() == view.ndim() {
                view
            } else {
                view.insert_axis(Axis(0))
            };
            let mut to_scale = Vec::with_capacity(steps.len());
            let mut to_zero_point = Vec::with_capacity(steps.len());
            let channels = values.axis_iter(Axis(axis));
            let channels = channels.zip(view.axis_iter_mut(Axis(axis)));
            for (step, (values, mut gradients)) in steps.iter().zip(channels) {
                let (mut ds, mut dz) = (0.0_f64, 0.0_f64);
                ndarray::Zip::from(&mut gradients)
                    .and(&values)
                    .for_each(|gradient, &value| step.back(value, gradient, &mut ds, &mut dz));
                to_scale.push((ds * f64::from(factor)) as f32);
                to_zero_point.push((dz * f64::from(factor)) as f32);
            }
            let shaped = |values: Vec<f32>, shape: &[usize]| {
                ArrayD::from_shape_vec(shape, values).expect("one value for each channel")
            };
            Ok(vec![
                wanted[0].then_some(to_x),
                wanted[1].then(|| shaped(to_scale, &shapes[0])),
                wanted[2].then(|| shaped(to_zero_point, &shapes[1])),
            ])
        },
    ))
}

/// One scale and zero point, and the codes as real numbers.
#[derive(Clone, Copy)]
struct Step {
    scale: f32,
    zero_point: f32,
    min: f32,
    max: f32,
}

impl Step {
    fn moved(self, value: f32) -> f32 {
        let code = nearest(value / self.scale) + self.zero_point;
        self.scale * (code.clamp(self.min, self.max) - self.zero_point)
    }

    /// Turns the gradient of a written value into that of the value, and adds to those of scale and zero point.
    fn back(self, value: f32, gradient: &mut f32, to_scale: &mut f64, to_zero_point: &mut f64) {
        let steps = value / self.scale;
        let whole = nearest(steps);
        let code = whole + self.zero_point;
        let upstream = f64::from(*gradient);
        let outside =
            |end: f32, gradient: &mut f32, to_scale: &mut f64, to_zero_point: &mut f64| {
                *to_scale += upstream * f64::from(end - self.zero_point);
                *to_zero_point -= upstream * f64::from(self.scale);
                *gradient = 0.0;
            };
        if code < self.min {
            outside(self.min, gradient, to_scale, to_zero_point);
        } else if code > self.max {
            outside(self.max, gradient, to_scale, to_zero_point);
        } else {
            *to_scale += upstream * (f64::from(whole) - f64::from(steps));
        }
    }
}

/// To the nearest whole number, ties to even, within ±2²¹, beyond which every code is saturated.
///
/// Adding 1.5 · 2²³ leaves no bits for a fraction, so the sum is rounded to a whole number, ties to even. The same as
/// `round_ties_even`, which without SSE 4.1 is a call for every value.
fn nearest(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    const LIMIT: f32 = 2_097_152.0;
    (value.clamp(-LIMIT, LIMIT) + SHIFT) - SHIFT
}

fn steps_of(
    values: &ArrayViewD<'_, f32>,
    axis: usize,
    scale: &Tensor,
    zero_point: &Tensor,
    codes: CodeRange,
) -> Result<Vec<Step>> {
    let channels = values.len_of(Axis(axis));
    for parameter in [scale, zero_point] {
        if parameter.len() != channels {
            return Err(Error::ParameterCount {
                axis,
                channels,
                got: parameter.len(),
            });
        }
    }
    let pairs = scale.to_vec().into_iter().zip(zero_point.to_vec());
    pairs
        .map(|(scale, zero_point)| {
            let zero_point = learned_zero_point(zero_point, codes);
            QParams { scale, zero_point }.check(codes)?;
            Ok(Step {
                scale,
                zero_point: zero_point as f32,
                min: codes.min as f32,
                max: codes.max as f32,
            })
        })
        .collect()
}

/// The code that a learned zero point stands for: rounded, and one of the codes. NaN stands for 0.
#[must_use]
pub fn learned_zero_point(zero_point: f32, codes: CodeRange) -> i32 {
    let rounded = zero_point.round_ties_even();
    rounded.clamp(codes.min as f32, codes.max as f32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR_CODES: CodeRange = CodeRange::signed(2);

    #[test]
    fn the_three_gradients_of_a_small_example() {
        // Scale 0.5, codes −2..=1: 0.3 is 0.6 steps, rounded to 1; 9 and −9 saturate.
        let x = Tensor::new(vec![0.3, 9.0, -9.0], &[3])
            .expect("three")
            .with_grad();
        let scale = Tensor::full(&[1], 0.5).with_grad();
        let zero_point = Tensor::zeros(&[1]).with_grad();
        let y = fake_quantize_learned(&x, &scale, &zero_point, FOUR_CODES, 1.0).expect("good");
        assert_eq!(y.to_vec(), [0.5, 0.5, -1.0]);
        y.sum().backward().expect("a scalar");
        let grad = |tensor: &Tensor| tensor.grad().expect("a leaf").to_vec();
        assert_eq!(grad(&x), [1.0, 0.0, 0.0]);
        // (0.5 − 0.3) / 0.5 + 1 − 2; 0.3 / 0.5 is off by half an ulp of 0.6.
        assert!((grad(&scale)[0] + 0.6).abs() <= f32::EPSILON);
        assert_eq!(grad(&zero_point), [-1.0]);
    }

    #[test]
    fn the_first_step_and_the_scale_of_its_gradient() {
        // 2 · 1.5 / √4, and 1 / √(9 · 4).
        let codes = CodeRange { min: -4, max: 4 };
        assert_eq!(initial_step([1.0, -2.0], codes), 1.5);
        assert_eq!(gradient_scale(9, codes), 1.0 / 6.0);
        assert_eq!(initial_step([], codes), 0.0);
    }

    #[test]
    fn nearest_is_round_ties_even() {
        let ties = (-1000..1000).map(|i| i as f32 / 2.0);
        for value in ties.chain([0.1, -0.1, 0.499_999_97, 2_097_151.5, 1e-30]) {
            assert_eq!(nearest(value), value.round_ties_even(), "{value}");
        }
    }

    #[test]
    fn a_scale_that_is_not_above_zero_is_an_error() {
        let (x, zero) = (Tensor::ones(&[2, 2]), Tensor::zeros(&[2]));
        for bad in [0.0, -1.0, f32::NAN] {
            let scale = Tensor::new(vec![1.0, bad], &[2]).expect("two");
            let y = fake_quantize_learned_per_channel(&x, 1, &scale, &zero, FOUR_CODES, 1.0);
            assert!(matches!(y, Err(Error::BadQParams { .. })), "{bad}");
        }
        let y = fake_quantize_learned(&x, &zero, &zero, FOUR_CODES, 1.0);
        assert!(matches!(y, Err(Error::ParameterCount { .. })));
    }
}
