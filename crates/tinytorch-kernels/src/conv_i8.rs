//! The integer convolution, channels last: `i8 · i8 -> i32`, with the endings of the product.
//!
//! A convolution is a product whose left matrix is the image, read patch by patch. The patches are gathered a tile of
//! rows at a time, inside the kernel (from a copy of the images with its padding, unless there are groups), or read where they lie
//! by a kernel that can do that, so the whole im2col matrix never exists. Depthwise convolutions have one weight
//! per output and tap, too few for a product, and take their own path over the channels.

mod depthwise;
mod patches;
mod runs;
pub mod scalar;
#[cfg(test)]
mod tests;
mod windows;

use crate::elements;
use crate::gemm_i8::activations::Activations;
use crate::gemm_i8::block::BlockMut;
use crate::gemm_i8::ending::Ending;
use crate::gemm_i8::{GemmI8, MAX_K, PackedWeights, Requantize, Scale, chosen};
use depthwise::Depthwise;
use patches::Patches;

use crate::pool_i8::{Pool2dShape, max_pool_i8};

/// What a convolution does, apart from its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dShape {
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the result.
    pub out_channels: usize,
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Rows and columns from one window to the next.
    pub stride: [usize; 2],
    /// Rows above and below, columns left and right, that count as 0.0.
    pub padding: [usize; 2],
    /// Groups of channels that do not see one another; divides both numbers of channels.
    pub groups: usize,
}

impl Conv2dShape {
    /// Inputs of one output: `kernel height · kernel width · in_channels / groups`.
    ///
    /// # Panics
    ///
    /// If there are no groups, or more taps than a `usize` counts.
    #[track_caller]
    pub fn taps(&self) -> usize {
        let ([height, width], channels) = (self.kernel, self.in_channels / self.groups);
        match elements([height, width, channels]) {
            Some(taps) => taps,
            None => panic!("a window of [{height}, {width}, {channels}] has too many taps"),
        }
    }

    /// Height and width of the result, `None` if the window does not fit the padded image, or that has more rows or
    /// columns than a `usize` counts.
    ///
    /// # Panics
    ///
    /// If a stride is zero.
    #[track_caller]
    pub fn output_size(&self, [height, width]: [usize; 2]) -> Option<[usize; 2]> {
        let along = |size: usize, axis: usize| {
            let padded = size.checked_add(self.padding[axis].checked_mul(2)?)?;
            let steps = padded.checked_sub(self.kernel[axis])? / self.stride[axis];
            steps.checked_add(1)
        };
        Some([along(height, 0)?, along(width, 1)?])
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        let Self {
            in_channels,
            out_channels,
            kernel,
            stride,
            groups,
            ..
        } = *self;
        assert!(
            in_channels > 0 && out_channels > 0,
            "a convolution of {in_channels} to {out_channels} channels has nothing to compute"
        );
        assert!(
            groups > 0 && in_channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups),
            "{groups} groups do not divide {in_channels} and {out_channels} channels"
        );
        assert!(
            kernel[0] > 0 && kernel[1] > 0,
            "the window {kernel:?} is empty"
        );
        assert!(
            stride[0] > 0 && stride[1] > 0,
            "the stride {stride:?} does not advance"
        );
    }
}

/// The sizes of a batch of images, `[batch, height, width, channels]` (the channels are the convolution's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    /// Images.
    pub batch: usize,
    /// Rows of each.
    pub height: usize,
    /// Columns of each.
    pub width: usize,
}

impl Images {
    /// Checks what is pooled and the result, `[batch, out height, out width, channels]`.
    #[track_caller]
    pub(crate) fn check_pooling<T>(
        self,
        channels: usize,
        (name, input): (&str, &[T]),
        [out_height, out_width]: [usize; 2],
        out: &[T],
    ) {
        let Self {
            batch,
            height,
            width,
        } = self;
        assert_eq!(
            Some(input.len()),
            elements([batch, height, width, channels]),
            "{name} must be [{batch}, {height}, {width}, {channels}]"
        );
        assert_eq!(
            Some(out.len()),
            elements([batch, out_height, out_width, channels]),
            "out must be [{batch}, {out_height}, {out_width}, {channels}]"
        );
    }
}

/// The weights of a convolution, packed once.
#[derive(Clone, Debug)]
pub struct PackedConv2d {
    shape: Conv2dShape,
    weights: Weights,
}

#[derive(Clone, Debug)]
enum Weights {
    /// One product, with windows as runs of the images.
    Runs(PackedWeights),
    /// One product per group.
    Groups(Vec<PackedWeights>),
    /// One channel in and one out in each group.
    Depthwise(Depthwise),
}

impl PackedConv2d {
    /// Packs `weights`, `[out, kernel height, kernel width, in / groups]`, zero point 0, for the kernel that
    /// [`chosen`] names.
    ///
    /// # Panics
    ///
    /// If the shape contradicts itself or has no channels, `weights` does not have its size, an output has more than `MAX_K` taps, or the
    /// environment names an unknown kernel.
    #[track_caller]
    pub fn new(shape: Conv2dShape, weights: &[i8]) -> Self {
        match chosen() {
            Ok(kernel) => Self::with_kernel(kernel, shape, weights),
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`new`](Self::new), for the kernel given.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new), apart from the environment.
    #[track_caller]
    pub fn with_kernel(kernel: &'static dyn GemmI8, shape: Conv2dShape, weights: &[i8]) -> Self {
        shape.check();
        let (taps, out) = (shape.taps(), shape.out_channels);
        assert_eq!(
            Some(weights.len()),
            elements([out, taps]),
            "weights must be [{out}, {taps}]"
        );
        let one_to_one = shape.in_channels == shape.groups && out == shape.groups;
        let weights = if one_to_one && shape.groups > 1 {
            Weights::Depthwise(Depthwise::new(kernel, out, taps, weights))
        } else if let Some(inputs) = runs::inputs(&shape) {
            let weights = runs::round_up(&shape, weights);
            Weights::Runs(PackedWeights::with_kernel(kernel, out, inputs, &weights))
        } else {
            let outputs = out / shape.groups;
            let group = |g: usize| {
                let weights = &weights[g * outputs * taps..(g + 1) * outputs * taps];
                PackedWeights::with_kernel(kernel, outputs, taps, weights)
            };
            Weights::Groups((0..shape.groups).map(group).collect())
        };
        Self { shape, weights }
    }

    /// What it does.
    pub fn shape(&self) -> Conv2dShape {
        self.shape
    }

    /// Bytes held on the heap.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Runs(weights) => weights.bytes(),
            Weights::Groups(groups) => groups
                .iter()
                .map(|group| group.bytes() + size_of::<PackedWeights>())
                .sum(),
            Weights::Depthwise(weights) => weights.bytes(),
        }
    }

    /// The weights as they were given, `[out, kernel height, kernel width, in / groups]`.
    pub fn unpack(&self) -> Vec<i8> {
        match &self.weights {
            Weights::Runs(weights) => runs::cut(&self.shape, &weights.unpack()),
            Weights::Groups(groups) => groups.iter().flat_map(PackedWeights::unpack).collect(),
            Weights::Depthwise(weights) => weights.unpack(),
        }
    }

    /// The largest magnitude of a bias for which no sum can overflow.
    pub fn max_bias(&self) -> i32 {
        // `taps` was checked against MAX_K, so the product fits.
        i32::MAX - self.shape.taps() as i32 * (255 * 128)
    }

    /// Writes the sums `[batch, out height, out width, out channels]`, exactly; padding counts as `zero_point`.
    ///
    /// # Panics
    ///
    /// If a slice does not have its size (or a `usize` cannot count it), the window does not fit, or the zero point is
    /// not an `i8`.
    #[track_caller]
    pub fn product(&self, images: Images, input: &[i8], zero_point: i32, out: &mut [i32]) {
        let patches = Patches::new(self.shape, images, input, zero_point);
        self.each_group(&patches, out, |group, activations, out| {
            group.run(activations, zero_point, &[], Ending::Sums(out));
        });
    }

    /// Writes 8-bit codes `[batch, out height, out width, out channels]`.
    ///
    /// # Panics
    ///
    /// As [`product`](Self::product) and [`PackedWeights::requantized`].
    #[track_caller]
    pub fn requantized(
        &self,
        images: Images,
        input: &[i8],
        zero_point: i32,
        ending: &Requantize<'_>,
        out: &mut [i8],
    ) {
        ending.check(self.shape.out_channels, self.max_bias());
        let patches = Patches::new(self.shape, images, input, zero_point);
        self.each_group(&patches, out, |group, activations, out| {
            let ending_of_group = Ending::Codes {
                out,
                multipliers: &ending.multipliers[group.outputs()],
                codes: ending.codes(),
            };
            let bias = group.part(ending.bias);
            group.run(activations, zero_point, bias, ending_of_group);
        });
    }

    /// As [`requantized`](Self::requantized), and of each 2x2 window of the result, two rows and columns apart, only the largest
    /// code of each channel: `[batch, out height / 2, out width / 2, out channels]`, rounded down.
    ///
    /// The codes are never written unpooled where the kernel can avoid it: the largest code is that of the largest sum, unless
    /// a multiplier is negative.
    ///
    /// # Panics
    ///
    /// As [`requantized`](Self::requantized).
    #[track_caller]
    pub fn requantized_pooled(
        &self,
        images: Images,
        input: &[i8],
        zero_point: i32,
        ending: &Requantize<'_>,
        out: &mut [i8],
    ) {
        let channels = self.shape.out_channels;
        let patches = Patches::new(self.shape, images, input, zero_point);
        let [height, width] = patches.output;
        let pooled = images.batch * (height / 2) * (width / 2);
        assert_eq!(
            Some(out.len()),
            elements([pooled, channels]),
            "out must be [{pooled}, {channels}]"
        );
        ending.check(channels, self.max_bias());
        let is_rising = ending
            .multipliers
            .iter()
            .all(|&multiplier| multiplier >= 0.0);
        if let Weights::Runs(weights) = &self.weights
            && let Some(kernel) = weights.kernel().windows(weights.k())
            && is_rising
        {
            let ending_of_sums = Ending::Codes {
                out: BlockMut::new(out, pooled, 0, channels, channels),
                multipliers: ending.multipliers,
                codes: ending.codes(),
            };
            windows::run(weights, kernel, &patches, true, ending.bias, ending_of_sums);
            return;
        }
        let Some(len) = elements([patches.rows(), channels]) else {
            panic!(
                "[{}, {channels}] codes before pooling are too many",
                patches.rows()
            )
        };
        let mut codes = vec![0; len];
        self.requantized(images, input, zero_point, ending, &mut codes);
        let images = Images {
            height,
            width,
            ..images
        };
        max_pool_i8(&codes, images, channels, Pool2dShape::square(2), out);
    }

    /// Writes real numbers `[batch, out height, out width, out channels]`.
    ///
    /// # Panics
    ///
    /// As [`product`](Self::product) and [`PackedWeights::scaled`].
    #[track_caller]
    pub fn scaled(
        &self,
        images: Images,
        input: &[i8],
        zero_point: i32,
        ending: &Scale<'_>,
        out: &mut [f32],
    ) {
        ending.check(self.shape.out_channels);
        let patches = Patches::new(self.shape, images, input, zero_point);
        self.each_group(&patches, out, |group, activations, out| {
            let scale = Scale {
                scales: &ending.scales[group.outputs()],
                bias: group.part(ending.bias),
                relu: ending.relu,
            };
            group.run(activations, zero_point, &[], Ending::Reals { out, scale });
        });
    }

    /// Calls `run` once per group, with the columns of the result that are its own.
    #[track_caller]
    fn each_group<T>(
        &self,
        patches: &Patches<'_>,
        out: &mut [T],
        run: impl Fn(Group<'_>, &Patches<'_>, BlockMut<'_, T>),
    ) {
        let (rows, channels) = (patches.rows(), self.shape.out_channels);
        assert_eq!(
            Some(out.len()),
            elements([rows, channels]),
            "out must be [{rows}, {channels}]"
        );
        match &self.weights {
            Weights::Depthwise(weights) => {
                let out = BlockMut::new(out, rows, 0, channels, channels);
                run(Group::Depthwise(weights), patches, out);
            }
            Weights::Runs(weights) => {
                let out = BlockMut::new(out, rows, 0, channels, channels);
                run(Group::Runs(weights), patches, out);
            }
            Weights::Groups(groups) => {
                for (index, weights) in groups.iter().enumerate() {
                    let first = index * weights.n();
                    let out = BlockMut::new(out, rows, first, weights.n(), channels);
                    run(
                        Group::Product { first, weights },
                        &patches.of_group(index),
                        out,
                    );
                }
            }
        }
    }
}

/// The part of a convolution that is computed in one go.
enum Group<'a> {
    Runs(&'a PackedWeights),
    Product {
        first: usize,
        weights: &'a PackedWeights,
    },
    Depthwise(&'a Depthwise),
}

impl Group<'_> {
    /// The channels of the result that it computes.
    fn outputs(&self) -> std::ops::Range<usize> {
        match self {
            Group::Runs(weights) => 0..weights.n(),
            Group::Product { first, weights } => *first..first + weights.n(),
            Group::Depthwise(weights) => 0..weights.channels(),
        }
    }

    /// What belongs to them of a bias, which may be empty.
    fn part<'b, T>(&self, bias: &'b [T]) -> &'b [T] {
        if bias.is_empty() {
            bias
        } else {
            &bias[self.outputs()]
        }
    }

    #[track_caller]
    fn run(&self, patches: &Patches<'_>, zero_point: i32, bias: &[i32], ending: Ending<'_>) {
        match self {
            Group::Runs(weights) => match weights.kernel().windows(weights.k()) {
                Some(kernel) if !runs::is_matrix(&patches.shape) => {
                    windows::run(weights, kernel, patches, false, bias, ending);
                }
                _ => runs::run(weights, patches, zero_point, bias, ending),
            },
            Group::Product { weights, .. } => {
                let activations: &dyn Activations = patches;
                weights.run(patches.rows(), activations, zero_point, bias, ending);
            }
            Group::Depthwise(weights) => weights.run(patches, bias, ending),
        }
    }
}
