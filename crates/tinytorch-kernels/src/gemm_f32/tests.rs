use super::*;

/// The definition: one sum per element, in `f64`, so that its own rounding is out of the comparison.
fn scalar(dims: Dims, a: MatrixRef<'_>, b: MatrixRef<'_>) -> Vec<f64> {
    let mut c = Vec::new();
    for i in 0..dims.m {
        for j in 0..dims.n {
            c.push(
                (0..dims.k)
                    .map(|p| {
                        f64::from(a.data[i * a.row_stride + p * a.column_stride])
                            * f64::from(b.data[p * b.row_stride + j * b.column_stride])
                    })
                    .sum(),
            );
        }
    }
    c
}

/// Values in [-1, 1), the same in every run.
fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

#[test]
fn worked_example() {
    let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
    let mut c = [f32::NAN; 4];
    let dims = Dims { m: 2, n: 2, k: 2 };
    let (a, b) = (MatrixRef::row_major(&a, 2), MatrixRef::row_major(&b, 2));
    gemm_f32(
        dims,
        a,
        b,
        MatrixMut::row_major(&mut c, 2),
        Accumulate::Overwrite,
        Threads::One,
    );
    assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
    gemm_f32(
        dims,
        a,
        b,
        MatrixMut::row_major(&mut c, 2),
        Accumulate::Add,
        Threads::One,
    );
    assert_eq!(c, [38.0, 44.0, 86.0, 100.0]);
}

#[test]
fn every_layout_and_size_agrees_with_the_definition() {
    let sizes = [1, 2, 5, 17, 33];
    for (m, n, k) in sizes
        .iter()
        .flat_map(|&m| sizes.iter().flat_map(move |&n| sizes.map(|k| (m, n, k))))
    {
        let dims = Dims { m, n, k };
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        for a in [
            MatrixRef::row_major(&a, k),
            MatrixRef::row_major(&a, m).transposed(),
        ] {
            for b in [
                MatrixRef::row_major(&b, n),
                MatrixRef::row_major(&b, k).transposed(),
            ] {
                let row_stride = n + 3;
                let mut c = vec![7.0; m * row_stride];
                let out = MatrixMut {
                    data: &mut c,
                    row_stride,
                };
                gemm_f32(dims, a, b, out, Accumulate::Overwrite, Threads::Auto);
                let expected = scalar(dims, a, b);
                for i in 0..m {
                    for j in 0..n {
                        let (got, expected) = (c[i * row_stride + j], expected[i * n + j]);
                        // k products of at most 1, each sum rounded once: at most k · k · ε/2, and one ε for k = 1.
                        let tolerance = (k * k) as f64 * f64::from(f32::EPSILON);
                        let error = (f64::from(got) - expected).abs();
                        assert!(
                            error <= tolerance,
                            "{dims:?} [{i}, {j}]: expected {expected}, got {got}"
                        );
                    }
                    assert_eq!(
                        c[i * row_stride + n..(i + 1) * row_stride],
                        [7.0; 3],
                        "wrote beside row {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_stride_of_zero_repeats_a_row() {
    let (a, b) = ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0]);
    let repeated = MatrixRef {
        data: &b,
        row_stride: 0,
        column_stride: 1,
    };
    let mut c = [0.0; 4];
    let dims = Dims { m: 2, n: 2, k: 2 };
    let a = MatrixRef::row_major(&a, 2);
    gemm_f32(
        dims,
        a,
        repeated,
        MatrixMut::row_major(&mut c, 2),
        Accumulate::Overwrite,
        Threads::One,
    );
    assert_eq!(c, [2.0, 4.0, 2.0, 4.0]);
}

#[test]
fn the_stride_of_a_single_row_or_column_does_not_matter() {
    // 20 rows are too many for `few_rows`.
    let sizes = [
        (1, 33, 17),
        (1, 1, 17),
        (20, 1, 17),
        (20, 33, 1),
        (1, 33, 1),
    ];
    for (m, n, k) in sizes {
        let dims = Dims { m, n, k };
        let (a, b) = (values(m * k, 5), values(k * n, 6));
        let loosened = |matrix: MatrixRef<'_>, [rows, columns]: [usize; 2], loose: usize| {
            let stride = |length: usize, stride| if length <= 1 { loose } else { stride };
            (
                stride(rows, matrix.row_stride),
                stride(columns, matrix.column_stride),
            )
        };
        for b in [
            MatrixRef::row_major(&b, n),
            MatrixRef::row_major(&b, k).transposed(),
        ] {
            let a = MatrixRef::row_major(&a, k);
            let expected = scalar(dims, a, b);
            for loose in [0, 1, isize::MAX as usize, usize::MAX / 2 + 1, usize::MAX] {
                let with = |matrix: MatrixRef<'_>, sizes| loosened(matrix, sizes, loose);
                let ((a_row, a_column), (b_row, b_column)) = (with(a, [m, k]), with(b, [k, n]));
                let a = MatrixRef {
                    row_stride: a_row,
                    column_stride: a_column,
                    ..a
                };
                let b = MatrixRef {
                    row_stride: b_row,
                    column_stride: b_column,
                    ..b
                };
                let mut c = vec![f32::NAN; m * n];
                let out = MatrixMut {
                    data: &mut c,
                    row_stride: if m <= 1 { loose } else { n },
                };
                gemm_f32(dims, a, b, out, Accumulate::Overwrite, Threads::One);
                for (got, expected) in c.iter().zip(&expected) {
                    let error = (f64::from(*got) - expected).abs();
                    let tolerance = (k * k) as f64 * f64::from(f32::EPSILON);
                    assert!(
                        error <= tolerance,
                        "{dims:?}, stride {loose}: expected {expected}, got {got}"
                    );
                }
            }
        }
    }
    // With no inner dimension both sides are empty, whatever their strides.
    let empty = MatrixRef {
        data: &[],
        row_stride: usize::MAX,
        column_stride: usize::MAX,
    };
    let mut c = [f32::NAN; 40];
    gemm_f32(
        Dims { m: 20, n: 2, k: 0 },
        empty,
        empty,
        MatrixMut::row_major(&mut c, 2),
        Accumulate::Overwrite,
        Threads::One,
    );
    assert_eq!(c, [0.0; 40]);
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool")
    };
    for (m, n, k) in [
        (3, 301, 1001),
        (16, 1000, 70),
        (128, 128, 128),
        (1, 1500, 700),
        (8, 1000, 1000),
        (257, 129, 1031),
        (700, 1, 1500),
        (33, 2000, 300),
    ] {
        let dims = Dims { m, n, k };
        let (a, b) = (values(m * k, 3), values(k * n, 4));
        for b in [
            MatrixRef::row_major(&b, n),
            MatrixRef::row_major(&b, k).transposed(),
        ] {
            let run = |threads| {
                let mut c = vec![0.0; m * n];
                let (a, c_view) = (MatrixRef::row_major(&a, k), MatrixMut::row_major(&mut c, n));
                pool(threads)
                    .install(|| gemm_f32(dims, a, b, c_view, Accumulate::Overwrite, Threads::Auto));
                c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let one = run(1);
            assert!(one == run(2) && one == run(3), "{dims:?}");
        }
    }
}

#[test]
fn no_inner_dimension_gives_zeros_and_no_rows_nothing() {
    let mut c = [f32::NAN; 2];
    let empty = MatrixRef::row_major(&[], 0);
    let dims = Dims { m: 1, n: 2, k: 0 };
    gemm_f32(
        dims,
        empty,
        empty,
        MatrixMut::row_major(&mut c, 2),
        Accumulate::Overwrite,
        Threads::Auto,
    );
    assert_eq!(c, [0.0, 0.0]);
    let dims = Dims { m: 0, n: 2, k: 3 };
    let b = [1.0; 6];
    let b = MatrixRef::row_major(&b, 2);
    gemm_f32(
        dims,
        empty,
        b,
        MatrixMut::row_major(&mut [], 2),
        Accumulate::Overwrite,
        Threads::Auto,
    );
}

#[test]
#[should_panic(expected = "b is too short: [2, 2] with strides [2, 1] needs more than 3 elements")]
fn a_short_slice_is_refused() {
    let mut c = [0.0; 4];
    let dims = Dims { m: 2, n: 2, k: 2 };
    let (a, b) = (
        MatrixRef::row_major(&[0.0; 4], 2),
        MatrixRef::row_major(&[0.0; 3], 2),
    );
    gemm_f32(
        dims,
        a,
        b,
        MatrixMut::row_major(&mut c, 2),
        Accumulate::Overwrite,
        Threads::One,
    );
}
