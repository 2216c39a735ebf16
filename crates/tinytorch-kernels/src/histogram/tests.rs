use super::*;
use crate::testing::{Random, assert_refused};

/// The definition: one by one.
fn by_definition(values: &[f32], top: u32) -> (Vec<u64>, u64) {
    let (mut counts, mut zeros) = (vec![0; 2 * BINS], 0);
    for &value in values {
        if value == 0.0 {
            zeros += 1;
        } else {
            counts[if value < 0.0 { BINS } else { 0 } + bin(value, top)] += 1;
        }
    }
    (counts, zeros)
}

#[track_caller]
fn assert_counted(values: &[f32], top: u32) {
    let (expected, expected_zeros) = by_definition(values, top);
    for vectors in Vectors::available() {
        // What was counted before stays.
        let mut counts = vec![5; 2 * BINS];
        let zeros = count(vectors, values, top, &mut counts);
        assert_eq!(zeros, expected_zeros, "zeros, {vectors:?}");
        for (place, (&got, &expected)) in counts.iter().zip(&expected).enumerate() {
            assert_eq!(got, expected + 5, "at {place}, top {top}, {vectors:?}");
        }
    }
}

#[test]
fn worked_example() {
    let mut counts = vec![0; 2 * BINS];
    let values = [0.0, -0.0, 1.5, -1.5, 1.5, 0.25];
    assert_eq!(count_magnitudes(&values, octave(1.5), &mut counts), 2);
    let filled: Vec<(usize, u64)> = (0..).zip(counts).filter(|&(_, count)| count > 0).collect();
    let middle = start(0) + 512;
    assert_eq!(filled, [(start(2), 1), (middle, 2), (BINS + middle, 1)]);
}

#[test]
fn the_first_and_the_last_value_of_every_bin_are_counted_there() {
    for top in [1_u32, 2, 12, 23, 24, 25, 127, 254] {
        let mut values = vec![0.0, -0.0, f32::from_bits(1), -f32::MIN_POSITIVE];
        for d in 0..OCTAVES {
            let Some(exponent) = top.checked_sub(d as u32).filter(|&e| e > 0) else {
                continue;
            };
            for place in 0..1_u32 << kept(d) {
                let width = 1 << (FRACTION - kept(d));
                let bits = (exponent << FRACTION) + place * width;
                for bits in [bits, bits + width - 1] {
                    let value = f32::from_bits(bits);
                    assert_eq!(bin(value, top), start(d) + place as usize);
                    values.extend([value, -value]);
                }
            }
        }
        assert_counted(&values, top);
    }
}

#[test]
fn any_bits_are_counted_as_the_definition_says() {
    let random = &mut Random::new(41);
    let len = if cfg!(miri) { 300 } else { 30_000 };
    for top in [1, 9, 60, 130, 254] {
        let values: Vec<f32> = (0..len)
            .map(|_| f32::from_bits(random.next() as u32))
            .filter(|value| value.is_finite())
            .collect();
        assert_counted(&values, top);
    }
}

#[test]
fn every_length_is_counted() {
    let random = &mut Random::new(42);
    for len in (0..130).chain([SMALL - 1, SMALL, SMALL + 1, SMALL + 65]) {
        if cfg!(miri) && len > 130 {
            continue;
        }
        // As after ReLU: half are zeros.
        let values: Vec<f32> = (0..len).map(|_| (random.unit() - 0.5).max(0.0)).collect();
        assert_counted(&values, 126);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long")]
fn a_value_that_repeats_overflows_no_table() {
    for value in [0.75, 0.0, -1e-30] {
        // With a last chunk that is nearly full: what is left of its last block once overflowed the first table.
        for len in [FULL - 1, FULL, 2 * FULL - 1, 2 * FULL + 100] {
            assert_counted(&vec![value; len], 127);
        }
    }
}

#[test]
fn counts_saturate() {
    let len = if cfg!(miri) { 2 } else { SMALL };
    for len in [2, len] {
        let mut counts = vec![u64::MAX - 1; 2 * BINS];
        assert_eq!(count_magnitudes(&vec![1.0; len], 127, &mut counts), 0);
        assert_eq!(counts[start(0)], u64::MAX);
    }
}

#[test]
fn wrong_calls_are_refused() {
    assert_refused("counts must be [2, 4481]", || {
        count_magnitudes(&[1.0], 127, &mut [0; 3]);
    });
    assert_refused("255 is not the exponent of a finite number", || {
        count_magnitudes(&[1.0], 255, &mut [0; 2 * BINS]);
    });
}
