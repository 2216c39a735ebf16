//! The range of a slice.

use super::{NotFinite, first_not_finite};
use crate::cpu::{Vectors, vectorized};

/// Lanes of the range: independent minima and maxima, so that they fill vector registers.
const LANES: usize = 32;

/// The smallest and the largest value, `None` of an empty slice. A zero is `+0.0`.
///
/// # Errors
///
/// [`NotFinite`] names the first value that is.
pub fn min_max(values: &[f32]) -> Result<Option<(f32, f32)>, NotFinite> {
    let (min, max, finite) = range_of_lanes(Vectors::chosen(), values);
    if !finite {
        return Err(first_not_finite(values));
    }
    if values.is_empty() {
        return Ok(None);
    }
    // −0.0 + 0.0 is +0.0: which of two zeros a lane has met does not show.
    Ok(Some((min + 0.0, max + 0.0)))
}

vectorized! {
    /// The minimum and the maximum, and whether all values are finite.
    pub(super) fn range_of_lanes(values: &[f32]) -> (f32, f32, bool) {
        let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let mut largest = [0_u32; LANES];
        let (blocks, tail) = values.as_chunks::<LANES>();
        let mut look = |lane: usize, value: f32| {
            largest[lane] = largest[lane].max(value.abs().to_bits());
            min[lane] = if value < min[lane] { value } else { min[lane] };
            max[lane] = if value > max[lane] { value } else { max[lane] };
        };
        for block in blocks {
            for (lane, &value) in block.iter().enumerate() {
                look(lane, value);
            }
        }
        for (lane, &value) in tail.iter().enumerate() {
            look(lane, value);
        }
        let min = fold_lanes(min, |a, b| if b < a { b } else { a });
        let max = fold_lanes(max, |a, b| if b > a { b } else { a });
        let largest = fold_lanes(largest, u32::max);
        (min, max, largest < f32::INFINITY.to_bits())
    }
}

/// Lanes to one number, the upper half into the lower five times: one after the other they would wait for each other
/// longer than a row of some hundred values takes.
#[inline(always)]
fn fold_lanes<T: Copy>(mut lanes: [T; LANES], pick: impl Fn(T, T) -> T) -> T {
    #[inline(always)]
    fn halve<T: Copy, const HALF: usize>(lanes: &mut [T; LANES], pick: impl Fn(T, T) -> T) {
        for lane in 0..HALF {
            lanes[lane] = pick(lanes[lane], lanes[lane + HALF]);
        }
    }
    halve::<T, 16>(&mut lanes, &pick);
    halve::<T, 8>(&mut lanes, &pick);
    halve::<T, 4>(&mut lanes, &pick);
    halve::<T, 2>(&mut lanes, &pick);
    halve::<T, 1>(&mut lanes, &pick);
    lanes[0]
}
