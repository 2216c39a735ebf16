use super::*;
use crate::testing::{Random, assert_refused, pool};

/// The definition: the sums of products in `f64`, then bias, what was there, ReLU.
fn definition(
    dims: [usize; 3],
    a: MatrixRef<'_>,
    b: MatrixRef<'_>,
    finish: Finish<'_>,
    before: &[f32],
) -> Vec<f64> {
    let [m, n, k] = dims;
    let mut out = vec![];
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k)
                .map(|p| {
                    f64::from(a.data[i * a.row_stride + p])
                        * f64::from(b.data[p * b.row_stride + j * b.column_stride])
                })
                .sum();
            let mut value = sum + f64::from(finish.bias.get(j).copied().unwrap_or(0.0));
            if finish.accumulate == Accumulate::Add {
                value += f64::from(before[i * n + j]);
            }
            out.push(if finish.relu { value.max(0.0) } else { value });
        }
    }
    out
}

fn assert_agreement([m, n, k]: [usize; 3], random: &mut Random) {
    let mut values = |len: usize| {
        (0..len)
            .map(|_| 2.0 * random.unit() - 1.0)
            .collect::<Vec<f32>>()
    };
    let stride = k + 3;
    let (a, b, bias, before) = (values(m * stride), values(n * k), values(n), values(m * n));
    let a = MatrixRef {
        data: &a,
        row_stride: stride,
        column_stride: 1,
    };
    for b in [
        MatrixRef::row_major(&b, n),
        MatrixRef::row_major(&b, k).transposed(),
    ] {
        let packed = PackedF32::new(k, n, b);
        for finish in [
            Finish::NOTHING,
            Finish {
                bias: &bias,
                relu: true,
                accumulate: Accumulate::Overwrite,
                ..Finish::NOTHING
            },
            Finish {
                bias: &[],
                relu: false,
                accumulate: Accumulate::Add,
                ..Finish::NOTHING
            },
        ] {
            let expected = definition([m, n, k], a, b, finish, &before);
            let mut out = before.clone();
            packed.product(
                m,
                a,
                finish,
                MatrixMut::row_major(&mut out, n),
                Threads::Auto,
            );
            // k products of at most 1 and two sums, each rounded once: at most (k + 2)² · ε/2.
            let tolerance = ((k + 2) * (k + 2)) as f64 * f64::from(f32::EPSILON) / 2.0;
            for (index, (&got, &expected)) in out.iter().zip(&expected).enumerate() {
                let error = (f64::from(got) - expected).abs();
                assert!(
                    error <= tolerance,
                    "{:?} at {index}: expected {expected}, got {got}, {finish:?}",
                    [m, n, k]
                );
            }
        }
    }
}

#[test]
fn products_agree_with_the_definition_at_the_edges_of_tiles_and_panels() {
    let random = &mut Random::new(31);
    for m in [0, 1, 2, 7, 8, 9, 17] {
        for n in [0, 1, 15, 16, 17, 33, 47, 48, 49, 64, 97] {
            for k in [0, 1, 16, 19] {
                assert_agreement([m, n, k], random);
            }
        }
    }
    // One row in streams, with panels left over.
    for n in [64, 128, 144, 192, 193, 240, 500] {
        assert_agreement([1, n, 33], random);
    }
}

/// Products of many rows were always divided by rows, each piece of which read the whole packed matrix.
#[test]
fn the_larger_side_is_divided_if_the_smaller_one_stays_in_the_cache() {
    let pieces = |m: usize, n: usize, k: usize| -> Vec<[usize; 2]> {
        let packed = PackedF32::new(k, n, MatrixRef::row_major(&vec![0.0; k * n], n));
        let (a, mut out) = (vec![0.0; m * k], vec![0.0; m * n]);
        let rows = panels::Rows {
            data: &a,
            stride: k,
            k,
        };
        let out = BlockMut::new(&mut out, m, 0, n, n);
        let whole = task(rows, packed.panels(), Finish::NOTHING, out);
        let pieces = divide(whole, 2);
        let size = |task: &Task<'_, _>| [task.out.rows(), task.out.columns()];
        pieces.iter().map(size).collect()
    };
    let by_columns = pieces(128, 1600, 20);
    assert!(by_columns.iter().all(|&[rows, _]| rows == 128));
    assert_eq!(
        by_columns
            .iter()
            .map(|&[_, columns]| columns)
            .sum::<usize>(),
        1600
    );
    let by_rows = [[64, 100]; 4];
    assert_eq!(pieces(256, 100, 20), by_rows, "more rows than columns");
    // 2^18 elements of a are 1 MiB, and these are more.
    let large = pieces(256, 1600, 1025);
    assert_eq!(large, [[64, 1600]; 4], "a is not read from the cache");
}

#[test]
fn the_bits_depend_neither_on_the_threads_nor_on_the_batch() {
    let random = &mut Random::new(32);
    let (m, n, k) = (131, 330, 70);
    let a: Vec<f32> = (0..m * k).map(|_| random.unit()).collect();
    let b: Vec<f32> = (0..n * k).map(|_| random.unit()).collect();
    let packed = PackedF32::new(k, n, MatrixRef::row_major(&b, k).transposed());
    let run = |first: usize, m: usize| {
        let mut out = vec![0.0; m * n];
        let a = MatrixRef::row_major(&a[first * k..], k);
        packed.product(
            m,
            a,
            Finish::NOTHING,
            MatrixMut::row_major(&mut out, n),
            Threads::Auto,
        );
        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let whole = pool(1).install(|| run(0, m));
    assert_eq!(pool(2).install(|| run(0, m)), whole);
    assert_eq!(run(0, m), whole);
    for row in [0, 5, m - 1] {
        assert_eq!(run(row, 1), whole[row * n..(row + 1) * n], "row {row}");
    }
}

#[test]
fn relu_cuts_off_what_is_negative_and_lets_nan_pass() {
    // Whole lines and a broken one, of each kind of tile.
    for (m, n) in [(1, 7), (1, 200), (3, 40), (9, 50)] {
        let packed = PackedF32::new(1, n, MatrixRef::row_major(&vec![1.0; n], n));
        let values = [f32::NAN, -1.0, 2.0];
        let a: Vec<f32> = (0..m).map(|i| values[i % 3]).collect();
        let finish = Finish {
            relu: true,
            ..Finish::NOTHING
        };
        let mut out = vec![7.0; m * n];
        let out_view = MatrixMut::row_major(&mut out, n);
        packed.product(
            m,
            MatrixRef::row_major(&a, 1),
            finish,
            out_view,
            Threads::One,
        );
        for (i, row) in out.chunks(n).enumerate() {
            let as_expected = |&value: &f32| match i % 3 {
                0 => value.is_nan(),
                1 => value == 0.0,
                _ => value == 2.0,
            };
            assert!(row.iter().all(as_expected), "[{m}, {n}], row {i}: {row:?}");
        }
    }
}

#[test]
fn normalizing_where_sums_end_gives_the_bits_of_a_pass_of_its_own() {
    let random = &mut Random::new(33);
    let mut values = |len: usize| (0..len).map(|_| random.unit() - 0.5).collect::<Vec<f32>>();
    // Each kind of tile and panel, broken lines, streams; and a product divided by columns, one by rows.
    let sizes = [
        (1, 7, 5),
        (1, 500, 3),
        (3, 40, 20),
        (9, 50, 1),
        (8, 16, 9),
        (16, 400, 300),
        (130, 90, 80),
    ];
    for (m, n, k) in sizes {
        let (a, b, bias, before) = (values(m * k), values(n * k), values(n), values(m * n));
        let (mean, scale, shift) = (values(n), values(n), values(n));
        let normalize = Normalize {
            mean: &mean,
            scale: &scale,
            shift: &shift,
        };
        let packed = PackedF32::new(k, n, MatrixRef::row_major(&b, n));
        let run = |finish: Finish<'_>| {
            let mut out = before.clone();
            let view = MatrixMut::row_major(&mut out, n);
            let a = MatrixRef::row_major(&a, k);
            pool(2).install(|| packed.product(m, a, finish, view, Threads::Auto));
            out
        };
        for (accumulate, relu) in [(Accumulate::Overwrite, true), (Accumulate::Add, false)] {
            let finish = Finish {
                bias: &bias,
                accumulate,
                ..Finish::NOTHING
            };
            let expected = run(finish).into_iter().enumerate().map(|(i, x)| {
                let j = i % n;
                let x = (x - mean[j]) * scale[j] + shift[j];
                (if relu && x < 0.0 { 0.0 } else { x }).to_bits()
            });
            let got = run(Finish {
                normalize: Some(normalize),
                relu,
                ..finish
            });
            let got: Vec<u32> = got.into_iter().map(f32::to_bits).collect();
            assert_eq!(got, expected.collect::<Vec<_>>(), "[{m}, {n}, {k}]");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let packed = PackedF32::new(2, 3, MatrixRef::row_major(&[0.0; 6], 3));
    let run = |a: MatrixRef<'_>, bias: &[f32], len: usize| {
        let finish = Finish {
            bias,
            ..Finish::NOTHING
        };
        packed.product(
            2,
            a,
            finish,
            MatrixMut::row_major(&mut vec![0.0; len], 3),
            Threads::One,
        );
    };
    let a = MatrixRef::row_major(&[0.0; 4], 2);
    assert_refused("rows of a must be contiguous", || {
        run(a.transposed(), &[], 6)
    });
    assert_refused("a is too short", || {
        run(MatrixRef::row_major(&[0.0; 3], 2), &[], 6)
    });
    assert_refused("bias must be [n]", || run(a, &[0.0; 2], 6));
    assert_refused("do not fit 5 elements", || run(a, &[], 5));
    assert_refused("mean, scale and shift must be [3]", || {
        let normalize = Normalize {
            mean: &[0.0; 3],
            scale: &[0.0; 2],
            shift: &[0.0; 3],
        };
        let finish = Finish {
            normalize: Some(normalize),
            ..Finish::NOTHING
        };
        let out = &mut [0.0; 6];
        packed.product(2, a, finish, MatrixMut::row_major(out, 3), Threads::One);
    });
    assert_refused("b is too short", || {
        PackedF32::new(2, 3, MatrixRef::row_major(&[0.0; 5], 3));
    });
}

#[test]
fn without_an_inner_dimension_any_stride_gives_the_bias() {
    // Rows of no elements were looked for in the empty slice, five elements apart.
    let empty = MatrixRef {
        data: &[],
        row_stride: 5,
        column_stride: 1,
    };
    let packed = PackedF32::new(0, 4, empty);
    for m in [1, 2, 40] {
        let finish = Finish {
            bias: &[1.0, 2.0, 3.0, 4.0],
            ..Finish::NOTHING
        };
        let mut out = vec![f32::NAN; 4 * m];
        let result = MatrixMut::row_major(&mut out, 4);
        packed.product(m, empty, finish, result, Threads::One);
        assert!(out.chunks(4).all(|row| row == [1.0, 2.0, 3.0, 4.0]));
        out.fill(f32::NAN);
        let transposed = MatrixRef {
            row_stride: 1,
            column_stride: 7,
            ..empty
        };
        let result = MatrixMut::row_major(&mut out, 4);
        let no_depth = crate::Dims { m, n: 4, k: 0 };
        let overwrite = Accumulate::Overwrite;
        crate::gemm_f32(no_depth, empty, transposed, result, overwrite, Threads::One);
        assert_eq!(out, vec![0.0; 4 * m]);
    }
}
