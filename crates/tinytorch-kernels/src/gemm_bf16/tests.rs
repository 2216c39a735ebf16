use half::bf16;

use super::scalar::gemm_bf16_scalar;
use super::*;
use crate::testing::{Random, assert_refused, pool};

/// Which numbers a test multiplies.
#[derive(Clone, Copy, Debug)]
enum Numbers {
    /// In [-1, 1).
    Usual,
    /// Any bits: subnormal, infinite and NaN among them.
    Any,
    /// Products around the smallest normal `f32`.
    Tiny,
    /// Products around the largest `f32`.
    Huge,
}

fn numbers(kind: Numbers, len: usize, random: &mut Random) -> Vec<f32> {
    let number = |_| {
        let bits = random.next() as u32;
        let near = |exponent: u32| {
            f32::from_bits(bits & 0x807f_ffff | (exponent + (bits >> 23) % 16) << 23)
        };
        match kind {
            Numbers::Usual => 2.0 * random.unit() - 1.0,
            Numbers::Any => f32::from_bits(bits),
            Numbers::Tiny => near(52),
            Numbers::Huge => near(180),
        }
    };
    (0..len).map(number).collect()
}

fn rounded(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

/// The bits, with one NaN for all.
fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |value: &f32| {
        if value.is_nan() {
            f32::NAN.to_bits()
        } else {
            value.to_bits()
        }
    };
    values.iter().map(bits).collect()
}

/// Every kernel, layout and type of both sides against the definition.
#[track_caller]
fn assert_kernels_agree(dims: Dims, kind: Numbers, random: &mut Random) {
    let Dims { m, n, k } = dims;
    let (a, b) = (numbers(kind, m * k, random), numbers(kind, k * n, random));
    let before = numbers(kind, m * n, random);
    let (a16, b16) = (rounded(&a), rounded(&b));
    let lefts = [
        MatrixRef::row_major(&a, k).into(),
        MatrixRef::row_major(&a, m).transposed().into(),
        MatrixBf16::row_major(&a16, k),
        MatrixBf16::row_major(&a16, m).transposed(),
    ];
    let rights = [
        MatrixRef::row_major(&b, n).into(),
        MatrixRef::row_major(&b, k).transposed().into(),
        MatrixBf16::row_major(&b16, n),
        MatrixBf16::row_major(&b16, k).transposed(),
    ];
    for (i, j) in [(0, 0), (1, 1), (2, 3), (3, 2), (0, 3), (1, 2)] {
        let (a, b): (MatrixBf16<'_>, MatrixBf16<'_>) = (lefts[i], rights[j]);
        for accumulate in [Accumulate::Overwrite, Accumulate::Add] {
            let expected = [SumOrder::Pairs, SumOrder::Tiles].map(|order| {
                let mut expected = before.clone();
                gemm_bf16_scalar(order, dims, a, b, &mut expected, accumulate);
                bits(&expected)
            });
            for kernel in Kernel::available() {
                let expected = match kernel.order() {
                    SumOrder::Pairs => &expected[0],
                    SumOrder::Tiles => &expected[1],
                };
                let what =
                    format!("{dims:?} {kind:?} {accumulate:?}, layouts {i} and {j}, {kernel:?}");
                let mut c = before.clone();
                let out = MatrixMut::row_major(&mut c, n);
                gemm_bf16_with(kernel, dims, a, b, out, accumulate, Threads::Auto);
                assert!(bits(&c) == *expected, "{what}");
                let packed = PackedBf16::with_kernel(kernel, n, k, b);
                let mut c = before.clone();
                let out = MatrixMut::row_major(&mut c, n);
                packed.product(m, a, out, accumulate, Threads::One);
                assert!(bits(&c) == *expected, "packed, {what}");
                if j == 3 {
                    let subnormal = |x: &bf16| x.to_bits() & 0x7f80 == 0;
                    let flushed =
                        |x: &bf16| x.to_bits() & if subnormal(x) { 0x8000 } else { 0xffff };
                    let held: Vec<u16> = b16.iter().map(flushed).collect();
                    let unpacked: Vec<u16> = packed.unpack().iter().map(|x| x.to_bits()).collect();
                    assert!(unpacked == held, "unpacked, {what}");
                }
            }
        }
    }
}

#[test]
fn worked_example() {
    let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
    let mut c = [f32::NAN; 4];
    let dims = Dims { m: 2, n: 2, k: 2 };
    let [a, b] = [&a, &b].map(|data| MatrixRef::row_major(data, 2).into());
    let out = MatrixMut::row_major(&mut c, 2);
    gemm_bf16(dims, a, b, out, Accumulate::Overwrite, Threads::One);
    assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
    let out = MatrixMut::row_major(&mut c, 2);
    gemm_bf16(dims, a, b, out, Accumulate::Add, Threads::One);
    assert_eq!(c, [38.0, 44.0, 86.0, 100.0]);
}

#[test]
fn every_kernel_agrees_at_the_edges_of_tiles() {
    let random = &mut Random::new(21);
    for m in [1, 13, 14, 15, 17, 29, 33] {
        for (n, k) in [(1, 1), (16, 31), (17, 32), (32, 33), (33, 2), (65, 257)] {
            assert_kernels_agree(Dims { m, n, k }, Numbers::Usual, random);
        }
    }
    // More rows than are packed at once, more words than are summed at once.
    for (m, n, k) in [
        (227, 5, 3),
        (2, 33, 515),
        (15, 3, 513),
        (32, 32, 544),
        (517, 5, 35),
    ] {
        assert_kernels_agree(Dims { m, n, k }, Numbers::Usual, random);
    }
}

#[test]
fn every_kernel_agrees_for_any_numbers() {
    let random = &mut Random::new(22);
    for kind in [Numbers::Any, Numbers::Tiny, Numbers::Huge] {
        for (m, n, k) in [(3, 18, 7), (16, 40, 20), (5, 3, 260)] {
            assert_kernels_agree(Dims { m, n, k }, kind, random);
        }
    }
}

#[test]
fn every_kernel_agrees_at_random_sizes() {
    let random = &mut Random::new(23);
    for _ in 0..10 {
        let [m, n, k] = [40, 70, 90].map(|bound| 1 + random.below(bound));
        assert_kernels_agree(Dims { m, n, k }, Numbers::Usual, random);
    }
}

#[test]
fn products_divided_among_threads_agree() {
    let random = &mut Random::new(24);
    pool(3).install(|| {
        for (m, n, k) in [(3, 1400, 300), (150, 30, 260)] {
            assert_kernels_agree(Dims { m, n, k }, Numbers::Usual, random);
        }
    });
}

#[test]
fn numbers_are_rounded_as_bf16_rounds_them() {
    let random = &mut Random::new(25);
    let one = [1.0];
    for kernel in Kernel::available() {
        for _ in 0..200 {
            // All ties, and the neighbours of the largest finite bf16.
            let bits = (random.next() as u32 & 0xffff_0000) | (0x7fff + random.below(3) as u32);
            let value = [f32::from_bits(bits)];
            let mut c = [0.0];
            let [a, b] = [&value, &one].map(|data| MatrixRef::row_major(data, 1).into());
            let out = MatrixMut::row_major(&mut c, 1);
            let dims = Dims { m: 1, n: 1, k: 1 };
            gemm_bf16_with(kernel, dims, a, b, out, Accumulate::Overwrite, Threads::One);
            let expected = scalar::flush(bf16::from_f32(value[0]).to_f32()) + 0.0;
            assert_eq!(
                self::bits(&c),
                self::bits(&[expected]),
                "{value:?} {kernel:?}"
            );
        }
    }
}

#[test]
fn broadcast_and_spaced_matrices_are_read_where_they_lie() {
    let random = &mut Random::new(26);
    let data = numbers(Numbers::Usual, 4000, random);
    let dims = Dims {
        m: 15,
        n: 18,
        k: 21,
    };
    for (row_stride, column_stride) in [(0, 1), (1, 0), (0, 0), (50, 2), (3, 70)] {
        let a = MatrixRef {
            data: &data,
            row_stride,
            column_stride,
        };
        let b = a.transposed().into();
        let a = a.into();
        for kernel in Kernel::available() {
            let mut expected = vec![0.0; 15 * 18];
            gemm_bf16_scalar(
                kernel.order(),
                dims,
                a,
                b,
                &mut expected,
                Accumulate::Overwrite,
            );
            let mut c = vec![7.0; 15 * 20];
            let out = MatrixMut {
                data: &mut c,
                row_stride: 20,
            };
            gemm_bf16_with(kernel, dims, a, b, out, Accumulate::Overwrite, Threads::One);
            for (c, expected) in c.chunks(20).zip(expected.chunks(18)) {
                assert_eq!(c[..18], *expected, "strides {row_stride}, {column_stride}");
                assert_eq!(c[18..], [7.0; 2], "wrote beside a row");
            }
        }
    }
}

#[test]
fn no_inner_dimension_gives_zeros_or_what_was_there() {
    let dims = Dims { m: 1, n: 2, k: 0 };
    let empty = MatrixBf16::row_major(&[], 0);
    let mut c = [f32::NAN, 3.0];
    let out = MatrixMut::row_major(&mut c[1..], 1);
    gemm_bf16(
        Dims { n: 1, ..dims },
        empty,
        empty,
        out,
        Accumulate::Add,
        Threads::One,
    );
    assert_eq!(c[1], 3.0);
    let out = MatrixMut::row_major(&mut c, 2);
    gemm_bf16(dims, empty, empty, out, Accumulate::Overwrite, Threads::One);
    assert_eq!(c, [0.0; 2]);
    let none = Dims { m: 0, n: 2, k: 3 };
    let six = [bf16::ONE; 6];
    let out = MatrixMut::row_major(&mut [], 2);
    let b = MatrixBf16::row_major(&six, 2);
    gemm_bf16(none, empty, b, out, Accumulate::Overwrite, Threads::Auto);
}

#[test]
fn short_slices_are_refused() {
    let (three, four) = ([bf16::ONE; 3], [bf16::ONE; 4]);
    let (short, whole) = (
        MatrixBf16::row_major(&three, 2),
        MatrixBf16::row_major(&four, 2),
    );
    let dims = Dims { m: 2, n: 2, k: 2 };
    let run = |a, b, c: &mut [f32]| {
        let out = MatrixMut::row_major(c, 2);
        gemm_bf16(dims, a, b, out, Accumulate::Overwrite, Threads::One);
    };
    assert_refused("a is too short", || run(short, whole, &mut [0.0; 4]));
    assert_refused("b is too short", || run(whole, short, &mut [0.0; 4]));
    assert_refused("do not fit 3 elements", || run(whole, whole, &mut [0.0; 3]));
    assert_refused("b is too short", || _ = PackedBf16::new(2, 2, short));
}
