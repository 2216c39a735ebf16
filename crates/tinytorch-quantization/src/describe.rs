//! From a quantized model to what stands in a file.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;

use crate::composite::Join;
use crate::error::Result;
use crate::file::{FileError, RawTensor};
use crate::folded::Operation;
use crate::framework::Tensor;
use crate::framework::nn::{
    AvgPool2d, BatchNorm2d, Conv2d, Embedding, Flatten, Gelu, Layer, Linear, LogSoftmax, MaxPool2d,
    Relu, Sigmoid, Softmax, Tanh,
};
use crate::narrow::{NarrowOperation, NarrowWeight, QNarrow};
use crate::parameters::Parameters;
use crate::qlayer::QLayer;
use crate::qmodel::QModel;
use crate::qtensor::QTensor;
use crate::record::{
    ChainRecord, Description, FloatRecord, JoinRecord, LayerRecord, NarrowRecord, SumRecord,
    VERSION, WeightRecord,
};

pub(crate) type Tensors = BTreeMap<String, RawTensor>;

/// What is to stand in the file at `path`: the description and the tensors.
pub(crate) fn describe(model: &QModel, path: &Path) -> Result<(Description, Tensors)> {
    let mut tensors = Tensors::new();
    let description = Description {
        version: VERSION,
        input: model.input().into(),
        layers: chain(&model.layers()?, path, &mut tensors)?,
        ledger: model.own_ledger().map(Into::into),
    };
    Ok((description, tensors))
}

fn chain(layers: &[(String, QLayer)], path: &Path, tensors: &mut Tensors) -> Result<ChainRecord> {
    let mut records = ChainRecord::with_capacity(layers.len());
    for (name, layer) in layers {
        let (record, own) = record(name, layer, path, tensors)?;
        for (part, tensor) in own {
            if tensors.insert(format!("{name}.{part}"), tensor).is_some() {
                return Err(FileError::Layer {
                    path: path.to_path_buf(),
                    name: name.clone(),
                    reason: "another layer has the same name".to_owned(),
                }
                .into());
            }
        }
        records.push((name.clone(), record));
    }
    Ok(records)
}

/// The tensors of one layer, named by their part in it.
type Own = Vec<(String, RawTensor)>;

fn record(
    name: &str,
    layer: &QLayer,
    path: &Path,
    tensors: &mut Tensors,
) -> Result<(LayerRecord, Own)> {
    let mut own = Own::new();
    let record = match layer {
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
                output: float.output.map(Into::into),
                layer: float_record(path, name, &*float.layer)?,
            }
        }
        QLayer::Embedding(layer) => {
            own = vec![("weight".to_owned(), codes_of(layer.table()))];
            LayerRecord::Embedding {
                output: layer.output().into(),
                codes: bounds(layer.table()),
            }
        }
        QLayer::Narrow(layer) => {
            let weight = narrow(layer, &mut own);
            LayerRecord::Narrow {
                operation: match layer.operation() {
                    NarrowOperation::Product(Operation::Linear) => NarrowRecord::Linear,
                    NarrowOperation::Product(Operation::Conv2d(options)) => {
                        NarrowRecord::Conv2d(options.into())
                    }
                    NarrowOperation::Embedding => NarrowRecord::Embedding,
                },
                weight,
                relu: layer.has_relu(),
                output: layer.output().map(Into::into),
            }
        }
        QLayer::Residual(layer) => LayerRecord::Residual {
            body: chain(&layer.body, path, tensors)?,
            shortcut: chain(&layer.shortcut, path, tensors)?,
            sum: match &layer.sum {
                Join::Codes(sum) => SumRecord::Codes {
                    inputs: sum.inputs().map(Into::into),
                    output: sum.output().into(),
                    relu: sum.has_relu(),
                },
                Join::Real { reason, output } => SumRecord::Real {
                    reason: reason.clone(),
                    output: output.map(Into::into),
                },
            },
        },
        QLayer::Concat(layer) => {
            let branches = layer.branches.iter();
            let branches = branches.map(|branch| chain(branch, path, tensors));
            LayerRecord::Concat {
                branches: branches.collect::<Result<_>>()?,
                join: match &layer.join {
                    Join::Codes(join) => JoinRecord::Codes {
                        inputs: join.inputs().iter().map(|&pair| pair.into()).collect(),
                        output: join.output().into(),
                    },
                    Join::Real { reason, output } => JoinRecord::Real {
                        reason: reason.clone(),
                        output: output.map(Into::into),
                    },
                },
            }
        }
    };
    Ok((record, own))
}

/// The tensors of a narrow layer, and how its weights are written.
fn narrow(layer: &QNarrow, own: &mut Own) -> WeightRecord {
    let floats = |values: &[f32], shape: &[usize]| RawTensor {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    };
    if layer.operation() != NarrowOperation::Embedding {
        let bias = floats(layer.bias(), &[layer.bias().len()]);
        own.push(("bias".to_owned(), bias));
    }
    let scale = |parameters: &Parameters| {
        let scales: Vec<f32> = parameters.pairs().iter().map(|pair| pair.scale).collect();
        // Without axes: one for all.
        match parameters {
            Parameters::PerTensor(_) => floats(&scales, &[]),
            _ => floats(&scales, &[scales.len()]),
        }
    };
    let (weight, record) = match layer.weight() {
        NarrowWeight::Dynamic(codes) => {
            own.push(("scale".to_owned(), scale(codes.parameters())));
            let codes_record = bounds(codes);
            (
                codes_of(codes),
                WeightRecord::Dynamic {
                    codes: codes_record,
                },
            )
        }
        NarrowWeight::Codes(packed) => {
            let parameters = packed.parameters();
            own.push(("scale".to_owned(), scale(&parameters)));
            let raw = RawTensor {
                dtype: Dtype::U8,
                shape: vec![packed.bytes().len()],
                bytes: packed.bytes().to_vec(),
            };
            let group = match parameters {
                Parameters::PerGroup { size, .. } => Some(size),
                _ => None,
            };
            let record = WeightRecord::Codes {
                codes: [packed.range().min, packed.range().max],
                shape: packed.shape().to_vec(),
                group,
            };
            (raw, record)
        }
        NarrowWeight::Bf16 { values, shape } => {
            let raw = RawTensor {
                dtype: Dtype::BF16,
                shape: shape.clone(),
                bytes: values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            };
            (raw, WeightRecord::Bf16)
        }
    };
    own.push(("weight".to_owned(), weight));
    record
}

fn bounds(weight: &QTensor) -> [i32; 2] {
    [weight.range().min, weight.range().max]
}

fn codes_of(weight: &QTensor) -> RawTensor {
    let codes = weight.as_slice().iter().flat_map(|code| code.to_le_bytes());
    RawTensor {
        dtype: Dtype::I8,
        shape: weight.shape().to_vec(),
        bytes: codes.collect(),
    }
}

fn integers(weight: &QTensor, bias: &[i32]) -> Vec<(String, RawTensor)> {
    let raw = |dtype, shape: &[usize], bytes| RawTensor {
        dtype,
        shape: shape.to_vec(),
        bytes,
    };
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
        ("weight".to_owned(), codes_of(weight)),
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
    } else if any.is::<Embedding>() {
        FloatRecord::Embedding
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
