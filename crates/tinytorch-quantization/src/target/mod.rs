//! Whether a deployment target takes a model: a list of findings instead of a surprise after the export.
//!
//! In: a quantized model and a [`Profile`]. Out: for each rule that does not hold, the layer and the tensor, what was found, why the target
//! minds, and how to repair it. The model is not changed. What a profile says and from where is in `docs/targets.md`.
//!
//! ```
//! use rand::SeedableRng;
//! use tinytorch_core::Tensor;
//! use tinytorch_core::nn::{Linear, Sequential};
//! use tinytorch_quantization::{PrepareOptions, calibrate, check_target, convert, prepare, target};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new().with_named("fc", Linear::new(16, 8, rng));
//! let mut prepared = prepare(&model, &PrepareOptions::default())?;
//! calibrate(&mut prepared, [Tensor::randn(&[32, 16], rng)])?;
//! let quantized = convert(&prepared)?;
//!
//! for finding in check_target(&quantized, &target::TENSORRT)? {
//!     println!("{finding}");
//! }
//! // fc: output: zero point 3, ... Non-zero zero point is not supported ...
//! assert!(check_target(&quantized, &target::TENSORRT)?.iter().any(|finding| finding.layer == "fc"));
//! assert!(check_target(&quantized, &target::LITERT_CPU)?.iter().all(|finding| !finding.is_refused()));
//! # Ok(())
//! # }
//! ```

mod facts;
mod profiles;

pub use profiles::{
    CORE_ML, EDGE_TPU, JETSON_DLA, LITERT_CPU, LLAMA_CPP, ONNX_RUNTIME_X86, PROFILES, TENSORRT,
};

use std::fmt;

use serde::Serialize;

use crate::error::Result;
use crate::qmodel::QModel;
use crate::scheme::Granularity;
use facts::{Fact, Mode};

/// What a target accepts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Its short name: `tensorrt`.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// What a model must keep to.
    pub rules: &'static [Rule],
}

/// A rule of a target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// What is limited.
    pub limit: Limit,
    /// What happens otherwise.
    pub severity: Severity,
    /// Why.
    pub why: &'static str,
    /// How to keep to it.
    pub repair: &'static str,
}

/// What a target limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Limit {
    /// Activations have zero point 0.
    SymmetricActivations,
    /// Activations that are `i8` cost time.
    SignedActivations,
    /// Weights of 8 bits leave -128 unused.
    NarrowCodes,
    /// Two neighbouring products of a `u8` with a weight fit 16 bits.
    PairsFitI16,
    /// Weights of static layers have one of these numbers of bits.
    StaticWeightBits(&'static [u32]),
    /// Static layers do not exist.
    StaticLayers,
    /// Linear layers have one scale for all outputs.
    LinearPerChannel,
    /// Dynamic layers do not exist.
    DynamicLayers,
    /// Layers in `f32` or bf16 do not exist.
    FloatLayers,
    /// Weights that are stored as codes and computed with as real values.
    WeightOnly {
        /// How many bits they may have.
        bits: &'static [u32],
        /// How long groups may be; `None` for any length.
        groups: Option<&'static [usize]>,
        /// Whether one scale for each row, or for all, is possible.
        per_channel: bool,
    },
    /// Rows of weights have a multiple of so many values.
    RowMultipleOf(usize),
    /// Weights with fewer values stay as they are.
    SmallWeights(usize),
    /// All parameters together take at most so many bytes.
    CacheBytes(usize),
}

/// What happens if a rule does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It works; worth knowing.
    Note,
    /// It works, slowly or somewhere else.
    Slower,
    /// It is refused, or computes something else.
    Refused,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Slower => "slower",
            Self::Refused => "refused",
        })
    }
}

/// A rule that does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the target.
    pub target: &'static str,
    /// The dotted name of the layer, `input` for the model's input, or `model`.
    pub layer: String,
    /// Which tensor of it: `weight`, `output`, or the kind of the layer itself.
    pub tensor: &'static str,
    /// The limit it is beyond.
    pub limit: Limit,
    /// What was found, in numbers.
    pub found: String,
    /// What happens on the target.
    pub severity: Severity,
    /// Why.
    pub why: &'static str,
    /// How to repair it.
    pub repair: &'static str,
}

impl Finding {
    /// Whether the target refuses the model for it, or computes something else.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.severity == Severity::Refused
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            target,
            layer,
            tensor,
            found,
            severity,
            why,
            repair,
            ..
        } = self;
        write!(
            f,
            "{target}: {severity}: {layer}: {tensor}: {found}: {why}; {repair}"
        )
    }
}

/// The profile of this name, if there is one.
#[must_use]
pub fn profile(name: &str) -> Option<&'static Profile> {
    const KNOWN: &[Profile] = &PROFILES;
    KNOWN.iter().find(|profile| profile.name == name)
}

/// Compares a model with what a target accepts. Nothing found: the target takes it as it is.
///
/// Findings come rule by rule, and for each rule in the order of computation.
///
/// # Errors
///
/// None for a model that was made.
pub fn check_target(model: &QModel, profile: &Profile) -> Result<Vec<Finding>> {
    let facts = facts::read(model)?;
    let mut findings = Vec::new();
    for rule in profile.rules {
        let mut note = |layer: &str, tensor, found| {
            findings.push(Finding {
                target: profile.name,
                layer: layer.to_owned(),
                tensor,
                limit: rule.limit,
                found,
                severity: rule.severity,
                why: rule.why,
                repair: rule.repair,
            });
        };
        match rule.limit {
            Limit::CacheBytes(most) => {
                let bytes = model.memory_bytes();
                if bytes > most {
                    note("model", "parameters", format!("{bytes} of {most} bytes"));
                }
            }
            Limit::SignedActivations => {
                let count = facts.iter().filter(|fact| fact.output.is_some()).count();
                if count > 0 {
                    note(
                        "model",
                        "activations",
                        format!("{count} tensors of i8 codes"),
                    );
                }
            }
            limit => {
                for fact in &facts {
                    if let Some((tensor, found)) = beyond(fact, limit) {
                        note(&fact.name, tensor, found);
                    }
                }
            }
        }
    }
    Ok(findings)
}

/// Which tensor of a layer is beyond the limit, and how.
fn beyond(fact: &Fact, limit: Limit) -> Option<(&'static str, String)> {
    let weight = fact.weight.as_ref();
    let is_static = fact.mode == Mode::Static;
    match limit {
        Limit::SymmetricActivations => {
            let zero_point = fact.output?.zero_point;
            (zero_point != 0).then(|| ("output", format!("zero point {zero_point}")))
        }
        Limit::NarrowCodes => {
            // The codes of a table are the activations behind it.
            let weight = weight.filter(|_| fact.kind != "embedding")?;
            (weight.lowest < -127).then(|| ("weight", "code -128 occurs".to_owned()))
        }
        Limit::PairsFitI16 => {
            let (row, sum) = weight
                .filter(|_| is_static || fact.mode == Mode::Dynamic)?
                .pairs?;
            let is_product = fact.kind != "embedding";
            is_product.then(|| {
                (
                    "weight",
                    format!("two products of row {row} may reach {sum}"),
                )
            })
        }
        Limit::StaticWeightBits(allowed) => {
            let bits = weight.filter(|_| is_static)?.bits;
            (!allowed.contains(&bits)).then(|| ("weight", format!("{bits} bits")))
        }
        Limit::StaticLayers => {
            is_static.then(|| (fact.kind, "computes with static codes".to_owned()))
        }
        Limit::LinearPerChannel => {
            let is_row = weight?.granularity != Granularity::PerTensor;
            (is_static && fact.kind == "linear" && is_row)
                .then(|| ("weight", "a scale for each output".to_owned()))
        }
        Limit::DynamicLayers => (fact.mode == Mode::Dynamic)
            .then(|| (fact.kind, "ranges are found at run time".to_owned())),
        Limit::FloatLayers => match fact.mode {
            Mode::Float => Some((fact.kind, "computes in f32".to_owned())),
            Mode::Bf16 => Some((fact.kind, "computes in bf16".to_owned())),
            _ => None,
        },
        Limit::WeightOnly {
            bits,
            groups,
            per_channel,
        } => {
            let weight = weight.filter(|_| fact.mode == Mode::WeightOnly)?;
            let group = match weight.granularity {
                Granularity::PerGroup { size } => Some(size),
                Granularity::PerTensor | Granularity::PerChannel { .. } => None,
            };
            let fits = match group {
                Some(size) => groups.is_none_or(|sizes| sizes.contains(&size)),
                None => per_channel,
            };
            let grouped = group.map_or_else(
                || "without groups".to_owned(),
                |size| format!("in groups of {size}"),
            );
            (!fits || !bits.contains(&weight.bits)).then(|| {
                (
                    "weight",
                    format!("weights alone, {} bits {grouped}", weight.bits),
                )
            })
        }
        Limit::RowMultipleOf(count) => {
            let row = weight?.row;
            (!row.is_multiple_of(count)).then(|| ("weight", format!("rows of {row}")))
        }
        Limit::SmallWeights(least) => {
            let elements = weight?.elements;
            (elements < least).then(|| ("weight", format!("{elements} values")))
        }
        // Of the whole model.
        Limit::CacheBytes(_) | Limit::SignedActivations => None,
    }
}
