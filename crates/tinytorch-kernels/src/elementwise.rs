//! Element by element: real numbers to codes and back, sums to codes, the range of a slice.
//!
//! The codes are those of the definitions, bit for bit, ties and saturation included; `f32` that are not finite are
//! reported, never given a code (N2 to N5).

#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod dequantize;
mod quantize;
mod range;
mod requantize;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::gemm_i8::ending::Codes;

pub use dequantize::{dequantize_i8_f32, dequantize_u8_f32};
pub(crate) use quantize::{Pauses, is_far, quantize_rows};
pub use quantize::{quantize_f32_i8, quantize_f32_u8};
pub use range::min_max;
pub use requantize::requantize_i32_i8;

/// A value that has no code: NaN or an infinity.
#[derive(Clone, Copy, Debug)]
pub struct NotFinite {
    /// Index of the first such value.
    pub index: usize,
    /// The value.
    pub value: f32,
}

impl PartialEq for NotFinite {
    /// NaN equals NaN here: two reports of the same value at the same place are the same report.
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.value.to_bits() == other.value.to_bits()
    }
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at index {} has no code", self.value, self.index)
    }
}

impl std::error::Error for NotFinite {}

/// How real numbers become codes.
#[derive(Clone, Copy, Debug)]
pub struct Quantize {
    /// Real distance between neighbouring codes; finite and above zero.
    pub scale: f32,
    /// The code of 0.0, an `i8`.
    pub zero_point: i32,
    /// Smallest code, at least −128.
    pub min: i32,
    /// Largest code, at most 127.
    pub max: i32,
}

impl Quantize {
    /// Checks everything but the values.
    #[track_caller]
    pub(crate) fn check(&self) {
        assert!(
            self.scale.is_finite() && self.scale > 0.0,
            "scale {} is not a step",
            self.scale
        );
        self.codes().check();
    }

    /// Without the scale.
    pub(crate) fn codes(&self) -> Codes {
        Codes {
            zero_point: self.zero_point,
            min: self.min,
            max: self.max,
        }
    }
}

/// The report of a slice that holds a value that is not finite.
#[cold]
fn first_not_finite(values: &[f32]) -> NotFinite {
    let index = values
        .iter()
        .position(|value| !value.is_finite())
        .unwrap_or(0);
    NotFinite {
        index,
        value: values[index],
    }
}
