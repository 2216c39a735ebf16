//! Layers with narrow weights between real values: dynamic, weight-only, bf16.
//!
//! In: real values. Out: real values. Only the weights are small, and they are all that these layers hold; what is narrow about
//! the activations lasts for one product. So they need no calibration.

use half::bf16;
use ndarray::ArrayViewD;

use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::folded::Operation;
use crate::framework::Tensor;
use crate::framework::nn::indices;
use crate::gemm::gemm_i8;
use crate::kernels::gemm_bf16::scalar::gemm_bf16_scalar;
use crate::kernels::gemm_i4::scalar::dot_f32_i4;
use crate::kernels::{Accumulate, Bf16Elements, MatrixBf16, MatrixRef};
use crate::layer::check_weight;
use crate::packed::PackedTensor;
use crate::parameters::Parameters;
use crate::qparams::choose_qparams;
use crate::qtensor::QTensor;
use crate::quantize::quantize;
use crate::scheme::{CodeRange, Dims, QParams, Scheme, ValueRange};

/// What a narrow layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NarrowOperation {
    /// `y = x · weightᵀ + bias`, or a convolution.
    Product(Operation),
    /// Rows of a table `[count, width]`.
    Embedding,
}

/// Weights that take fewer bytes than `f32`.
#[derive(Clone, Debug, PartialEq)]
pub enum NarrowWeight {
    /// Codes; the inputs become codes too, when they come.
    Dynamic(QTensor),
    /// Codes; the inputs stay real.
    Codes(PackedTensor),
    /// bf16 in row-major order; the inputs are rounded to bf16.
    Bf16 {
        /// One for each place of the shape; none is subnormal.
        values: Vec<bf16>,
        /// The length of each axis.
        shape: Vec<usize>,
    },
}

/// A layer that takes and gives real values and whose weights are narrow.
#[derive(Clone, Debug, PartialEq)]
pub struct QNarrow {
    pub(crate) weight: NarrowWeight,
    pub(crate) bias: Vec<f32>,
    pub(crate) operation: NarrowOperation,
    pub(crate) relu: bool,
    pub(crate) output: Option<QParams>,
}

impl NarrowWeight {
    /// Writes real weights as codes for products with codes.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`], and [`Error::Unsupported`] for a scheme that is not symmetric with at most one scale for each output.
    pub fn dynamic(weight: ArrayViewD<'_, f32>, scheme: Scheme) -> Result<Self> {
        QTensor::quantize(weight, scheme).map(Self::Dynamic)
    }

    /// Writes real weights as codes for products with real values.
    ///
    /// # Errors
    ///
    /// Those of [`PackedTensor::quantize`].
    pub fn codes(weight: ArrayViewD<'_, f32>, scheme: Scheme) -> Result<Self> {
        PackedTensor::quantize(weight, scheme).map(Self::Codes)
    }

    /// Rounds real weights to bf16: to nearest, ties to even; what would be subnormal becomes 0, as the product reads it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the index, also for what only bf16 cannot hold.
    pub fn bf16(weight: ArrayViewD<'_, f32>) -> Result<Self> {
        let narrow = |&value: &f32| {
            let narrow = bf16::from_f32(value);
            match narrow.to_f32().is_subnormal() {
                true => bf16::from_f32(0.0_f32.copysign(value)),
                false => narrow,
            }
        };
        let values: Vec<bf16> = weight.iter().map(narrow).collect();
        let read: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
        check_finite(&read)?;
        let shape = weight.shape().to_vec();
        Ok(Self::Bf16 { values, shape })
    }

    /// The length of each axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dynamic(codes) => codes.shape(),
            Self::Codes(codes) => codes.shape(),
            Self::Bf16 { shape, .. } => shape,
        }
    }

    /// The bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Dynamic(codes) => codes.memory_bytes(),
            Self::Codes(codes) => codes.memory_bytes(),
            Self::Bf16 { values, .. } => size_of_val::<[bf16]>(values),
        }
    }

    /// The real weights they stand for.
    pub(crate) fn dequantize(&self) -> Tensor {
        match self {
            Self::Dynamic(codes) => Tensor::from_array(codes.dequantize()),
            Self::Codes(codes) => Tensor::from_array(codes.dequantize()),
            Self::Bf16 { values, shape } => {
                let values = values.iter().map(|value| value.to_f32()).collect();
                Tensor::new(values, shape).expect("checked when the layer was made")
            }
        }
    }
}

impl QNarrow {
    /// Puts a layer together.
    ///
    /// | argument | shape | meaning |
    /// |---|---|---|
    /// | `weight` | `[out, in]`, `[out, in / groups, height, width]`, or `[count, width]` | |
    /// | `bias` | `[out]`; none for an embedding | |
    /// | `output` | | how its output is written for an integer layer behind it |
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::NotFinite`], [`Error::Unsupported`] for codes that are not symmetric, for dynamic codes
    /// with scales that change within a row and for a dynamic table; [`Error::TooManyProducts`] for dynamic codes,
    /// [`Error::BadQParams`].
    pub fn from_parts(
        weight: NarrowWeight,
        bias: Vec<f32>,
        operation: NarrowOperation,
        relu: bool,
        output: Option<QParams>,
    ) -> Result<Self> {
        let shape = weight.shape();
        let (axes, biases) = match operation {
            NarrowOperation::Product(Operation::Linear) => (2, shape.first().copied()),
            NarrowOperation::Product(Operation::Conv2d(_)) => (4, shape.first().copied()),
            NarrowOperation::Embedding => (2, Some(0)),
        };
        if shape.len() != axes || biases != Some(bias.len()) || shape.contains(&0) {
            return Err(Error::ShapeMismatch {
                operation: "QNarrow",
                expected: format!(
                    "a weight of {axes} axes, none empty, and as many outputs as biases, {}",
                    bias.len()
                ),
                got: shape.to_vec(),
            });
        }
        if let NarrowOperation::Product(Operation::Conv2d(options)) = operation {
            crate::conv::check_options(shape, options)?;
        }
        check_finite(&bias)?;
        let products: usize = shape[1..].iter().product();
        match &weight {
            NarrowWeight::Dynamic(_) if operation == NarrowOperation::Embedding => {
                return Err(Error::Unsupported {
                    what: "a table whose inputs become codes",
                });
            }
            NarrowWeight::Dynamic(codes) => {
                check_weight(codes)?;
                let limit = crate::gemm::MAX_K;
                if products > limit {
                    return Err(Error::TooManyProducts { k: products, limit });
                }
            }
            NarrowWeight::Codes(codes) => {
                let pairs = codes.parameters();
                let axis = !matches!(pairs, Parameters::PerChannel { axis, .. } if axis != 0);
                if !axis || pairs.pairs().iter().any(|pair| pair.zero_point != 0) {
                    return Err(Error::Unsupported {
                        what: "narrow weights that are not symmetric, or whose channels do not lie along axis 0",
                    });
                }
            }
            NarrowWeight::Bf16 { values, shape } => {
                let read: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
                check_finite(&read)?;
                let count = shape.iter().try_fold(1_usize, |all, &n| all.checked_mul(n));
                if count != Some(values.len()) {
                    return Err(Error::ShapeMismatch {
                        operation: "QNarrow",
                        expected: format!("a shape for {} weights", values.len()),
                        got: shape.clone(),
                    });
                }
            }
        }
        if let Some(output) = output {
            output.check(CodeRange::INT8)?;
        }
        Ok(Self {
            weight,
            bias,
            operation,
            relu,
            output,
        })
    }

    /// The weights.
    #[must_use]
    pub fn weight(&self) -> &NarrowWeight {
        &self.weight
    }

    /// The bias, `[out]`; empty for an embedding.
    #[must_use]
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// What it computes.
    #[must_use]
    pub fn operation(&self) -> NarrowOperation {
        self.operation
    }

    /// Whether negative outputs become 0.
    #[must_use]
    pub fn has_relu(&self) -> bool {
        self.relu
    }

    /// How its output is written for an integer layer behind it; `None` if none is.
    #[must_use]
    pub fn output(&self) -> Option<QParams> {
        self.output
    }

    /// A word for the kind of layer.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (&self.weight, self.operation) {
            (_, NarrowOperation::Embedding) => "narrow_embedding",
            (NarrowWeight::Dynamic(_), NarrowOperation::Product(Operation::Linear)) => {
                "dynamic_linear"
            }
            (NarrowWeight::Dynamic(_), _) => "dynamic_conv2d",
            (NarrowWeight::Codes(_), NarrowOperation::Product(Operation::Linear)) => {
                "weight_only_linear"
            }
            (NarrowWeight::Codes(_), _) => "weight_only_conv2d",
            (NarrowWeight::Bf16 { .. }, NarrowOperation::Product(Operation::Linear)) => {
                "bf16_linear"
            }
            (NarrowWeight::Bf16 { .. }, _) => "bf16_conv2d",
        }
    }

    /// The bytes held: weights with their scales, the bias, and the parameters of the output.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.weight.memory_bytes() + self.beside_weights()
    }

    /// The bytes of all but the weights.
    pub(crate) fn beside_weights(&self) -> usize {
        size_of_val::<[f32]>(&self.bias) + self.output.map_or(0, |_| size_of::<QParams>())
    }

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
    /// weight-only   y = x · (scales · codes)ᵀ + bias         linear, up to 4 bits: group by group, see `gemm_i4`
    /// bf16          y = bf16(x) · weightᵀ + bias             linear: sums in the order of `gemm_bf16`
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
                let (rows, shape) = self.rows(x)?;
                let values = self.linear(rows, &standard(x))?;
                Tensor::new(values, &shape)?
            }
            NarrowOperation::Product(Operation::Conv2d(_)) => match &self.weight {
                NarrowWeight::Dynamic(codes) => self.dynamic_conv(x, codes)?,
                _ => self.real_conv(x)?,
            },
        };
        Ok(if self.relu { y.relu() } else { y })
    }

    /// How many rows `x` has, and the shape of the result.
    pub(crate) fn rows(&self, x: &Tensor) -> Result<(usize, Vec<usize>)> {
        let shape = self.weight.shape();
        match x.shape().split_last() {
            Some((&inputs, front)) if !front.is_empty() && inputs == shape[1] => {
                Ok((front.iter().product(), [front, &[shape[0]]].concat()))
            }
            _ => Err(Error::ShapeMismatch {
                operation: "a linear layer",
                expected: format!("[batch, {}]", shape[1]),
                got: x.shape().to_vec(),
            }),
        }
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
            NarrowWeight::Codes(packed) => match int4_group(packed) {
                Some(group) => {
                    let codes = packed.unpack()?;
                    let scales = packed.scales();
                    let groups = scales.len() / n;
                    for (x, y) in x.chunks(k).zip(y.chunks_mut(n)) {
                        for (j, y) in y.iter_mut().enumerate() {
                            let row = &codes.as_slice()[j * k..][..k];
                            let scales = &scales[j * groups..][..groups];
                            *y = dot_f32_i4(x, row, group, scales) + self.bias[j];
                        }
                    }
                }
                None => {
                    let x = Tensor::new(x.to_vec(), &[m, k])?;
                    return self.real_linear(&x);
                }
            },
            NarrowWeight::Bf16 { values, .. } => {
                let x = MatrixBf16::from(MatrixRef::row_major(x, k));
                let weight = MatrixBf16 {
                    data: Bf16Elements::Bf16(values),
                    ..MatrixBf16::row_major(values, k)
                };
                let dims = Dims { m, n, k };
                gemm_bf16_scalar(dims, x, weight.transposed(), &mut y, Accumulate::Overwrite);
                add_bias(&mut y, &self.bias);
            }
        }
        Ok(y)
    }

    /// The product with the weights as real numbers: for widths that no kernel reads.
    pub(crate) fn real_linear(&self, x: &Tensor) -> Result<Vec<f32>> {
        let bias = Tensor::new(self.bias.clone(), &[self.bias.len()])?;
        Ok(x.linear(&self.weight.dequantize(), Some(&bias))?.to_vec())
    }

    /// The convolution with the weights as real numbers.
    pub(crate) fn real_conv(&self, x: &Tensor) -> Result<Tensor> {
        let NarrowOperation::Product(Operation::Conv2d(options)) = self.operation else {
            return Err(Error::Unsupported {
                what: "a convolution that is none",
            });
        };
        let bias = Tensor::new(self.bias.clone(), &[self.bias.len()])?;
        let x = match &self.weight {
            NarrowWeight::Bf16 { .. } => crate::mixed_precision::to_half(x, crate::Half::Bf16),
            _ => x.clone(),
        };
        Ok(x.conv2d(&self.weight.dequantize(), Some(&bias), options)?)
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
        for (index, x) in standard(x).chunks(image.max(1)).take(batch).enumerate() {
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

/// The size of the groups with which the product of 4-bit weights can read these, if it can.
pub(crate) fn int4_group(weight: &PackedTensor) -> Option<usize> {
    let &[_, k] = weight.shape() else {
        return None;
    };
    let four_bits = CodeRange::signed(4);
    let fits = four_bits.contains(weight.range().min) && four_bits.contains(weight.range().max);
    let group = match weight.parameters() {
        Parameters::PerGroup { size, .. } if size < k => size,
        Parameters::PerGroup { .. } | Parameters::PerChannel { .. } => k.next_multiple_of(8),
        Parameters::PerTensor(_) => return None,
    };
    (fits && group.is_multiple_of(8) && (8..=4096).contains(&group)).then_some(group)
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

/// The values in row-major order.
pub(crate) fn standard(x: &Tensor) -> Vec<f32> {
    x.to_vec()
}

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
    options: crate::framework::Conv2dOptions,
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
