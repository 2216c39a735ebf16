//! Agreement: every kernel of this CPU against the definitions, bit for bit.

use std::ops::Range;

use super::activations::{Matrix, SLACK};
use super::blocks::{BLOCK_CODES, RowsMut};
use super::scalar::{gemm_i8_scalar, requantize, scale};
use super::*;
use crate::elementwise::Pauses;
use crate::testing::{Random, assert_refused, pool};
use crate::{Dims, in_a_row};

/// One product with all three endings, by the definitions and by every kernel.
fn assert_kernels_agree(
    dims: Dims,
    a: &[i8],
    a_zero_point: i32,
    weights: &[i8],
    random: &mut Random,
) {
    let Dims { m, n, k } = dims;
    let mut expected = vec![0; m * n];
    gemm_i8_scalar(dims, a, a_zero_point, weights, &mut expected);
    let bias: Vec<i32> = (0..n)
        .map(|_| random.below(20_001) as i32 - 10_000)
        .collect();
    // The spread of a sum of k products is about √k · 74²; these multipliers put it over some 100 codes.
    let typical = 0.01 / (k.max(1) as f32).sqrt();
    let multipliers: Vec<f32> = (0..n).map(|_| typical * (0.5 + random.unit())).collect();
    let real_bias: Vec<f32> = (0..n).map(|_| random.unit() * 20.0 - 10.0).collect();
    let (zero_point, min, max) = (random.code().into(), -127, 120);
    let requantize_by = Requantize {
        bias: &bias,
        multipliers: &multipliers,
        zero_point,
        min,
        max,
    };
    let relu = random.below(2) == 0;
    let scale_by = Scale {
        scales: &multipliers,
        bias: &real_bias,
        relu,
    };
    let columns = || (0..m * n).map(|index| index % n.max(1));
    let codes: Vec<i8> = (expected.iter().zip(columns()))
        .map(|(sum, j)| requantize(sum + bias[j], multipliers[j], zero_point, min, max))
        .collect();
    let reals: Vec<f32> = (expected.iter().zip(columns()))
        .map(|(&sum, j)| scale(sum, multipliers[j], real_bias[j], relu))
        .collect();

    for &kernel in kernels() {
        let packed = PackedWeights::with_kernel(kernel, n, k, weights);
        // Every column costs a product: enough for many blocks, too slow for the largest sizes.
        if k <= 300 {
            assert_eq!(packed.unpack(), weights, "weights of {dims:?}");
        }
        let what = format!("{}, {dims:?}, zero point {a_zero_point}", kernel.name());
        let mut sums = vec![i32::MIN; m * n];
        packed.product(m, a, a_zero_point, &mut sums);
        assert_eq!(sums, expected, "sums of {what}");
        let mut out = vec![99; m * n];
        packed.requantized(m, a, a_zero_point, &requantize_by, &mut out);
        assert_eq!(out, codes, "codes of {what}, {requantize_by:?}");
        let mut out = vec![f32::NAN; m * n];
        packed.scaled(m, a, a_zero_point, &scale_by, &mut out);
        let bits = |values: &[f32]| {
            values
                .iter()
                .map(|value| value.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&out), bits(&reals), "reals of {what}");
    }
}

fn assert_agreement_on_random_codes(dims: Dims, random: &mut Random) {
    let (a, weights) = (random.codes(dims.m * dims.k), random.codes(dims.n * dims.k));
    let a_zero_point = random.code().into();
    assert_kernels_agree(dims, &a, a_zero_point, &weights, random);
}

#[test]
fn every_kernel_agrees_at_the_edges_of_its_tiles() {
    let random = &mut Random::new(1);
    for kernel in kernels() {
        let [rows, columns] = kernel.tile();
        let around = |tile: usize| [0, 1, tile.saturating_sub(1), tile, tile + 1, 2 * tile + 1];
        for m in around(rows) {
            for n in around(columns) {
                for k in [0, 1, 3, 4, 5, 67] {
                    assert_agreement_on_random_codes(Dims { m, n, k }, random);
                }
            }
        }
    }
}

#[test]
fn every_kernel_agrees_at_every_inner_dimension() {
    let random = &mut Random::new(2);
    for k in (0..=140).chain([255, 256, 257, 260, 511, 512, 513, 1023, 1025]) {
        for m in [1, 2, 5] {
            assert_agreement_on_random_codes(Dims { m, n: 19, k }, random);
        }
    }
}

#[test]
fn every_kernel_agrees_where_codes_are_multiplied_where_they_lie_and_with_many_inputs() {
    let random = &mut Random::new(8);
    // Whole steps of 64 inputs, few and many columns; then more inputs than the first cache keeps, the last step whole or not; then
    // more weights than the second does.
    let whole_steps = [64, 128, 1024].into_iter().flat_map(|k| {
        [(4, 1), (16, 10), (17, 33), (33, 128), (70, 129)].map(|(m, n)| Dims { m, n, k })
    });
    let many_inputs = [1025, 1088, 2048, 2050, 3137]
        .into_iter()
        .flat_map(|k| [(4, 33), (33, 17), (70, 65)].map(|(m, n)| Dims { m, n, k }));
    let passes = [(40, 400, 2752), (70, 350, 3200)].map(|(m, n, k)| Dims { m, n, k });
    for dims in whole_steps.chain(many_inputs).chain(passes) {
        assert_agreement_on_random_codes(dims, random);
    }
}

/// Rows that compute a product of their own before they are given.
#[derive(Debug)]
struct Asking<'a> {
    rows: Matrix<'a>,
    other: &'a PackedWeights,
}

impl Activations for Asking<'_> {
    fn row<'s>(&'s self, row: usize, scratch: &'s mut [i8]) -> &'s [i8] {
        // Tiles of another height, so that a matrix unit has to be told.
        let m = 5 + row % 20;
        let mut sums = vec![0; m * self.other.n()];
        self.other
            .product(m, &vec![1; m * self.other.k()], 0, &mut sums);
        assert!(sums.iter().all(|&sum| sum == 3 * self.other.k() as i32));
        self.rows.row(row, scratch)
    }

    fn write(
        &self,
        rows: Range<usize>,
        flip: u8,
        mut into: RowsMut<'_>,
        pauses: &mut Pauses<'_>,
    ) -> bool {
        let mut scratch = vec![0; self.rows.k + SLACK];
        for (index, row) in rows.enumerate() {
            let codes = self.row(row, &mut scratch);
            for (block, codes) in codes.chunks(BLOCK_CODES).enumerate() {
                for (to, &code) in into.block(index, block).iter_mut().zip(codes) {
                    *to = code.cast_unsigned() ^ flip;
                }
            }
            pauses.before(usize::MAX / 2);
        }
        true
    }
}

#[test]
fn activations_may_compute_a_product_of_their_own() {
    let random = &mut Random::new(9);
    let dims = Dims {
        m: 70,
        n: 40,
        k: 128,
    };
    let Dims { m, n, k } = dims;
    let (a, weights) = (random.codes(m * k), random.codes(n * k));
    let mut expected = vec![0; m * n];
    gemm_i8_scalar(dims, &a, 0, &weights, &mut expected);
    for &kernel in kernels() {
        let packed = PackedWeights::with_kernel(kernel, n, k, &weights);
        let other = PackedWeights::with_kernel(kernel, 33, 64, &[3; 33 * 64]);
        let asking = Asking {
            rows: Matrix { data: &a, k },
            other: &other,
        };
        let run = || {
            let mut sums = vec![0; m * n];
            let out = block::BlockMut::new(&mut sums, m, 0, n, n);
            packed.run(m, &asking, 0, &[], Ending::Sums(out));
            assert_eq!(sums, expected, "{}", kernel.name());
        };
        run();
        in_a_row(run);
    }
}

#[test]
fn sums_beyond_every_code_saturate() {
    // As real numbers they are beyond an i32, or infinite: a conversion that wraps would turn them into the other end.
    for factor in [1e12, -1e12, f32::MAX, f32::MIN] {
        for &kernel in kernels() {
            for (m, n) in [(1, 40), (5, 33), (40, 64)] {
                let packed = PackedWeights::with_kernel(kernel, n, 2, &vec![127; 2 * n]);
                let a: Vec<i8> = (0..2 * m)
                    .map(|i| if i % 4 < 2 { 127 } else { -128 })
                    .collect();
                let (zero_point, min, max) = (3, -100, 90);
                let by = Requantize {
                    bias: &[],
                    multipliers: &vec![factor; n],
                    zero_point,
                    min,
                    max,
                };
                let mut out = vec![0; m * n];
                packed.requantized(m, &a, 0, &by, &mut out);
                for (index, &code) in out.iter().enumerate() {
                    let sum = if index / n % 2 == 0 {
                        2 * 127 * 127
                    } else {
                        -2 * 128 * 127
                    };
                    let expected = requantize(sum, factor, zero_point, min, max);
                    assert_eq!(code, expected, "{index} by {factor}, {}", kernel.name());
                    assert!([min, max].contains(&i32::from(code)));
                }
            }
        }
    }
}

#[test]
fn every_kernel_agrees_on_random_sizes() {
    let random = &mut Random::new(3);
    for _ in 0..60 {
        let dims = Dims {
            m: random.below(70),
            n: random.below(150),
            k: random.below(400),
        };
        assert_agreement_on_random_codes(dims, random);
    }
}

#[test]
fn every_kernel_agrees_on_products_divided_among_threads() {
    let random = &mut Random::new(4);
    for dims in [
        Dims {
            m: 1,
            n: 1500,
            k: 1400,
        },
        Dims {
            m: 9,
            n: 700,
            k: 500,
        },
        Dims {
            m: 300,
            n: 90,
            k: 100,
        },
        // Multiplied where they lie: by rows, and by columns.
        Dims {
            m: 300,
            n: 90,
            k: 1088,
        },
        Dims {
            m: 40,
            n: 256,
            k: 1088,
        },
    ] {
        for threads in [2, 3] {
            pool(threads).install(|| assert_agreement_on_random_codes(dims, random));
        }
    }
}

#[test]
fn the_largest_sums_do_not_overflow() {
    let k = MAX_K;
    for a in [-128, 127] {
        for weight in [-128, 127] {
            for a_zero_point in [-128, 127] {
                // Two columns: one whose products all have the same sign, one where they cancel.
                let mut weights = vec![weight; 2 * k];
                weights[k..]
                    .iter_mut()
                    .step_by(2)
                    .for_each(|code| *code = !*code);
                let sum = |weights: &[i8]| -> i32 {
                    weights
                        .iter()
                        .map(|&w| (i32::from(a) - a_zero_point) * i32::from(w))
                        .sum()
                };
                let expected = [sum(&weights[..k]), sum(&weights[k..])];
                for &kernel in kernels() {
                    let packed = PackedWeights::with_kernel(kernel, 2, k, &weights);
                    for m in [1, 3] {
                        let mut sums = vec![0; m * 2];
                        packed.product(m, &vec![a; m * k], a_zero_point, &mut sums);
                        assert_eq!(sums, expected.repeat(m), "{}", kernel.name());
                    }
                }
            }
        }
    }
}

#[test]
fn multipliers_that_leave_the_range_of_i32_saturate() {
    let weights = [127, -127];
    let multipliers = [f32::MAX, f32::MAX];
    for &kernel in kernels() {
        let packed = PackedWeights::with_kernel(kernel, 2, 1, &weights);
        let ending = Requantize {
            bias: &[],
            multipliers: &multipliers,
            zero_point: 3,
            min: -128,
            max: 127,
        };
        let mut out = [0; 2];
        packed.requantized(1, &[127], 0, &ending, &mut out);
        assert_eq!(out, [127, -128], "{}", kernel.name());
    }
}

#[test]
fn ties_go_to_even_in_every_kernel() {
    // Sums −8..=8 times 0.5: every second one is a tie.
    let weights: Vec<i8> = (-8..=8).collect();
    let n = weights.len();
    for &kernel in kernels() {
        let packed = PackedWeights::with_kernel(kernel, n, 1, &weights);
        let multipliers = vec![0.5; n];
        let ending = Requantize {
            bias: &[],
            multipliers: &multipliers,
            zero_point: 1,
            min: -128,
            max: 127,
        };
        let mut out = vec![0; n];
        packed.requantized(1, &[1], 0, &ending, &mut out);
        let expected = [-3, -3, -2, -1, -1, -1, 0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5];
        assert_eq!(out, expected, "{}", kernel.name());
    }
}

#[test]
fn what_is_no_number_stays_so_in_every_kernel_unless_relu_ends_it() {
    // One kernel once made −∞ of it, so that a model that had diverged looked different from machine to machine.
    let n = 17;
    let weights = vec![1; n];
    let scales = vec![0.5; n];
    let bias: Vec<f32> = (0..n)
        .map(|j| [f32::NAN, 1.0, f32::NEG_INFINITY][j % 3])
        .collect();
    for &kernel in kernels() {
        let packed = PackedWeights::with_kernel(kernel, n, 1, &weights);
        for relu in [false, true] {
            let ending = Scale {
                scales: &scales,
                bias: &bias,
                relu,
            };
            let mut out = vec![7.0; n];
            packed.scaled(1, &[1], 0, &ending, &mut out);
            for (j, (&out, &bias)) in out.iter().zip(&bias).enumerate() {
                let expected = scale(1, 0.5, bias, relu);
                let same = out == expected || (out.is_nan() && expected.is_nan());
                let name = kernel.name();
                assert!(
                    same,
                    "{name}, column {j}, ReLU {relu}: {out}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn the_bytes_held_are_those_of_the_codes_and_little_more() {
    for &kernel in kernels() {
        let (n, k) = (128, 784);
        let packed = PackedWeights::with_kernel(kernel, n, k, &vec![1; n * k]);
        let (held, codes) = (packed.bytes(), n * k);
        assert!(
            (codes..codes + codes / 50).contains(&held),
            "{}: {held} B",
            kernel.name()
        );
    }
}

#[test]
#[should_panic(expected = "a bias beyond ±2147418367 may overflow the accumulator")]
fn a_bias_that_could_overflow_is_refused() {
    let packed = PackedWeights::new(1, 2, &[1, 1]);
    let ending = Requantize {
        bias: &[i32::MIN],
        multipliers: &[1.0],
        zero_point: 0,
        min: -128,
        max: 127,
    };
    packed.requantized(1, &[1, 1], 0, &ending, &mut [0]);
}

/// Sizes whose product is 2⁶⁴, which wraps to the length of an empty slice.
const WRAPPING: [usize; 2] = [1 << 44, 1 << 20];

#[test]
fn lengths_that_wrap_are_refused_by_every_entry() {
    let [m, n] = WRAPPING;
    for &kernel in kernels() {
        let packed = PackedWeights::with_kernel(kernel, n, 0, &[]);
        let (multipliers, scales) = (vec![1.0; n], vec![1.0; n]);
        let requantize_by = Requantize {
            bias: &[],
            multipliers: &multipliers,
            zero_point: 0,
            min: -128,
            max: 127,
        };
        let scale_by = Scale {
            scales: &scales,
            bias: &[],
            relu: false,
        };
        let output = "the output must be [m, n] = [17592186044416, 1048576]";
        assert_refused(output, || packed.product(m, &[], 0, &mut []));
        assert_refused(output, || {
            packed.requantized(m, &[], 0, &requantize_by, &mut []);
        });
        assert_refused(output, || packed.scaled(m, &[], 0, &scale_by, &mut []));
        assert_refused("weights must be [n, k]", || {
            PackedWeights::with_kernel(kernel, 1 << 60, 1 << 4, &[]);
        });
        // The columns of the result cannot make up for rows of the left matrix that wrap.
        let packed = PackedWeights::with_kernel(kernel, 0, 1 << 4, &[]);
        assert_refused("a must be [m, k]", || {
            packed.product(1 << 60, &[], 0, &mut []);
        });
    }
}

#[test]
fn lengths_that_wrap_are_refused_by_the_definition() {
    let [large, small] = WRAPPING;
    let run = |[m, n, k]: [usize; 3]| gemm_i8_scalar(Dims { m, n, k }, &[], 0, &[], &mut []);
    assert_refused("a must be [m, k]", || run([large, 0, small]));
    assert_refused("b must be [n, k]", || run([0, large, small]));
    assert_refused("c must be [m, n]", || run([large, small, 0]));
}
