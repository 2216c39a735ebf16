//! Activations: the nonlinear steps between layers.

use ndarray::ArrayD;

use crate::error::Result;
use crate::ops::{around_axis, array_of, check_axis, slice, slice_mut, standard, standard_owned};
use crate::tensor::Tensor;

impl Tensor {
    /// `max(x, 0)`. The gradient at 0 is 0; NaN stays NaN.
    pub fn relu(&self) -> Tensor {
        // `f32::max` would turn NaN into 0 and hide that training has diverged.
        let relu = |x: f32| if x < 0.0 { 0.0 } else { x };
        self.unary_by_output("relu", relu, |y| if y > 0.0 { 1.0 } else { 0.0 })
    }

    /// `1 / (1 + e⁻ˣ)`.
    pub fn sigmoid(&self) -> Tensor {
        self.unary_by_output("sigmoid", sigmoid, |y| y * (1.0 - y))
    }

    /// The hyperbolic tangent.
    pub fn tanh(&self) -> Tensor {
        self.unary_by_output("tanh", f32::tanh, |y| 1.0 - y * y)
    }

    /// `x · Φ(x)`, with Φ the distribution function of the normal distribution, computed from the
    /// error function (not the approximation by `tanh`).
    ///
    /// Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2.
    pub fn gelu(&self) -> Tensor {
        self.unary(
            "gelu",
            |x| x * normal_cdf(x),
            |x| {
                let density = (-0.5 * x * x).exp() / std::f32::consts::TAU.sqrt();
                normal_cdf(x) + x * density
            },
        )
    }

    /// Exponentials along `axis`, divided by their sum.
    ///
    /// ```text
    /// y[i] = e^(x[i] − max x) / Σⱼ e^(x[j] − max x)
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Axis`](crate::Error::Axis) if there is no such axis.
    pub fn softmax(&self, axis: usize) -> Result<Tensor> {
        let output = self.map_lines("softmax", axis, |line| {
            let (_, sum) = exponentials(line);
            line.iter_mut().for_each(|y| *y /= sum);
        })?;
        let output = output.into_shared();
        let saved = output.clone();
        Ok(Tensor::recorded(
            "softmax",
            output,
            &[self],
            move |gradient| {
                // dx = y ⊙ (g − Σ g·y)
                Ok(vec![Some(back_through_lines(
                    gradient,
                    &saved,
                    axis,
                    |gradient, y| {
                        let dot: f32 = gradient.iter().zip(y).map(|(g, y)| g * y).sum();
                        gradient
                            .iter_mut()
                            .zip(y)
                            .for_each(|(g, y)| *g = y * (*g - dot));
                    },
                ))])
            },
        ))
    }

    /// The logarithm of [`Tensor::softmax`], without the logarithm of an underflow.
    ///
    /// ```text
    /// y[i] = x[i] − max x − ln Σⱼ e^(x[j] − max x)
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Axis`](crate::Error::Axis) if there is no such axis.
    pub fn log_softmax(&self, axis: usize) -> Result<Tensor> {
        let output = self
            .map_lines("log_softmax", axis, log_softmax_line)?
            .into_shared();
        let saved = output.clone();
        Ok(Tensor::recorded(
            "log_softmax",
            output,
            &[self],
            move |gradient| {
                // dx = g − softmax(x) · Σ g
                Ok(vec![Some(back_through_lines(
                    gradient,
                    &saved,
                    axis,
                    |gradient, y| {
                        let sum: f32 = gradient.iter().sum();
                        gradient
                            .iter_mut()
                            .zip(y)
                            .for_each(|(g, y)| *g -= y.exp() * sum);
                    },
                ))])
            },
        ))
    }

    /// A copy in which every line along `axis` went through `change`.
    fn map_lines(
        &self,
        operation: &'static str,
        axis: usize,
        change: impl Fn(&mut [f32]),
    ) -> Result<ArrayD<f32>> {
        check_axis(operation, axis, self.rank())?;
        let mut output = standard(&self.array()).into_owned();
        let (_, length, inner) = around_axis(self.shape(), axis);
        if output.is_empty() {
            return Ok(output);
        }
        if inner == 1 {
            slice_mut(&mut output)
                .chunks_exact_mut(length)
                .for_each(change);
            return Ok(output);
        }
        let mut line = vec![0.0; length];
        for block in slice_mut(&mut output).chunks_exact_mut(length * inner) {
            for i in 0..inner {
                gather(&mut line, block, i, inner);
                change(&mut line);
                scatter(&line, block, i, inner);
            }
        }
        Ok(output)
    }
}

fn gather(line: &mut [f32], block: &[f32], first: usize, step: usize) {
    line.iter_mut()
        .zip(block[first..].iter().step_by(step))
        .for_each(|(to, &from)| *to = from);
}

fn scatter(line: &[f32], block: &mut [f32], first: usize, step: usize) {
    block[first..]
        .iter_mut()
        .step_by(step)
        .zip(line)
        .for_each(|(to, &from)| *to = from);
}

/// Turns the gradient of every line along `axis` into that of the line it was computed from.
fn back_through_lines(
    gradient: ArrayD<f32>,
    output: &crate::tensor::Values,
    axis: usize,
    back: impl Fn(&mut [f32], &[f32]),
) -> ArrayD<f32> {
    let mut gradient = standard_owned(gradient);
    let shape = gradient.shape().to_vec();
    let (_, length, inner) = around_axis(&shape, axis);
    if gradient.is_empty() {
        return array_of(Vec::new(), &shape);
    }
    let blocks = slice_mut(&mut gradient).chunks_exact_mut(length * inner);
    let outputs = slice(output).chunks_exact(length * inner);
    let (mut line, mut y) = (vec![0.0; length], vec![0.0; length]);
    for (block, output) in blocks.zip(outputs) {
        if inner == 1 {
            back(block, output);
            continue;
        }
        for i in 0..inner {
            gather(&mut line, block, i, inner);
            gather(&mut y, output, i, inner);
            back(&mut line, &y);
            scatter(&line, block, i, inner);
        }
    }
    gradient
}

/// Replaces a line by the exponentials of its distances from its maximum; returns the maximum and their sum.
fn exponentials(line: &mut [f32]) -> (f32, f32) {
    let largest = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in line {
        *value = (*value - largest).exp();
        sum += *value;
    }
    (largest, sum)
}

pub(crate) fn log_softmax_line(line: &mut [f32]) {
    let largest = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = line.iter().map(|x| (x - largest).exp()).sum();
    // Not `x - (largest + ln sum)`: that sum is rounded to an ulp of a large logit, and the likely
    // classes, whose logarithms are near 0, would keep nothing of it.
    let log_sum = sum.ln();
    line.iter_mut().for_each(|x| *x = (*x - largest) - log_sum);
}

/// `1 / (1 + e⁻ˣ)`; for very negative `x` the exponential is infinite and the quotient 0, as it should be.
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The distribution function of the normal distribution. By the complement, because `1 + erf` would
/// lose every digit for very negative `x`.
fn normal_cdf(x: f32) -> f32 {
    0.5 * libm::erfcf(-x * std::f32::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_array(ndarray::arr1(values).into_dyn())
    }

    #[test]
    fn relu_keeps_what_is_positive_and_shows_nan() {
        let y = tensor(&[-1.0, 0.0, 2.0, f32::NAN]).relu().to_vec();
        assert_eq!(y[..3], [0.0, 0.0, 2.0]);
        assert!(y[3].is_nan());
    }

    #[test]
    fn gelu_has_the_published_values() {
        // x Φ(x) with Φ(1) = 0.841 344 746, Φ(−3) = 0.001 349 898 (tables of the normal distribution).
        let y = tensor(&[1.0, -3.0, 0.0]).gelu().to_vec();
        let expected = [0.841_344_7, -0.004_049_694, 0.0];
        for (y, expected) in y.iter().zip(expected) {
            // One rounding each in the argument, the error function and two products.
            assert!((y - expected).abs() <= 4.0 * f32::EPSILON * f32::abs(expected));
        }
    }

    #[test]
    fn softmax_does_not_overflow_and_sums_to_one() -> Result<()> {
        let y = tensor(&[1000.0, 1000.0]).softmax(0)?;
        assert_eq!(y.to_vec(), [0.5, 0.5]);
        let log = tensor(&[0.0, -200.0]).log_softmax(0)?;
        assert_eq!(log.to_vec(), [0.0, -200.0]);
        Ok(())
    }

    #[test]
    fn softmax_works_along_any_axis() -> Result<()> {
        let t = Tensor::new((0..12).map(|i| (i * i % 7) as f32).collect(), &[2, 3, 2])?;
        for axis in 0..3 {
            let sums = t.softmax(axis)?.sum_axis(axis, false)?;
            // At most 3 terms and as many quotients, each rounded once.
            assert!(
                sums.to_vec()
                    .iter()
                    .all(|sum| (sum - 1.0).abs() <= 6.0 * f32::EPSILON)
            );
            let direct = t.log_softmax(axis)?.exp();
            let same = (direct - t.softmax(axis)?).abs().to_vec();
            // ln and exp in between: relative error some epsilons times |ln y| ≤ 6.
            assert!(
                same.iter()
                    .all(|&difference| difference <= 10.0 * f32::EPSILON)
            );
        }
        Ok(())
    }
}
