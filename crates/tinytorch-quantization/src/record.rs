//! What a file says about a quantized model, beside its tensors: the words of the format.
//!
//! Version 3 added sums, concatenations and embeddings, and real values that nobody reads as codes. All that version 2
//! says is said the same way in version 3, so both are read.

use serde::{Deserialize, Serialize};

use crate::framework::{Conv2dOptions, Pool2dOptions};
use crate::ledger::{Fate, Ledger, LedgerEntry};
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerRecord>,
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
    Narrow {
        operation: NarrowRecord,
        weight: WeightRecord,
        relu: bool,
        output: Option<Pair>,
    },
}

/// A [`Ledger`], each rule written once: in a small model it is a good part of the file.
#[derive(Serialize, Deserialize)]
pub(crate) struct LedgerRecord {
    rules: Vec<String>,
    /// Name, kind, fate (its place in [`FATES`]), and which rule.
    entries: Vec<(String, String, u8, usize)>,
}

const FATES: [Fate; 4] = [
    Fate::Quantized,
    Fate::Folded,
    Fate::Float,
    Fate::PassesReals,
];

impl From<&Ledger> for LedgerRecord {
    fn from(ledger: &Ledger) -> Self {
        let (mut rules, mut entries) = (Vec::new(), Vec::new());
        for entry in &ledger.entries {
            let known = rules.iter().position(|rule| *rule == entry.rule);
            let rule = known.unwrap_or_else(|| {
                rules.push(entry.rule.clone());
                rules.len() - 1
            });
            let fate = match entry.fate {
                Fate::Quantized => 0,
                Fate::Folded => 1,
                Fate::Float => 2,
                Fate::PassesReals => 3,
            };
            entries.push((entry.name.clone(), entry.kind.clone(), fate, rule));
        }
        Self { rules, entries }
    }
}

impl LedgerRecord {
    /// The ledger; `None` if an entry names a fate or a rule that there is not.
    pub fn read(self) -> Option<Ledger> {
        let Self { rules, entries } = self;
        let entry = |(name, kind, fate, rule): (String, String, u8, usize)| {
            Some(LedgerEntry {
                name,
                kind,
                fate: *FATES.get(usize::from(fate))?,
                rule: rules.get(rule)?.clone(),
            })
        };
        let entries = entries.into_iter().map(entry).collect::<Option<_>>()?;
        Some(Ledger { entries })
    }
}

/// What a layer with narrow weights computes.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum NarrowRecord {
    Linear,
    Conv2d(ConvRecord),
    Embedding,
}

/// How narrow weights are written: with the tensor's bytes and its scales, all there is to know.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum WeightRecord {
    Dynamic {
        codes: [i32; 2],
    },
    /// Packed as the range of the codes says, so the tensor has one axis and the shape stands here.
    Codes {
        codes: [i32; 2],
        shape: Vec<usize>,
        group: Option<usize>,
    },
    Bf16,
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
    Embedding,
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

/// The sides of a window, its steps, or its padding: what layers compute from them must not overflow.
fn sides<'de, D: serde::Deserializer<'de>>(source: D) -> Result<[usize; 2], D::Error> {
    const LIMIT: usize = u16::MAX as usize;
    let sides = <[usize; 2]>::deserialize(source)?;
    if sides.iter().any(|&side| side > LIMIT) {
        let reason = format!("a window of {sides:?}, where at most {LIMIT} is allowed");
        return Err(serde::de::Error::custom(reason));
    }
    Ok(sides)
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ConvRecord {
    #[serde(deserialize_with = "sides")]
    stride: [usize; 2],
    #[serde(deserialize_with = "sides")]
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
    #[serde(deserialize_with = "sides")]
    kernel: [usize; 2],
    #[serde(deserialize_with = "sides")]
    stride: [usize; 2],
    #[serde(deserialize_with = "sides")]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A padding of 2^63 was once loaded, and twice that is 0.
    #[test]
    fn windows_that_overflow_are_refused() {
        let pool = |padding: u64| {
            let record = format!(r#"{{"kernel":[2,2],"stride":[2,2],"padding":[{padding},0]}}"#);
            serde_json::from_str::<PoolRecord>(&record)
        };
        assert!(pool(65_535).is_ok());
        for padding in [65_536, 1 << 63] {
            let error = pool(padding).err().expect("too large");
            assert!(error.to_string().contains("at most 65535"), "{error}");
        }
    }
}
