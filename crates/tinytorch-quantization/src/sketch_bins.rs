//! The bins of a sketch: read off the bits of a value, so that no order of the values changes where one is counted.
//!
//! ```text
//! f32:  sign | exponent e (8 bits) | fraction (23 bits)                 all values of one exponent: an octave, [2ᵉ, 2ᵉ⁺¹)
//!
//! top octave, that of the largest magnitude      1024 bins
//! d octaves below it                             2^kept(d) bins,  kept(d) = max(10 − d, 7):  512, 256, 128, 128, ...
//! more than 23 octaves below it                  a single bin
//! ```
//!
//! A bin is the exponent with the first `kept(d)` bits of the fraction. When a larger magnitude arrives, `d` grows and bits are
//! cut off; what remains is what would have been kept had the larger one come first. So the counts depend on the values
//! alone. Which bin a value is in says `histogram::bin` of the kernels, which also count; here is what becomes of bins afterwards.
//!
//! What is lost: bins are 2⁻¹⁰ of the top octave wide in the four octaves that hold nearly everything, so no coarser than a plain
//! histogram of 1024 to 2048 bins up to the largest magnitude; and further down never wider than 2⁻⁷ of the values
//! in them, where a plain histogram would have one bin for all.
//!
//! Source: logarithmic bins that merge exactly are those of C. Masson et al., "DDSketch", VLDB 2019, section 2; cut from the
//! bits of a number as in G. Tene's HdrHistogram.

pub use crate::kernels::histogram::{
    BINS, FINEST, FRACTION, LOW, OCTAVES, bin, count_magnitudes, kept, octave, start,
};

/// The lower and the upper edge of a bin; a bin holds `lower <= x < upper`. The last edge of all is `f32::MAX`.
pub fn edges(bin: usize, top: u32) -> (f32, f32) {
    if bin == LOW {
        let lowest = top.saturating_sub(OCTAVES as u32 - 1).max(1);
        return (0.0, f32::from_bits(lowest << FRACTION));
    }
    let mut d = OCTAVES - 1;
    while d > 0 && bin >= start(d - 1) {
        d -= 1;
    }
    let shift = FRACTION - kept(d);
    let place = (bin - start(d)) as u32;
    // In the bits of a float, one past the last fraction is the next exponent.
    let base = top.saturating_sub(d as u32) << FRACTION;
    let edge = |place: u32| f32::from_bits(base + (place << shift)).min(f32::MAX);
    (edge(place), edge(place + 1))
}

/// Moves the counts of one sign to where they belong when the top rises by `rise` octaves.
pub fn raise(counts: &mut [u64], rise: usize) {
    if rise == 0 {
        return;
    }
    // From the lowest octave up: where an octave moves to has been left already.
    for d in (0..OCTAVES).rev() {
        let (from, to) = (start(d), d + rise);
        // Of a place, the bits stay that the new octave keeps; below all octaves none.
        let (base, shift) = match to < OCTAVES {
            true => (start(to), kept(d) - kept(to)),
            false => (LOW, usize::BITS - 1),
        };
        for place in 0..1 << kept(d) {
            let count = std::mem::take(&mut counts[from + place]);
            if count > 0 {
                let target = &mut counts[base + (place >> shift)];
                *target = target.saturating_add(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bins_are_as_many_as_the_map_above_says() {
        assert_eq!(BINS, 1 + 1024 + 512 + 256 + 21 * 128);
        assert_eq!((start(23), start(0) + 1024), (1, BINS));
    }

    #[test]
    fn worked_example() {
        // 1.0 is the first of the top octave [1, 2), whose 1024 bins are 2⁻¹⁰ wide; 0.5 the first of 512 bins as wide.
        let bin = |value| bin(value, octave(1.5));
        assert_eq!(bin(1.0), start(0));
        assert_eq!(bin(1.5), start(0) + 512);
        assert_eq!(edges(start(0) + 512, 127), (1.5, 1.5 + 1.0 / 1024.0));
        assert_eq!(edges(bin(0.5), 127), (0.5, 0.5 + 1.0 / 1024.0));
        assert_eq!(bin(1e-30), LOW);
        assert_eq!(edges(LOW, 127).1, 2.0_f32.powi(-23));
    }

    #[test]
    fn bins_follow_one_another_without_a_gap_and_know_their_own_edges() {
        for top in [1, 2, 12, 24, 25, 127, 254] {
            let bin_of = |value| bin(value, top);
            let first = (1..BINS).find(|&bin| edges(bin, top).0 >= f32::MIN_POSITIVE);
            let first = first.expect("the top octave is normal");
            assert_eq!(edges(LOW, top).1, edges(first, top).0);
            for bin in first..BINS {
                let (lower, upper) = edges(bin, top);
                assert_eq!(bin_of(lower), bin);
                let last = f32::from_bits(upper.to_bits() - 1);
                assert_eq!(bin_of(last), bin);
                if bin + 1 < BINS {
                    assert_eq!(edges(bin + 1, top).0, upper);
                }
            }
        }
        assert_eq!(bin(f32::MAX, 254), BINS - 1);
    }

    #[test]
    fn no_bin_is_wider_than_a_tenth_of_a_percent_of_the_top_or_one_percent_of_itself() {
        for bin in 1..BINS {
            let (lower, upper) = edges(bin, 127);
            let of_top = (upper - lower) * 1024.0;
            let of_itself = (upper - lower) / lower * 128.0;
            assert!(of_top <= 1.0 && of_itself <= 1.0, "{lower}..{upper}");
        }
    }

    #[test]
    fn a_count_that_moved_is_where_it_would_have_been_put() {
        for (top, rise) in [(127, 1), (127, 2), (127, 9), (127, 23), (127, 24), (5, 200)] {
            let mut magnitude = f32::from_bits(top << FRACTION) * 1.999;
            for _ in 0..40 {
                let mut counts = vec![0; BINS];
                counts[bin(magnitude, top)] = 3;
                raise(&mut counts, rise as usize);
                assert_eq!(
                    counts[bin(magnitude, top + rise)],
                    3,
                    "{magnitude} raised by {rise}"
                );
                assert_eq!(counts.iter().sum::<u64>(), 3);
                magnitude *= 0.61;
            }
        }
    }
}
