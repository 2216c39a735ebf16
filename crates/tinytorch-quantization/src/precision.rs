//! In which numbers a layer computes, as data: one for the model, others for layers by name.
//!
//! ```text
//!               weights        activations               needs calibration
//! Static        2 to 8 bits    8 bits, ranges known      yes
//! Dynamic       2 to 8 bits    8 bits, found per call    no
//! WeightOnly    2 to 8 bits    f32                       no
//! Bf16          bf16           bf16, sums in f32         no
//! Float         f32            f32                       no
//! ```

use crate::scheme::{Granularity, Scheme};

/// In which numbers a layer with weights computes.
///
/// Layers without weights (pooling, ReLU, flattening) take what comes, except that [`Precision::Float`] under their own name
/// keeps them on real values. A sum or a concatenation is made on codes if it is `Static` and at least one of its ways gives
/// codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// Codes in, codes out; the ranges come from calibration.
    ///
    /// An embedding is a table of such codes: 8 bits, and one scale for all rows, so that one row of large values makes all
    /// others coarse. Fewer bits, or groups, are kept as [`Precision::WeightOnly`] keeps them, with one scale a row or group, and
    /// become codes when they are looked up.
    Static {
        /// How weights are written; `None` for [`PrepareOptions::weights`](crate::PrepareOptions::weights).
        weights: Option<Scheme>,
    },
    /// Codes for the weights, as [`PrepareOptions::weights`](crate::PrepareOptions::weights) says; the inputs become codes when
    /// they come, with one range for each row (of a linear layer) or image. Real values in, real values out.
    Dynamic,
    /// Codes for the weights alone. Real values in, real values out.
    ///
    /// A choice for bytes: linear layers of one row are faster than in `f32`, others are not, and a convolution makes its weights real for every call,
    /// which costs most where it has a single image to compute. `docs/benchmarks.md` has the ratios; [`Precision::Dynamic`] and
    /// [`Precision::Static`] are those that are fast.
    WeightOnly {
        /// 2 to 8; up to 4 are packed two to a byte.
        bits: u32,
        /// How many neighbours of a row share a scale; `None` for one scale a row.
        group: Option<usize>,
    },
    /// Weights and inputs rounded to bf16, sums in `f32`. Real values in, real values out.
    ///
    /// Half the bytes of `f32`. Linear layers of many rows may be faster where the CPU has the instruction; convolutions are slower than in `f32`, for
    /// writing out the windows takes more than the product gains. `docs/benchmarks.md` has the ratios.
    Bf16,
    /// As it was trained.
    Float,
}

impl Precision {
    /// Static, with weights of the options.
    pub const STATIC: Self = Self::Static { weights: None };

    /// Static, with weights of so many bits, one scale for each output channel.
    ///
    /// # Panics
    ///
    /// If `bits` is not in `2..=8`.
    #[must_use]
    #[track_caller]
    pub const fn static_bits(bits: u32) -> Self {
        Self::Static {
            weights: Some(Scheme::weights(bits)),
        }
    }

    /// Weights of 8 bits, one scale a row.
    pub const WEIGHT_ONLY_INT8: Self = Self::WeightOnly {
        bits: 8,
        group: None,
    };

    /// Weights of 4 bits in groups of 32.
    pub const WEIGHT_ONLY_INT4: Self = Self::WeightOnly {
        bits: 4,
        group: Some(32),
    };

    /// How weights are written that are not static, if they are codes.
    pub(crate) fn scheme(self, options: Scheme) -> Option<Scheme> {
        match self {
            Self::Static { weights } => Some(weights.unwrap_or(options)),
            Self::Dynamic => Some(options),
            Self::WeightOnly { bits, group } => {
                let granularity = match group {
                    Some(size) => Granularity::PerGroup { size },
                    None => Granularity::PerChannel { axis: 0 },
                };
                // Bits outside of 2..=8 are refused where the options are read.
                let codes = crate::scheme::CodeRange::narrow(bits.clamp(2, 8));
                Some(Scheme {
                    granularity,
                    codes,
                    ..Scheme::WEIGHTS
                })
            }
            Self::Bf16 | Self::Float => None,
        }
    }
}

impl Default for Precision {
    fn default() -> Self {
        Self::STATIC
    }
}
