//! Convolutions, batch norms, poolings and ReLUs that run as one: image by image, channels last in memory between them.
//!
//! One image passes through all layers before the next begins, so that what is between them stays in the cache.

use std::mem;
use std::sync::Arc;

use rayon::prelude::*;
use tinytorch_kernels::{
    Accumulate, Conv2dShape, Finish, Images, PackedConv2dF32, PoolWindow, Threads, max_pool2d_f32,
    transpose_f32,
};

use super::{is_identity, room, with_buffers};
use crate::nn::norm::Fixed;
use crate::nn::{BatchNorm2d, Conv2d, Flatten, Layer, MaxPool2d, Relu};
use crate::ops::{array_of, slice, standard};
use crate::recycle;
use crate::tensor::{Tensor, Values};

/// Fewer multiply-adds than this stay on the calling thread: waking another costs about as much.
const PARALLEL_THRESHOLD: usize = 1 << 20;

/// Channels, height and width of an image.
type Size = [usize; 3];

/// Layers on images, the first of them a convolution.
pub(super) struct Chain {
    /// Of the images that come.
    size: Size,
    /// Each with the size of the images it makes.
    steps: Vec<(Step, Size)>,
    /// Whether the result of an image is one row.
    flat: bool,
    /// Layers of the sequence that these are, with those that compute nothing.
    pub taken: usize,
}

enum Step {
    Conv {
        packed: Arc<PackedConv2dF32>,
        bias: Option<Values>,
        normalize: Option<Arc<Fixed>>,
        relu: bool,
    },
    MaxPool(PoolWindow),
    Normalize(Arc<Fixed>),
    Relu,
}

impl Chain {
    /// The layers that a sequence begins with, as far as they fit images `x`; `None` if the first is no convolution that does.
    pub fn new(layers: &[&dyn Layer], x: &[usize]) -> Option<Self> {
        let &[_, channels, height, width] = x else {
            return None;
        };
        let size = [channels, height, width];
        let first = layers.first()?.as_any().downcast_ref()?;
        let mut chain = Self {
            size,
            steps: vec![convolution(first, size)?],
            flat: false,
            taken: 1,
        };
        for layer in &layers[1..] {
            if chain.flat || !chain.takes(*layer) {
                break;
            }
            chain.taken += 1;
        }
        Some(chain)
    }

    /// Appends a layer, if it can be part of this.
    fn takes(&mut self, layer: &dyn Layer) -> bool {
        let (size, layer) = (self.result(), layer.as_any());
        let step = if let Some(layer) = layer.downcast_ref() {
            convolution(layer, size)
        } else if let Some(layer) = layer.downcast_ref() {
            max_pooling(layer, size)
        } else if let Some(layer) = layer.downcast_ref::<BatchNorm2d>() {
            let Some(fixed) = layer.fixed(size[0]) else {
                return false;
            };
            match self.steps.last_mut() {
                Some((
                    Step::Conv {
                        normalize, relu, ..
                    },
                    _,
                )) if normalize.is_none() && !*relu => {
                    *normalize = Some(fixed);
                    return true;
                }
                _ => Some((Step::Normalize(fixed), size)),
            }
        } else if layer.is::<Relu>() {
            match self.steps.last_mut() {
                Some((Step::Conv { relu, .. }, _)) => {
                    *relu = true;
                    return true;
                }
                _ => Some((Step::Relu, size)),
            }
        } else {
            self.flat = layer.is::<Flatten>();
            return self.flat || is_identity(layer);
        };
        let fits = step.is_some();
        self.steps.extend(step);
        fits
    }

    /// The size of the images that come out.
    fn result(&self) -> Size {
        self.steps.last().map_or(self.size, |&(_, size)| size)
    }

    /// Runs the layers on `x`, of the shape that [`Chain::new`] was given.
    pub fn run(&self, x: &Tensor) -> Tensor {
        let batch = x.shape()[0];
        let values = standard(&x.array());
        let x = slice(&values);
        let [channels, height, width] = self.result();
        let (image, result) = (len(self.size), len([channels, height, width]));
        let mut out = recycle::anything(batch * result);
        let threads = rayon::current_num_threads();
        if batch > 1 && threads > 1 && batch * self.multiply_adds() >= PARALLEL_THRESHOLD {
            // Two parts for each thread: who is late leaves one to another.
            let part = batch.div_ceil(2 * threads);
            let parts = out.par_chunks_mut(part * result).enumerate();
            parts.for_each(|(i, out)| {
                let images = out.len() / result;
                let x = &x[i * part * image..][..images * image];
                self.part(images, x, out, Threads::One);
            });
        } else {
            self.part(batch, x, &mut out, Threads::Auto);
        }
        let shape = match self.flat {
            true => vec![batch, result],
            false => vec![batch, channels, height, width],
        };
        Tensor::from_array(array_of(out, &shape))
    }

    /// Multiply-adds for one image.
    fn multiply_adds(&self) -> usize {
        let of = |(step, [_, height, width]): &(Step, Size)| match step {
            Step::Conv { packed, .. } => {
                let shape = packed.shape();
                shape.out_channels * shape.taps() * height * width
            }
            Step::MaxPool(_) | Step::Normalize(_) | Step::Relu => 0,
        };
        self.steps.iter().map(of).sum()
    }

    /// Some images, one after the other.
    fn part(&self, images: usize, x: &[f32], out: &mut [f32], threads: Threads) {
        let (image, result) = (len(self.size), len(self.result()));
        with_buffers(|from, to| {
            for i in 0..images {
                let (x, out) = (&x[i * image..][..image], &mut out[i * result..][..result]);
                self.image(x, out, from, to, threads);
            }
        });
    }

    fn image(
        &self,
        x: &[f32],
        out: &mut [f32],
        from: &mut Vec<f32>,
        to: &mut Vec<f32>,
        threads: Threads,
    ) {
        let mut size = self.size;
        let [channels, height, width] = size;
        let mut first = None;
        if channels == 1 {
            first = Some(x);
        } else {
            transpose_f32(channels, height * width, x, room(from, x.len()));
        }
        for (step, after) in &self.steps {
            let input = first.take().unwrap_or_else(|| &from[..len(size)]);
            let images = Images {
                batch: 1,
                height: size[1],
                width: size[2],
            };
            match step {
                Step::Conv {
                    packed,
                    bias,
                    normalize,
                    relu,
                } => {
                    let finish = Finish {
                        bias: bias.as_ref().map_or(&[], |bias| slice(bias)),
                        normalize: normalize.as_ref().map(|fixed| fixed.as_finish()),
                        relu: *relu,
                        accumulate: Accumulate::Overwrite,
                    };
                    packed.run(images, input, finish, room(to, len(*after)), threads);
                }
                Step::MaxPool(window) => {
                    max_pool2d_f32(*window, images, size[0], input, room(to, len(*after)));
                }
                Step::Normalize(fixed) => {
                    let output = room(to, len(*after)).chunks_exact_mut(size[0]);
                    for (output, input) in output.zip(input.chunks_exact(size[0])) {
                        fixed.apply(input, output);
                    }
                }
                Step::Relu => {
                    let output = room(to, len(*after)).iter_mut().zip(input);
                    // NaN stays.
                    output.for_each(|(y, &x)| *y = if x < 0.0 { 0.0 } else { x });
                }
            }
            mem::swap(from, to);
            size = *after;
        }
        let [channels, height, width] = size;
        transpose_f32(height * width, channels, &from[..out.len()], out);
    }
}

fn len([channels, height, width]: Size) -> usize {
    channels * height * width
}

/// A convolution, if it fits images of this size.
fn convolution(layer: &Conv2d, [channels, height, width]: Size) -> Option<(Step, Size)> {
    let &[out_channels, inputs, kernel_height, kernel_width] = layer.weight().shape() else {
        return None;
    };
    let shape = Conv2dShape {
        in_channels: channels,
        out_channels,
        kernel: [kernel_height, kernel_width],
        stride: layer.stride(),
        padding: layer.padding(),
        groups: layer.groups(),
    };
    let divided = shape.groups > 0 && out_channels.is_multiple_of(shape.groups);
    let none = [channels, out_channels, kernel_height, kernel_width].contains(&0);
    if !divided || none || shape.stride.contains(&0) || inputs * shape.groups != channels {
        return None;
    }
    // A kernel that fits into the padding alone sees nothing there, and the padded copy could be of any size.
    if (0..2).any(|axis| shape.padding[axis] >= shape.kernel[axis]) {
        return None;
    }
    let [height, width] = shape.output_size([height, width])?;
    let step = Step::Conv {
        packed: layer.packed(shape),
        bias: layer.bias().map(|bias| standard(&bias.array())),
        normalize: None,
        relu: false,
    };
    Some((step, [out_channels, height, width]))
}

/// A pooling without padding, if it fits images of this size.
fn max_pooling(layer: &MaxPool2d, [channels, height, width]: Size) -> Option<(Step, Size)> {
    let options = layer.options();
    let window = PoolWindow {
        kernel: options.kernel,
        stride: options.stride,
    };
    let [height, width] = window.output_size([height, width])?;
    let plain = options.padding == [0, 0];
    plain.then_some((Step::MaxPool(window), [channels, height, width]))
}
