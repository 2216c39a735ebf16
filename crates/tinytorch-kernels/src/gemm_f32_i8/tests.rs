use super::scalar::dot_f32_i8;
use super::*;
use crate::testing::{Random, assert_refused, pool};

/// Every kernel against the definition, few rows and many.
#[track_caller]
fn assert_kernels_agree(m: usize, n: usize, k: usize, group: usize, random: &mut Random) {
    let groups = k.div_ceil(group);
    let codes = random.codes(n * k);
    let scales: Vec<f32> = (0..n * groups).map(|_| random.unit() * 0.1).collect();
    let bias: Vec<f32> = (0..n).map(|_| random.unit() - 0.5).collect();
    let a: Vec<f32> = (0..m * k).map(|_| random.unit() - 0.5).collect();
    for bias in [&bias[..], &[]] {
        for vectors in Vectors::available() {
            let what = format!("[{m}, {k}] · [{n}, {k}], groups of {group}, {vectors:?}");
            let packed = PackedInt8::with_vectors(vectors, n, k, group, &codes, &scales);
            assert_eq!(packed.unpack(), codes, "{what}");
            assert_eq!(packed.scales(), scales, "{what}");
            let mut out = vec![f32::NAN; m * n];
            packed.product(m, &a, bias, &mut out, Threads::Auto);
            for i in 0..m {
                for j in 0..n {
                    let (codes, scales) = (&codes[j * k..][..k], &scales[j * groups..][..groups]);
                    let dot = dot_f32_i8(&a[i * k..][..k], codes, group, scales);
                    let expected = bias.get(j).map_or(dot, |bias| dot + bias);
                    let got = out[i * n + j];
                    assert_eq!(
                        got.to_bits(),
                        expected.to_bits(),
                        "[{i}, {j}] {got} {expected}: {what}"
                    );
                }
            }
        }
    }
}

#[test]
fn worked_example() {
    // Two groups: 0.5 · (1 · 100 + 2 · (−128)) + 2 · (3 · 127) = −78 + 762, and a bias of 1.
    let packed = PackedInt8::new(1, 3, 2, &[100, -128, 127], &[0.5, 2.0]);
    let mut out = [f32::NAN];
    packed.product(1, &[1.0, 2.0, 3.0], &[1.0], &mut out, Threads::One);
    assert_eq!(out, [685.0]);
    // 3 codes for each of 16 columns, two scales for each of 64.
    assert_eq!(packed.bytes(), 3 * 16 + 2 * 64 * 4);
}

#[test]
fn every_kernel_agrees_at_the_edges() {
    let random = &mut Random::new(41);
    for m in [1, 2, 3, 4, 7, 12, 13, 65] {
        for (n, k, group) in [(1, 1, 1), (20, 31, 7), (48, 64, 64), (65, 129, 32)] {
            assert_kernels_agree(m, n, k, group, random);
        }
    }
    // More than a piece shares a scale; nothing to sum; one group for all, however far it reaches.
    for (n, k, group) in [
        (3, 1300, 1300),
        (130, 2 * PIECE, 2 * PIECE),
        (2, 0, 32),
        (5, 40, usize::MAX),
    ] {
        for m in [1, 15] {
            assert_kernels_agree(m, n, k, group, random);
        }
    }
}

#[test]
fn products_divided_among_threads_agree() {
    let random = &mut Random::new(42);
    pool(3).install(|| {
        assert_kernels_agree(5, 700, 640, 640, random);
        assert_kernels_agree(20, 400, 300, 300, random);
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    assert_refused("groups of no codes", || {
        PackedInt8::new(1, 1, 0, &[1], &[1.0]);
    });
    assert_refused("codes must be [2, 2]", || {
        PackedInt8::new(2, 2, 2, &[1; 3], &[1.0; 2]);
    });
    assert_refused("scales must be [2, 1]", || {
        PackedInt8::new(2, 2, 2, &[1; 4], &[1.0; 3]);
    });
    let packed = PackedInt8::new(2, 2, 2, &[1; 4], &[1.0; 2]);
    assert_refused("a must be [2, 2]", || {
        packed.product(2, &[1.0; 3], &[], &mut [0.0; 4], Threads::One);
    });
    assert_refused("bias must be", || {
        packed.product(1, &[1.0; 2], &[1.0], &mut [0.0; 2], Threads::One);
    });
    assert_refused("out must be [1, 2]", || {
        packed.product(1, &[1.0; 2], &[], &mut [0.0; 3], Threads::One);
    });
}
