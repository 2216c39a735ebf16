//! The words of quantization: what may be asked for, and what comes out.
//!
//! In: nothing. Out: the small types that every other file here speaks in. A [`Scheme`] says what is wanted, a
//! [`ValueRange`] what was seen, [`QParams`] how a real number becomes a code, and a [`CodeRange`] which codes
//! there are.

use crate::error::{Error, Result};

pub use crate::kernels::Dims;

/// The integers that may be used as codes: `min..=max`, both included.
///
/// A range is a value and not a type parameter, so the same functions serve 2 to 8 bits, signed and unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeRange {
    /// Smallest code.
    pub min: i32,
    /// Largest code.
    pub max: i32,
}

#[allow(
    clippy::len_without_is_empty,
    reason = "a code range that passes `check` is never empty"
)]
impl CodeRange {
    /// All values of an `i8`: the codes of activations (N9).
    pub const INT8: Self = Self {
        min: -128,
        max: 127,
    };
    /// `-127..=127`: the codes of weights (N8), symmetric around zero.
    pub const INT8_NARROW: Self = Self {
        min: -127,
        max: 127,
    };
    /// All values of a `u8`, as ONNX and the VNNI instructions like their activations.
    pub const UINT8: Self = Self { min: 0, max: 255 };
    /// All values of four bits, `-8..=7`.
    pub const INT4: Self = Self { min: -8, max: 7 };
    /// `-7..=7`: the codes of weights in four bits, symmetric around zero.
    pub const INT4_NARROW: Self = Self { min: -7, max: 7 };
    /// All values of four bits without a sign, `0..=15`.
    pub const UINT4: Self = Self { min: 0, max: 15 };

    /// All values of a signed integer of `bits` bits: `signed(4)` is `-8..=7`.
    ///
    /// # Panics
    ///
    /// If `bits` is not in `2..=16`.
    #[must_use]
    #[track_caller]
    pub const fn signed(bits: u32) -> Self {
        assert!(2 <= bits && bits <= 16, "a code has 2 to 16 bits");
        let half = 1 << (bits - 1);
        Self {
            min: -half,
            max: half - 1,
        }
    }

    /// As [`CodeRange::signed`] without the lowest code: `narrow(4)` is `-7..=7`.
    ///
    /// # Panics
    ///
    /// If `bits` is not in `2..=16`.
    #[must_use]
    #[track_caller]
    pub const fn narrow(bits: u32) -> Self {
        let Self { min, max } = Self::signed(bits);
        Self { min: min + 1, max }
    }

    /// All values of an unsigned integer of `bits` bits: `unsigned(4)` is `0..=15`.
    ///
    /// # Panics
    ///
    /// If `bits` is not in `2..=16`.
    #[must_use]
    #[track_caller]
    pub const fn unsigned(bits: u32) -> Self {
        assert!(2 <= bits && bits <= 16, "a code has 2 to 16 bits");
        Self {
            min: 0,
            max: (1 << bits) - 1,
        }
    }

    /// The fewest bits that tell these codes apart: 8 for [`CodeRange::INT8_NARROW`], 4 for `-7..=7`.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self.len() {
            0..=2 => 1,
            codes => (codes - 1).ilog2() + 1,
        }
    }

    /// How many codes there are: 256 for [`CodeRange::INT8`].
    #[must_use]
    pub const fn len(self) -> usize {
        if self.max < self.min {
            0
        } else {
            self.max.abs_diff(self.min) as usize + 1
        }
    }

    /// Whether `code` is one of these.
    #[must_use]
    pub const fn contains(self, code: i32) -> bool {
        self.min <= code && code <= self.max
    }

    /// The code that differs from an integer by a multiple of [`len`](Self::len): what a cast to a narrow integer gives that keeps the
    /// lowest bits. In `-8..=7`, 8 becomes −8 and −9 becomes 7.
    ///
    /// ONNX's operator Cast does this, after it has dropped what is behind the point. It is no way to write a real number: for
    /// that codes saturate (N5).
    ///
    /// # Panics
    ///
    /// If there are no codes.
    #[must_use]
    #[track_caller]
    pub const fn wrap(self, value: i64) -> i32 {
        assert!(self.min <= self.max, "there are no codes");
        let count = self.len() as i128;
        ((value as i128 - self.min as i128).rem_euclid(count) + self.min as i128) as i32
    }

    /// Checks that the range can serve: it holds 0, has a code above 0, and stays within 16 bits.
    ///
    /// # Errors
    ///
    /// [`Error::BadCodeRange`].
    pub fn check(self) -> Result<()> {
        let why = if !self.contains(0) {
            "do not hold 0"
        } else if self.max < 1 {
            "have nothing above 0"
        } else if self.min < -32_768 || self.max > 65_535 {
            "have more than 16 bits"
        } else {
            return Ok(());
        };
        Err(Error::BadCodeRange {
            min: self.min,
            max: self.max,
            why,
        })
    }

    /// As [`CodeRange::check`], and every code must fit an `i8`.
    ///
    /// # Errors
    ///
    /// [`Error::BadCodeRange`].
    pub fn check_i8(self) -> Result<()> {
        self.check()?;
        if self.is_within(Self::INT8) {
            return Ok(());
        }
        Err(Error::BadCodeRange {
            min: self.min,
            max: self.max,
            why: "do not fit an i8",
        })
    }

    /// Whether every code is one of `other` as well.
    #[must_use]
    pub const fn is_within(self, other: Self) -> bool {
        other.contains(self.min) && other.contains(self.max)
    }
}

/// Whether the codes are spread evenly around zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symmetry {
    /// The zero point is 0 and the range is `[-m, m]`.
    Symmetric,
    /// The range is `[min, max]`, and the zero point says which code means 0.0.
    Asymmetric,
}

/// How many values share one pair of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// One pair for the whole tensor.
    PerTensor,
    /// One pair for every index along `axis`.
    PerChannel {
        /// The axis of the channels: 0 for the weights of `Linear` `[out, in]` and `Conv2d` `[out, in, h, w]`.
        axis: usize,
    },
    /// One pair for every `size` values that follow one another in a row (N15).
    ///
    /// The rows are the indices along axis 0, each with all that belongs to it in row-major order: of the weight `[out, in]` of a
    /// linear layer the groups lie along `in`, of `[out, in, h, w]` along `in · h · w`. A tensor with one axis is a
    /// single row. No group crosses the end of a row: the last of each row is short if `size` does not divide its length.
    PerGroup {
        /// How many values share a pair, at least 1; 32 and 128 are usual. Larger than a row means one group for each row.
        size: usize,
    },
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// Around zero, or not.
    pub symmetry: Symmetry,
    /// How many values share one pair of parameters.
    pub granularity: Granularity,
    /// Which codes may be used.
    pub codes: CodeRange,
}

impl Scheme {
    /// N8: weights are symmetric, per output channel, with codes −127..=127.
    pub const WEIGHTS: Self = Self {
        symmetry: Symmetry::Symmetric,
        granularity: Granularity::PerChannel { axis: 0 },
        codes: CodeRange::INT8_NARROW,
    };
    /// N9: activations are asymmetric, per tensor, with codes −128..=127.
    pub const ACTIVATIONS: Self = Self {
        symmetry: Symmetry::Asymmetric,
        granularity: Granularity::PerTensor,
        codes: CodeRange::INT8,
    };

    /// [`Scheme::WEIGHTS`] with fewer bits: symmetric, per output channel, without the lowest code.
    ///
    /// # Panics
    ///
    /// If `bits` is not in `2..=8`.
    #[must_use]
    #[track_caller]
    pub const fn weights(bits: u32) -> Self {
        assert!(bits <= 8, "a weight has 2 to 8 bits");
        Self {
            codes: CodeRange::narrow(bits),
            ..Self::WEIGHTS
        }
    }

    /// [`Scheme::weights`] in groups of `size`.
    ///
    /// # Panics
    ///
    /// If `bits` is not in `2..=8`.
    #[must_use]
    #[track_caller]
    pub const fn weights_in_groups(bits: u32, size: usize) -> Self {
        Self {
            granularity: Granularity::PerGroup { size },
            ..Self::weights(bits)
        }
    }

    /// Checks that the codes can serve, also for this symmetry, and that a group holds something.
    ///
    /// # Errors
    ///
    /// [`Error::BadCodeRange`], also for symmetric parameters over codes without a negative one: with zero point 0 all values
    /// below zero would be cut off without a word. [`Error::BadGroupSize`].
    pub fn check(self) -> Result<()> {
        self.codes.check()?;
        if self.symmetry == Symmetry::Symmetric && self.codes.min == 0 {
            return Err(Error::BadCodeRange {
                min: self.codes.min,
                max: self.codes.max,
                why: "have nothing below 0, as symmetric parameters need",
            });
        }
        match self.granularity {
            Granularity::PerGroup { size: 0 } => Err(Error::BadGroupSize),
            _ => Ok(()),
        }
    }
}

/// The smallest and the largest value that were seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueRange {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
}

impl ValueRange {
    /// The larger of the magnitudes of both ends.
    #[must_use]
    pub fn max_abs(self) -> f32 {
        self.min.abs().max(self.max.abs())
    }
}

/// How real numbers are written as codes (N1).
///
/// ```text
/// real = scale · (code − zero_point)                                     (1)
/// ```
///
/// Source: gemmlowp, `doc/quantization.md`, equation (3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QParams {
    /// Real distance between neighbouring codes. Finite and above zero.
    pub scale: f32,
    /// The code that means exactly 0.0. One of the codes in use.
    pub zero_point: i32,
}

impl QParams {
    /// Parameters with zero point 0.
    #[must_use]
    pub const fn symmetric(scale: f32) -> Self {
        Self {
            scale,
            zero_point: 0,
        }
    }

    /// Checks that the scale is finite and above zero and that the zero point is one of `codes`.
    ///
    /// # Errors
    ///
    /// [`Error::BadQParams`].
    pub fn check(self, codes: CodeRange) -> Result<()> {
        let why = if !(self.scale.is_finite() && self.scale > 0.0) {
            "a scale must be finite and above 0"
        } else if !codes.contains(self.zero_point) {
            "a zero point must be one of the codes"
        } else {
            return Ok(());
        };
        Err(Error::BadQParams {
            scale: self.scale,
            zero_point: self.zero_point,
            why,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cast_wraps_where_a_code_saturates() {
        let int4 = CodeRange::INT4;
        assert_eq!([7, 8, -8, -9, 24].map(|x| int4.wrap(x)), [7, -8, -8, 7, -8]);
        assert_eq!([15, 16, -1].map(|x| CodeRange::UINT4.wrap(x)), [15, 0, 15]);
        for value in [i64::MIN, i64::MAX, -300, 127, 128] {
            assert_eq!(CodeRange::INT8.wrap(value), i32::from(value as i8));
            assert_eq!(CodeRange::UINT8.wrap(value), i32::from(value as u8));
        }
        // All numbers that there are.
        let all = CodeRange {
            min: i32::MIN,
            max: i32::MAX,
        };
        assert_eq!(all.wrap(1 << 40 | 5), 5);
    }

    #[test]
    fn eight_bits_are_256_codes_or_255_narrow_ones() {
        assert_eq!(CodeRange::signed(8), CodeRange::INT8);
        assert_eq!(CodeRange::narrow(8), CodeRange::INT8_NARROW);
        assert_eq!(CodeRange::INT8.len(), 256);
        assert_eq!(CodeRange::INT8_NARROW.len(), 255);
        assert_eq!(CodeRange::signed(2), CodeRange { min: -2, max: 1 });
    }

    #[test]
    fn bits_are_counted_from_the_codes() {
        for bits in 2..=16 {
            assert_eq!(CodeRange::signed(bits).bits(), bits);
            assert_eq!(CodeRange::narrow(bits).bits(), bits);
            assert_eq!(CodeRange::unsigned(bits).bits(), bits);
        }
        assert_eq!(CodeRange::unsigned(4), CodeRange::UINT4);
        assert_eq!(CodeRange { min: 0, max: 1 }.bits(), 1);
        assert_eq!(CodeRange { min: 5, max: 4 }.bits(), 1);
    }

    #[test]
    fn a_scheme_needs_codes_below_zero_if_symmetric_and_groups_that_hold_something() {
        assert_eq!(Scheme::weights_in_groups(4, 32).check(), Ok(()));
        assert_eq!(
            Scheme::weights_in_groups(4, 0).check(),
            Err(Error::BadGroupSize)
        );
        let unsigned = Scheme {
            codes: CodeRange::UINT8,
            ..Scheme::ACTIVATIONS
        };
        assert_eq!(unsigned.check(), Ok(()));
        let symmetric = Scheme {
            symmetry: Symmetry::Symmetric,
            ..unsigned
        };
        assert!(symmetric.check().is_err());
    }

    #[test]
    fn codes_must_hold_zero_and_fit() {
        assert_eq!(CodeRange::UINT8.check(), Ok(()));
        assert!(CodeRange::UINT8.check_i8().is_err());
        assert!(CodeRange { min: 1, max: 9 }.check().is_err());
        assert!(CodeRange { min: -9, max: 0 }.check().is_err());
        assert!(
            CodeRange {
                min: 0,
                max: 70_000
            }
            .check()
            .is_err()
        );
        assert_eq!(CodeRange { min: 5, max: 4 }.len(), 0);
    }

    #[test]
    fn a_scale_is_positive_and_a_zero_point_is_a_code() {
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(QParams::symmetric(scale).check(CodeRange::INT8).is_err());
        }
        let far = QParams {
            scale: 1.0,
            zero_point: 128,
        };
        assert!(far.check(CodeRange::INT8).is_err());
        assert_eq!(far.check(CodeRange::UINT8), Ok(()));
    }
}
