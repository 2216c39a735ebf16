//! The layers of a quantized model as they run: weights packed for the kernels, images with channels last.
//!
//! Packing takes the codes of a layer over: they are held once, in the order in which the kernel reads them, and
//! [`PackedLinear::unpack`] and [`PackedConv2d::unpack`] give the definition back.

use crate::code_memory::CodeMemory;
use crate::composite::{Join, QBranches, QResidual};
use crate::conv::QConv2d;
use crate::embedding::QEmbedding;
use crate::error::{Error, Result};
use crate::framework::{Conv2dOptions, Pool2dOptions};
use crate::graph::{Node, bytes, layers};
use crate::join::{QAdd, QConcat};
use crate::kernels::gemm_i8::chosen;
use crate::kernels::{
    self, Conv2dShape, Images, NotFinite, PackedWeights, Quantize, Requantize, StaticLinear,
};
use crate::linear::QLinear;
use crate::narrow_step::NarrowStep;
use crate::pool::ImageSize;
use crate::qlayer::{FloatLayer, QLayer};
use crate::qtensor::{Parameters, QTensor};
use crate::requantize::multipliers;
use crate::scheme::{CodeRange, QParams};

/// One layer as it runs.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Linear(PackedLinear),
    Conv2d(PackedConv2d),
    MaxPool2d(Pool2dOptions),
    AvgPool2d(Pool2dOptions),
    Relu,
    /// `keep` says that the next layer's weights expect channels last, so that nothing need be moved.
    Flatten {
        keep: bool,
    },
    Float(FloatLayer),
    Embedding(QEmbedding),
    Narrow(Box<NarrowStep>),
    Residual(Box<ResidualStep>),
    Concat(Box<BranchesStep>),
}

/// A [`QResidual`] whose layers are ready to run.
#[derive(Clone, Debug)]
pub(crate) struct ResidualStep {
    pub body: Vec<Node>,
    pub shortcut: Vec<Node>,
    pub sum: Join<QAdd>,
}

/// A [`QBranches`] whose layers are ready to run.
#[derive(Clone, Debug)]
pub(crate) struct BranchesStep {
    pub branches: Vec<Vec<Node>>,
    pub join: Join<QConcat>,
}

impl Step {
    /// A word for the kind of layer.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::Conv2d(_) => "conv2d",
            Self::MaxPool2d(_) => "max_pool2d",
            Self::AvgPool2d(_) => "avg_pool2d",
            Self::Relu => "relu",
            Self::Flatten { .. } => "flatten",
            Self::Float(layer) => layer.layer.kind(),
            Self::Embedding(_) => "embedding",
            Self::Narrow(layer) => layer.kind(),
            Self::Residual(_) => "residual",
            Self::Concat(_) => "concat",
        }
    }

    /// Why it stays in `f32`, if it does.
    pub fn in_float(&self) -> Option<&str> {
        match self {
            Self::Float(float) => Some(&float.reason),
            Self::Residual(step) => step.sum.reason(),
            Self::Concat(step) => step.join.reason(),
            _ => None,
        }
    }

    /// The layers inside, way by way.
    pub fn chains(&self) -> Vec<&[Node]> {
        match self {
            Self::Residual(step) => vec![&step.body, &step.shortcut],
            Self::Concat(step) => step.branches.iter().map(Vec::as_slice).collect(),
            _ => Vec::new(),
        }
    }

    /// The layer by its definition.
    ///
    /// # Errors
    ///
    /// None for a step that was made.
    pub fn unpack(&self) -> Result<QLayer> {
        Ok(match self {
            Self::Linear(layer) => QLayer::Linear(layer.unpack()?),
            Self::Conv2d(layer) => QLayer::Conv2d(layer.unpack()?),
            Self::MaxPool2d(options) => QLayer::MaxPool2d(*options),
            Self::AvgPool2d(options) => QLayer::AvgPool2d(*options),
            Self::Relu => QLayer::Relu,
            Self::Flatten { .. } => QLayer::Flatten,
            Self::Float(layer) => QLayer::Float(layer.clone()),
            Self::Embedding(layer) => QLayer::Embedding(layer.clone()),
            Self::Narrow(layer) => QLayer::Narrow(Box::new(layer.unpack()?)),
            Self::Residual(step) => QLayer::Residual(Box::new(QResidual {
                body: layers(&step.body)?,
                shortcut: layers(&step.shortcut)?,
                sum: step.sum.clone(),
            })),
            Self::Concat(step) => {
                let branches = step.branches.iter().map(|branch| layers(branch));
                QLayer::Concat(Box::new(QBranches {
                    branches: branches.collect::<Result<_>>()?,
                    join: step.join.clone(),
                }))
            }
        })
    }

    /// Bytes of parameters held.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Linear(layer) => layer.packed.bytes() + layer.ending.bytes(),
            Self::Conv2d(layer) => layer.packed.bytes() + layer.ending.bytes(),
            Self::Float(float) => crate::qlayer::f32_bytes(&*float.layer),
            Self::Embedding(layer) => layer.memory_bytes(),
            Self::Narrow(layer) => layer.bytes(),
            Self::Residual(step) => {
                bytes(&step.body) + bytes(&step.shortcut) + step.sum.memory_bytes()
            }
            Self::Concat(step) => {
                let branches = step.branches.iter().map(|branch| bytes(branch));
                branches.sum::<usize>() + step.join.memory_bytes()
            }
            Self::MaxPool2d(_) | Self::AvgPool2d(_) | Self::Relu | Self::Flatten { .. } => 0,
        }
    }
}

/// What becomes of the sums of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    bias: Box<[i32]>,
    /// The parameters of the weights, without their zeros.
    scales: Scales,
    /// One for each output: computed once, for a single row of a small layer they would take longer than the product. Empty where
    /// the packed layer holds them.
    multipliers: Box<[f32]>,
    weight_codes: CodeRange,
    pub input: QParams,
    pub output: QParams,
    relu: bool,
}

#[derive(Clone, Debug)]
enum Scales {
    One(f32),
    Each(Box<[f32]>),
}

impl Ending {
    fn new(
        weight: &QTensor,
        bias: &[i32],
        input: QParams,
        output: QParams,
        relu: bool,
    ) -> Result<Self> {
        let multipliers = multipliers(input.scale, &weight.row_scales(), output.scale)?;
        let scales = match weight.qparams() {
            Some(qparams) => Scales::One(qparams.scale),
            None => Scales::Each(weight.row_scales().into()),
        };
        Ok(Self {
            bias: bias.into(),
            scales,
            multipliers: multipliers.into(),
            weight_codes: weight.range(),
            input,
            output,
            relu,
        })
    }

    fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::One(_) => 1,
            Scales::Each(scales) => scales.len(),
        };
        let reals = scales + self.multipliers.len();
        self.bias.len() * size_of::<i32>() + reals * size_of::<f32>() + 2 * size_of::<QParams>()
    }

    /// The meaning of the weights.
    fn parameters(&self) -> Parameters {
        match &self.scales {
            Scales::One(scale) => Parameters::PerTensor(QParams::symmetric(*scale)),
            Scales::Each(scales) => Parameters::PerChannel {
                axis: 0,
                qparams: scales.iter().copied().map(QParams::symmetric).collect(),
            },
        }
    }

    /// The kernel's description of what to do.
    fn requantize(&self) -> Requantize<'_> {
        let zero_point = self.output.zero_point;
        let CodeRange { min, max } = CodeRange::INT8;
        Requantize {
            bias: &self.bias,
            multipliers: &self.multipliers,
            zero_point,
            min: if self.relu { zero_point } else { min },
            max,
        }
    }
}

/// A [`QLinear`] with its weights packed.
#[derive(Clone, Debug)]
pub(crate) struct PackedLinear {
    packed: StaticLinear,
    pub ending: Ending,
    /// With `Some(channels)` the inputs come channels last, and the columns of the weight are in that order.
    channels: Option<usize>,
}

impl PackedLinear {
    /// Packs a layer whose inputs come in the order of their axes (`None`), or were an image with so many channels, channels
    /// last.
    pub fn new(layer: &QLinear, channels: Option<usize>) -> Result<Self> {
        let (n, k) = (layer.weight().shape()[0], layer.weight().shape()[1]);
        let mut ending = Ending::new(
            layer.weight(),
            layer.bias(),
            layer.input(),
            layer.output(),
            layer.has_relu(),
        )?;
        let codes = layer.weight().as_slice();
        let packed = match channels {
            Some(c) => pack(n, k, &crate::qlayer::channels_last(codes, [n, c, k / c]))?,
            None => pack(n, k, codes)?,
        };
        let zero_point = ending.input.zero_point;
        let packed = StaticLinear::new(packed, zero_point, &ending.requantize());
        ending.multipliers = Box::default();
        Ok(Self {
            packed,
            ending,
            channels,
        })
    }

    /// The layer by its definition.
    pub fn unpack(&self) -> Result<QLinear> {
        let (k, n) = self.sizes();
        let mut codes = self.packed.weights().unpack();
        if let Some(c) = self.channels {
            codes = crate::qlayer::channels_first(&codes, [n, c, k / c]);
        }
        let Ending {
            bias,
            weight_codes,
            input,
            output,
            relu,
            ..
        } = &self.ending;
        let weight = QTensor::new(codes, &[n, k], self.ending.parameters(), *weight_codes)?;
        QLinear::from_parts(weight, bias.to_vec(), *input, *output, *relu)
    }

    /// `[rows, in]` to `[rows, out]`.
    pub fn forward(&self, rows: usize, codes: &[i8]) -> CodeMemory {
        let mut result = CodeMemory::new(rows * self.sizes().1);
        self.packed.forward(rows, codes, &mut result);
        result
    }

    /// As [`forward`](Self::forward), of real values that are written as codes by `by`: `[rows, in]` to `[rows, out]`.
    pub fn forward_real(
        &self,
        rows: usize,
        values: &[f32],
        by: Quantize,
    ) -> std::result::Result<CodeMemory, NotFinite> {
        let mut result = CodeMemory::new(rows * self.sizes().1);
        (self.packed)
            .forward_real(rows, values, by, &mut result)
            .map(|()| result)
    }

    /// How many inputs and outputs there are.
    pub fn sizes(&self) -> (usize, usize) {
        let weights = self.packed.weights();
        (weights.k(), weights.n())
    }
}

/// A [`QConv2d`] with its weights packed.
#[derive(Clone, Debug)]
pub(crate) struct PackedConv2d {
    packed: kernels::PackedConv2d,
    pub ending: Ending,
}

impl PackedConv2d {
    pub fn new(layer: &QConv2d) -> Result<Self> {
        let &[outputs, group_inputs, height, width] = layer.weight().shape() else {
            unreachable!("checked when the layer was made");
        };
        let Conv2dOptions {
            stride,
            padding,
            groups,
        } = layer.options();
        let shape = Conv2dShape {
            in_channels: group_inputs * groups,
            out_channels: outputs,
            kernel: [height, width],
            stride,
            padding,
            groups,
        };
        let ending = Ending::new(
            layer.weight(),
            layer.bias(),
            layer.input(),
            layer.output(),
            layer.has_relu(),
        )?;
        let codes = layer.weight().as_slice();
        let codes = crate::qlayer::channels_last(codes, [outputs, group_inputs, height * width]);
        let kernel = chosen().map_err(|error| Error::Kernel(error.to_string()))?;
        let packed = kernels::PackedConv2d::with_kernel(kernel, shape, &codes);
        Ok(Self { packed, ending })
    }

    /// The layer by its definition.
    pub fn unpack(&self) -> Result<QConv2d> {
        let Conv2dShape {
            in_channels,
            out_channels,
            kernel: [height, width],
            stride,
            padding,
            groups,
        } = self.packed.shape();
        let group_inputs = in_channels / groups;
        let codes = self.packed.unpack();
        let sizes = [out_channels, group_inputs, height * width];
        let codes = crate::qlayer::channels_first(&codes, sizes);
        let shape = [out_channels, group_inputs, height, width];
        let Ending {
            bias,
            weight_codes,
            input,
            output,
            relu,
            ..
        } = &self.ending;
        let weight = QTensor::new(codes, &shape, self.ending.parameters(), *weight_codes)?;
        let options = Conv2dOptions {
            stride,
            padding,
            groups,
        };
        QConv2d::from_parts(weight, bias.to_vec(), options, *input, *output, *relu)
    }

    /// Images with channels last, to images with channels last, of the size `out`: if `pooled`, the largest codes of
    /// windows 2x2. `codes` are `[batch, height, width, in]`, the result `[batch, out height, out width, out]`.
    pub fn forward(
        &self,
        size: ImageSize,
        out: [usize; 2],
        codes: &[i8],
        pooled: bool,
    ) -> CodeMemory {
        let channels = self.packed.shape().out_channels;
        let mut result = CodeMemory::new(size.batch * out[0] * out[1] * channels);
        let images = Images {
            batch: size.batch,
            height: size.height,
            width: size.width,
        };
        let zero_point = self.ending.input.zero_point;
        let ending = self.ending.requantize();
        if pooled {
            self.packed
                .requantized_pooled(images, codes, zero_point, &ending, &mut result);
        } else {
            self.packed
                .requantized(images, codes, zero_point, &ending, &mut result);
        }
        result
    }

    /// Height and width of the result, if the images fit.
    pub fn output_size(&self, shape: &[usize]) -> Result<[usize; 2]> {
        let convolution = self.packed.shape();
        let fits = |image: &[usize]| match *image {
            [_, channels, height, width] if channels == convolution.in_channels => {
                convolution.output_size([height, width])
            }
            _ => None,
        };
        fits(shape).ok_or_else(|| Error::ShapeMismatch {
            operation: "QConv2d",
            expected: format!(
                "[batch, {}, height, width], at least as large as the kernel {:?}",
                convolution.in_channels, convolution.kernel
            ),
            got: shape.to_vec(),
        })
    }

    /// Channels of the result.
    pub fn channels(&self) -> usize {
        self.packed.shape().out_channels
    }
}

fn pack(n: usize, k: usize, codes: &[i8]) -> Result<PackedWeights> {
    let kernel = chosen().map_err(|error| Error::Kernel(error.to_string()))?;
    Ok(PackedWeights::with_kernel(kernel, n, k, codes))
}
