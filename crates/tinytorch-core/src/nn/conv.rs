//! The convolutional layer.

use std::any::Any;
use std::sync::Arc;

use rand::Rng;

use tinytorch_kernels::{Conv2dShape, PackedConv2dF32};

use super::derived::Derived;
use super::{Layer, fused, initial, weight_and_bias};
use crate::error::{Error, Result};
use crate::ops::conv::Conv2dOptions;
use crate::tape::is_recording;
use crate::tensor::Tensor;

/// How a [`Conv2d`] is made. Pairs are `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Size of the kernel.
    pub kernel: [usize; 2],
    /// Stride, padding and groups.
    pub options: Conv2dOptions,
    /// Whether a learned number is added to each output channel.
    pub bias: bool,
}

impl Conv2dConfig {
    /// A square kernel with stride 1, no padding, one group and a bias.
    pub fn new(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        let options = Conv2dOptions::default();
        Self {
            in_channels,
            out_channels,
            kernel: [kernel; 2],
            options,
            bias: true,
        }
    }

    /// The same distance between windows in both directions.
    #[must_use]
    pub fn stride(mut self, stride: usize) -> Self {
        self.options.stride = [stride; 2];
        self
    }

    /// The same number of zeros on all four sides.
    #[must_use]
    pub fn padding(mut self, padding: usize) -> Self {
        self.options.padding = [padding; 2];
        self
    }

    /// Channels in so many independent parts.
    #[must_use]
    pub fn groups(mut self, groups: usize) -> Self {
        self.options.groups = groups;
        self
    }

    /// With or without a bias.
    #[must_use]
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }
}

/// Kernels slid over images; see [`Tensor::conv2d`].
///
/// | tensor   | shape                                             |
/// |----------|---------------------------------------------------|
/// | `x`      | `[batch, in, height, width]`                      |
/// | `weight` | `[out, in / groups, kernel height, kernel width]` |
/// | `bias`   | `[out]`                                           |
/// | `y`      | `[batch, out, out height, out width]`             |
///
/// Under [`no_grad`](crate::no_grad) the layer computes by another kernel, with a copy of its weight in the order in which that reads it. The
/// copy is made by the first such call after each change of the weight, and takes as much memory again. An image's result
/// then depends neither on the rest of the batch nor on threads; it can differ in the last bits from what is computed with a
/// tape, which sums in another order.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    options: Conv2dOptions,
    packed: Derived<PackedConv2dF32>,
}

impl Conv2d {
    /// A layer whose numbers are drawn uniformly within `1 / √fan_in`, fan_in = in / groups · kernel elements.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the groups do not divide both numbers of channels, or a kernel side or stride is 0.
    pub fn new(config: Conv2dConfig, rng: &mut (impl Rng + ?Sized)) -> Result<Self> {
        let Conv2dConfig {
            in_channels,
            out_channels,
            kernel,
            options,
            bias,
        } = config;
        let groups = options.groups;
        let operation = "conv2d";
        if groups == 0 || in_channels % groups != 0 || out_channels % groups != 0 {
            let reason = format!(
                "{in_channels} input and {out_channels} output channels \
                 cannot be split into {groups} groups"
            );
            return Err(Error::Argument { operation, reason });
        }
        if kernel.contains(&0) || options.stride.contains(&0) {
            let stride = options.stride;
            let reason = format!("kernel {kernel:?} and stride {stride:?} must be at least 1");
            return Err(Error::Argument { operation, reason });
        }
        let shape = [out_channels, in_channels / groups, kernel[0], kernel[1]];
        let fan_in = shape[1..].iter().product();
        let weight = initial(&shape, fan_in, rng);
        let bias = bias.then(|| initial(&[out_channels], fan_in, rng));
        Ok(Self {
            weight,
            bias,
            options,
            packed: Derived::default(),
        })
    }

    /// A layer with these values, which it trains.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the weight has not four axes or the bias is not `[out]`.
    pub fn from_parts(
        weight: Tensor,
        bias: Option<Tensor>,
        options: Conv2dOptions,
    ) -> Result<Self> {
        let operation = "conv2d";
        let &[outputs, _, _, _] = weight.shape() else {
            let expected = "a weight of shape [out, in / groups, height, width]".to_owned();
            return Err(Error::Shape {
                operation,
                expected,
                got: weight.shape().to_vec(),
            });
        };
        if let Some(bias) = &bias
            && bias.shape() != [outputs]
        {
            let expected = format!("a bias of shape [{outputs}]");
            return Err(Error::Shape {
                operation,
                expected,
                got: bias.shape().to_vec(),
            });
        }
        let (weight, bias) = (weight.with_grad(), bias.map(Tensor::with_grad));
        Ok(Self {
            weight,
            bias,
            options,
            packed: Derived::default(),
        })
    }

    /// `[out, in / groups, kernel height, kernel width]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[out]`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Stride, padding and groups.
    pub fn options(&self) -> Conv2dOptions {
        self.options
    }

    /// Distance between neighbouring windows, `[height, width]`.
    pub fn stride(&self) -> [usize; 2] {
        self.options.stride
    }

    /// Zeros added on each side, `[height, width]`.
    pub fn padding(&self) -> [usize; 2] {
        self.options.padding
    }

    /// Into how many independent parts channels are split.
    pub fn groups(&self) -> usize {
        self.options.groups
    }

    /// Size of the kernel, `[height, width]`.
    pub fn kernel(&self) -> [usize; 2] {
        [self.weight.shape()[2], self.weight.shape()[3]]
    }

    /// The weight, packed. The shape is this layer's own.
    pub(super) fn packed(&self, shape: Conv2dShape) -> Arc<PackedConv2dF32> {
        let pack = |[weight]: [&[f32]; 1]| PackedConv2dF32::new(shape, weight);
        self.packed.get([&self.weight], pack)
    }
}

impl Layer for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // A tape needs the operation, and an error its message.
        let without_tape = (!is_recording()).then(|| fused::convolution(self, x));
        match without_tape.flatten() {
            Some(y) => Ok(y),
            None => x.conv2d(&self.weight, self.bias.as_ref(), self.options),
        }
    }

    fn kind(&self) -> &'static str {
        "conv2d"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        weight_and_bias(&self.weight, self.bias.as_ref())
    }
}
