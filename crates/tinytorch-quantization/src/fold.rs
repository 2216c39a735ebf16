//! Folding a batch norm into the layer before it.
//!
//! In evaluation a batch norm multiplies each channel by a number and adds another. The convolution before it does the
//! same with its weights and bias, so the two become one layer, and nothing is left to quantize between them.

use ndarray::{ArrayD, ArrayViewD, Axis};

use crate::error::{Error, Result};
use crate::framework::nn::BatchNorm2d;

/// Weight and bias of the one layer that computes what a layer and the batch norm behind it compute in evaluation.
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `weight` | `[out, ...]` | of the layer before |
/// | `bias` | `[out]` | of the layer before; zeros if there is none |
///
/// # The maths
///
/// ```text
/// factor[c] = γ[c] / √(variance[c] + eps)
///
/// weight[c] ← weight[c] · factor[c]
/// bias[c]   ← (bias[c] − mean[c]) · factor[c] + β[c]
/// ```
///
/// Source: Jacob et al. 2018, section 3.2, equation (14).
///
/// # Errors
///
/// [`Error::ShapeMismatch`] if the batch norm has not as many channels as the layer has outputs.
pub fn fold_batch_norm(
    weight: ArrayViewD<'_, f32>,
    bias: &[f32],
    norm: &BatchNorm2d,
) -> Result<(ArrayD<f32>, Vec<f32>)> {
    let outputs = weight.shape().first().copied().unwrap_or(0);
    let (gamma, beta) = (norm.weight().to_vec(), norm.bias().to_vec());
    let (mean, variance) = (norm.running_mean().to_vec(), norm.running_var().to_vec());
    if bias.len() != outputs || gamma.len() != outputs {
        return Err(Error::ShapeMismatch {
            operation: "fold_batch_norm",
            expected: format!("{} outputs, one for each channel", gamma.len()),
            got: weight.shape().to_vec(),
        });
    }
    let mut weight = weight.to_owned();
    let mut shifted = Vec::with_capacity(outputs);
    for (channel, mut rows) in weight.axis_iter_mut(Axis(0)).enumerate() {
        let factor = gamma[channel] / (variance[channel] + norm.eps()).sqrt();
        rows.mapv_inplace(|w| w * factor);
        shifted.push((bias[channel] - mean[channel]) * factor + beta[channel]);
    }
    Ok((weight, shifted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::nn::{Conv2d, Layer};
    use crate::framework::{Conv2dOptions, Tensor};

    #[test]
    fn one_layer_computes_what_two_did() {
        let weight = Tensor::new(vec![0.5, -2.0], &[2, 1, 1, 1]).expect("two weights");
        let bias = Tensor::new(vec![1.0, -1.0], &[2]).expect("two biases");
        let conv = Conv2d::from_parts(weight, Some(bias), Conv2dOptions::default()).expect("fits");
        let norm = BatchNorm2d::with(2, 0.0, 0.1);
        norm.set_training(false);
        let set = |tensor: &Tensor, values: [f32; 2]| {
            tensor
                .assign(&Tensor::new(values.to_vec(), &[2]).expect("two"))
                .expect("same shape");
        };
        set(norm.weight(), [2.0, 0.5]);
        set(norm.bias(), [3.0, -3.0]);
        set(norm.running_mean(), [0.25, 4.0]);
        set(norm.running_var(), [4.0, 16.0]);

        let (weight, bias) =
            fold_batch_norm(conv.weight().array().view(), &[1.0, -1.0], &norm).expect("fits");
        // Factors 2 / 2 = 1 and 0.5 / 4 = 0.125.
        assert_eq!(weight.iter().copied().collect::<Vec<_>>(), [0.5, -0.25]);
        assert_eq!(bias, [3.75, -3.625]);

        let x = Tensor::new(vec![1.0, 2.0], &[1, 1, 1, 2]).expect("two pixels");
        let y = conv
            .forward(&x)
            .and_then(|y| norm.forward(&y))
            .expect("fits")
            .to_vec();
        assert_eq!(y, [4.25, 4.75, -3.875, -4.125]);
    }
}
