//! Products in 16 bits: the linear layer and the convolution, forwards and backwards, on what is stored in half precision.
//!
//! In: activations in 16 bits, weights in `f32` that are rounded here. Out: `f32`, whose sums were never rounded to 16 bits,
//! as in the matrix units of GPUs. For bf16 the product is [`gemm_bf16`](crate::kernels::gemm_bf16), which is faster than `f32` where the CPU has the
//! instruction; few CPUs multiply f16 into `f32` sums (Intel's AMX-FP16, Arm's FMLAL), so f16 computes in `f32` with rounded operands.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::framework::{Conv2dOptions, Error, Result, recycle};
use crate::half_number::{Number, View};
use crate::half_storage::{Stored, round_in_place};
use crate::kernels::{Accumulate, Dims, Threads};

/// Fewer multiply-adds than this stay on the calling thread.
const PARALLEL_THRESHOLD: usize = 1 << 20;

/// Into how many parts a batch is split for threads, at most.
const PARTS: usize = 8;

/// The gradients of a product: of its input if wanted, of its weight.
pub(crate) type ProductGradients = (Option<Vec<f32>>, Vec<f32>);

/// The geometry of a linear layer (images of one pixel) or of a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    batch: usize,
    /// Channels, height, width.
    input: [usize; 3],
    output: [usize; 3],
    kernel: [usize; 2],
    options: Conv2dOptions,
}

impl Product {
    /// `x` `[.., in]` times `weight` `[out, in]`.
    pub fn linear(x: &[usize], weight: &[usize]) -> Result<Self> {
        match (x.split_last(), weight) {
            (Some((&inputs, leading)), &[outputs, wanted]) if inputs == wanted => Ok(Self {
                batch: leading.iter().product(),
                input: [inputs, 1, 1],
                output: [outputs, 1, 1],
                kernel: [1, 1],
                options: Conv2dOptions::default(),
            }),
            _ => Err(mismatch("linear in half precision", x, weight)),
        }
    }

    /// `x` `[batch, in, height, width]`, `weight` `[out, in / groups, kernel height, kernel width]`.
    pub fn conv2d(x: &[usize], weight: &[usize], options: Conv2dOptions) -> Result<Self> {
        let operation = "conv2d in half precision";
        let (&[batch, channels, height, width], &[outputs, depth, kh, kw]) = (x, weight) else {
            return Err(mismatch(operation, x, weight));
        };
        let Conv2dOptions {
            stride,
            padding,
            groups,
        } = options;
        let size = |axis: usize, length: usize, kernel: usize| {
            let room = (length + 2 * padding[axis]).checked_sub(kernel)?;
            Some(room.checked_div(stride[axis])? + 1)
        };
        let fits = kh > 0
            && kw > 0
            && channels == depth * groups
            && outputs.checked_rem(groups) == Some(0);
        match (size(0, height, kh), size(1, width, kw)) {
            (Some(out_height), Some(out_width)) if fits => Ok(Self {
                batch,
                input: [channels, height, width],
                output: [outputs, out_height, out_width],
                kernel: [kh, kw],
                options,
            }),
            _ => Err(mismatch(operation, x, weight)),
        }
    }

    /// Height and width of the output.
    pub fn out_size(&self) -> [usize; 2] {
        [self.output[1], self.output[2]]
    }

    /// `x · weight + bias`. Row-major, shapes as in [`Product::linear`] or [`Product::conv2d`]; `bias` is `[out]`.
    pub fn forward(&self, x: &Stored, weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        match x {
            Stored::Bf16(x) => self.forward_with(x, weight, bias),
            Stored::F16(x) => self.forward_with(&x.to_f32_vec(), weight, bias),
        }
    }

    /// The gradients of `x`, if wanted, and of `weight`, in their shapes, for `gradient`, which has been rounded and has
    /// the shape of the output.
    pub fn backward(
        &self,
        x: &Stored,
        weight: &[f32],
        gradient: &[f32],
        wants_x: bool,
    ) -> ProductGradients {
        match x {
            Stored::Bf16(x) => self.backward_with(x, weight, gradient, wants_x),
            Stored::F16(x) => self.backward_with(&x.to_f32_vec(), weight, gradient, wants_x),
        }
    }

    /// The gradient of the bias: the sum over everything but the outputs, in `f64`. `[.., out]` or
    /// `[batch, out, height, width]` to `[out]`.
    pub fn bias_gradient(&self, gradient: &[f32]) -> Vec<f32> {
        let [outputs, height, width] = self.output;
        let mut sums = vec![0.0_f64; outputs];
        let plane = (height * width).max(1);
        for image in gradient.chunks_exact((outputs * plane).max(1)) {
            for (sum, line) in sums.iter_mut().zip(image.chunks_exact(plane)) {
                *sum += line.iter().map(|&g| f64::from(g)).sum::<f64>();
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }

    fn is_linear(&self) -> bool {
        let [_, height, width] = self.input;
        [height, width] == [1, 1]
            && self.kernel == [1, 1]
            && self.options == Conv2dOptions::default()
    }

    /// Outputs and products of a group.
    fn group(&self) -> (usize, usize) {
        let groups = self.options.groups;
        let [kh, kw] = self.kernel;
        (self.output[0] / groups, self.input[0] / groups * kh * kw)
    }

    /// Images that are lowered together: some 256 columns, enough for the product to run at full speed.
    fn images(&self) -> usize {
        let plane = (self.output[1] * self.output[2]).max(1);
        256_usize.div_ceil(plane).clamp(1, self.batch.max(1))
    }

    /// Images that one thread computes: an eighth of the batch, in whole blocks. It depends on shapes only, so the bits do not
    /// depend on the number of threads. A small product stays on one thread.
    fn part(&self) -> usize {
        let (m, k) = self.group();
        let work = m * k * self.options.groups * self.out_plane() * self.batch;
        if work < PARALLEL_THRESHOLD {
            return self.batch.max(1);
        }
        self.batch.div_ceil(PARTS).next_multiple_of(self.images())
    }

    fn out_plane(&self) -> usize {
        self.output[1] * self.output[2]
    }

    fn forward_with<T: Number>(&self, x: &[T], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        // The bias is a number of 16 bits too.
        let mut bias = bias.map_or_else(|| vec![0.0; self.output[0]], <[f32]>::to_vec);
        round_in_place(T::HALF, &mut bias);
        if self.is_linear() {
            return self.forward_linear(
                x,
                View::of_operand(&T::operand(weight), self.input[0]),
                &bias,
            );
        }
        self.forward_rounded(x, &T::of(weight), &bias)
    }

    /// `x · weight + bias` of numbers that are bf16 already, with a bias in `f32` that is added to the whole sum: that of a
    /// convolution. The bits of `gemm_bf16`, the inner dimension in the order of the weight. Shapes as in
    /// [`Product::forward`].
    pub fn forward_bf16(&self, x: &[bf16], weight: &[bf16], bias: &[f32]) -> Vec<f32> {
        self.forward_rounded(x, weight, bias)
    }

    fn forward_rounded<T: Number>(&self, x: &[T], weight: &[T], bias: &[f32]) -> Vec<f32> {
        let outputs = self.output[0];
        if self.is_linear() {
            return self.forward_linear(x, View::row_major(weight, self.input[0]), bias);
        }
        let (image_len, out_len) = (
            self.input.iter().product::<usize>(),
            outputs * self.out_plane(),
        );
        let mut y = recycle::anything(self.batch * out_len);
        let part = self.part();
        let xs = x.par_chunks((part * image_len).max(1));
        let ys = y.par_chunks_mut((part * out_len).max(1));
        // Where one part is all there is, threads share its products instead; the bits depend on neither.
        let threads = match self.batch <= part {
            true => Threads::Auto,
            false => Threads::One,
        };
        ys.zip(xs)
            .for_each(|(y, x)| self.forward_part(x, weight, bias, y, threads));
        y
    }

    /// `weight` is `[out, in]`.
    fn forward_linear<T: Number>(&self, x: &[T], weight: View<'_, T>, bias: &[f32]) -> Vec<f32> {
        let (inputs, outputs) = (self.input[0], self.output[0]);
        let dims = Dims {
            m: self.batch,
            n: outputs,
            k: inputs,
        };
        let x = View::row_major(x, inputs);
        let mut y = recycle::anything(self.batch * outputs);
        if outputs > 0 {
            y.chunks_exact_mut(outputs)
                .for_each(|row| row.copy_from_slice(bias));
        }
        T::product(
            dims,
            x,
            weight.transposed(),
            &mut y,
            Accumulate::Add,
            Threads::Auto,
        );
        y
    }

    fn forward_part<T: Number>(
        &self,
        x: &[T],
        weight: &[T],
        bias: &[f32],
        y: &mut [f32],
        threads: Threads,
    ) {
        let ((m, k), plane) = (self.group(), self.out_plane());
        let (image_len, out_len) = (self.input.iter().product::<usize>(), self.output[0] * plane);
        let (mut columns, mut product) = (Vec::new(), Vec::new());
        let blocks = y.chunks_mut((self.images() * out_len).max(1));
        for (y, x) in blocks.zip(x.chunks((self.images() * image_len).max(1))) {
            let images = y.len() / out_len;
            let n = images * plane;
            for group in 0..self.options.groups {
                self.lower(x, images, group, &mut columns);
                product.resize(m * n, 0.0);
                let weight = View::row_major(&weight[group * m * k..][..m * k], k);
                let lowered = View::row_major(&columns, n);
                let dims = Dims { m, n, k };
                let product = &mut product[..];
                T::product(
                    dims,
                    weight,
                    lowered,
                    product,
                    Accumulate::Overwrite,
                    threads,
                );
                for (channel, line) in (group * m..).zip(product.chunks_exact(n)) {
                    for (image, line) in line.chunks_exact(plane).enumerate() {
                        let to = &mut y[image * out_len + channel * plane..][..plane];
                        to.iter_mut()
                            .zip(line)
                            .for_each(|(to, from)| *to = from + bias[channel]);
                    }
                }
            }
        }
    }

    fn backward_with<T: Number>(
        &self,
        x: &[T],
        weight: &[f32],
        gradient: &[f32],
        wants_x: bool,
    ) -> ProductGradients {
        let outputs = self.output[0];
        if self.is_linear() {
            let inputs = self.input[0];
            let g = View::<T>::of_operand(gradient, outputs);
            let dims = Dims {
                m: outputs,
                n: inputs,
                k: self.batch,
            };
            let x = View::row_major(x, inputs);
            let (overwrite, threads) = (Accumulate::Overwrite, Threads::Auto);
            let mut dw = recycle::anything(weight.len());
            T::product(dims, g.transposed(), x, &mut dw, overwrite, threads);
            let dx = wants_x.then(|| {
                let mut dx = recycle::anything(self.batch * inputs);
                let dims = Dims {
                    m: self.batch,
                    n: inputs,
                    k: outputs,
                };
                let weight = T::operand(weight);
                let weight = View::of_operand(&weight, inputs);
                T::product(dims, g, weight, &mut dx, overwrite, threads);
                dx
            });
            return (dx, dw);
        }
        let mut dw = vec![0.0; weight.len()];
        let weight = T::of(weight);
        let (image_len, out_len) = (
            self.input.iter().product::<usize>(),
            outputs * self.out_plane(),
        );
        let part = self.part();
        let mut dx = vec![0.0; if wants_x { self.batch * image_len } else { 0 }];
        let dxs: Vec<Option<&mut [f32]>> = match wants_x {
            true => dx.chunks_mut((part * image_len).max(1)).map(Some).collect(),
            false => (0..self.batch.div_ceil(part)).map(|_| None).collect(),
        };
        let xs = x.par_chunks((part * image_len).max(1));
        let gs = gradient.par_chunks((part * out_len).max(1));
        let parts = xs.zip(gs).zip(dxs);
        let partial: Vec<Vec<f32>> = parts
            .map(|((x, g), dx)| self.backward_part(x, &weight, g, dx))
            .collect();
        // In the order of the images, whoever finished first.
        for partial in partial {
            dw.iter_mut()
                .zip(partial)
                .for_each(|(sum, part)| *sum += part);
        }
        (wants_x.then_some(dx), dw)
    }

    /// The gradient of the weight from some images; that of the images is written, if it is wanted.
    fn backward_part<T: Number>(
        &self,
        x: &[T],
        weight: &[T],
        gradient: &[f32],
        mut dx: Option<&mut [f32]>,
    ) -> Vec<f32> {
        let ((m, k), plane) = (self.group(), self.out_plane());
        let (image_len, out_len) = (self.input.iter().product::<usize>(), self.output[0] * plane);
        let mut dw = vec![0.0; weight.len()];
        let (mut columns, mut gathered, mut back) = (Vec::new(), Vec::<T>::new(), Vec::new());
        let block = self.images();
        let blocks = x.chunks((block * image_len).max(1));
        let blocks = blocks.zip(gradient.chunks((block * out_len).max(1)));
        for (index, (x, gradient)) in blocks.enumerate() {
            let images = gradient.len() / out_len;
            let n = images * plane;
            for group in 0..self.options.groups {
                gathered.clear();
                for channel in group * m..(group + 1) * m {
                    for image in 0..images {
                        let line = &gradient[image * out_len + channel * plane..][..plane];
                        gathered.extend(line.iter().map(|&value| T::one(value)));
                    }
                }
                let g = View::row_major(&gathered, n);
                self.lower(x, images, group, &mut columns);
                let lowered = View::row_major(&columns, n).transposed();
                let dw = &mut dw[group * m * k..][..m * k];
                let (accumulate, threads) = (Accumulate::Add, Threads::One);
                T::product(Dims { m, n: k, k: n }, g, lowered, dw, accumulate, threads);
                if let Some(dx) = dx.as_deref_mut() {
                    back.resize(k * n, 0.0);
                    let weight = View::row_major(&weight[group * m * k..][..m * k], k).transposed();
                    let dims = Dims { m: k, n, k: m };
                    let (back, overwrite) = (&mut back[..], Accumulate::Overwrite);
                    T::product(dims, weight, g, back, overwrite, threads);
                    self.raise(back, images, group, &mut dx[index * block * image_len..]);
                }
            }
        }
        dw
    }

    /// Writes the windows of some images as columns: `[in / groups · kernel, images · plane]`.
    fn lower<T: Number>(&self, x: &[T], images: usize, group: usize, columns: &mut Vec<T>) {
        let n = images * self.output[1] * self.output[2];
        columns.clear();
        columns.resize(self.group().1 * n, T::default());
        self.each_line(images, group, |column, pixel, count, stride| {
            let to = &mut columns[column..column + count];
            if stride == 1 {
                to.copy_from_slice(&x[pixel..pixel + count]);
            } else {
                to.iter_mut()
                    .zip(x[pixel..].iter().step_by(stride))
                    .for_each(|(to, from)| *to = *from);
            }
        });
    }

    /// Adds columns to the pixels they were taken from.
    fn raise(&self, columns: &[f32], images: usize, group: usize, x: &mut [f32]) {
        self.each_line(images, group, |column, pixel, count, stride| {
            let from = &columns[column..column + count];
            x[pixel..]
                .iter_mut()
                .step_by(stride)
                .zip(from)
                .for_each(|(to, from)| *to += from);
        });
    }

    /// Calls `line(column, pixel, count, stride)` for every run of `count` columns that meets pixels `stride` apart.
    fn each_line(
        &self,
        images: usize,
        group: usize,
        mut line: impl FnMut(usize, usize, usize, usize),
    ) {
        let [channels, height, width] = self.input;
        let [_, out_height, out_width] = self.output;
        let [kh, kw] = self.kernel;
        let Conv2dOptions {
            stride,
            padding,
            groups,
        } = self.options;
        let (plane, depth) = (out_height * out_width, channels / groups);
        let n = images * plane;
        for (row, (channel, (i, j))) in (0..depth)
            .flat_map(|c| (0..kh).flat_map(move |i| (0..kw).map(move |j| (c, (i, j)))))
            .enumerate()
        {
            // The first output column whose window column j is inside, and the first behind that is not.
            let start = padding[1]
                .saturating_sub(j)
                .div_ceil(stride[1])
                .min(out_width);
            let end = (width + padding[1])
                .saturating_sub(j)
                .div_ceil(stride[1])
                .clamp(start, out_width);
            if start == end {
                continue;
            }
            for image in 0..images {
                for y in 0..out_height {
                    let Some(inside) = (y * stride[0] + i)
                        .checked_sub(padding[0])
                        .filter(|&y| y < height)
                    else {
                        continue;
                    };
                    let pixels =
                        ((image * channels + group * depth + channel) * height + inside) * width;
                    let column = row * n + image * plane + y * out_width + start;
                    line(
                        column,
                        pixels + start * stride[1] + j - padding[1],
                        end - start,
                        stride[1],
                    );
                }
            }
        }
    }
}

fn mismatch(operation: &'static str, x: &[usize], weight: &[usize]) -> Error {
    Error::ShapeMismatch {
        operation,
        left: x.to_vec(),
        right: weight.to_vec(),
    }
}
