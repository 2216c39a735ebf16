//! Values stored in 16 bits, and how they get there.
//!
//! In: `f32`. Out: bf16 or f16, rounded to nearest, ties to even, and back.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::framework::recycle;
use crate::mixed_precision::Half;

/// Values stored in 16 bits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stored {
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Stored {
    /// Rounds each value; any shape, flattened.
    pub fn new(half: Half, values: &[f32]) -> Self {
        match half {
            Half::Bf16 => {
                let mut stored = vec![bf16::ZERO; values.len()];
                one_by_one(&mut stored, values, |&value| rounded(value));
                Self::Bf16(stored)
            }
            Half::F16 => {
                let mut stored = vec![f16::ZERO; values.len()];
                in_chunks(&mut stored, values, |to, from| {
                    to.convert_from_f32_slice(from);
                });
                Self::F16(stored)
            }
        }
    }

    /// Reads each value back: one for each, in order.
    pub fn to_f32(&self) -> Vec<f32> {
        // Two bytes hold one.
        let mut real = recycle::anything(self.bytes() / 2);
        match self {
            Self::Bf16(values) => one_by_one(&mut real, values, |value| value.to_f32()),
            Self::F16(values) => {
                in_chunks(&mut real, values, |to, from| from.convert_to_f32_slice(to));
            }
        }
        real
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Bf16(values) => size_of_val(values.as_slice()),
            Self::F16(values) => size_of_val(values.as_slice()),
        }
    }

    /// Negative values become 0.
    pub fn relu(&self) -> Self {
        match self {
            Self::Bf16(values) => {
                let positive = |x: &bf16| if x.to_f32() < 0.0 { bf16::ZERO } else { *x };
                let mut relu = vec![bf16::ZERO; values.len()];
                one_by_one(&mut relu, values, positive);
                Self::Bf16(relu)
            }
            Self::F16(values) => {
                // By the sign bit: a conversion of each value would cost more than the rest. NaN stays NaN.
                let positive = |x: &f16| match x.is_sign_negative() && !x.is_nan() {
                    true => f16::ZERO,
                    false => *x,
                };
                Self::F16(values.iter().map(positive).collect())
            }
        }
    }

    /// Sets the gradient to 0 where the value is not above 0.
    pub fn mask(&self, gradient: &mut [f32]) {
        // A value above 0 is one whose bits are, as an integer: the sign is the highest.
        match self {
            Self::Bf16(values) => in_chunks(gradient, values, |gradient, values| {
                keep(gradient, values.iter().map(|x| x.to_bits() as i16 > 0));
            }),
            Self::F16(values) => in_chunks(gradient, values, |gradient, values| {
                keep(gradient, values.iter().map(|x| x.to_bits() as i16 > 0));
            }),
        }
    }
}

/// Elements that one thread works on: fewer are done before another thread is awake.
const CHUNK: usize = 128 * 1024;

/// Does something to corresponding parts of both, on several threads if there is much to do.
fn in_chunks<T: Send, U: Sync>(to: &mut [T], from: &[U], work: impl Fn(&mut [T], &[U]) + Sync) {
    if to.len() <= CHUNK {
        return work(to, from);
    }
    (to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK))).for_each(|(to, from)| work(to, from));
}

/// As [`in_chunks`], each value from the one in its place.
fn one_by_one<T: Send, U: Sync>(to: &mut [T], from: &[U], value: impl Fn(&U) -> T + Sync) {
    in_chunks(to, from, |to, from| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = value(from);
        }
    });
}

fn keep(gradient: &mut [f32], kept: impl Iterator<Item = bool>) {
    for (gradient, kept) in gradient.iter_mut().zip(kept) {
        *gradient = if kept { *gradient } else { 0.0 };
    }
}

/// To nearest, ties to even. The same as `bf16::from_f32`, without a branch, so that loops become vector instructions.
pub(crate) fn rounded(value: f32) -> bf16 {
    let bits = value.to_bits();
    let up = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Of a NaN the quiet bit is set, or its upper half might look like an infinity.
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if value.is_nan() { nan } else { up } as u16)
}

/// Rounds values to 16 bits and back, in place: what a gradient is between two operations in half precision.
pub(crate) fn round_in_place(half: Half, values: &mut [f32]) {
    let round = |values: &mut [f32]| match half {
        Half::Bf16 => values
            .iter_mut()
            .for_each(|value| *value = rounded(*value).to_f32()),
        Half::F16 => {
            // Few at once: the conversion is by vectors, and reads what the cache still holds.
            let mut stored = [f16::ZERO; 512];
            for values in values.chunks_mut(stored.len()) {
                let stored = &mut stored[..values.len()];
                stored.convert_from_f32_slice(values);
                stored.convert_to_f32_slice(values);
            }
        }
    };
    match values.len() <= CHUNK {
        true => round(values),
        false => values.par_chunks_mut(CHUNK).for_each(round),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_without_a_branch_is_that_of_the_crate_half() {
        // All upper halves, with lower halves around the tie and at both ends.
        for high in 0..=u16::MAX {
            for low in [0_u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(high) << 16 | low);
                let (got, expected) = (rounded(value), bf16::from_f32(value));
                let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                assert!(same, "{:x}", value.to_bits());
            }
        }
    }

    #[test]
    fn a_mask_and_a_relu_agree_in_both_formats() {
        let values = [1.5, -2.0, 0.0, -0.0, 1e-7, f32::INFINITY];
        for half in [Half::Bf16, Half::F16] {
            let stored = Stored::new(half, &values);
            assert_eq!(stored.bytes(), 12);
            let relu = stored.relu().to_f32();
            let mut gradient = [1.0; 6];
            stored.relu().mask(&mut gradient);
            assert_eq!(gradient, [1.0, 0.0, 0.0, 0.0, 1.0, 1.0], "{half:?}");
            assert!(
                relu.iter().all(|&value| value >= 0.0) && relu[0] == 1.5,
                "{half:?}"
            );
        }
    }
}
