//! Every loop against its definition.

use super::blocks::Way;
use super::dequantize::{dequantize, from_signed, from_unsigned};
use super::quantize::{BETWEEN_PAUSES, quantize, quantize_rows};
use super::range::range_of_lanes;
use super::requantize::requantize_rows;
use super::*;
use crate::cpu::Vectors;
use crate::gemm_i8::blocks::{BLOCK_CODES, Block, RowsMut};
use crate::gemm_i8::{Requantize, scalar};
use crate::testing::{Random, pool};

/// Plain, and as long slices go: past the caches, with two threads.
fn ways() -> [Way; 2] {
    let streamed = cfg!(all(target_arch = "x86_64", not(miri)));
    [(false, 1), (streamed, 2)].map(|(streamed, threads)| Way { streamed, threads })
}

fn quantize_scalar(value: f32, by: Quantize) -> i8 {
    let rounded = (value / by.scale).round_ties_even() as i64;
    let code = rounded.saturating_add(i64::from(by.zero_point));
    code.clamp(i64::from(by.min), i64::from(by.max)) as i8
}

fn assert_codes(values: &[f32], by: Quantize) {
    for vectors in Vectors::available() {
        for (flip, way) in [0, 0x80]
            .into_iter()
            .flat_map(|flip| ways().map(|way| (flip, way)))
        {
            let mut out = vec![0; values.len()];
            quantize(vectors, way, values, by, flip, &mut out).expect("finite values");
            for (i, (&value, &code)) in values.iter().zip(&out).enumerate() {
                let code = (code ^ flip).cast_signed();
                let expected = quantize_scalar(value, by);
                assert_eq!(code, expected, "{value:e} at {i} by {by:?}, {vectors:?}");
            }
        }
    }
}

#[test]
fn worked_example() {
    let by = Quantize {
        scale: 0.5,
        zero_point: 1,
        min: -128,
        max: 127,
    };
    let mut codes = [0; 5];
    // 0.25 / 0.5 = 0.5 is a tie, to 0; 0.75 / 0.5 = 1.5 to 2; then + 1.
    quantize_f32_i8(&[0.0, 0.25, 0.75, 1000.0, -1000.0], by, &mut codes).expect("finite");
    assert_eq!(codes, [1, 1, 3, 127, -128]);
    let mut unsigned = [0; 5];
    let by = Quantize {
        zero_point: 129,
        min: 0,
        max: 255,
        ..by
    };
    quantize_f32_u8(&[0.0, 0.25, 0.75, 1000.0, -1000.0], by, &mut unsigned).expect("finite");
    assert_eq!(unsigned, [129, 129, 131, 255, 0]);
    let mut values = [0.0; 5];
    dequantize_i8_f32(&codes, 0.5, 1, &mut values);
    assert_eq!(values, [0.0, 0.0, 1.0, 63.0, -64.5]);
}

#[test]
fn codes_are_those_of_the_definition_at_and_beside_every_tie() {
    let beside = |value: f32| [value.next_down(), value, value.next_up()];
    for scale in [0.5, 0.1, 1.0 / 3.0, 0.007_812_5, 0.019_73, 1e-20, 3e20] {
        let values: Vec<f32> = (-300..=300)
            .flat_map(|half| {
                [
                    half as f32 * 0.5 * scale,
                    half as f32 / 2.0 * scale.next_up(),
                ]
            })
            .flat_map(beside)
            .collect();
        let codes = [
            (0, -127, 127),
            (-128, -128, 127),
            (127, -128, 127),
            (37, -8, 100),
        ];
        for (zero_point, min, max) in codes {
            assert_codes(
                &values,
                Quantize {
                    scale,
                    zero_point,
                    min,
                    max,
                },
            );
        }
    }
}

#[test]
fn ties_are_found_wherever_they_are_in_a_long_slice() {
    // Blocks, steps and what is noted of them have their edges at powers of two, and every step may hold a tie, or only some.
    let by = Quantize {
        scale: 0.1,
        zero_point: -3,
        min: -128,
        max: 127,
    };
    for every in [1, 3, 64, 127, 128, 1021, 4097] {
        let tie = |i: usize| (i % 199) as f32 - 99.5;
        let values: Vec<f32> = (0..9001)
            .map(|i| if i % every == 0 { 0.1 * tie(i) } else { 0.03 })
            .collect();
        assert_codes(&values, by);
    }
}

#[test]
fn codes_are_those_of_the_definition_for_any_finite_bits() {
    let mut random = Random::new(5);
    for _ in 0..30 {
        let scale = f32::from_bits(random.next() as u32 & 0x7fff_ffff);
        if !scale.is_finite() || scale == 0.0 {
            continue;
        }
        let values: Vec<f32> = (0..2100)
            .map(|_| f32::from_bits(random.next() as u32))
            .filter(|value| value.is_finite())
            .collect();
        let near: Vec<f32> = (0..2100)
            .map(|_| (random.unit() - 0.5) * 300.0 * scale)
            .collect();
        let by = Quantize {
            scale,
            zero_point: random.code().into(),
            min: -128,
            max: 127,
        };
        assert_codes(&values, by);
        if near.iter().all(|value| value.is_finite()) {
            assert_codes(&near, by);
        }
    }
}

#[test]
fn the_first_value_that_is_not_finite_is_reported() {
    let by = Quantize {
        scale: 1.0,
        zero_point: 0,
        min: -128,
        max: 127,
    };
    let mut values = vec![1.0; 3000];
    values[2500] = f32::INFINITY;
    values[2400] = f32::NEG_INFINITY;
    let mut out = vec![0; 3000];
    let expected = NotFinite {
        index: 2400,
        value: f32::NEG_INFINITY,
    };
    assert_eq!(quantize_f32_i8(&values, by, &mut out), Err(expected));
    assert_eq!(min_max(&values), Err(expected));
    values[7] = f32::NAN;
    assert_eq!(
        quantize_f32_i8(&values, by, &mut out).map_err(|error| error.index),
        Err(7)
    );
    assert_eq!(min_max(&values).map_err(|error| error.index), Err(7));
}

#[test]
fn the_range_is_that_of_the_definition_at_every_length() {
    let mut random = Random::new(6);
    assert_eq!(min_max(&[]), Ok(None));
    assert_eq!(
        min_max(&[-0.0]).map(|range| range.map(|(min, _)| min.to_bits())),
        Ok(Some(0))
    );
    for len in 1..100 {
        let values: Vec<f32> = (0..len).map(|_| random.unit() - 0.5).collect();
        let min = values.iter().copied().fold(f32::INFINITY, f32::min);
        let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(min_max(&values), Ok(Some((min, max))));
        for vectors in Vectors::available() {
            assert_eq!(
                range_of_lanes(vectors, &values),
                (min, max, true),
                "{vectors:?}"
            );
        }
    }
}

#[test]
fn requantized_sums_are_those_of_the_definition() {
    let mut random = Random::new(7);
    let (m, n) = (7, 45);
    let sums: Vec<i32> = (0..m * n).map(|_| random.next() as i32 >> 8).collect();
    let bias: Vec<i32> = (0..n).map(|_| random.next() as i32 >> 12).collect();
    let multipliers: Vec<f32> = (0..n).map(|_| random.unit() * 1e-5).collect();
    for bias in [&bias[..], &[]] {
        let by = Requantize {
            bias,
            multipliers: &multipliers,
            zero_point: 4,
            min: 4,
            max: 127,
        };
        for vectors in Vectors::available() {
            let mut out = vec![0; m * n];
            requantize_rows(vectors, &sums, &by, &mut out);
            for (i, &code) in out.iter().enumerate() {
                let sum = sums[i] + bias.get(i % n).copied().unwrap_or(0);
                assert_eq!(code, scalar::requantize(sum, multipliers[i % n], 4, 4, 127));
            }
        }
    }
}

#[test]
fn dequantized_codes_are_those_of_the_definition_whatever_the_way() {
    let codes = Random::new(8).codes(3001);
    let (scale, zero_point) = (0.037, -5);
    for vectors in Vectors::available() {
        for way in ways() {
            let mut out = vec![f32::NAN; codes.len()];
            dequantize(vectors, way, &codes, &mut out, |vectors, codes, out| {
                from_signed(vectors, codes, scale, zero_point, out);
            });
            for (&code, &got) in codes.iter().zip(&out) {
                assert_eq!(got, (i32::from(code) - zero_point) as f32 * scale);
            }
            // From any place in a cache line.
            for skip in [1, 5, 14] {
                let (codes, out) = (&codes[skip..], &mut out[skip..]);
                out.fill(f32::NAN);
                from_signed(vectors, codes, scale, zero_point, out);
                for (&code, &got) in codes.iter().zip(&*out) {
                    assert_eq!(got, (i32::from(code) - zero_point) as f32 * scale);
                }
            }
            let codes: Vec<u8> = codes.iter().map(|code| code.cast_unsigned()).collect();
            dequantize(vectors, way, &codes, &mut out, |vectors, codes, out| {
                from_unsigned(vectors, codes, scale, 200, out);
            });
            for (&code, &got) in codes.iter().zip(&out) {
                assert_eq!(got, (i32::from(code) - 200) as f32 * scale);
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long, and Miri knows no stores past the caches")]
fn long_slices_give_what_short_ones_do_and_report_the_first_value_that_has_no_code() {
    // 5 Mi values: long enough for several threads and for stores past the caches.
    let len = 5 << 20;
    let mut values: Vec<f32> = (0..len)
        .map(|i| (i % 10_007) as f32 * 0.01 - 50.0)
        .collect();
    let by = Quantize {
        scale: 0.37,
        zero_point: 3,
        min: -128,
        max: 127,
    };
    let mut out = vec![0; len];
    pool(2).install(|| {
        quantize_f32_i8(&values, by, &mut out).expect("finite values");
        let mut short = vec![0; 10_007];
        quantize_f32_i8(&values[..10_007], by, &mut short).expect("finite values");
        for (index, out) in out.chunks(10_007).enumerate() {
            assert_eq!(out, &short[..out.len()], "part {index}");
        }
        for index in [5 * len / 6, len / 2 + 1] {
            values[index] = f32::INFINITY;
            let error = quantize_f32_i8(&values, by, &mut out);
            assert_eq!(error.map_err(|error| error.index), Err(index));
        }
    });
}

#[test]
fn a_conversion_that_takes_long_pauses() {
    let by = Quantize {
        scale: 1.0,
        zero_point: 0,
        min: -128,
        max: 127,
    };
    for (rows, k) in [
        (1_usize, 784_usize),
        (32, 255),
        (32, 383),
        (7, 784),
        (32, 784),
        (32, 2048),
        (3, 20_000),
    ] {
        let mut blocks = vec![Block([0; 64]); rows * k.div_ceil(BLOCK_CODES)];
        let mut pauses = 0;
        let into = RowsMut::new(&mut blocks, rows);
        let values = vec![3.0; rows * k];
        let mut pause = || pauses += 1;
        let told = &mut Pauses::new(&mut pause);
        quantize_rows(&values, k, by, 0, false, into, told).expect("finite");
        // The loop looks after pieces of 1024 values of a row, or what is left of it.
        let (most, least) = (
            rows * k / BETWEEN_PAUSES,
            rows * k / (BETWEEN_PAUSES + 1024),
        );
        let expected = least.saturating_sub(1)..=most;
        assert!(expected.contains(&pauses), "{pauses} for {rows} x {k}");
        assert!(
            blocks[0].codes_mut()[..k.min(BLOCK_CODES)]
                .iter()
                .all(|&code| code == 3)
        );
    }
}

#[test]
fn rows_become_codes_wherever_they_end() {
    let random = &mut Random::new(12);
    for rows in [1, 2, 17, 32] {
        for k in [1_usize, 15, 16, 17, 127, 128, 129, 255, 256, 300, 1040] {
            let mut values: Vec<f32> = (0..rows * k)
                .map(|_| 90.0 * (random.unit() - 0.5))
                .collect();
            // Ties in the last columns of one row.
            let end = (rows / 2 + 1) * k;
            for (i, value) in values[..end].iter_mut().rev().take(k.min(5)).enumerate() {
                *value = 0.25 * (i as f32 + 0.5);
            }
            for (min, max) in [(-128, 127), (-100, 90)] {
                let by = Quantize {
                    scale: 0.25,
                    zero_point: -7,
                    min,
                    max,
                };
                for flip in [0, 0x80] {
                    let number = k.div_ceil(BLOCK_CODES);
                    let mut blocks = vec![Block([0x5a5a_5a5a; 64]); rows * number];
                    let mut convert = |values: &[f32]| {
                        let into = RowsMut::new(&mut blocks, rows);
                        quantize_rows(
                            values,
                            k,
                            by,
                            flip,
                            false,
                            into,
                            &mut Pauses::new(&mut || ()),
                        )
                    };
                    assert_eq!(convert(&values), Ok(()));
                    // The only one that has no code is the last.
                    let mut bad = values.clone();
                    bad[rows * k - 1] = f32::INFINITY;
                    let (index, value) = (rows * k - 1, f32::INFINITY);
                    assert_eq!(convert(&bad), Err(NotFinite { index, value }));
                    assert_eq!(convert(&values), Ok(()));
                    let mut into = RowsMut::new(&mut blocks, rows);
                    for (row, values) in values.chunks(k).enumerate() {
                        for block in 0..number {
                            let values = &values[block * BLOCK_CODES..];
                            let codes = into.block(row, block);
                            for (i, &code) in codes.iter().enumerate() {
                                let expected = values.get(i).map_or(0x5a, |&value| {
                                    quantize_scalar(value, by).cast_unsigned() ^ flip
                                });
                                assert_eq!(code, expected, "{row}, {block}, {i} of {rows} x {k}");
                            }
                        }
                    }
                }
            }
        }
    }
}
