//! The quantized convolution: a linear layer applied at every place of an image.
//!
//! In: codes `[batch, in, height, width]`. Out: codes `[batch, out, out height, out width]`. Batch norm and ReLU behind
//! a convolution leave no trace: the first is folded into weight and bias beforehand, the second into the bounds of the
//! codes.
//!
//! Source: Jacob et al. 2018, sections 2.2 and 2.3 for the product of codes and its zero points, 2.4 for bias and
//! requantization in one layer, 3.2 for folding. The multiplier is an `f32` here (N12), and each output channel has a weight
//! scale of its own (N8).

use ndarray::ArrayViewD;

use crate::error::{Error, Result};
use crate::framework::Conv2dOptions;
use crate::gemm::gemm_i8;
use crate::layer::{check_parts, quantize_parts};
use crate::qtensor::{Parameters, QTensor};
use crate::requantize::{multipliers, requantize};
use crate::scheme::{CodeRange, Dims, QParams, Scheme};

/// More padding than this is a mistake, and would let sizes overflow.
const MAX_PADDING: usize = 1 << 16;

/// Checks that a convolution can have a weight of this shape and these options.
pub(crate) fn check_options(weight: &[usize], options: Conv2dOptions) -> Result<()> {
    let groups = options.groups;
    let padding = options.padding.iter();
    let fits = weight.len() == 4
        && groups > 0
        && weight[0].is_multiple_of(groups)
        && !options.stride.contains(&0)
        && padding.max().is_some_and(|&padding| padding <= MAX_PADDING);
    if fits {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        operation: "QConv2d",
        expected: format!(
            "a weight [out, in / groups, height, width] for {groups} groups, a stride above 0, padding up to {MAX_PADDING}"
        ),
        got: weight.to_vec(),
    })
}

/// The shape of the output of a convolution for an input of this shape.
pub(crate) fn output_shape(
    weight: &[usize],
    options: Conv2dOptions,
    input: &[usize],
) -> Result<[usize; 4]> {
    let [outputs, group_inputs, kernel @ ..] = weight else {
        unreachable!("checked when the layer was made");
    };
    let inputs = group_inputs * options.groups;
    let size = |axis: usize, length: usize| {
        let padded = length.checked_add(options.padding[axis].checked_mul(2)?)?;
        Some(padded.checked_sub(kernel[axis])? / options.stride[axis] + 1)
    };
    if let &[batch, channels, height, width] = input
        && channels == inputs
        && let (Some(height), Some(width)) = (size(0, height), size(1, width))
    {
        return Ok([batch, *outputs, height, width]);
    }
    Err(Error::ShapeMismatch {
        operation: "QConv2d",
        expected: format!(
            "[batch, {inputs}, height, width], at least as large as the kernel {kernel:?}"
        ),
        got: input.to_vec(),
    })
}

/// What the kernel covers at every place of an image, for one group of the weight: codes of `x`, and `outside` where there are none.
/// `[out height · out width, in / groups · kernel height · kernel width]`: a row for each place.
pub(crate) fn gather(
    x: &QTensor,
    weight: &[usize],
    options: Conv2dOptions,
    outside: i8,
    (image, group): (usize, usize),
    out: [usize; 2],
) -> Vec<i8> {
    let &[_, inputs, kernel_height, kernel_width] = weight else {
        unreachable!("checked when the layer was made");
    };
    let codes = x.codes();
    let (height, width) = (x.shape()[2], x.shape()[3]);
    let Conv2dOptions {
        stride, padding, ..
    } = options;
    let mut rows = Vec::with_capacity(out[0] * out[1] * inputs * kernel_height * kernel_width);
    for y in 0..out[0] {
        for x in 0..out[1] {
            for channel in group * inputs..(group + 1) * inputs {
                for i in 0..kernel_height {
                    for j in 0..kernel_width {
                        let row = (y * stride[0] + i).wrapping_sub(padding[0]);
                        let column = (x * stride[1] + j).wrapping_sub(padding[1]);
                        let inside = row < height && column < width;
                        rows.push(if inside {
                            codes[[image, channel, row, column]]
                        } else {
                            outside
                        });
                    }
                }
            }
        }
    }
    rows
}

/// A convolution on codes, with a ReLU behind it if asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct QConv2d {
    weight: QTensor,
    bias: Vec<i32>,
    input: QParams,
    output: QParams,
    relu: bool,
    options: Conv2dOptions,
}

impl QConv2d {
    /// Quantizes a convolution with real weights.
    ///
    /// | argument | shape | meaning |
    /// |---|---|---|
    /// | `weight` | `[out, in / groups, kernel height, kernel width]` | real weights |
    /// | `bias` | `[out]` | real bias; zeros if there is none |
    /// | `weights` | | how to write the weights, usually [`Scheme::WEIGHTS`] |
    /// | `input`, `output` | | what the codes of input and output mean, from calibration |
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with index and channel, and those of [`QConv2d::from_parts`].
    pub fn quantize(
        weight: ArrayViewD<'_, f32>,
        bias: &[f32],
        options: Conv2dOptions,
        weights: Scheme,
        input: QParams,
        output: QParams,
        relu: bool,
    ) -> Result<Self> {
        let (weight, bias) = quantize_parts(weight, bias, weights, input.scale)?;
        Self::from_parts(weight, bias, options, input, output, relu)
    }

    /// Puts a layer together from its parts.
    ///
    /// # Errors
    ///
    /// - [`Error::ShapeMismatch`] if the weight has not four axes, the bias is not `[out]`, the groups do not divide the
    ///   outputs, a stride is 0, or padding exceeds 65,536.
    /// - Those of [`QLinear::from_parts`](crate::QLinear::from_parts).
    pub fn from_parts(
        weight: QTensor,
        bias: Vec<i32>,
        options: Conv2dOptions,
        input: QParams,
        output: QParams,
        relu: bool,
    ) -> Result<Self> {
        check_options(weight.shape(), options)?;
        check_parts(&weight, &bias, input, output)?;
        Ok(Self {
            weight,
            bias,
            input,
            output,
            relu,
            options,
        })
    }

    /// The shape of the output for an input of this shape.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if it is not `[batch, in, height, width]`, or the kernel does not fit in.
    pub fn output_shape(&self, input: &[usize]) -> Result<[usize; 4]> {
        output_shape(self.weight.shape(), self.options, input)
    }

    /// Computes the layer by its definition: gathers what the kernel covers at every place into a row, multiplies, adds
    /// the bias, requantizes. Outside the image the code is the input's zero point, which means 0.0.
    /// `[batch, in, height, width]` to `[batch, out, out height, out width]`.
    ///
    /// # Errors
    ///
    /// - [`Error::ShapeMismatch`], see [`QConv2d::output_shape`].
    /// - [`Error::OtherQParams`] if the codes of `x` do not mean what this layer's input means.
    pub fn forward_definition(&self, x: &QTensor) -> Result<QTensor> {
        let [batch, outputs, height, width] = self.output_shape(x.shape())?;
        if x.qparams() != Some(self.input) {
            return Err(Error::OtherQParams {
                expected: self.input,
                got: x.qparams(),
            });
        }
        let groups = self.options.groups;
        let dims = Dims {
            m: height * width,
            n: outputs / groups,
            k: self.weight.as_slice().len() / outputs,
        };
        let multipliers = self.multipliers()?;
        let mut range = CodeRange::INT8;
        if self.relu {
            range.min = self.output.zero_point;
        }
        let mut result = vec![0; batch * outputs * dims.m];
        for image in 0..batch {
            for group in 0..groups {
                let outside = self.input.zero_point as i8;
                let rows = gather(
                    x,
                    self.weight.shape(),
                    self.options,
                    outside,
                    (image, group),
                    [height, width],
                );
                let first = group * dims.n;
                let weight = &self.weight.as_slice()[first * dims.k..][..dims.n * dims.k];
                let mut sums = vec![0; dims.m * dims.n];
                gemm_i8(dims, &rows, self.input.zero_point, weight, 0, &mut sums);
                for (sum, bias) in sums
                    .iter_mut()
                    .zip(self.bias[first..][..dims.n].iter().cycle())
                {
                    *sum += bias;
                }
                let multipliers = &multipliers[first..][..dims.n];
                let codes = requantize(&sums, multipliers, self.output.zero_point, range);
                // [place, channel] to [channel, place].
                for (index, code) in codes.into_iter().enumerate() {
                    let (place, channel) = (index / dims.n, first + index % dims.n);
                    result[(image * outputs + channel) * dims.m + place] = code;
                }
            }
        }
        let shape = [batch, outputs, height, width];
        let meaning = Parameters::PerTensor(self.output);
        QTensor::new(result, &shape, meaning, CodeRange::INT8)
    }

    /// The factor from accumulator to output, for each output channel. Shape `[out]`.
    ///
    /// # Errors
    ///
    /// None for a layer that was put together: the multipliers were checked then.
    pub fn multipliers(&self) -> Result<Vec<f32>> {
        multipliers(
            self.input.scale,
            &self.weight.row_scales(),
            self.output.scale,
        )
    }

    /// The weight, `[out, in / groups, kernel height, kernel width]`.
    #[must_use]
    pub fn weight(&self) -> &QTensor {
        &self.weight
    }

    /// The bias, `[out]`, in steps of `input.scale · weight scale`.
    #[must_use]
    pub fn bias(&self) -> &[i32] {
        &self.bias
    }

    /// What the codes of the input mean.
    #[must_use]
    pub fn input(&self) -> QParams {
        self.input
    }

    /// What the codes of the output mean.
    #[must_use]
    pub fn output(&self) -> QParams {
        self.output
    }

    /// Whether a ReLU is fused into the layer.
    #[must_use]
    pub fn has_relu(&self) -> bool {
        self.relu
    }

    /// Stride, padding and groups.
    #[must_use]
    pub fn options(&self) -> Conv2dOptions {
        self.options
    }

    /// How many bytes the layer holds; see [`QLinear::memory_bytes`](crate::QLinear::memory_bytes).
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.weight.memory_bytes()
            + self.bias.len() * size_of::<i32>()
            + 2 * size_of::<QParams>()
            + size_of::<bool>()
            + size_of::<Conv2dOptions>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::QParams;

    fn codes(codes: Vec<i8>, shape: &[usize], qparams: QParams) -> QTensor {
        QTensor::new(
            codes,
            shape,
            Parameters::PerTensor(qparams),
            CodeRange::INT8,
        )
        .expect("good")
    }

    const UNIT: QParams = QParams::symmetric(1.0);

    #[test]
    fn padding_means_zero_whatever_the_zero_point() {
        // Ones everywhere, a 3 x 3 kernel of ones, padding 1: each sum counts the pixels inside the image.
        let input = QParams {
            scale: 1.0,
            zero_point: -100,
        };
        let x = codes(vec![-99; 9], &[1, 1, 3, 3], input);
        let options = Conv2dOptions {
            padding: [1, 1],
            ..Conv2dOptions::default()
        };
        let weight = codes(vec![1; 9], &[1, 1, 3, 3], UNIT);
        let layer = QConv2d::from_parts(weight, vec![0], options, input, UNIT, false);
        let y = layer
            .and_then(|layer| layer.forward_definition(&x))
            .expect("good");
        assert_eq!(y.as_slice(), [4, 6, 4, 6, 9, 6, 4, 6, 4]);
    }

    #[test]
    fn groups_do_not_see_each_other() {
        let x = codes(vec![1, 2, 3, 4], &[1, 2, 1, 2], UNIT);
        let options = Conv2dOptions {
            groups: 2,
            ..Conv2dOptions::default()
        };
        let weight = codes(vec![10, -10], &[2, 1, 1, 1], UNIT);
        let layer = QConv2d::from_parts(weight, vec![0, 5], options, UNIT, UNIT, true);
        let y = layer
            .and_then(|layer| layer.forward_definition(&x))
            .expect("good");
        assert_eq!(
            (y.shape(), y.as_slice()),
            (&[1, 2, 1, 2][..], &[10, 20, 0, 0][..])
        );
    }

    #[test]
    fn a_kernel_that_does_not_fit_is_an_error() {
        let weight = codes(vec![1; 9], &[1, 1, 3, 3], UNIT);
        let options = Conv2dOptions::default();
        let layer = QConv2d::from_parts(weight, vec![0], options, UNIT, UNIT, false).expect("good");
        assert!(layer.output_shape(&[1, 1, 2, 3]).is_err());
        assert!(layer.output_shape(&[1, 2, 3, 3]).is_err());
        assert!(layer.output_shape(&[3, 3]).is_err());
        assert_eq!(layer.output_shape(&[2, 1, 4, 3]), Ok([2, 1, 2, 1]));
    }
}
