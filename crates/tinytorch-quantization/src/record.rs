//! What a file says about a quantized model, beside its tensors: the words of the format.
//!
//! Version 3 added sums, concatenations and embeddings, and real values that nobody reads as codes. All that version 2
//! says is said the same way in version 3, so both are read.

use serde::{Deserialize, Serialize};

use crate::framework::{Conv2dOptions, Pool2dOptions};
use crate::scheme::QParams;

/// The version of the format that this library writes.
pub(crate) const VERSION: u32 = 3;

/// The oldest version that it reads.
pub(crate) const OLDEST: u32 = 2;

/// The layers of a model or of a way, by dotted name.
pub(crate) type ChainRecord = Vec<(String, LayerRecord)>;

/// The part of every description that never changes.
#[derive(Deserialize)]
pub(crate) struct Version {
    pub version: u32,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Description {
    pub version: u32,
    pub input: Pair,
    pub layers: ChainRecord,
}

/// [`QParams`] whose scale is kept bit for bit, which decimal digits need not do.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Pair {
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
pub(crate) enum LayerRecord {
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
        /// None where the values stay real; version 2 always has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Pair>,
        layer: FloatRecord,
    },
    Residual {
        body: ChainRecord,
        shortcut: ChainRecord,
        sum: SumRecord,
    },
    Concat {
        branches: Vec<ChainRecord>,
        join: JoinRecord,
    },
    Embedding {
        output: Pair,
        codes: [i32; 2],
    },
}

/// Where two ways are added. What their codes mean is known from the ways, unless these end in real values.
#[derive(Serialize, Deserialize)]
#[serde(tag = "on", rename_all = "snake_case")]
pub(crate) enum SumRecord {
    Codes {
        inputs: [Pair; 2],
        output: Pair,
        relu: bool,
    },
    Real {
        reason: String,
        output: Option<Pair>,
    },
}

/// Where ways are joined.
#[derive(Serialize, Deserialize)]
#[serde(tag = "on", rename_all = "snake_case")]
pub(crate) enum JoinRecord {
    Codes {
        inputs: Vec<Pair>,
        output: Pair,
    },
    Real {
        reason: String,
        output: Option<Pair>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum FloatRecord {
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
pub(crate) struct ConvRecord {
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
pub(crate) struct PoolRecord {
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
