//! What a layer with narrow weights computes, by definition.
//!
//! In: real values. Out: real values. The order in which real numbers are added is part of the definition, so what runs fast gives
//! the same bits.

use half::bf16;

use crate::error::{Error, Result};
use crate::fake_quantize::fake_quantize_values;
use crate::folded::Operation;
use crate::framework::nn::{Conv2d, Layer, indices};
use crate::framework::{Conv2dOptions, Tensor, no_grad};
use crate::gemm::gemm_i8;
use crate::kernels::bf16_sum_order;
use crate::kernels::gemm_bf16::scalar::gemm_bf16_scalar;
use crate::kernels::gemm_f32_i8::scalar::dot_f32_i8;
use crate::kernels::gemm_i4::scalar::dot_f32_i4;
use crate::kernels::{
    Accumulate, Bf16Elements, MatrixBf16, MatrixMut, MatrixRef, Threads, gemm_f32,
};
use crate::narrow::{NarrowOperation, NarrowWeight, QNarrow, int4_group, int8_group};
use crate::packed::PackedTensor;
use crate::parameters::Parameters;
use crate::qparams::choose_qparams;
use crate::qtensor::QTensor;
use crate::quantize::quantize;
use crate::scheme::{CodeRange, Dims, QParams, ValueRange};

/// The product of a row with the codes of an output, whose scales are those of groups of one size.
type Dot = fn(&[f32], &[i8], usize, &[f32]) -> f32;

/// Weights that are made real at once: 256 KiB of them.
const REAL_WEIGHTS: usize = 1 << 16;

impl QNarrow {
    /// Computes the layer by its definition.
    ///
    /// | argument | shape |
    /// |---|---|
    /// | `x` | `[.., in]`, `[batch, in, height, width]`, or indices `[..]` |
    /// | result | `[.., out]`, `[batch, out, out height, out width]`, or `[.., width]` |
    ///
    /// # The maths
    ///
    /// ```text
    /// dynamic       s, z = parameters of the range of a row (an image), widened to hold 0      q = quantize(x, s, z)
    ///               y[j] = (Σₚ (q[p] − z) · w[j, p]) · (s · scales[j]) + bias[j]               the sum is exact
    /// weight-only   y = x · (scales · codes)ᵀ + bias         linear: scale by scale (N22), see `gemm_i4`, `gemm_f32_i8`; groups of up to
    ///                                                        4 bits that fill no word, and convolutions, with weights made real,
    ///                                                        in the order of `gemm_f32`
    /// bf16          y = bf16(x) · weightᵀ + bias             sums in the order of `gemm_bf16`; in a convolution over the inputs
    ///                                                        of a window channel by channel, row by row, zeros outside of the image
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`]; for dynamic layers [`Error::NotFinite`] with the index, and [`Error::BadRange`] for inputs too far
    /// apart for an `f32`; [`Error::Framework`].
    pub fn forward_definition(&self, x: &Tensor) -> Result<Tensor> {
        let y = match self.operation {
            NarrowOperation::Embedding => return self.lookup(x),
            NarrowOperation::Product(Operation::Linear) => {
                let &[outputs, inputs] = self.weight.shape() else {
                    unreachable!("checked when the layer was made");
                };
                let (rows, shape) = rows(x, [outputs, inputs])?;
                let values = self.linear(rows, &x.to_vec())?;
                Tensor::new(values, &shape)?
            }
            NarrowOperation::Product(Operation::Conv2d(_)) => match &self.weight {
                NarrowWeight::Dynamic(codes) => self.dynamic_conv(x, codes)?,
                NarrowWeight::Bf16 { values, shape } => self.bf16_conv(x, values, shape)?,
                NarrowWeight::Codes(_) => self.real_conv(x)?,
            },
        };
        Ok(if self.relu { y.relu() } else { y })
    }

    fn linear(&self, m: usize, x: &[f32]) -> Result<Vec<f32>> {
        let &[n, k] = self.weight.shape() else {
            unreachable!("checked when the layer was made");
        };
        let mut y = vec![0.0; m * n];
        match &self.weight {
            NarrowWeight::Dynamic(codes) => {
                let scales = codes.row_scales();
                for (row, (x, y)) in x.chunks(k).zip(y.chunks_mut(n)).enumerate() {
                    let input = range_of(x, row * k)?;
                    let x = quantize(x, input, CodeRange::INT8)?;
                    let mut sums = vec![0; n];
                    let dims = Dims { m: 1, n, k };
                    gemm_i8(dims, &x, input.zero_point, codes.as_slice(), 0, &mut sums);
                    for ((y, sum), (scale, bias)) in
                        y.iter_mut().zip(sums).zip(scales.iter().zip(&self.bias))
                    {
                        *y = sum as f32 * (input.scale * scale) + bias;
                    }
                }
            }
            NarrowWeight::Codes(packed) => {
                let (group, dot): (usize, Dot) = match (int4_group(packed), int8_group(packed)) {
                    (Some(group), _) => (group, dot_f32_i4),
                    (_, Some(group)) => (group, dot_f32_i8),
                    (None, None) => {
                        self.real_linear(m, x, packed, &mut y);
                        return Ok(y);
                    }
                };
                let codes = packed.unpack()?;
                let scales = codes.row_scales();
                let groups = scales.len() / n;
                for (x, y) in x.chunks(k).zip(y.chunks_mut(n)) {
                    for (j, y) in y.iter_mut().enumerate() {
                        let row = &codes.as_slice()[j * k..][..k];
                        let scales = &scales[j * groups..][..groups];
                        *y = dot(x, row, group, scales) + self.bias[j];
                    }
                }
            }
            NarrowWeight::Bf16 { values, .. } => {
                let x = MatrixBf16::from(MatrixRef::row_major(x, k));
                let weight = MatrixBf16 {
                    data: Bf16Elements::Bf16(values),
                    ..MatrixBf16::row_major(values, k)
                };
                let dims = Dims { m, n, k };
                let (order, weight) = (bf16_sum_order(), weight.transposed());
                gemm_bf16_scalar(order, dims, x, weight, &mut y, Accumulate::Overwrite);
                add_bias(&mut y, &self.bias);
            }
        }
        Ok(y)
    }

    /// The product with the weights as real numbers: for widths that no kernel reads. A few outputs at a time, so that their
    /// weights, once real, are still in the cache when they are multiplied, and never take the memory of all of them.
    fn real_linear(&self, m: usize, x: &[f32], codes: &PackedTensor, y: &mut [f32]) {
        let (n, k) = (codes.shape()[0], codes.shape()[1]);
        let outputs = (REAL_WEIGHTS / k.max(1)).max(1);
        let mut weights = vec![0.0; outputs.min(n) * k];
        for first in (0..if m == 0 { 0 } else { n }).step_by(outputs) {
            let count = outputs.min(n - first);
            let weights = &mut weights[..count * k];
            codes.dequantize_rows(first..first + count, weights);
            gemm_f32(
                crate::kernels::Dims { m, n: count, k },
                MatrixRef::row_major(x, k),
                MatrixRef::row_major(weights, k).transposed(),
                MatrixMut {
                    data: &mut y[first..],
                    row_stride: n,
                },
                Accumulate::Overwrite,
                Threads::Auto,
            );
        }
        add_bias(y, &self.bias);
    }

    /// The convolution with the weights as real numbers: the bits of that layer in `f32`, as it computes without a tape (N22).
    pub(crate) fn real_conv(&self, x: &Tensor) -> Result<Tensor> {
        let NarrowOperation::Product(Operation::Conv2d(options)) = self.operation else {
            return Err(Error::Unsupported {
                what: "a convolution that is none",
            });
        };
        let bias = Tensor::new(self.bias.clone(), &[self.bias.len()])?;
        let layer = Conv2d::from_parts(self.weight.dequantize(), Some(bias), options)?;
        // Also while others record: what is trained must give the bits of what is deployed.
        Ok(no_grad(|| layer.forward(x))?)
    }

    /// Window by window, each a product of one row.
    fn bf16_conv(&self, x: &Tensor, weight: &[bf16], shape: &[usize]) -> Result<Tensor> {
        let NarrowOperation::Product(Operation::Conv2d(options)) = self.operation else {
            return Err(Error::Unsupported {
                what: "a convolution that is none",
            });
        };
        let out @ [batch, outputs, height, width] =
            crate::conv::output_shape(shape, options, x.shape())?;
        let (image, k) = (x.array(), shape[1..].iter().product::<usize>());
        let inputs = shape[1];
        let group_outputs = outputs / options.groups;
        let mut y = Vec::with_capacity(batch * outputs * height * width);
        for b in 0..batch {
            for output in 0..outputs {
                let group = output / group_outputs;
                for place in 0..height * width {
                    let (row, column) = (place / width, place % width);
                    let pixel = |index: usize| {
                        let (channel, rest) =
                            (index / (shape[2] * shape[3]), index % (shape[2] * shape[3]));
                        let at = |axis: usize, place: usize, offset: usize| {
                            let inside = place * options.stride[axis] + offset;
                            inside.checked_sub(options.padding[axis])
                        };
                        let (i, j) = (
                            at(0, row, rest / shape[3])?,
                            at(1, column, rest % shape[3])?,
                        );
                        image.get([b, group * inputs + channel, i, j]).copied()
                    };
                    let window: Vec<f32> = (0..k).map(|i| pixel(i).unwrap_or(0.0)).collect();
                    let mut sum = [0.0];
                    gemm_bf16_scalar(
                        bf16_sum_order(),
                        crate::kernels::Dims { m: 1, n: 1, k },
                        MatrixBf16::from(MatrixRef::row_major(&window, k)),
                        MatrixBf16::row_major(&weight[output * k..][..k], 1),
                        &mut sum,
                        Accumulate::Overwrite,
                    );
                    y.push(sum[0] + self.bias[output]);
                }
            }
        }
        Ok(Tensor::new(y, &out)?)
    }

    fn dynamic_conv(&self, x: &Tensor, codes: &QTensor) -> Result<Tensor> {
        let NarrowOperation::Product(Operation::Conv2d(options)) = self.operation else {
            return Err(Error::Unsupported {
                what: "a convolution that is none",
            });
        };
        let [batch, outputs, height, width] =
            crate::conv::output_shape(codes.shape(), options, x.shape())?;
        let scales = codes.row_scales();
        let image: usize = x.shape()[1..].iter().product();
        let size = [x.shape()[2], x.shape()[3]];
        let mut y = Vec::with_capacity(batch * outputs * height * width);
        for (index, x) in x.to_vec().chunks(image.max(1)).take(batch).enumerate() {
            let input = range_of(x, index * image)?;
            let x = quantize(x, input, CodeRange::INT8)?;
            for (output, scale) in scales.iter().enumerate() {
                let scale = input.scale * scale;
                for row in 0..height {
                    for column in 0..width {
                        let place = [output, row, column];
                        let sum = window_sum(&x, input.zero_point, size, codes, options, place);
                        y.push(sum as f32 * scale + self.bias[output]);
                    }
                }
            }
        }
        Ok(Tensor::new(y, &[batch, outputs, height, width])?)
    }

    /// What it multiplies with its weights, as real numbers: a dynamic layer the codes of each row or image, bf16 the rounded values.
    pub(crate) fn multiplied(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weight {
            NarrowWeight::Codes(_) => Ok(x.clone()),
            NarrowWeight::Bf16 { .. } => Ok(crate::mixed_precision::to_half(x, crate::Half::Bf16)),
            NarrowWeight::Dynamic(_) => {
                let part = match self.operation {
                    NarrowOperation::Product(Operation::Conv2d(_)) => {
                        x.shape().iter().skip(1).product()
                    }
                    _ => x.shape().last().copied().unwrap_or(1),
                };
                let mut values = x.to_vec();
                for (index, part) in values.chunks_mut(part.max(1)).enumerate() {
                    let input = range_of(part, index * part.len())?;
                    let read = fake_quantize_values(part, input, CodeRange::INT8);
                    part.copy_from_slice(&read);
                }
                Ok(Tensor::new(values, x.shape())?)
            }
        }
    }

    /// The rows that `x` names, as real numbers.
    pub(crate) fn lookup(&self, x: &Tensor) -> Result<Tensor> {
        let &[count, width] = self.weight.shape() else {
            unreachable!("checked when the layer was made");
        };
        let rows = indices(x, count)?;
        let mut values = Vec::with_capacity(rows.len() * width);
        for row in rows {
            let places = row * width..(row + 1) * width;
            match &self.weight {
                NarrowWeight::Codes(codes) => {
                    let scales = codes.scales();
                    // PerTensor: one for all; otherwise as many for each row.
                    let per_row = scales.len() / count;
                    let size = match codes.parameters() {
                        Parameters::PerGroup { size, .. } => size,
                        _ => width,
                    };
                    for (column, place) in places.enumerate() {
                        let scale = match per_row {
                            0 => scales[0],
                            _ => scales[row * per_row + column / size],
                        };
                        values.push(codes.code(place) as f32 * scale);
                    }
                }
                NarrowWeight::Bf16 { values: table, .. } => {
                    values.extend(table[places].iter().map(|value| value.to_f32()));
                }
                NarrowWeight::Dynamic(_) => unreachable!("refused when the layer was made"),
            }
        }
        Ok(Tensor::new(values, &[x.shape(), &[width]].concat())?)
    }
}

/// What the codes of one row or image mean; `first` is the index of its first value.
pub(crate) fn range_of(x: &[f32], first: usize) -> Result<QParams> {
    let found = crate::kernels::min_max(x).map_err(|bad| {
        Error::not_finite(bad.value, first + bad.index, None)
            .expect("the kernel reports only values that are not finite")
    })?;
    let (min, max) = found.unwrap_or((0.0, 0.0));
    choose_qparams(ValueRange { min, max }, CodeRange::INT8)
}

/// How many rows `x` has for a linear layer `[out, in]`, and the shape of the result.
pub(crate) fn rows(x: &Tensor, [outputs, inputs]: [usize; 2]) -> Result<(usize, Vec<usize>)> {
    match x.shape().split_last() {
        Some((&last, front)) if !front.is_empty() && last == inputs => {
            Ok((front.iter().product(), [front, &[outputs]].concat()))
        }
        _ => Err(Error::ShapeMismatch {
            operation: "a linear layer",
            expected: format!("[batch, {inputs}]"),
            got: x.shape().to_vec(),
        }),
    }
}

/// Adds a bias `[n]` to each row of `[m, n]`.
pub(crate) fn add_bias(y: &mut [f32], bias: &[f32]) {
    for (y, bias) in y.iter_mut().zip(bias.iter().cycle()) {
        *y += bias;
    }
}

/// The sum of products of one output channel at one place of an image `[in, height, width]` of codes.
fn window_sum(
    x: &[i8],
    zero_point: i32,
    [height, width]: [usize; 2],
    weight: &QTensor,
    options: Conv2dOptions,
    [output, row, column]: [usize; 3],
) -> i32 {
    let &[outputs, inputs, kernel_height, kernel_width] = weight.shape() else {
        unreachable!("checked when the layer was made");
    };
    let group = output / (outputs / options.groups);
    let mut sum = 0;
    for input in 0..inputs {
        for i in 0..kernel_height {
            for j in 0..kernel_width {
                let at = [
                    (row * options.stride[0] + i).checked_sub(options.padding[0]),
                    (column * options.stride[1] + j).checked_sub(options.padding[1]),
                ];
                // Outside of the image there is 0.0, which adds nothing.
                if let [Some(y), Some(z)] = at
                    && y < height
                    && z < width
                {
                    let x = x[((group * inputs + input) * height + y) * width + z];
                    let w = weight.as_slice()
                        [((output * inputs + input) * kernel_height + i) * kernel_width + j];
                    sum += (i32::from(x) - zero_point) * i32::from(w);
                }
            }
        }
    }
    sum
}
