//! Narrow layers as they run: weights packed for the kernels, which take over what the definition holds. Ranges at run time are those of N20.

use std::borrow::Cow;

use half::bf16;
use ndarray::{ArcArray, IxDyn};

use crate::error::{Error, Result};
use crate::folded::Operation;
use crate::framework::{Conv2dOptions, Tensor};
use crate::half_ops::Product;
use crate::half_storage::rounded;
use crate::kernels::gemm_i8::chosen;
use crate::kernels::{
    self, Accumulate, Conv2dShape, Dims, DynamicLinear, Images, InputError, InputRange, MatrixBf16,
    MatrixMut, MatrixRef, PackedBf16, PackedInt4, PackedInt8, PackedWeights, Quantize, Scale,
    Threads, gemm_bf16, quantize_f32_i8,
};
use crate::narrow::{NarrowOperation, NarrowWeight, QNarrow, int4_group, int8_group};
use crate::narrow_definition::{add_bias, range_of, rows};
use crate::packed::PackedTensor;
use crate::parameters::Parameters;
use crate::qlayer::{channels_first, channels_last};
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, Granularity, QParams};

/// A [`QNarrow`] ready to run.
#[derive(Clone, Debug)]
pub(crate) struct NarrowStep {
    form: Form,
    /// Empty where the form has it.
    bias: Vec<f32>,
    operation: NarrowOperation,
    relu: bool,
    pub output: Option<QParams>,
}

/// Which codes there are and how many share a scale: with codes and scales, all that makes a tensor.
#[derive(Clone, Copy, Debug)]
struct Meaning {
    granularity: Granularity,
    codes: CodeRange,
}

#[derive(Clone, Debug)]
enum Form {
    DynamicLinear(DynamicLinear, Meaning),
    DynamicConv {
        packed: Box<kernels::PackedConv2d>,
        scales: Vec<f32>,
        meaning: Meaning,
    },
    Int4(PackedInt4, Meaning),
    Int8(PackedInt8, Meaning),
    /// No kernel reads these: they are made real a part at a time, or looked up, as the definition does.
    Definition(Box<QNarrow>),
    /// A linear layer in bf16.
    Bf16Linear(PackedBf16),
    /// A convolution in bf16, `[out, in / groups, height, width]`, as the product reads its left side; or a linear layer of so
    /// few outputs that the columns which fill up a panel would take more bytes than narrow numbers save.
    Bf16 {
        values: Vec<bf16>,
        shape: Vec<usize>,
    },
}

impl NarrowStep {
    /// Packs the weights of a layer. Shapes are those of [`QNarrow::from_parts`].
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] if the environment asks for a kernel that there is not.
    pub fn new(layer: &QNarrow) -> Result<Self> {
        let QNarrow {
            weight,
            bias,
            operation,
            relu,
            output,
        } = layer;
        let kernel = || chosen().map_err(|error| Error::Kernel(error.to_string()));
        let mut bias = bias.clone();
        let form = match (weight, operation) {
            (NarrowWeight::Dynamic(codes), NarrowOperation::Product(Operation::Linear)) => {
                let meaning = Meaning::of(codes.parameters(), codes.range());
                let (n, k) = (codes.shape()[0], codes.shape()[1]);
                let packed = PackedWeights::with_kernel(kernel()?, n, k, codes.as_slice());
                let bias = std::mem::take(&mut bias);
                Form::DynamicLinear(
                    DynamicLinear::new(packed, &codes.row_scales(), &bias),
                    meaning,
                )
            }
            (
                NarrowWeight::Dynamic(codes),
                NarrowOperation::Product(Operation::Conv2d(options)),
            ) => {
                let shape = conv_shape(codes.shape(), *options);
                let sizes = [
                    codes.shape()[0],
                    codes.shape()[1],
                    codes.shape()[2] * codes.shape()[3],
                ];
                let written = channels_last(codes.as_slice(), sizes);
                let packed = kernels::PackedConv2d::with_kernel(kernel()?, shape, &written);
                Form::DynamicConv {
                    packed: Box::new(packed),
                    scales: codes.row_scales(),
                    meaning: Meaning::of(codes.parameters(), codes.range()),
                }
            }
            (NarrowWeight::Codes(packed), NarrowOperation::Product(Operation::Linear))
                if int4_group(packed).is_some() =>
            {
                let group = int4_group(packed).unwrap_or_default();
                let (n, k) = (packed.shape()[0], packed.shape()[1]);
                let codes = packed.unpack()?;
                Form::Int4(
                    PackedInt4::new(n, k, group, codes.as_slice(), packed.scales()),
                    Meaning::of(&packed.parameters(), packed.range()),
                )
            }
            (NarrowWeight::Codes(packed), NarrowOperation::Product(Operation::Linear))
                if int8_group(packed).is_some() =>
            {
                let group = int8_group(packed).unwrap_or(1);
                let (n, k) = (packed.shape()[0], packed.shape()[1]);
                let codes = packed.unpack()?;
                let scales = codes.row_scales();
                Form::Int8(
                    PackedInt8::new(n, k, group, codes.as_slice(), &scales),
                    Meaning::of(codes.parameters(), packed.range()),
                )
            }
            (NarrowWeight::Bf16 { values, shape }, NarrowOperation::Product(Operation::Linear)) => {
                let (n, k) = (shape[0], shape[1]);
                let weight = MatrixBf16::row_major(values, k).transposed();
                let packed = PackedBf16::new(n, k, weight);
                match packed.bytes() <= 3 * k * n {
                    true => Form::Bf16Linear(packed),
                    false => Form::Bf16 {
                        values: values.clone(),
                        shape: shape.clone(),
                    },
                }
            }
            (
                NarrowWeight::Bf16 { values, shape },
                NarrowOperation::Product(Operation::Conv2d(_)),
            ) => Form::Bf16 {
                values: values.clone(),
                shape: shape.clone(),
            },
            _ => {
                bias.clear();
                Form::Definition(Box::new(layer.clone()))
            }
        };
        Ok(Self {
            form,
            bias,
            operation: *operation,
            relu: *relu,
            output: *output,
        })
    }

    /// The layer by its definition.
    ///
    /// # Errors
    ///
    /// None for a layer that was made.
    pub fn unpack(&self) -> Result<QNarrow> {
        let mut bias = self.bias.clone();
        let weight = match &self.form {
            Form::DynamicLinear(layer, meaning) => {
                bias = layer.bias().to_vec();
                let shape = [layer.weights().n(), layer.weights().k()];
                let codes = layer.weights().unpack();
                NarrowWeight::Dynamic(meaning.tensor(codes, &shape, layer.scales())?)
            }
            Form::DynamicConv {
                packed,
                scales,
                meaning,
            } => {
                let Conv2dShape {
                    in_channels,
                    out_channels,
                    kernel: [height, width],
                    groups,
                    ..
                } = packed.shape();
                let inputs = in_channels / groups;
                let sizes = [out_channels, inputs, height * width];
                let codes = channels_first(&packed.unpack(), sizes);
                let shape = [out_channels, inputs, height, width];
                NarrowWeight::Dynamic(meaning.tensor(codes, &shape, scales)?)
            }
            Form::Int4(packed, meaning) => {
                let shape = [packed.n(), packed.k()];
                let tensor = meaning.tensor(packed.unpack(), &shape, &packed.scales())?;
                NarrowWeight::Codes(PackedTensor::pack(&tensor)?)
            }
            Form::Int8(packed, meaning) => {
                let shape = [packed.n(), packed.k()];
                let tensor = meaning.tensor(packed.unpack(), &shape, &packed.scales())?;
                NarrowWeight::Codes(PackedTensor::pack(&tensor)?)
            }
            Form::Definition(layer) => return Ok((**layer).clone()),
            Form::Bf16Linear(packed) => NarrowWeight::Bf16 {
                values: packed.unpack(),
                shape: vec![packed.n(), packed.k()],
            },
            Form::Bf16 { values, shape } => NarrowWeight::Bf16 {
                values: values.clone(),
                shape: shape.clone(),
            },
        };
        QNarrow::from_parts(weight, bias, self.operation, self.relu, self.output)
    }

    /// Bytes of parameters held.
    pub fn bytes(&self) -> usize {
        let weights = match &self.form {
            Form::DynamicLinear(layer, _) => {
                let beside = layer.scales().len() + layer.bias().len();
                // The kernel keeps the offset of each column beside the weights.
                let offsets = layer.weights().n() * size_of::<i32>();
                layer.weights().bytes() + beside * size_of::<f32>() + offsets
            }
            Form::DynamicConv { packed, scales, .. } => {
                packed.bytes() + size_of_val::<[f32]>(scales)
            }
            Form::Int4(packed, _) => packed.bytes(),
            Form::Int8(packed, _) => packed.bytes(),
            Form::Definition(layer) => return layer.memory_bytes(),
            Form::Bf16Linear(packed) => packed.bytes(),
            Form::Bf16 { values, .. } => size_of_val::<[bf16]>(values),
        };
        let output = self.output.map_or(0, |_| size_of::<QParams>());
        weights + size_of_val::<[f32]>(&self.bias) + output
    }

    /// A word for the kind of layer.
    pub fn kind(&self) -> &'static str {
        match (&self.form, self.operation) {
            (Form::Definition(layer), _) => layer.kind(),
            (Form::DynamicLinear(..), _) => "dynamic_linear",
            (Form::DynamicConv { .. }, _) => "dynamic_conv2d",
            (Form::Int4(..) | Form::Int8(..), _) => "weight_only_linear",
            (Form::Bf16Linear(_), _)
            | (Form::Bf16 { .. }, NarrowOperation::Product(Operation::Linear)) => "bf16_linear",
            (Form::Bf16 { .. }, _) => "bf16_conv2d",
        }
    }

    /// Real values to real values: the bits of the definition. `[.., in]` to `[.., out]`, `[batch, in, height, width]` to
    /// `[batch, out, out height, out width]`, or indices `[..]` to `[.., width]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.form {
            Form::DynamicLinear(layer, _) => {
                let (n, k) = (layer.weights().n(), layer.weights().k());
                let (m, shape) = rows(x, [n, k])?;
                let mut y = vec![0.0; m * n];
                let values = x.array();
                layer
                    .forward(m, &dense(&values), InputRange::PerRow, self.relu, &mut y)
                    .map_err(input_error)?;
                return Ok(Tensor::new(y, &shape)?);
            }
            Form::DynamicConv { packed, scales, .. } => {
                return self.dynamic_conv(packed, scales, x);
            }
            Form::Int4(packed, _) => {
                let (m, shape) = rows(x, [packed.n(), packed.k()])?;
                let mut y = vec![0.0; m * packed.n()];
                let values = x.array();
                packed.product_f32(m, &dense(&values), &self.bias, &mut y, Threads::Auto);
                Tensor::new(y, &shape)?
            }
            Form::Int8(packed, _) => {
                let (m, shape) = rows(x, [packed.n(), packed.k()])?;
                let mut y = vec![0.0; m * packed.n()];
                let values = x.array();
                packed.product(m, &dense(&values), &self.bias, &mut y, Threads::Auto);
                Tensor::new(y, &shape)?
            }
            Form::Bf16Linear(packed) => {
                let (n, k) = (packed.n(), packed.k());
                let (m, shape) = rows(x, [n, k])?;
                let mut y = vec![0.0; m * n];
                let values = x.array();
                let x = dense(&values);
                packed.product(
                    m,
                    MatrixBf16::from(MatrixRef::row_major(&x, k)),
                    MatrixMut::row_major(&mut y, n),
                    Accumulate::Overwrite,
                    Threads::Auto,
                );
                add_bias(&mut y, &self.bias);
                Tensor::new(y, &shape)?
            }
            Form::Bf16 { values, shape } => {
                let NarrowOperation::Product(Operation::Conv2d(options)) = self.operation else {
                    let (n, k) = (shape[0], shape[1]);
                    let (m, out) = rows(x, [n, k])?;
                    let mut y = vec![0.0; m * n];
                    let x = x.to_vec();
                    gemm_bf16(
                        Dims { m, n, k },
                        MatrixBf16::from(MatrixRef::row_major(&x, k)),
                        MatrixBf16::row_major(values, k).transposed(),
                        MatrixMut::row_major(&mut y, n),
                        Accumulate::Overwrite,
                        Threads::Auto,
                    );
                    add_bias(&mut y, &self.bias);
                    let y = Tensor::new(y, &out)?;
                    return Ok(if self.relu { y.relu() } else { y });
                };
                let out = crate::conv::output_shape(shape, options, x.shape())?;
                let product = Product::conv2d(x.shape(), shape, options)?;
                let x: Vec<bf16> = x.to_vec().into_iter().map(rounded).collect();
                Tensor::new(product.forward_bf16(&x, values, &self.bias), &out)?
            }
            Form::Definition(layer) => return layer.forward_definition(x),
        };
        Ok(if self.relu { y.relu() } else { y })
    }

    fn dynamic_conv(
        &self,
        packed: &kernels::PackedConv2d,
        scales: &[f32],
        x: &Tensor,
    ) -> Result<Tensor> {
        let Conv2dShape {
            in_channels,
            out_channels,
            kernel: [height, width],
            stride,
            padding,
            groups,
        } = packed.shape();
        let options = Conv2dOptions {
            stride,
            padding,
            groups,
        };
        let weight = [out_channels, in_channels / groups, height, width];
        let [batch, outputs, height, width] =
            crate::conv::output_shape(&weight, options, x.shape())?;
        let (places, image) = (
            x.shape()[2] * x.shape()[3],
            x.shape()[1..].iter().product::<usize>(),
        );
        let images = Images {
            batch: 1,
            height: x.shape()[2],
            width: x.shape()[3],
        };
        let mut y = vec![0.0; batch * outputs * height * width];
        let mut written = vec![0; image];
        let mut found = vec![0.0; outputs * height * width];
        let values = x.to_vec();
        let results = y.chunks_mut(found.len().max(1));
        for (index, (x, y)) in values.chunks(image.max(1)).zip(results).enumerate() {
            let input = range_of(x, index * image)?;
            let CodeRange { min, max } = CodeRange::INT8;
            let by = Quantize {
                scale: input.scale,
                zero_point: input.zero_point,
                min,
                max,
            };
            quantize_f32_i8(x, by, &mut written).map_err(|bad| {
                Error::not_finite(bad.value, index * image + bad.index, None)
                    .expect("the kernel reports only values that are not finite")
            })?;
            let codes = channels_last(&written, [1, in_channels, places]);
            let scales: Vec<f32> = scales.iter().map(|scale| input.scale * scale).collect();
            let ending = Scale {
                scales: &scales,
                bias: &self.bias,
                relu: self.relu,
            };
            packed.scaled(images, &codes, input.zero_point, &ending, &mut found);
            // Channels last, to channels first.
            for (place, pixel) in found.chunks_exact(outputs).enumerate() {
                for (channel, &value) in pixel.iter().enumerate() {
                    y[channel * height * width + place] = value;
                }
            }
        }
        Ok(Tensor::new(y, &[batch, outputs, height, width])?)
    }
}

/// The values in row-major order: where they lie, or copied.
fn dense(values: &ArcArray<f32, IxDyn>) -> Cow<'_, [f32]> {
    match values.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(values.iter().copied().collect()),
    }
}

impl Meaning {
    fn of(parameters: &Parameters, codes: CodeRange) -> Self {
        Self {
            granularity: parameters.granularity(),
            codes,
        }
    }

    /// The tensor of these codes; with one scale for all, every row has the same.
    fn tensor(self, codes: Vec<i8>, shape: &[usize], scales: &[f32]) -> Result<QTensor> {
        let qparams = scales.iter().copied().map(QParams::symmetric).collect();
        let parameters = match self.granularity {
            Granularity::PerTensor => {
                let scale = scales.first().copied().unwrap_or(1.0);
                Parameters::PerTensor(QParams::symmetric(scale))
            }
            Granularity::PerChannel { axis } => Parameters::PerChannel { axis, qparams },
            Granularity::PerGroup { size } => Parameters::PerGroup { size, qparams },
        };
        QTensor::new(codes, shape, parameters, self.codes)
    }
}

fn conv_shape(weight: &[usize], options: Conv2dOptions) -> Conv2dShape {
    Conv2dShape {
        in_channels: weight[1] * options.groups,
        out_channels: weight[0],
        kernel: [weight[2], weight[3]],
        stride: options.stride,
        padding: options.padding,
        groups: options.groups,
    }
}

fn input_error(error: InputError) -> Error {
    match error {
        InputError::NotFinite(bad) => Error::not_finite(bad.value, bad.index, None)
            .expect("the kernel reports only values that are not finite"),
        InputError::TooWide { min, max, .. } => Error::BadRange { min, max },
        error => Error::Kernel(error.to_string()),
    }
}
