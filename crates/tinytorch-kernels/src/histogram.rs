//! Counts of values by sign and magnitude, for calibration: the bin of a value is read off its bits.
//!
//! ```text
//! f32:  sign | exponent e (8 bits) | fraction (23 bits)                 all values of one exponent: an octave, [2ᵉ, 2ᵉ⁺¹)
//!
//! top octave, that of the largest magnitude      1024 bins
//! d octaves below it                             2^kept(d) bins,  kept(d) = max(10 − d, 7):  512, 256, 128, 128, ...
//! more than 23 octaves below it                  a single bin
//! ```
//!
//! A bin is the exponent with the first `kept(d)` bits of the fraction. In the order of the bits of a magnitude, bins get narrower in
//! steps, by half at each octave from the third below the top on. So the number of a bin is the largest of four: what it would be if all
//! bins were as wide as those of one octave and met there. That is four shifts and no table, which vectors do for many values at once.
//!
//! What remains is to count, one by one. A count that was just written takes some cycles until it can be read again, and values
//! like to repeat; so neighbours count in tables of their own, and zeros, of which ReLU leaves many, in sixteen places.

#[cfg(test)]
mod tests;

use std::cell::RefCell;

use crate::cpu::{Vectors, vectorized};

/// Octaves that have bins of their own, from the top one down.
pub const OCTAVES: usize = 24;
/// Bits of the fraction that are kept in the top octave.
pub const FINEST: u32 = 10;
/// Bits that are kept at least.
const COARSEST: u32 = 7;
/// Bits of the fraction of an `f32`.
pub const FRACTION: u32 = 23;

/// The bin of magnitudes that are not 0 but too small for any other.
pub const LOW: usize = 0;
/// How many bins there are for each sign.
pub const BINS: usize = start(0) + (1 << FINEST);

/// How many bits are kept `d` octaves below the top.
pub const fn kept(d: usize) -> u32 {
    if d < (FINEST - COARSEST) as usize {
        FINEST - d as u32
    } else {
        COARSEST
    }
}

/// The first bin of each octave, counted from the top.
const STARTS: [usize; OCTAVES] = {
    let mut starts = [LOW + 1; OCTAVES];
    let mut d = OCTAVES - 1;
    while d > 0 {
        starts[d - 1] = starts[d] + (1 << kept(d));
        d -= 1;
    }
    starts
};

/// The first bin of the octave `d < OCTAVES` below the top. Smaller magnitudes have smaller bins.
///
/// # Panics
///
/// If there is no such octave.
pub const fn start(d: usize) -> usize {
    STARTS[d]
}

/// The exponent field of a finite magnitude, at least 1: numbers without a leading bit count to the lowest octave.
pub fn octave(magnitude: f32) -> u32 {
    (magnitude.to_bits() >> FRACTION & 0xFF).max(1)
}

/// The bin of a value, whatever its sign, if `top` is the top octave: the definition. What lies beyond is in the last bin.
///
/// ```
/// use tinytorch_kernels::histogram::{LOW, bin, octave, start};
///
/// // 1.5 is in the middle of the top octave [1, 2); [0.5, 1) has 512 bins.
/// let top = octave(1.5);
/// assert_eq!(bin(1.5, top), start(0) + 512);
/// assert_eq!(bin(-0.75, top), start(1) + 256);
/// assert_eq!(bin(1e-30, top), LOW);
/// ```
pub fn bin(value: f32, top: u32) -> usize {
    let bits = value.abs().to_bits();
    let (exponent, fraction) = (bits >> FRACTION, bits & 0x7F_FFFF);
    match top.checked_sub(exponent) {
        None => BINS - 1,
        Some(d) if exponent > 0 && (d as usize) < OCTAVES => {
            let d = d as usize;
            start(d) + (fraction >> (FRACTION - kept(d))) as usize
        }
        Some(_) => LOW,
    }
}

/// Values whose bins are found before they are counted.
const BLOCK: usize = 64;
/// Tables that neighbours count in.
const TABLES: usize = 4;
/// Places for zeros, so that they do not wait for each other.
const ZEROS: usize = 16;
/// Values from which tables of 16 bits pay: adding them up takes as long as counting a tenth of these.
const SMALL: usize = 1 << 15;
/// Values until which no count of 16 bits overflows: a block adds up to `BLOCK / TABLES` to a count, and what is left of the last
/// block all counts in the first table.
const FULL: usize = BLOCK * ((65_535 - (BLOCK - 1)) / (BLOCK / TABLES));

/// Counts of one thread: those of both signs, and zeros.
type Counts = [u16; 2 * BINS + ZEROS];

/// Adds to `counts` how many values are in which bin, and returns how many are 0, which are in none.
///
/// | argument | shape       |
/// |----------|-------------|
/// | `values` | any         |
/// | `counts` | `[2, BINS]`: of positive values, then of negative ones; they saturate |
///
/// All values should be finite and not beyond the octave `top`; others are counted in the last bin of their sign, NaN as if it were positive.
///
/// # Panics
///
/// If `counts` has not its shape, or `top` is not the exponent of a finite number (1 to 254).
#[track_caller]
pub fn count_magnitudes(values: &[f32], top: u32, counts: &mut [u64]) -> u64 {
    assert_eq!(counts.len(), 2 * BINS, "counts must be [2, {BINS}]");
    assert!(
        (1..=254).contains(&top),
        "{top} is not the exponent of a finite number"
    );
    count(Vectors::chosen(), values, top, counts)
}

fn count(vectors: Vectors, values: &[f32], top: u32, counts: &mut [u64]) -> u64 {
    if values.len() < SMALL {
        let zeros = count_few(vectors, values, top, counts);
        // (A count that has reached its end stays there.)
        if counts[LOW] != u64::MAX {
            counts[LOW] -= zeros;
        }
        return zeros;
    }
    thread_local! {
        static TABLES_OF_THREAD: RefCell<Vec<Counts>> = const { RefCell::new(vec![]) };
    }
    // Taken, not borrowed, so that no call can find it in use.
    let mut tables = TABLES_OF_THREAD.take();
    tables.resize(TABLES, [0; 2 * BINS + ZEROS]);
    let mut zeros = 0;
    for values in values.chunks(FULL) {
        count_many(vectors, values, top, &mut tables);
        for table in &mut tables {
            let (of_signs, of_zeros) = table.split_at(2 * BINS);
            for (count, &new) in counts.iter_mut().zip(of_signs) {
                *count = count.saturating_add(u64::from(new));
            }
            zeros += of_zeros.iter().map(|&zeros| u64::from(zeros)).sum::<u64>();
            table.fill(0);
        }
    }
    TABLES_OF_THREAD.set(tables);
    zeros
}

vectorized! {
    /// Counts in the tables; `values` are at most [`FULL`].
    fn count_many(values: &[f32], top: u32, tables: &mut [Counts]) {
        let Some((tables, _)) = tables.split_first_chunk_mut::<TABLES>() else { return };
        let (blocks, rest) = values.as_chunks::<BLOCK>();
        let mut places = [0; BLOCK];
        for block in blocks {
            find(block, top, 2 * BINS, ZEROS - 1, &mut places);
            for places in places.as_chunks::<TABLES>().0 {
                for (table, &place) in tables.iter_mut().zip(places) {
                    let count = &mut table[usize::from(place)];
                    *count = count.wrapping_add(1);
                }
            }
        }
        find(rest, top, 2 * BINS, ZEROS - 1, &mut places);
        for &place in &places[..rest.len()] {
            tables[0][usize::from(place)] += 1;
        }
    }
}

vectorized! {
    /// Counts in place, zeros in the bin `LOW`; returns how many those are.
    fn count_few(values: &[f32], top: u32, counts: &mut [u64]) -> u64 {
        let (mut places, mut zeros) = ([0; BLOCK], 0);
        for block in values.chunks(BLOCK) {
            find(block, top, LOW, 0, &mut places);
            zeros += block.iter().filter(|&&value| value == 0.0).count() as u64;
            for &place in &places[..block.len()] {
                let count = &mut counts[usize::from(place)];
                *count = count.saturating_add(1);
            }
        }
        zeros
    }
}

/// Where each value is counted: its bin, [`BINS`] more if it is negative. Zeros at `zero` and the places after it, in turns as
/// the bits of `turns` say.
#[inline(always)]
fn find(values: &[f32], top: u32, zero: usize, turns: usize, places: &mut [u16; BLOCK]) {
    // How far the bits of the first magnitude of an octave, cut to its bins, are ahead of the number of its first bin.
    let ahead = |d: i32| ((top as i32 - d) << kept(d as usize)) - start(d as usize) as i32;
    let [a, b, c, lowest] = [ahead(0), ahead(1), ahead(2), ahead(OCTAVES as i32 - 1)];
    for (lane, (place, &value)) in places.iter_mut().zip(values).enumerate() {
        let magnitude = value.abs().to_bits() as i32;
        let [first, second, third, others] = [(0, a), (1, b), (2, c), (3, lowest)]
            .map(|(d, ahead)| (magnitude >> (FRACTION - kept(d))).wrapping_sub(ahead));
        let bin = first.max(second).max(third.max(others));
        let bin = bin.clamp(LOW as i32, BINS as i32 - 1);
        // No leading bit: too small for the octaves, however few are below the top.
        let bin = if magnitude >> FRACTION == 0 {
            LOW as i32
        } else {
            bin
        };
        let signed = if value < 0.0 { bin + BINS as i32 } else { bin };
        let zero = (zero + (lane & turns)) as i32;
        *place = if magnitude == 0 { zero } else { signed } as u16;
    }
}
