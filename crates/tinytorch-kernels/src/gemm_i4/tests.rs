use super::scalar::{dot_f32_i4, dot_i8_i4};
use super::*;
use crate::testing::{Random, assert_refused, pool};

/// Every kernel and both kinds of activations against the definitions.
#[track_caller]
fn assert_kernels_agree(m: usize, n: usize, k: usize, group: usize, random: &mut Random) {
    let groups = k.div_ceil(group);
    let codes: Vec<i8> = (0..n * k).map(|_| random.below(16) as i8 - 8).collect();
    let scales: Vec<f32> = (0..n * groups).map(|_| random.unit() * 0.1).collect();
    let bias: Vec<f32> = (0..n).map(|_| random.unit() - 0.5).collect();
    let a: Vec<f32> = (0..m * k).map(|_| random.unit() - 0.5).collect();
    let a8 = random.codes(m * k);
    let row_scales: Vec<f32> = (0..m).map(|_| random.unit()).collect();
    for bias in [&bias[..], &[]] {
        for zero_points in [vec![0; m], (0..m).map(|_| random.code().into()).collect()] {
            let a8 = Codes8 {
                codes: &a8,
                scales: &row_scales,
                zero_points: &zero_points,
            };
            for kernel in Kernel::available() {
                let what = format!("[{m}, {k}] · [{n}, {k}], groups of {group}, {kernel:?}");
                let packed = PackedInt4::with_kernel(kernel, n, k, group, &codes, &scales);
                assert_eq!(packed.unpack(), codes, "{what}");
                assert_eq!(packed.scales(), scales, "{what}");
                let (mut reals, mut of_codes) = (vec![f32::NAN; m * n], vec![f32::NAN; m * n]);
                packed.product_f32(m, &a, bias, &mut reals, Threads::Auto);
                packed.product_i8(m, a8, bias, &mut of_codes, Threads::Auto);
                for i in 0..m {
                    for j in 0..n {
                        let codes = &codes[j * k..(j + 1) * k];
                        let scales = &scales[j * groups..(j + 1) * groups];
                        let mut expected = [
                            dot_f32_i4(&a[i * k..(i + 1) * k], codes, group, scales),
                            dot_i8_i4(a8, i, codes, group, scales),
                        ];
                        if let Some(bias) = bias.get(j) {
                            expected = expected.map(|value| value + bias);
                        }
                        let got = [reals[i * n + j], of_codes[i * n + j]];
                        assert_eq!(
                            got.map(f32::to_bits),
                            expected.map(f32::to_bits),
                            "[{i}, {j}] {got:?} {expected:?}: {what}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn worked_example() {
    // Two groups of 8: 0.5 · (1 · 2 + 2 · (−8)) + 2 · (3 · 7) = −7 + 42; the last group is shorter.
    let mut codes = [0; 9];
    (codes[0], codes[1], codes[8]) = (2, -8, 7);
    let packed = PackedInt4::new(1, 9, 8, &codes, &[0.5, 2.0]);
    let a = [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0];
    let mut out = [0.0];
    packed.product_f32(1, &a, &[1.0], &mut out, Threads::One);
    assert_eq!(out, [36.0]);
    // The same as codes: scale 0.5, zero point −1.
    let codes = a.map(|value| (value / 0.5) as i8 - 1);
    let a = Codes8 {
        codes: &codes,
        scales: &[0.5],
        zero_points: &[-1],
    };
    packed.product_i8(1, a, &[1.0], &mut out, Threads::One);
    assert_eq!(out, [36.0]);
    // 9 codes are two words, for each of 64 columns; two scales.
    assert_eq!(packed.bytes(), 2 * 64 * 4 + 2 * 64 * 4);
}

#[test]
fn every_kernel_agrees_at_the_edges() {
    let random = &mut Random::new(31);
    for m in [1, 2, 3, 4, 7, 12, 13, 65] {
        for (n, k, group) in [(1, 1, 8), (16, 31, 32), (64, 64, 32), (65, 129, 64)] {
            assert_kernels_agree(m, n, k, group, random);
        }
    }
    for (n, k, group) in [(3, 300, 128), (130, 96, 96), (2, 0, 32), (63, 4100, 4096)] {
        assert_kernels_agree(1, n, k, group, random);
    }
}

#[test]
fn every_kernel_agrees_at_every_inner_dimension_and_with_groups_that_do_not_divide_it() {
    let random = &mut Random::new(33);
    // Words with each number of codes, groups with each number of words left, odd and even.
    for k in 1..=75 {
        for group in [8, 24, 40] {
            assert_kernels_agree(1 + k % 3, 9, k, group, random);
        }
    }
    // Panels with each number of vectors of 8 and 16 columns, whole and broken.
    for n in [
        7, 8, 9, 15, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 129,
    ] {
        for m in [1, 2, 3] {
            assert_kernels_agree(m, n, 43, 32, random);
        }
    }
}

#[test]
fn products_divided_among_threads_agree() {
    let random = &mut Random::new(32);
    pool(3).install(|| {
        assert_kernels_agree(5, 700, 640, 32, random);
        assert_kernels_agree(20, 400, 160, 32, random);
    });
}

#[test]
fn the_largest_sums_of_a_group_are_exact() {
    let (k, group) = (4096, 4096);
    for (code, a, zero_point) in [(-8, -128, 127), (7, 127, -128), (-8, 127, -128)] {
        let codes = vec![code; k];
        let a = Codes8 {
            codes: &vec![a; k],
            scales: &[1.0],
            zero_points: &[zero_point],
        };
        let expected = dot_i8_i4(a, 0, &codes, group, &[1.0]);
        // 255 · 8 · 4096 is below 2²⁴, so the f32 is the sum itself.
        let sum = i32::from(code) * (i32::from(a.codes[0]) - zero_point) * 4096;
        assert_eq!(expected, sum as f32);
        for kernel in Kernel::available() {
            let packed = PackedInt4::with_kernel(kernel, 1, k, group, &codes, &[1.0]);
            let mut out = [0.0];
            packed.product_i8(1, a, &[], &mut out, Threads::One);
            assert_eq!(out, [expected], "{kernel:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    assert_refused("code 8 at 1 does not fit four bits", || {
        PackedInt4::new(1, 2, 8, &[0, 8], &[1.0]);
    });
    assert_refused("groups of 12 codes", || {
        PackedInt4::new(1, 12, 12, &[0; 12], &[1.0]);
    });
    assert_refused("scales must be [1, 2]", || {
        PackedInt4::new(1, 9, 8, &[0; 9], &[1.0]);
    });
    let packed = PackedInt4::new(1, 8, 8, &[0; 8], &[1.0]);
    assert_refused("a must be [2, 8]", || {
        packed.product_f32(2, &[0.0; 8], &[], &mut [0.0; 2], Threads::One);
    });
    assert_refused("zero point 128 is not an i8", || {
        let a = Codes8 {
            codes: &[0; 8],
            scales: &[1.0],
            zero_points: &[128],
        };
        packed.product_i8(1, a, &[], &mut [0.0], Threads::One);
    });
}
