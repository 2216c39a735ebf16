//! What can be wrong with data that is to be quantized.
//!
//! One enum for the whole crate. A variant names the rule that was broken and carries what one needs to find the
//! value at fault: tensor, channel, index. Wrong *calls* (a slice of the wrong length handed to a kernel) panic
//! instead, and say so in their documentation.

use std::fmt;

use crate::framework;
use crate::scheme::QParams;

/// The result of everything here that depends on data.
pub type Result<T> = std::result::Result<T, Error>;

/// Which of the values that are not numbers was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinite {
    /// Not a number.
    NaN,
    /// `+∞`.
    PositiveInfinity,
    /// `−∞`.
    NegativeInfinity,
}

impl NonFinite {
    /// Classifies `value`; `None` if it is finite.
    #[must_use]
    pub fn of(value: f32) -> Option<Self> {
        if value.is_finite() {
            None
        } else if value.is_nan() {
            Some(Self::NaN)
        } else if value > 0.0 {
            Some(Self::PositiveInfinity)
        } else {
            Some(Self::NegativeInfinity)
        }
    }
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NaN => "NaN",
            Self::PositiveInfinity => "infinity",
            Self::NegativeInfinity => "-infinity",
        })
    }
}

/// Where a value sits: in which tensor and channel, at which place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The name of the tensor, if it has one: `conv3.weight`.
    pub tensor: Option<String>,
    /// The channel, if the values were looked at per channel.
    pub channel: Option<usize>,
    /// Position in the whole tensor, counted in row-major order.
    pub index: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index {}", self.index)?;
        if let Some(channel) = self.channel {
            write!(f, ", channel {channel}")?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, ", of `{tensor}`")?;
        }
        Ok(())
    }
}

/// A rule of the numerics contract, or of an operation, that the data breaks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// N5: a NaN or an infinity has no code.
    #[error("{value} at {place} cannot be quantized")]
    NotFinite {
        /// What was met.
        value: NonFinite,
        /// Where.
        place: Place,
    },
    /// The largest magnitude must be a finite number that is not negative.
    #[error("the largest magnitude must be finite and at least 0, got {max_abs}")]
    BadMagnitude {
        /// The value that was given.
        max_abs: f32,
    },
    /// A range needs finite ends in order, and a width that is itself finite.
    #[error("a range needs finite ends, in order, and a finite width, got [{min}, {max}]")]
    BadRange {
        /// Lower end.
        min: f32,
        /// Upper end.
        max: f32,
    },
    /// A code range must hold 0, have at least two codes, and fit where it is to be stored.
    #[error("the codes {min}..={max} {why}")]
    BadCodeRange {
        /// Smallest code.
        min: i32,
        /// Largest code.
        max: i32,
        /// What is wrong with them.
        why: &'static str,
    },
    /// N1: a scale must be finite and above zero, a zero point must be one of the codes.
    #[error("scale {scale} and zero point {zero_point}: {why}")]
    BadQParams {
        /// The scale that was given.
        scale: f32,
        /// The zero point that was given.
        zero_point: i32,
        /// What is wrong with them.
        why: &'static str,
    },
    /// N12: the factor of requantization must be a finite number.
    #[error(
        "the multiplier of output channel {channel} is not finite: {input_scale} · {weight_scale} / {output_scale}"
    )]
    BadMultiplier {
        /// Output channel.
        channel: usize,
        /// Scale of the input.
        input_scale: f32,
        /// Scale of this channel's weights.
        weight_scale: f32,
        /// Scale of the output.
        output_scale: f32,
    },
    /// N19: codes cannot be rescaled by a factor whose products leave `f32`.
    #[error("codes in steps of {input_scale:e} cannot be written in steps of {output_scale:e}")]
    BadRescale {
        /// Scale of the codes that come.
        input_scale: f32,
        /// Scale of the codes that are to be written.
        output_scale: f32,
    },
    /// A layer takes codes, and what comes are real values for which no codes were chosen.
    #[error("it takes codes, but real values come, and nobody chose what codes they shall have")]
    NoCodes,
    /// The values shown are not what the stage computed last, so those inside it are not known.
    #[error("`{stage}` was shown an output that is not that of its last forward pass")]
    NotItsOutput {
        /// The dotted name of the stage.
        stage: String,
    },
    /// N10, N11: the bias, in units of `s_x · s_w`, does not fit the accumulator.
    #[error("bias {bias} of output channel {channel} does not fit 32 bits in steps of {scale:e}")]
    BiasOverflow {
        /// Output channel.
        channel: usize,
        /// The bias in real numbers.
        bias: f32,
        /// Its step, the product of the input's and the weights' scale.
        scale: f32,
    },
    /// N11: so many products cannot be summed in an `i32`.
    #[error(
        "{k} products may overflow an i32 accumulator; the limit is {limit}: a layer of a model can stay in `f32` (`keep_float`) or keep its weights alone as codes (`WeightOnly`)"
    )]
    TooManyProducts {
        /// Products per output.
        k: usize,
        /// The most that are safe.
        limit: usize,
    },
    /// Loss scaling grows a scale of at least 1 by a factor above 1, and lowers it by one below 1.
    #[error("{what} of loss scaling must be {rule}, got {value}")]
    BadLossScaler {
        /// Which number.
        what: &'static str,
        /// What it must be.
        rule: &'static str,
        /// What it is.
        value: f32,
    },
    /// A percentile lies in `(0, 100]`.
    #[error("a percentile must be above 0 and at most 100, got {percentile}")]
    BadPercentile {
        /// The value that was given.
        percentile: f64,
    },
    /// The averaging constant of a moving average lies in `(0, 1]`.
    #[error("an averaging constant must be above 0 and at most 1, got {constant}")]
    BadAveragingConstant {
        /// The value that was given.
        constant: f32,
    },
    /// An observer that saw no value knows no range.
    #[error("{}nothing was observed, so there is no range: let data pass first (`calibrate`, or training if it is quantization-aware)", .tensor.as_ref().map(|name| format!("`{name}`: ")).unwrap_or_default())]
    NothingObserved {
        /// What was being observed, if it has a name.
        tensor: Option<String>,
    },
    /// Calibration without data would leave every range unknown.
    #[error("the calibration set is empty: no batch with at least one value was given")]
    EmptyCalibration,
    /// There is no such axis.
    #[error("axis {axis} does not exist in a tensor of {dimensions} dimensions")]
    AxisOutOfRange {
        /// The axis that was asked for.
        axis: usize,
        /// How many there are.
        dimensions: usize,
    },
    /// Per channel means one pair of parameters for every channel.
    #[error("{channels} channels along axis {axis} need as many parameters, got {got}")]
    ParameterCount {
        /// The axis of the channels.
        axis: usize,
        /// Its length.
        channels: usize,
        /// How many parameters were given.
        got: usize,
    },
    /// N15: per group means one pair of parameters for every group.
    #[error("{groups} groups of {size} values need as many parameters, got {got}")]
    GroupCount {
        /// Values in a group.
        size: usize,
        /// How many groups the shape has.
        groups: usize,
        /// How many parameters were given.
        got: usize,
    },
    /// N15: a group holds at least one value.
    #[error("a group needs at least one value")]
    BadGroupSize,
    /// Shapes that do not fit the operation.
    #[error("shape mismatch in {operation}: expected {expected}, got {got:?}")]
    ShapeMismatch {
        /// The operation.
        operation: &'static str,
        /// What it needs, in words or as a shape.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// A code that is not one of those allowed.
    #[error("the code at index {index} is not in {min}..={max}")]
    CodeOutOfRange {
        /// Position in row-major order.
        index: usize,
        /// Smallest code allowed.
        min: i32,
        /// Largest code allowed.
        max: i32,
    },
    /// Codes came whose parameters are not those the layer was made for.
    #[error("the layer expects codes with {expected:?}, got {got:?}")]
    OtherQParams {
        /// What the layer was made for.
        expected: QParams,
        /// What came; `None` if every channel has its own.
        got: Option<QParams>,
    },
    /// N11: the largest sum that these weights and this bias can give does not fit an `i32`.
    #[error("weights and bias of output channel {channel} may overflow an i32 accumulator")]
    AccumulatorOverflow {
        /// Output channel.
        channel: usize,
    },
    /// A layer of a model from a file would make far more values than its weights and the input account for: by padding, or by joining a
    /// value with itself.
    #[error(
        "{what} would hold {values} values, and models with as many weights make at most {limit} of such an input: nobody trained this, use a file from a source you trust"
    )]
    TooLarge {
        /// Which values.
        what: &'static str,
        /// How many there would be; no more than a `usize` can count.
        values: usize,
        /// How many may be.
        limit: usize,
    },
    /// A layer of a model failed.
    #[error("in layer `{name}`: {error}")]
    Layer {
        /// The dotted name of the layer.
        name: String,
        /// What went wrong in it.
        error: Box<Error>,
    },
    /// A moving average over more batches than a sketch remembers, with a constant so small that the others would count.
    #[error(
        "a moving average with the constant {constant} gives batches older than the last 1024 a weight of {weight:.2}, and they are not remembered: take 0.0068 or more, fewer batches, or another method"
    )]
    ForgottenBatches {
        /// The averaging constant.
        constant: f32,
        /// What all forgotten batches together would weigh.
        weight: f64,
    },
    /// Full coverage was required, and a layer would stay in `f32`.
    #[error("layer `{name}` would stay in f32: {rule}")]
    LeftInFloat {
        /// Its dotted name.
        name: String,
        /// The rule that decided it.
        rule: String,
    },
    /// There is no layer of this name.
    #[error(
        "the model has no layer `{name}`: names are dotted, as `block.0`, and the ledger of the prepared model lists them"
    )]
    NoSuchLayer {
        /// The name that was given.
        name: String,
    },
    /// Two layers of one name cannot be told apart: not by options, not in what was observed, not in a file.
    #[error("two layers are called `{name}`: give one of them another name")]
    SameName {
        /// The dotted name of both.
        name: String,
    },
    /// The framework below refused.
    #[error(transparent)]
    Framework(framework::Error),
    /// A quantized model cannot be saved or loaded.
    #[error(transparent)]
    File(#[from] crate::file::FileError),
    /// The kernel that the environment asks for cannot be used.
    #[error("{0}")]
    Kernel(String),
    /// Something that has a meaning, but no implementation here.
    #[error("{what}: not supported")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// Counts that make no histogram.
    #[error("these counts make no histogram: {why}")]
    BadHistogram {
        /// What is wrong with them.
        why: &'static str,
    },
    /// Entropy calibration compares more bins with fewer levels.
    #[error("{levels} levels need a histogram of at least as many bins, got {bins}")]
    TooManyLevels {
        /// Levels asked for.
        levels: usize,
        /// Bins there are.
        bins: usize,
    },
}

impl Error {
    /// Names the tensor in an error that does not name one yet.
    #[must_use]
    pub fn in_tensor(mut self, name: &str) -> Self {
        match &mut self {
            Self::NotFinite { place, .. } => {
                place.tensor.get_or_insert_with(|| name.to_owned());
            }
            Self::NothingObserved { tensor } => {
                tensor.get_or_insert_with(|| name.to_owned());
            }
            Self::BadRange { .. } | Self::ForgottenBatches { .. } => return self.in_layer(name),
            _ => {}
        }
        self
    }

    /// Names the channel of a value that is not finite in an activation of this shape.
    pub(crate) fn in_activation(mut self, shape: &[usize]) -> Self {
        // In rows and in images channels lie behind the batch; in other shapes nobody can say.
        let (channels, each) = match *shape {
            [_, channels] => (channels, 1),
            [_, channels, height, width] => (channels, height * width),
            _ => return self,
        };
        if let Self::NotFinite { place, .. } = &mut self {
            let channel = (place.index / each.max(1)) % channels.max(1);
            place.channel.get_or_insert(channel);
        }
        self
    }

    /// The error as one of the framework, for layers, whose forward pass has its errors. It keeps its type: on the way back it is
    /// what it was.
    #[must_use]
    pub fn into_framework(self) -> framework::Error {
        match self {
            Self::Framework(error) => error,
            error => framework::ForeignError::new(error).into(),
        }
    }

    /// Says in which layer of a model the error arose, if what is at fault has no name, or one within the layer, as `weight` has.
    /// A value without a name is one of the layer's output.
    pub(crate) fn inside(mut self, layer: &str) -> Self {
        let tensor = match &mut self {
            Self::NotFinite { place, .. } => &mut place.tensor,
            Self::NothingObserved { tensor } => tensor,
            _ => return self.in_layer(layer),
        };
        *tensor = Some(match tensor.take() {
            Some(own) => format!("{layer}.{own}"),
            None => layer.to_owned(),
        });
        self
    }

    /// Says in which layer of a model the error arose; a layer inside of it that was named already stays.
    #[must_use]
    pub fn in_layer(self, name: &str) -> Self {
        if matches!(self, Self::Layer { .. }) {
            return self;
        }
        Self::Layer {
            name: name.to_owned(),
            error: Box::new(self),
        }
    }

    /// N5 for one value: an error if it is not finite.
    pub(crate) fn not_finite(value: f32, index: usize, channel: Option<usize>) -> Option<Self> {
        NonFinite::of(value).map(|value| Self::NotFinite {
            value,
            place: Place {
                tensor: None,
                channel,
                index,
            },
        })
    }
}

/// An error of this crate that came through the framework is what it was.
impl From<framework::Error> for Error {
    fn from(error: framework::Error) -> Self {
        let own = match &error {
            framework::Error::Foreign(foreign) => foreign.downcast_ref::<Self>().cloned(),
            _ => None,
        };
        own.unwrap_or(Self::Framework(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_value_index_channel_and_tensor() {
        let error = Error::not_finite(f32::NAN, 4211, Some(17)).expect("NaN is not finite");
        assert_eq!(
            error.in_tensor("conv3.weight").to_string(),
            "NaN at index 4211, channel 17, of `conv3.weight` cannot be quantized"
        );
    }

    #[test]
    fn an_inner_name_is_kept() {
        let error = Error::NothingObserved { tensor: None };
        let named = error.in_tensor("inner").in_tensor("outer");
        let message = named.to_string();
        assert!(
            message.starts_with("`inner`: nothing was observed"),
            "{message}"
        );
    }

    #[test]
    fn an_error_is_the_same_on_the_other_side_of_the_framework() {
        // A layer's error arrived as text inside an error of the framework, without type, tensor or index.
        for error in [
            Error::not_finite(f32::NAN, 17, None)
                .expect("NaN is not finite")
                .in_tensor("input"),
            Error::BadGroupSize.in_layer("conv1"),
            Error::Framework(framework::Error::NothingToDifferentiate),
        ] {
            let through = error.clone().into_framework();
            assert_eq!(through.to_string(), error.to_string());
            assert_eq!(Error::from(through), error);
        }
    }

    #[test]
    fn finite_values_are_no_error() {
        assert_eq!(Error::not_finite(f32::MAX, 0, None), None);
        assert_eq!(
            NonFinite::of(f32::NEG_INFINITY),
            Some(NonFinite::NegativeInfinity)
        );
    }
}
