//! Convolution, lowered to products of matrices.
//!
//! The windows of a few images become the columns of a matrix that stays in the cache, and the convolution the product
//! of the kernels with it:
//!
//! ```text
//! output [out, windows] = weight [out, in · kernel] · columns [in · kernel, windows]
//! ```
//!
//! Images are shared out among threads in parts whose size depends on shapes only, and what the parts contribute to
//! the gradient of the weight is added in their order: the bits do not depend on the number of threads.

use std::cell::RefCell;
use std::mem;
use std::ops::Range;

use ndarray::ArrayD;
use rayon::prelude::*;
use tinytorch_kernels::{Accumulate, Dims, MatrixMut, MatrixRef, Threads, gemm_f32};

use crate::error::{Error, Result};
use crate::ops::broadcast::sum;
use crate::ops::window::Window;
use crate::ops::{array_of, slice, standard};
use crate::tape::records;
use crate::tensor::{Tensor, Values};

/// How a convolution moves. Pairs are `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Distance between neighbouring windows.
    pub stride: [usize; 2],
    /// Zeros added on each side.
    pub padding: [usize; 2],
    /// Into how many independent parts channels are split.
    pub groups: usize,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Self {
            stride: [1, 1],
            padding: [0, 0],
            groups: 1,
        }
    }
}

/// Columns that are lowered at once: enough for the product to run at full speed.
const BLOCK_COLUMNS: usize = 256;

/// Elements of lowered columns at once: 128 Ki · 4 B = 512 KiB, half of a common second-level cache.
const BLOCK_ELEMENTS: usize = 128 * 1024;

/// Fewer multiply-adds than this stay on the calling thread: waking another costs about as much.
const PARALLEL_THRESHOLD: usize = 1 << 20;

/// Into how many parts a batch is split for threads, at most.
const PARTS: usize = 8;

thread_local! {
    /// Lowered columns and outputs before they are put in place: kept, because fresh pages cost more than the copy.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Lends two buffers that hold anything.
fn with_scratch<R>(lengths: [usize; 2], body: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
    let mut buffers = SCRATCH.take();
    for (buffer, length) in buffers.iter_mut().zip(lengths) {
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
    }
    let [first, second] = &mut buffers;
    let result = body(&mut first[..lengths[0]], &mut second[..lengths[1]]);
    SCRATCH.set(mem::take(&mut buffers));
    result
}

/// The sizes of a convolution, and how it is cut into blocks.
#[derive(Clone, Copy)]
struct Plan {
    window: Window,
    outputs: usize,
    groups: usize,
    /// Images that are lowered together.
    images: usize,
    /// Output rows that are lowered together; all of them if `images > 1`.
    rows: usize,
    threads: Threads,
}

impl Plan {
    fn new(x: &[usize], weight: &[usize], options: Conv2dOptions) -> Result<Self> {
        let operation = "conv2d";
        let &[outputs, inputs, kernel_height, kernel_width] = weight else {
            let expected = "a weight of shape [out, in / groups, height, width]".to_owned();
            return Err(Error::Shape {
                operation,
                expected,
                got: weight.to_vec(),
            });
        };
        let Conv2dOptions {
            stride,
            padding,
            groups,
        } = options;
        let window = Window::new(operation, x, [kernel_height, kernel_width], stride, padding)?;
        if groups == 0 || outputs % groups != 0 {
            let reason = format!("{outputs} output channels cannot be split into {groups} groups");
            return Err(Error::Argument { operation, reason });
        }
        if window.channels != inputs * groups {
            let (left, right) = (x.to_vec(), weight.to_vec());
            return Err(Error::ShapeMismatch {
                operation,
                left,
                right,
            });
        }
        let depth = inputs * window.kernel_len();
        let fitting = (BLOCK_ELEMENTS / depth.max(1)).max(1);
        let plane = window.out_plane();
        let images = (BLOCK_COLUMNS.min(fitting) / plane).clamp(1, window.batch.max(1));
        let rows = if images > 1 {
            window.out[0]
        } else {
            fitting / window.out[1]
        };
        let rows = rows.clamp(1, window.out[0]);
        let plan = Self {
            window,
            outputs,
            groups,
            images,
            rows,
            threads: Threads::One,
        };
        let threads = if plan.is_parallel() {
            Threads::One
        } else {
            Threads::Auto
        };
        Ok(Self { threads, ..plan })
    }

    /// Input elements that one output is computed from.
    fn depth(&self) -> usize {
        self.window.channels / self.groups * self.window.kernel_len()
    }

    /// Images per part.
    fn part(&self) -> usize {
        let blocks = self.window.batch.div_ceil(self.images).max(1);
        blocks.div_ceil(PARTS) * self.images
    }

    fn is_parallel(&self) -> bool {
        let work = self.window.batch * self.outputs * self.depth() * self.window.out_plane();
        work >= PARALLEL_THRESHOLD && self.part() < self.window.batch
    }

    fn image_len(&self) -> usize {
        self.window.channels * self.window.plane()
    }

    fn out_len(&self) -> usize {
        self.outputs * self.window.out_plane()
    }

    /// Runs `body` on every block of `images` images: which images, and which rows of the output.
    fn for_each_block(&self, images: usize, mut body: impl FnMut(Range<usize>, Range<usize>)) {
        for first in (0..images).step_by(self.images) {
            for top in (0..self.window.out[0]).step_by(self.rows) {
                let last = (first + self.images).min(images);
                body(first..last, top..(top + self.rows).min(self.window.out[0]));
            }
        }
    }

    fn scratch(&self) -> [usize; 2] {
        let columns = self.images * self.rows * self.window.out[1];
        let lowered = self.depth() * columns;
        [lowered, (self.outputs / self.groups * columns).max(lowered)]
    }

    fn lower(&self, x: &[f32], block: &Block, group: usize, columns: &mut [f32]) {
        let channels = self.window.channels / self.groups * self.window.plane();
        for (i, image) in block.images.clone().enumerate() {
            let image = &x[image * self.image_len() + group * channels..][..channels];
            let columns = &mut columns[i * block.per_image..];
            self.window
                .lower(image, block.rows.clone(), columns, block.columns);
        }
    }
}

/// Some images, some rows of their output.
struct Block {
    images: Range<usize>,
    rows: Range<usize>,
    /// Windows of one image, and of all.
    per_image: usize,
    columns: usize,
}

impl Block {
    fn new(plan: &Plan, images: Range<usize>, rows: Range<usize>) -> Self {
        let per_image = rows.len() * plan.window.out[1];
        Self {
            columns: per_image * images.len(),
            images,
            rows,
            per_image,
        }
    }

    /// Where, in the output of one image, these rows of channel `channel` start.
    fn start(&self, plan: &Plan, image: usize, channel: usize) -> usize {
        let plane = plan.window.out_plane();
        image * plan.out_len() + channel * plane + self.rows.start * plan.window.out[1]
    }
}

/// The output of some images: `x [images, in, ..]` to `output [images, out, ..]`.
fn forward_part(plan: &Plan, x: &[f32], weight: &[f32], bias: Option<&[f32]>, output: &mut [f32]) {
    let (m, k) = (plan.outputs / plan.groups, plan.depth());
    let plane = plan.window.out_plane();
    let images = output.len() / plan.out_len();
    with_scratch(plan.scratch(), |columns, product| {
        plan.for_each_block(images, |images, rows| {
            let block = Block::new(plan, images, rows);
            let dims = Dims {
                m,
                n: block.columns,
                k,
            };
            for group in 0..plan.groups {
                let weight = MatrixRef::row_major(&weight[group * m * k..][..m * k], k);
                let direct = plan.window.is_pointwise() && block.images.len() == 1;
                let lowered = if direct {
                    // The windows are the elements: the image itself is the matrix.
                    let channel = block.images.start * plan.window.channels + group * k;
                    let start = channel * plane + block.rows.start * plan.window.out[1];
                    MatrixRef {
                        data: &x[start..],
                        row_stride: plane,
                        column_stride: 1,
                    }
                } else {
                    plan.lower(x, &block, group, columns);
                    MatrixRef::row_major(&columns[..k * dims.n], dims.n)
                };
                let channels = group * m..(group + 1) * m;
                if block.images.len() == 1 {
                    let start = block.start(plan, block.images.start, group * m);
                    let output = &mut output[start..];
                    let accumulate = match bias {
                        None => Accumulate::Overwrite,
                        Some(bias) => {
                            let lines = output.chunks_mut(plane).zip(&bias[channels]);
                            lines.for_each(|(line, &b)| line[..block.columns].fill(b));
                            Accumulate::Add
                        }
                    };
                    let output = MatrixMut {
                        data: output,
                        row_stride: plane,
                    };
                    gemm_f32(dims, weight, lowered, output, accumulate, plan.threads);
                    continue;
                }
                let product = &mut product[..m * dims.n];
                let into = MatrixMut::row_major(product, dims.n);
                gemm_f32(
                    dims,
                    weight,
                    lowered,
                    into,
                    Accumulate::Overwrite,
                    plan.threads,
                );
                for (channel, line) in channels.zip(product.chunks_exact(dims.n)) {
                    let bias = bias.map_or(0.0, |bias| bias[channel]);
                    let lines = block.images.clone().zip(line.chunks_exact(block.per_image));
                    for (image, line) in lines {
                        let start = block.start(plan, image, channel);
                        let output = &mut output[start..start + line.len()];
                        output
                            .iter_mut()
                            .zip(line)
                            .for_each(|(to, &from)| *to = from + bias);
                    }
                }
            }
        });
    });
}

/// What some images contribute: their `dx` is written, and the gradient of the weight, if wanted, returned.
fn backward_part(
    plan: &Plan,
    x: &[f32],
    weight: &[f32],
    gradient: &[f32],
    mut dx: Option<&mut [f32]>,
    wants_weight: bool,
) -> Vec<f32> {
    let (m, k) = (plan.outputs / plan.groups, plan.depth());
    let plane = plan.window.out_plane();
    let images = gradient.len() / plan.out_len();
    let mut dw = vec![0.0; if wants_weight { weight.len() } else { 0 }];
    let mut gathered = Vec::new();
    with_scratch(plan.scratch(), |columns, back| {
        plan.for_each_block(images, |images, rows| {
            let block = Block::new(plan, images, rows);
            let n = block.columns;
            for group in 0..plan.groups {
                let g = if block.images.len() == 1 {
                    let start = block.start(plan, block.images.start, group * m);
                    MatrixRef {
                        data: &gradient[start..],
                        row_stride: plane,
                        column_stride: 1,
                    }
                } else {
                    gathered.clear();
                    for channel in group * m..(group + 1) * m {
                        for image in block.images.clone() {
                            let start = block.start(plan, image, channel);
                            gathered.extend_from_slice(&gradient[start..start + block.per_image]);
                        }
                    }
                    MatrixRef::row_major(&gathered, n)
                };
                if wants_weight {
                    plan.lower(x, &block, group, columns);
                    let lowered = MatrixRef::row_major(&columns[..k * n], n).transposed();
                    let dw = MatrixMut::row_major(&mut dw[group * m * k..][..m * k], k);
                    let dims = Dims { m, n: k, k: n };
                    gemm_f32(dims, g, lowered, dw, Accumulate::Add, plan.threads);
                }
                if let Some(dx) = dx.as_deref_mut() {
                    let weight = MatrixRef::row_major(&weight[group * m * k..][..m * k], k);
                    let back = &mut back[..k * n];
                    let into = MatrixMut::row_major(back, n);
                    let dims = Dims { m: k, n, k: m };
                    let weight = weight.transposed();
                    gemm_f32(dims, weight, g, into, Accumulate::Overwrite, plan.threads);
                    let channels = plan.window.channels / plan.groups * plan.window.plane();
                    for (i, image) in block.images.clone().enumerate() {
                        let start = image * plan.image_len() + group * channels;
                        let back = &back[i * block.per_image..];
                        let dx = &mut dx[start..start + channels];
                        plan.window.raise(back, n, block.rows.clone(), dx);
                    }
                }
            }
        });
    });
    dw
}

fn forward(plan: &Plan, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut output = vec![0.0; plan.window.batch * plan.out_len()];
    let part = plan.part();
    let (in_part, out_part) = (
        (part * plan.image_len()).max(1),
        (part * plan.out_len()).max(1),
    );
    let run = |(x, output): (&[f32], &mut [f32])| forward_part(plan, x, weight, bias, output);
    if plan.is_parallel() {
        x.par_chunks(in_part)
            .zip(output.par_chunks_mut(out_part))
            .for_each(run);
    } else {
        x.chunks(in_part)
            .zip(output.chunks_mut(out_part))
            .for_each(run);
    }
    output
}

/// Some images, the gradient of their output, and where that of the images goes if it is wanted.
type Part<'a> = ((&'a [f32], &'a [f32]), Option<&'a mut [f32]>);

/// The gradients of `x` and of the weight, each if wanted.
fn backward(
    plan: &Plan,
    x: &[f32],
    weight: &[f32],
    gradient: &[f32],
    [wants_x, wants_weight]: [bool; 2],
) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
    let part = plan.part();
    let (in_part, out_part) = (
        (part * plan.image_len()).max(1),
        (part * plan.out_len()).max(1),
    );
    let mut dx = vec![0.0; if wants_x { x.len() } else { 0 }];
    let dxs = dx
        .chunks_mut(in_part)
        .map(Some)
        .chain(std::iter::repeat_with(|| None));
    let parts: Vec<_> = x
        .chunks(in_part)
        .zip(gradient.chunks(out_part))
        .zip(dxs)
        .collect();
    let run =
        |((x, gradient), dx): Part<'_>| backward_part(plan, x, weight, gradient, dx, wants_weight);
    let partial: Vec<Vec<f32>> = if plan.is_parallel() {
        parts.into_par_iter().map(run).collect()
    } else {
        parts.into_iter().map(run).collect()
    };
    let dw = wants_weight.then(|| {
        let mut total = vec![0.0; weight.len()];
        for partial in partial {
            total
                .iter_mut()
                .zip(partial)
                .for_each(|(total, part)| *total += part);
        }
        total
    });
    (wants_x.then_some(dx), dw)
}

/// The gradient of the bias: the sum over images and places, channel by channel.
pub(crate) fn sum_per_channel(values: &[f32], channels: usize, plane: usize) -> Vec<f64> {
    let mut sums = vec![0f64; channels];
    for (i, values) in values.chunks_exact(plane.max(1)).enumerate() {
        sums[i % channels] += sum(values);
    }
    sums
}

impl Tensor {
    /// Slides kernels over images (a cross-correlation, as all frameworks have it).
    ///
    /// | argument | shape                                            |
    /// |----------|--------------------------------------------------|
    /// | `self`   | `[batch, in, height, width]`                     |
    /// | `weight` | `[out, in / groups, kernel height, kernel width]`|
    /// | `bias`   | `[out]`                                          |
    /// | result   | `[batch, out, out height, out width]`            |
    ///
    /// # Errors
    ///
    /// [`Error::Shape`], [`Error::ShapeMismatch`] or [`Error::Argument`] if the arguments do not have these shapes, the
    /// groups do not divide the channels, or the padded image is smaller than the kernel.
    pub fn conv2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: Conv2dOptions,
    ) -> Result<Tensor> {
        let plan = Plan::new(self.shape(), weight.shape(), options)?;
        if let Some(bias) = bias
            && bias.shape() != [plan.outputs]
        {
            let (left, right) = (weight.shape().to_vec(), bias.shape().to_vec());
            return Err(Error::ShapeMismatch {
                operation: "conv2d",
                left,
                right,
            });
        }
        let (x, weights) = (standard(&self.array()), standard(&weight.array()));
        let biases: Option<Values> = bias.map(|bias| standard(&bias.array()));
        let output = forward(
            &plan,
            slice(&x),
            slice(&weights),
            biases.as_ref().map(slice),
        );
        let [height, width] = plan.window.out;
        let output = array_of(output, &[plan.window.batch, plan.outputs, height, width]);
        let inputs: Vec<&Tensor> = [self, weight].into_iter().chain(bias).collect();
        if !records(&inputs) {
            return Ok(Tensor::from_array(output));
        }
        let wanted: Vec<bool> = inputs.iter().map(|input| input.requires_grad()).collect();
        Ok(Tensor::recorded(
            "conv2d",
            output,
            &inputs,
            move |gradient: ArrayD<f32>| {
                let gradient = standard(&gradient.into_shared());
                let gradient = slice(&gradient);
                let wants = [wanted[0], wanted[1]];
                let (dx, dw) = backward(&plan, slice(&x), slice(&weights), gradient, wants);
                let mut gradients = vec![
                    dx.map(|dx| array_of(dx, x.shape())),
                    dw.map(|dw| array_of(dw, weights.shape())),
                ];
                if let Some(&wanted) = wanted.get(2) {
                    gradients.push(wanted.then(|| {
                        let sums = sum_per_channel(gradient, plan.outputs, plan.window.out_plane());
                        let sums = sums.into_iter().map(|sum| sum as f32).collect();
                        array_of(sums, &[plan.outputs])
                    }));
                }
                Ok(gradients)
            },
        ))
    }
}
