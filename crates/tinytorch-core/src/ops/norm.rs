//! Batch normalization: every channel shifted and scaled to mean 0 and variance 1, then by learned numbers.
//!
//! ```text
//! y = (x − mean) / √(variance + eps) · weight + bias
//! ```
//!
//! Source: Ioffe and Szegedy, "Batch Normalization", algorithms 1 and 2.

use crate::error::{Error, Result};
use crate::ops::broadcast::sum;
use crate::ops::conv::sum_per_channel;
use crate::ops::{array_of, slice, standard, standard_owned};
use crate::recycle;
use crate::tensor::{Tensor, Values};

/// Mean and variance of every channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    pub mean: Vec<f32>,
    /// The mean of squared distances from the mean (divided by their number, not by one less).
    pub variance: Vec<f32>,
}

/// `[batch, channels, height, width]` as channels of planes.
fn channels_of(operation: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    match x.shape() {
        &[_, channels, height, width] => Ok((channels, height * width)),
        got => Err(Error::Shape {
            operation,
            expected: "images of shape [batch, channels, height, width]".to_owned(),
            got: got.to_vec(),
        }),
    }
}

/// The moments of each channel over images and places.
pub(crate) fn moments(x: &Tensor) -> Result<Moments> {
    let (channels, plane) = channels_of("batch_norm2d", x)?;
    let values = standard(&x.array());
    let values = slice(&values);
    let count = (values.len() / channels.max(1)) as f64;
    let mean: Vec<f32> = sum_per_channel(values, channels, plane)
        .into_iter()
        .map(|sum| (sum / count) as f32)
        .collect();
    // Two passes: the mean of squares minus the square of the mean loses all digits when the mean is large.
    let mut squares = vec![0f64; channels];
    let mut distances = Vec::with_capacity(plane);
    for (i, plane) in values.chunks_exact(plane.max(1)).enumerate() {
        let mean = mean[i % channels];
        distances.clear();
        distances.extend(plane.iter().map(|x| (x - mean) * (x - mean)));
        squares[i % channels] += sum(&distances);
    }
    let variance = squares
        .into_iter()
        .map(|sum| (sum / count) as f32)
        .collect();
    Ok(Moments { mean, variance })
}

/// By what each channel's distance from its mean is multiplied, before the weight.
pub(crate) fn inverse_deviations(variance: &[f32], eps: f32) -> Vec<f32> {
    let inverse = |variance: &f32| 1.0 / (variance + eps).sqrt();
    variance.iter().map(inverse).collect()
}

/// Normalizes with the given moments. With `own` they are those of `x` itself, and the gradient flows through
/// them as well; otherwise they are constants.
pub(crate) fn batch_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    moments: &Moments,
    eps: f32,
    own: bool,
) -> Result<Tensor> {
    let operation = "batch_norm2d";
    let (channels, plane) = channels_of(operation, x)?;
    for parameter in [weight, bias] {
        if parameter.shape() != [channels] {
            let (left, right) = (x.shape().to_vec(), parameter.shape().to_vec());
            return Err(Error::ShapeMismatch {
                operation,
                left,
                right,
            });
        }
    }
    let (values, weights) = (standard(&x.array()), standard(&weight.array()));
    let biases = standard(&bias.array());
    let inverse = inverse_deviations(&moments.variance, eps);
    let mut output = recycle::with_capacity(values.len());
    for (i, plane) in slice(&values).chunks_exact(plane.max(1)).enumerate() {
        let c = i % channels;
        let (scale, mean) = (inverse[c] * slice(&weights)[c], moments.mean[c]);
        let shift = slice(&biases)[c];
        output.extend(plane.iter().map(|x| (x - mean) * scale + shift));
    }
    let output = array_of(output, x.shape());
    let wants_x = x.requires_grad();
    let means = moments.mean.clone();
    Ok(Tensor::recorded(
        operation,
        output,
        &[x, weight, bias],
        move |gradient| {
            let mut gradient = standard_owned(gradient);
            let saved = Saved {
                values,
                weights,
                means,
                inverse,
                plane,
                own,
            };
            let g = gradient
                .as_slice_mut()
                .expect("the array is in row-major order");
            let (to_weight, to_bias) = saved.backward(g, wants_x);
            Ok(vec![
                wants_x.then_some(gradient),
                Some(array_of(to_weight, &[channels])),
                Some(array_of(to_bias, &[channels])),
            ])
        },
    ))
}

struct Saved {
    values: Values,
    weights: Values,
    means: Vec<f32>,
    /// `1 / √(variance + eps)`.
    inverse: Vec<f32>,
    plane: usize,
    own: bool,
}

impl Saved {
    /// Returns the gradients of weight and bias and, if wanted, turns `gradient` into that of the input:
    ///
    /// ```text
    /// x̂  = (x − mean) / √(variance + eps)
    /// dw = Σ g · x̂         db = Σ g
    /// dx = w / √(variance + eps) · (g − (db + x̂ · dw) / n)        the last term only if `own`
    /// ```
    fn backward(&self, gradient: &mut [f32], wants_x: bool) -> (Vec<f32>, Vec<f32>) {
        let channels = self.means.len();
        let length = self.plane.max(1);
        let count = (gradient.len() / channels.max(1)) as f32;
        let to_bias = sum_per_channel(gradient, channels, self.plane);
        let mut to_weight = vec![0f64; channels];
        let mut products = Vec::with_capacity(length);
        let planes = || slice(&self.values).chunks_exact(length).enumerate();
        for ((i, x), g) in planes().zip(gradient.chunks_exact(length)) {
            let mean = self.means[i % channels];
            products.clear();
            products.extend(x.iter().zip(g).map(|(x, g)| (x - mean) * g));
            to_weight[i % channels] += sum(&products);
        }
        for (dw, inverse) in to_weight.iter_mut().zip(&self.inverse) {
            *dw *= f64::from(*inverse);
        }
        if wants_x {
            for ((i, x), g) in planes().zip(gradient.chunks_exact_mut(length)) {
                let c = i % channels;
                let inverse = self.inverse[c];
                let scale = slice(&self.weights)[c] * inverse;
                if !self.own {
                    g.iter_mut().for_each(|g| *g *= scale);
                    continue;
                }
                let shift = to_bias[c] as f32 / count;
                let slope = to_weight[c] as f32 * inverse / count;
                let mean = self.means[c];
                for (g, x) in g.iter_mut().zip(x) {
                    *g = scale * (*g - shift - (x - mean) * slope);
                }
            }
        }
        let narrow = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
        (narrow(to_weight), narrow(to_bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_taken_over_images_and_places() -> Result<()> {
        let values = vec![1.0, 3.0, 10.0, 10.0, 5.0, 7.0, 10.0, 10.0];
        let x = Tensor::new(values, &[2, 2, 1, 2])?;
        // Channel 0: 1, 3, 5, 7 with mean 4 and variance (9 + 1 + 1 + 9) / 4.
        let expected = Moments {
            mean: vec![4.0, 10.0],
            variance: vec![5.0, 0.0],
        };
        assert_eq!(moments(&x)?, expected);
        Ok(())
    }

    #[test]
    fn a_parameter_per_channel_is_needed() -> Result<()> {
        let x = Tensor::zeros(&[1, 2, 1, 1]);
        let (w, b) = (Tensor::ones(&[3]), Tensor::zeros(&[3]));
        let error = batch_norm(&x, &w, &b, &moments(&x)?, 1e-5, true).expect_err("3 is not 2");
        assert_eq!(
            error.to_string(),
            "shape mismatch in batch_norm2d: [1, 2, 1, 1] and [3]"
        );
        Ok(())
    }
}
