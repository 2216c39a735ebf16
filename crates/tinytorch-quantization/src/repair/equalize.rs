//! Cross-layer equalization: between two layers, every channel may be scaled, if the next layer takes it back.
//!
//! In: weight and bias of a layer, and the weight of the one that reads its channels. Out: the same function with channels
//! that use the same range. A ReLU passes positive factors through: `relu(s·x) = s·relu(x)`, and so do pooling and
//! flatten. So channel `i` may be divided by any `s[i] > 0` on one side and multiplied on the other:
//!
//! ```text
//! first.weight[i, ..] / s[i]      first.bias[i] / s[i]      second.weight[.., i] · s[i]
//!
//! s[i] = √( r1[i] / r2[i] )       r: largest magnitude of channel i in the first and in the second weight
//! ```
//!
//! which makes both ranges `√(r1[i]·r2[i])`, the choice that is best for the product of all ranges. Source: Nagel et al. 2019,
//! "Data-Free Quantization through Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.1.

use ndarray::{ArrayD, Axis, Slice};

/// Where the second layer keeps the weights of input channel `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// A linear layer `[out, in]`: `columns` neighbouring columns for each channel, more than one behind a flatten.
    Columns {
        /// Columns for each channel.
        columns: usize,
    },
    /// A convolution `[out, in / groups, h, w]`.
    Images {
        /// Independent parts; as many as channels in a depthwise convolution.
        groups: usize,
    },
}

impl Reads {
    /// How many channels a weight of this shape reads; `None` if it does not fit.
    pub fn channels(self, shape: &[usize]) -> Option<usize> {
        match (self, shape) {
            (Self::Columns { columns }, &[_, inputs]) if columns > 0 && inputs % columns == 0 => {
                Some(inputs / columns)
            }
            (Self::Images { groups }, &[_, inputs, _, _]) => Some(inputs * groups),
            _ => None,
        }
    }

    /// Calls `visit` for every weight of channel `i`.
    fn visit(self, weight: &mut ArrayD<f32>, i: usize, mut visit: impl FnMut(&mut f32)) {
        match self {
            Self::Columns { columns } => {
                let slice = Slice::from(i * columns..(i + 1) * columns);
                weight
                    .slice_axis_mut(Axis(1), slice)
                    .iter_mut()
                    .for_each(visit);
            }
            Self::Images { groups } => {
                let (outputs, inputs) = (weight.shape()[0] / groups, weight.shape()[1]);
                let (group, input) = (i / inputs, i % inputs);
                let slice = Slice::from(group * outputs..(group + 1) * outputs);
                let mut part = weight.slice_axis_mut(Axis(0), slice);
                part.index_axis_mut(Axis(1), input)
                    .iter_mut()
                    .for_each(&mut visit);
            }
        }
    }
}

/// Scales the channels between two layers; returns the factors `s`, by which the outputs of the first were divided.
///
/// | argument | shape |
/// |---|---|
/// | `first` | `[channels, ..]` |
/// | `bias` | `[channels]` of the first |
/// | `second` | see [`Reads`] |
///
/// A channel that is all zero on one side, or so extreme that the factor would not be a normal number, keeps its scale: factor 1.
///
/// # Panics
///
/// If the channels do not fit: see [`Reads::channels`].
pub(crate) fn equalize_pair(
    first: &mut ArrayD<f32>,
    bias: &mut [f32],
    second: &mut ArrayD<f32>,
    reads: Reads,
) -> Vec<f32> {
    let channels = bias.len();
    assert_eq!(
        first.shape().first(),
        Some(&channels),
        "an output for each bias"
    );
    assert_eq!(
        reads.channels(second.shape()),
        Some(channels),
        "layers that fit"
    );
    let mut factors = Vec::with_capacity(channels);
    for (i, bias) in bias.iter_mut().enumerate() {
        let largest = |max: f32, x: &f32| max.max(x.abs());
        let r1 = first.index_axis(Axis(0), i).iter().fold(0.0, largest);
        let mut r2 = 0.0_f32;
        reads.visit(second, i, |w| r2 = largest(r2, w));
        let factor = (f64::from(r1) / f64::from(r2)).sqrt() as f32;
        let usable = factor.is_normal() && (1.0 / factor).is_normal();
        let scaled = f64::from(*bias) / f64::from(factor);
        if !(usable && (scaled as f32).is_finite()) {
            factors.push(1.0);
            continue;
        }
        first
            .index_axis_mut(Axis(0), i)
            .mapv_inplace(|w| w / factor);
        *bias /= factor;
        reads.visit(second, i, |w| *w *= factor);
        factors.push(factor);
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn worked_example() {
        // Channel 0: 8 in the first layer, 0.5 in the second: √(8 / 0.5) = 4, and both ranges become 2.
        let mut first = arr2(&[[8.0_f32, -4.0], [0.5, 0.25]]).into_dyn();
        let mut bias = [2.0, 1.0];
        let mut second = arr2(&[[0.5_f32, 8.0], [0.25, -2.0]]).into_dyn();
        let reads = Reads::Columns { columns: 1 };
        let factors = equalize_pair(&mut first, &mut bias, &mut second, reads);
        assert_eq!(factors, [4.0, 0.25]);
        assert_eq!(first, arr2(&[[2.0, -1.0], [2.0, 1.0]]).into_dyn());
        assert_eq!(bias, [0.5, 4.0]);
        assert_eq!(second, arr2(&[[2.0, 2.0], [1.0, -0.5]]).into_dyn());
    }

    #[test]
    fn columns_behind_a_flatten_belong_together() {
        let mut first = arr2(&[[4.0_f32], [1.0]]).into_dyn();
        let mut second = arr2(&[[1.0_f32, 0.5, 1.0, 1.0]]).into_dyn();
        let reads = Reads::Columns { columns: 2 };
        let factors = equalize_pair(&mut first, &mut [0.0; 2], &mut second, reads);
        assert_eq!(factors, [2.0, 1.0]);
        assert_eq!(second, arr2(&[[2.0, 1.0, 1.0, 1.0]]).into_dyn());
    }

    #[test]
    fn a_grouped_convolution_reads_each_channel_in_its_group() {
        // Four channels in two groups, two outputs each: weight [4, 2, 1, 1], numbered in order.
        let mut weight = ArrayD::from_shape_fn(vec![4, 2, 1, 1], |i| (2 * i[0] + i[1]) as f32);
        let reads = Reads::Images { groups: 2 };
        assert_eq!(reads.channels(weight.shape()), Some(4));
        let mut seen = Vec::new();
        for channel in 0..4 {
            reads.visit(&mut weight, channel, |w| seen.push(*w as usize));
        }
        assert_eq!(seen, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn a_channel_of_zeros_is_left_alone() {
        let mut first = arr2(&[[0.0_f32], [3.0]]).into_dyn();
        let mut second = arr2(&[[5.0_f32, 0.0]]).into_dyn();
        let reads = Reads::Columns { columns: 1 };
        let factors = equalize_pair(&mut first, &mut [1.0, 1.0], &mut second, reads);
        assert_eq!(factors, [1.0, 1.0]);
    }
}
