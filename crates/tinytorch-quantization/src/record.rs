//! What a file says about a quantized model, beside its tensors.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::conv::QConv2d;
use crate::error::Result;
use crate::file::{FileError, RawTensor, unexpected};
use crate::framework::nn::{
    AvgPool2d, BatchNorm2d, Conv2d, Flatten, Gelu, Layer, Linear, LogSoftmax, MaxPool2d, Relu,
    Sigmoid, Softmax, Tanh,
};
use crate::framework::{Conv2dOptions, Pool2dOptions, Tensor};
use crate::linear::QLinear;
use crate::qlayer::{FloatLayer, QLayer};
use crate::qmodel::QModel;
use crate::qtensor::{Parameters, QTensor};
use crate::scheme::{CodeRange, QParams};

/// The version of the format that this library writes and reads.
pub(crate) const VERSION: u32 = 2;

pub(crate) type Tensors = BTreeMap<String, RawTensor>;

/// The part of every description that never changes.
#[derive(Deserialize)]
pub(crate) struct Version {
    pub version: u32,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Description {
    version: u32,
    input: Pair,
    layers: Vec<(String, LayerRecord)>,
}

/// [`QParams`] whose scale is kept bit for bit, which decimal digits need not do.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Pair {
    scale_bits: u32,
    zero_point: i32,
}

impl From<QParams> for Pair {
    fn from(qparams: QParams) -> Self {
        Self {
            scale_bits: qparams.scale.to_bits(),
            zero_point: qparams.zero_point,
        }
    }
}

impl From<Pair> for QParams {
    fn from(pair: Pair) -> Self {
        Self {
            scale: f32::from_bits(pair.scale_bits),
            zero_point: pair.zero_point,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum LayerRecord {
    Linear {
        output: Pair,
        relu: bool,
        codes: [i32; 2],
    },
    Conv2d {
        output: Pair,
        relu: bool,
        codes: [i32; 2],
        options: ConvRecord,
    },
    MaxPool2d(PoolRecord),
    AvgPool2d(PoolRecord),
    Relu,
    Flatten,
    Float {
        reason: String,
        output: Pair,
        layer: FloatRecord,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum FloatRecord {
    Linear,
    Conv2d(ConvRecord),
    BatchNorm2d { eps_bits: u32, momentum_bits: u32 },
    MaxPool2d(PoolRecord),
    AvgPool2d(PoolRecord),
    Relu,
    Flatten,
    Gelu,
    LogSoftmax,
    Sigmoid,
    Softmax,
    Tanh,
}

#[derive(Serialize, Deserialize)]
struct ConvRecord {
    stride: [usize; 2],
    padding: [usize; 2],
    groups: usize,
}

impl From<Conv2dOptions> for ConvRecord {
    fn from(options: Conv2dOptions) -> Self {
        let Conv2dOptions {
            stride,
            padding,
            groups,
        } = options;
        Self {
            stride,
            padding,
            groups,
        }
    }
}

impl From<ConvRecord> for Conv2dOptions {
    fn from(record: ConvRecord) -> Self {
        Self {
            stride: record.stride,
            padding: record.padding,
            groups: record.groups,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct PoolRecord {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

impl From<Pool2dOptions> for PoolRecord {
    fn from(options: Pool2dOptions) -> Self {
        Self {
            kernel: options.kernel,
            stride: options.stride,
            padding: options.padding,
        }
    }
}

impl From<PoolRecord> for Pool2dOptions {
    fn from(record: PoolRecord) -> Self {
        Self {
            kernel: record.kernel,
            stride: record.stride,
            padding: record.padding,
        }
    }
}

/// What is to stand in the file at `path`: the description and the tensors.
pub(crate) fn describe(model: &QModel, path: &Path) -> Result<(Description, Tensors)> {
    let mut tensors = Tensors::new();
    let mut layers = Vec::new();
    for (name, layer) in model.layers()? {
        let mut own = Vec::new();
        let record = match &layer {
            QLayer::Linear(layer) => {
                own = integers(layer.weight(), layer.bias());
                LayerRecord::Linear {
                    output: layer.output().into(),
                    relu: layer.has_relu(),
                    codes: bounds(layer.weight()),
                }
            }
            QLayer::Conv2d(layer) => {
                own = integers(layer.weight(), layer.bias());
                LayerRecord::Conv2d {
                    output: layer.output().into(),
                    relu: layer.has_relu(),
                    codes: bounds(layer.weight()),
                    options: layer.options().into(),
                }
            }
            QLayer::MaxPool2d(options) => LayerRecord::MaxPool2d((*options).into()),
            QLayer::AvgPool2d(options) => LayerRecord::AvgPool2d((*options).into()),
            QLayer::Relu => LayerRecord::Relu,
            QLayer::Flatten => LayerRecord::Flatten,
            QLayer::Float(float) => {
                own = reals(&*float.layer);
                LayerRecord::Float {
                    reason: float.reason.clone(),
                    output: float.output.into(),
                    layer: float_record(path, &name, &*float.layer)?,
                }
            }
        };
        for (part, tensor) in own {
            if tensors.insert(format!("{name}.{part}"), tensor).is_some() {
                return Err(FileError::Layer {
                    path: path.to_path_buf(),
                    name,
                    reason: "another layer has the same name".to_owned(),
                }
                .into());
            }
        }
        layers.push((name, record));
    }
    let description = Description {
        version: VERSION,
        input: model.input().into(),
        layers,
    };
    Ok((description, tensors))
}

/// The model that the file at `path` describes, of exactly the tensors that are in it.
pub(crate) fn rebuild(
    description: Description,
    mut tensors: Tensors,
    path: &Path,
) -> Result<QModel> {
    let first = QParams::from(description.input);
    let mut input = first;
    let mut layers = Vec::with_capacity(description.layers.len());
    for (name, record) in description.layers {
        let mut source = Source {
            path,
            name: &name,
            tensors: &mut tensors,
        };
        let layer = match record {
            LayerRecord::Linear {
                output,
                relu,
                codes,
            } => {
                let (weight, bias) = source.integers(codes)?;
                let layer = QLinear::from_parts(weight, bias, input, output.into(), relu);
                layer.map(QLayer::Linear)
            }
            LayerRecord::Conv2d {
                output,
                relu,
                codes,
                options,
            } => {
                let (weight, bias) = source.integers(codes)?;
                let (options, output) = (options.into(), output.into());
                let layer = QConv2d::from_parts(weight, bias, options, input, output, relu);
                layer.map(QLayer::Conv2d)
            }
            LayerRecord::MaxPool2d(options) => Ok(QLayer::MaxPool2d(options.into())),
            LayerRecord::AvgPool2d(options) => Ok(QLayer::AvgPool2d(options.into())),
            LayerRecord::Relu => Ok(QLayer::Relu),
            LayerRecord::Flatten => Ok(QLayer::Flatten),
            LayerRecord::Float {
                reason,
                output,
                layer,
            } => Ok(QLayer::Float(FloatLayer {
                layer: source.float(layer)?,
                reason,
                output: output.into(),
            })),
        };
        let layer = layer.map_err(|error| error.in_layer(&name))?;
        input = layer.output(input);
        // Here already, so that the layer at fault is named and not the one behind it.
        let usable = input.check(CodeRange::INT8);
        usable.map_err(|error| error.in_layer(&name))?;
        layers.push((name, layer));
    }
    if let Some(name) = tensors.into_keys().next() {
        return Err(unexpected(path, name).into());
    }
    QModel::new(first, layers)
}

fn bounds(weight: &QTensor) -> [i32; 2] {
    [weight.range().min, weight.range().max]
}

fn integers(weight: &QTensor, bias: &[i32]) -> Vec<(String, RawTensor)> {
    let raw = |dtype, shape: &[usize], bytes| RawTensor {
        dtype,
        shape: shape.to_vec(),
        bytes,
    };
    let codes = weight.as_slice().iter().flat_map(|code| code.to_le_bytes());
    let scales = match weight.parameters() {
        Parameters::PerTensor(qparams) => vec![qparams.scale],
        Parameters::PerChannel { .. } | Parameters::PerGroup { .. } => weight.row_scales(),
    };
    // Without axes: one for all.
    let shape: &[usize] = match weight.parameters() {
        Parameters::PerTensor(_) => &[],
        Parameters::PerChannel { qparams, .. } | Parameters::PerGroup { qparams, .. } => {
            &[qparams.len()]
        }
    };
    let scales = raw(
        Dtype::F32,
        shape,
        scales.into_iter().flat_map(f32::to_le_bytes).collect(),
    );
    let biases = bias.iter().flat_map(|bias| bias.to_le_bytes()).collect();
    vec![
        (
            "weight".to_owned(),
            raw(Dtype::I8, weight.shape(), codes.collect()),
        ),
        ("scale".to_owned(), scales),
        ("bias".to_owned(), raw(Dtype::I32, &[bias.len()], biases)),
    ]
}

fn reals(layer: &dyn Layer) -> Vec<(String, RawTensor)> {
    let raw = |(name, tensor): (String, Tensor)| {
        let bytes = tensor.to_vec().into_iter().flat_map(f32::to_le_bytes);
        let raw = RawTensor {
            dtype: Dtype::F32,
            shape: tensor.shape().to_vec(),
            bytes: bytes.collect(),
        };
        (name, raw)
    };
    layer.named_tensors().into_iter().map(raw).collect()
}

fn float_record(path: &Path, name: &str, layer: &dyn Layer) -> Result<FloatRecord> {
    let any = layer.as_any();
    Ok(if any.is::<Linear>() {
        FloatRecord::Linear
    } else if let Some(conv) = any.downcast_ref::<Conv2d>() {
        FloatRecord::Conv2d(conv.options().into())
    } else if let Some(norm) = any.downcast_ref::<BatchNorm2d>() {
        FloatRecord::BatchNorm2d {
            eps_bits: norm.eps().to_bits(),
            momentum_bits: norm.momentum().to_bits(),
        }
    } else if let Some(pool) = any.downcast_ref::<MaxPool2d>() {
        FloatRecord::MaxPool2d(pool.options().into())
    } else if let Some(pool) = any.downcast_ref::<AvgPool2d>() {
        FloatRecord::AvgPool2d(pool.options().into())
    } else if any.is::<Relu>() {
        FloatRecord::Relu
    } else if any.is::<Flatten>() {
        FloatRecord::Flatten
    } else if any.is::<Gelu>() {
        FloatRecord::Gelu
    } else if any.is::<Sigmoid>() {
        FloatRecord::Sigmoid
    } else if any.is::<Tanh>() {
        FloatRecord::Tanh
    } else if any.is::<Softmax>() {
        FloatRecord::Softmax
    } else if any.is::<LogSoftmax>() {
        FloatRecord::LogSoftmax
    } else {
        return Err(FileError::Layer {
            path: path.to_path_buf(),
            name: name.to_owned(),
            reason: format!("a {} in f32 has no place in the format", layer.kind()),
        }
        .into());
    })
}

/// The tensors of one layer, each of which is taken once.
struct Source<'a> {
    path: &'a Path,
    name: &'a str,
    tensors: &'a mut Tensors,
}

impl Source<'_> {
    fn full_name(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    fn refused(&self, part: &str, expected: &str, got: String) -> FileError {
        FileError::Tensor {
            path: self.path.to_path_buf(),
            name: self.full_name(part),
            expected: expected.to_owned(),
            got,
        }
    }

    fn tensor(&mut self, part: &str, dtype: Dtype) -> Result<RawTensor> {
        let got = match self.tensors.remove(&self.full_name(part)) {
            Some(tensor) if tensor.dtype == dtype => return Ok(tensor),
            Some(tensor) => tensor.dtype.to_string(),
            None => "nothing".to_owned(),
        };
        Err(self.refused(part, &dtype.to_string(), got).into())
    }

    fn real(&mut self, part: &str) -> Result<Tensor> {
        let raw = self.tensor(part, Dtype::F32)?;
        Ok(Tensor::new(
            four_bytes(&raw.bytes, f32::from_le_bytes),
            &raw.shape,
        )?)
    }

    /// The bias of a layer that may have none.
    fn bias(&mut self) -> Result<Option<Tensor>> {
        let there = self.tensors.contains_key(&self.full_name("bias"));
        there.then(|| self.real("bias")).transpose()
    }

    fn integers(&mut self, codes: [i32; 2]) -> Result<(QTensor, Vec<i32>)> {
        let weight = self.tensor("weight", Dtype::I8)?;
        let scale = self.tensor("scale", Dtype::F32)?;
        let bias = self.tensor("bias", Dtype::I32)?;
        let scales = four_bytes(&scale.bytes, f32::from_le_bytes);
        let parameters = match (scale.shape.as_slice(), scales.as_slice()) {
            ([], &[scale]) => Parameters::PerTensor(QParams::symmetric(scale)),
            ([_], scales) => Parameters::PerChannel {
                axis: 0,
                qparams: scales.iter().copied().map(QParams::symmetric).collect(),
            },
            (shape, _) => {
                let got = format!("shape {shape:?}");
                return Err(self
                    .refused("scale", "one scale, or one for each output", got)
                    .into());
            }
        };
        let range = CodeRange {
            min: codes[0],
            max: codes[1],
        };
        let written = weight.bytes.iter().map(|byte| byte.cast_signed()).collect();
        let weight = QTensor::new(written, &weight.shape, parameters, range)
            .map_err(|error| error.in_layer(self.name))?;
        Ok((weight, four_bytes(&bias.bytes, i32::from_le_bytes)))
    }

    fn float(&mut self, record: FloatRecord) -> Result<Arc<dyn Layer>> {
        Ok(match record {
            FloatRecord::Linear => {
                Arc::new(Linear::from_parts(self.real("weight")?, self.bias()?)?)
            }
            FloatRecord::Conv2d(options) => {
                let options = options.into();
                Arc::new(Conv2d::from_parts(
                    self.real("weight")?,
                    self.bias()?,
                    options,
                )?)
            }
            FloatRecord::BatchNorm2d {
                eps_bits,
                momentum_bits,
            } => {
                let weight = self.tensors.get(&self.full_name("weight"));
                // One that is missing is refused below.
                let channels = weight.map_or(0, |weight| weight.shape.iter().product());
                let (eps, momentum) = (f32::from_bits(eps_bits), f32::from_bits(momentum_bits));
                let norm = BatchNorm2d::with(channels, eps, momentum);
                for (part, tensor) in norm.named_tensors() {
                    tensor.assign(&self.real(&part)?)?;
                }
                norm.set_training(false);
                Arc::new(norm)
            }
            FloatRecord::MaxPool2d(options) => Arc::new(MaxPool2d::with(options.into())),
            FloatRecord::AvgPool2d(options) => Arc::new(AvgPool2d::with(options.into())),
            FloatRecord::Relu => Arc::new(Relu),
            FloatRecord::Flatten => Arc::new(Flatten),
            FloatRecord::Gelu => Arc::new(Gelu),
            FloatRecord::Sigmoid => Arc::new(Sigmoid),
            FloatRecord::Tanh => Arc::new(Tanh),
            FloatRecord::Softmax => Arc::new(Softmax),
            FloatRecord::LogSoftmax => Arc::new(LogSoftmax),
        })
    }
}

fn four_bytes<T>(bytes: &[u8], read: impl Fn([u8; 4]) -> T) -> Vec<T> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&bytes| read(bytes))
        .collect()
}
