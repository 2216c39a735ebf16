//! From what stands in a file to a quantized model.
//!
//! Everything is checked again, as if someone had written the file by hand: the same functions that put layers together in
//! memory refuse what does not fit.

use std::path::Path;
use std::sync::Arc;

use half::bf16;
use safetensors::Dtype;

use crate::composite::{Chain, Join, QBranches, QResidual};
use crate::conv::QConv2d;
use crate::describe::Tensors;
use crate::embedding::QEmbedding;
use crate::error::{Error, Result};
use crate::extent::Extents;
use crate::file::{FileError, RawTensor, unexpected};
use crate::folded::Operation;
use crate::framework::Tensor;
use crate::framework::nn::{
    AvgPool2d, BatchNorm2d, Conv2d, Embedding, Flatten, Gelu, Layer, Linear, LogSoftmax, MaxPool2d,
    Relu, Sigmoid, Softmax, Tanh,
};
use crate::join::{QAdd, QConcat};
use crate::linear::QLinear;
use crate::narrow::{NarrowOperation, NarrowWeight, QNarrow};
use crate::packed::PackedTensor;
use crate::parameters::Parameters;
use crate::qlayer::{FloatLayer, QLayer};
use crate::qmodel::QModel;
use crate::qtensor::QTensor;
use crate::record::{
    ChainRecord, Description, FloatRecord, JoinRecord, LayerRecord, NarrowRecord, SumRecord,
    WeightRecord,
};
use crate::scheme::{CodeRange, QParams};

/// The model that the file at `path` describes, of exactly the tensors that are in it.
pub(crate) fn rebuild(
    description: Description,
    mut tensors: Tensors,
    path: &Path,
) -> Result<QModel> {
    let input = QParams::from(description.input);
    let ledger = description.ledger.map(|ledger| {
        ledger.read().ok_or_else(|| FileError::Damaged {
            path: path.to_path_buf(),
            reason: "its ledger contradicts itself".to_owned(),
        })
    });
    let ledger = ledger.transpose()?;
    let (layers, _) = chain(description.layers, input, &mut tensors, path)?;
    if let Some(name) = tensors.into_keys().next() {
        return Err(unexpected(path, name).into());
    }
    let extents = Extents::of(&layers);
    let model = QModel::new(input, layers)?.bounded(extents);
    Ok(match ledger {
        Some(ledger) => model.with_ledger(ledger),
        None => model,
    })
}

/// Layers whose input means `input`, and what their output means.
fn chain(
    records: ChainRecord,
    mut input: QParams,
    tensors: &mut Tensors,
    path: &Path,
) -> Result<(Chain, QParams)> {
    let mut layers = Chain::with_capacity(records.len());
    for (name, record) in records {
        let layer = layer(&name, record, input, tensors, path);
        let layer = layer.map_err(|error| match error {
            // These name what is wrong with the file by themselves.
            Error::File(_) => error,
            error => error.in_layer(&name),
        })?;
        input = layer.output(input);
        // Here already, so that the layer at fault is named and not the one behind it.
        let usable = input.check(CodeRange::INT8);
        usable.map_err(|error| error.in_layer(&name))?;
        layers.push((name, layer));
    }
    Ok((layers, input))
}

fn layer(
    name: &str,
    record: LayerRecord,
    input: QParams,
    tensors: &mut Tensors,
    path: &Path,
) -> Result<QLayer> {
    let mut source = Source {
        path,
        name,
        tensors,
    };
    Ok(match record {
        LayerRecord::Linear {
            output,
            relu,
            codes,
        } => {
            let (weight, bias) = source.integers(codes)?;
            let output = output.into();
            QLayer::Linear(QLinear::from_parts(weight, bias, input, output, relu)?)
        }
        LayerRecord::Conv2d {
            output,
            relu,
            codes,
            options,
        } => {
            let (weight, bias) = source.integers(codes)?;
            let (options, output) = (options.into(), output.into());
            QLayer::Conv2d(QConv2d::from_parts(
                weight, bias, options, input, output, relu,
            )?)
        }
        LayerRecord::MaxPool2d(options) => QLayer::MaxPool2d(options.into()),
        LayerRecord::AvgPool2d(options) => QLayer::AvgPool2d(options.into()),
        LayerRecord::Relu => QLayer::Relu,
        LayerRecord::Flatten => QLayer::Flatten,
        LayerRecord::Float {
            reason,
            output,
            layer,
        } => QLayer::Float(FloatLayer {
            layer: source.float(layer)?,
            reason,
            output: output.map(Into::into),
        }),
        LayerRecord::Embedding { output, codes } => {
            let weight = source.tensor("weight", Dtype::I8)?;
            let meaning = Parameters::PerTensor(output.into());
            QLayer::Embedding(QEmbedding::from_parts(table(weight, meaning, codes)?)?)
        }
        LayerRecord::Narrow {
            operation,
            weight,
            relu,
            output,
        } => {
            let operation = match operation {
                NarrowRecord::Linear => NarrowOperation::Product(Operation::Linear),
                NarrowRecord::Conv2d(options) => {
                    NarrowOperation::Product(Operation::Conv2d(options.into()))
                }
                NarrowRecord::Embedding => NarrowOperation::Embedding,
            };
            let bias = match operation {
                NarrowOperation::Embedding => Vec::new(),
                NarrowOperation::Product(_) => source.real("bias")?.to_vec(),
            };
            let weight = source.narrow(weight)?;
            let output = output.map(Into::into);
            let layer = QNarrow::from_parts(weight, bias, operation, relu, output)?;
            QLayer::Narrow(Box::new(layer))
        }
        LayerRecord::Residual {
            body,
            shortcut,
            sum,
        } => {
            let (body, _) = chain(body, input, tensors, path)?;
            let (shortcut, _) = chain(shortcut, input, tensors, path)?;
            let sum = match sum {
                SumRecord::Codes {
                    inputs: [left, right],
                    output,
                    relu,
                } => Join::Codes(QAdd::new(left.into(), right.into(), output.into(), relu)?),
                SumRecord::Real { reason, output } => Join::Real {
                    reason,
                    output: output.map(Into::into),
                },
            };
            QLayer::Residual(Box::new(QResidual {
                body,
                shortcut,
                sum,
            }))
        }
        LayerRecord::Concat { branches, join } => {
            let branches = branches.into_iter();
            let branches = branches.map(|branch| Ok(chain(branch, input, tensors, path)?.0));
            let branches = branches.collect::<Result<_>>()?;
            let join = match join {
                JoinRecord::Codes { inputs, output } => {
                    let inputs = inputs.into_iter().map(Into::into).collect();
                    Join::Codes(QConcat::new(inputs, output.into())?)
                }
                JoinRecord::Real { reason, output } => Join::Real {
                    reason,
                    output: output.map(Into::into),
                },
            };
            QLayer::Concat(Box::new(QBranches { branches, join }))
        }
    })
}

/// A tensor of codes as it was in the file.
fn table(raw: RawTensor, parameters: Parameters, codes: [i32; 2]) -> Result<QTensor> {
    let [min, max] = codes;
    let written = raw.bytes.iter().map(|byte| byte.cast_signed()).collect();
    QTensor::new(written, &raw.shape, parameters, CodeRange { min, max })
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
        let weight = table(weight, parameters, codes)?;
        Ok((weight, four_bytes(&bias.bytes, i32::from_le_bytes)))
    }

    /// The meaning of codes along axis 0, in groups or in rows.
    fn parameters(&mut self, group: Option<usize>) -> Result<Parameters> {
        let scale = self.tensor("scale", Dtype::F32)?;
        let scales = four_bytes(&scale.bytes, f32::from_le_bytes);
        let qparams = || scales.iter().copied().map(QParams::symmetric).collect();
        Ok(match (scale.shape.as_slice(), scales.as_slice(), group) {
            ([_], _, Some(size)) => Parameters::PerGroup {
                size,
                qparams: qparams(),
            },
            ([], &[scale], None) => Parameters::PerTensor(QParams::symmetric(scale)),
            ([_], _, None) => Parameters::PerChannel {
                axis: 0,
                qparams: qparams(),
            },
            (shape, ..) => {
                let got = format!("shape {shape:?}");
                return Err(self
                    .refused("scale", "one scale, or one for each output or group", got)
                    .into());
            }
        })
    }

    fn narrow(&mut self, record: WeightRecord) -> Result<NarrowWeight> {
        Ok(match record {
            WeightRecord::Dynamic { codes } => {
                let weight = self.tensor("weight", Dtype::I8)?;
                let parameters = self.parameters(None)?;
                NarrowWeight::Dynamic(table(weight, parameters, codes)?)
            }
            WeightRecord::Codes {
                codes: [min, max],
                shape,
                group,
            } => {
                let weight = self.tensor("weight", Dtype::U8)?;
                let parameters = self.parameters(group)?;
                let range = CodeRange { min, max };
                let packed = PackedTensor::new(weight.bytes, &shape, &parameters, range)?;
                NarrowWeight::Codes(packed)
            }
            WeightRecord::Bf16 => {
                let weight = self.tensor("weight", Dtype::BF16)?;
                let (pairs, _) = weight.bytes.as_chunks::<2>();
                NarrowWeight::Bf16 {
                    values: pairs
                        .iter()
                        .map(|&pair| bf16::from_le_bytes(pair))
                        .collect(),
                    shape: weight.shape,
                }
            }
        })
    }

    fn float(&mut self, record: FloatRecord) -> Result<Arc<dyn Layer>> {
        Ok(match record {
            FloatRecord::Linear => {
                Arc::new(Linear::from_parts(self.real("weight")?, self.bias()?)?)
            }
            FloatRecord::Embedding => Arc::new(Embedding::from_parts(self.real("weight")?)?),
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
