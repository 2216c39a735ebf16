//! Products without rows, columns or an inner dimension: a sum over nothing is 0, so what is left is the bias, and where there is
//! nothing to write nothing is written. No size panics.

use tinytorch_kernels::gemm_i4::Codes8;
use tinytorch_kernels::{
    Accumulate, Dims, DynamicLinear, Finish, InputRange, MatrixMut, MatrixRef, PackedBf16,
    PackedF32, PackedInt4, PackedInt8, PackedWeights, Quantize, Requantize, Scale, StaticLinear,
    Threads, gemm_bf16, gemm_f32, kernels,
};

/// Sizes of which at least one is 0: `[m, n, k]`.
fn sizes() -> impl Iterator<Item = [usize; 3]> {
    let all = (0..27).map(|i| [i % 3, i / 3 % 3, i / 9]);
    all.filter(|sizes| sizes.contains(&0))
}

#[test]
fn integer_products_of_nothing_are_their_bias() {
    for [m, n, k] in sizes() {
        for &kernel in kernels() {
            let packed = PackedWeights::with_kernel(kernel, n, k, &vec![1; n * k]);
            assert_eq!(packed.unpack(), vec![1; n * k]);
            let a = vec![1; m * k];
            let mut sums = vec![7; m * n];
            packed.product(m, &a, 3, &mut sums);
            assert_eq!(sums, vec![0; m * n], "[{m}, {n}, {k}]");
            let (bias, multipliers, real_bias) = (vec![5; n], vec![2.0; n], vec![0.25; n]);
            let ending = Requantize {
                bias: &bias,
                multipliers: &multipliers,
                zero_point: 1,
                min: -128,
                max: 127,
            };
            let mut codes = vec![7; m * n];
            packed.requantized(m, &a, 3, &ending, &mut codes);
            assert_eq!(codes, vec![11; m * n], "[{m}, {n}, {k}]");
            let scale = Scale {
                scales: &multipliers,
                bias: &real_bias,
                relu: false,
            };
            let mut reals = vec![7.0; m * n];
            packed.scaled(m, &a, 3, &scale, &mut reals);
            assert_eq!(reals, vec![0.25; m * n], "[{m}, {n}, {k}]");

            let (x, mut codes) = (vec![1.0; m * k], vec![7; m * n]);
            let layer = StaticLinear::new(packed.clone(), 3, &ending);
            layer.forward(m, &a, &mut codes);
            assert_eq!(codes, vec![11; m * n], "[{m}, {n}, {k}]");
            let by = Quantize {
                scale: 1.0,
                zero_point: 3,
                min: -128,
                max: 127,
            };
            let mut codes = vec![7; m * n];
            assert_eq!(layer.forward_real(m, &x, by, &mut codes), Ok(()));
            assert_eq!(codes, vec![11; m * n], "[{m}, {n}, {k}]");
            let layer = DynamicLinear::new(packed, &multipliers, &real_bias);
            for range in [InputRange::PerRow, InputRange::PerTensor] {
                let mut reals = vec![7.0; m * n];
                assert_eq!(layer.forward(m, &x, range, false, &mut reals), Ok(()));
                assert_eq!(reals, vec![0.25; m * n], "[{m}, {n}, {k}], {range:?}");
            }
        }
    }
}

#[test]
fn real_products_of_nothing_are_their_bias() {
    for [m, n, k] in sizes() {
        let (a, b, bias) = (vec![1.0; m * k], vec![1.0; n * k], vec![0.25; n]);
        let left = MatrixRef::row_major(&a, k);
        let right = MatrixRef::row_major(&b, k).transposed();
        let dims = Dims { m, n, k };
        for threads in [Threads::One, Threads::Auto] {
            let mut c = vec![7.0; m * n];
            let out = MatrixMut::row_major(&mut c, n);
            gemm_f32(dims, left, right, out, Accumulate::Overwrite, threads);
            assert_eq!(c, vec![0.0; m * n], "gemm_f32 of [{m}, {n}, {k}]");
            let out = MatrixMut::row_major(&mut c, n);
            let finish = Finish {
                bias: &bias,
                relu: false,
                accumulate: Accumulate::Overwrite,
                ..Finish::NOTHING
            };
            PackedF32::new(k, n, right).product(m, left, finish, out, threads);
            assert_eq!(c, vec![0.25; m * n], "PackedF32 of [{m}, {n}, {k}]");
            let mut c = vec![7.0; m * n];
            let (left, right) = (left.into(), right.into());
            let out = MatrixMut::row_major(&mut c, n);
            gemm_bf16(dims, left, right, out, Accumulate::Overwrite, threads);
            assert_eq!(c, vec![0.0; m * n], "gemm_bf16 of [{m}, {n}, {k}]");
            let packed = PackedBf16::new(n, k, right);
            let mut c = vec![7.0; m * n];
            let out = MatrixMut::row_major(&mut c, n);
            packed.product(m, left, out, Accumulate::Add, threads);
            assert_eq!(c, vec![7.0; m * n], "PackedBf16 of [{m}, {n}, {k}]");
        }
    }
}

#[test]
fn products_of_nothing_with_narrow_weights_are_their_bias() {
    for [m, n, k] in sizes() {
        let (codes, scales) = (vec![1; n * k], vec![1.0; n * k.div_ceil(8)]);
        let (x, bias) = (vec![1.0; m * k], vec![0.25; n]);
        let expected = vec![0.25; m * n];
        let mut out = vec![7.0; m * n];
        let packed = PackedInt8::new(n, k, 8, &codes, &scales);
        packed.product(m, &x, &bias, &mut out, Threads::Auto);
        assert_eq!(out, expected, "PackedInt8 of [{m}, {n}, {k}]");
        let packed = PackedInt4::new(n, k, 8, &codes, &scales);
        let mut out = vec![7.0; m * n];
        packed.product_f32(m, &x, &bias, &mut out, Threads::Auto);
        assert_eq!(out, expected, "PackedInt4 of [{m}, {n}, {k}]");
        let a = Codes8 {
            codes: &vec![1; m * k],
            scales: &vec![1.0; m],
            zero_points: &vec![0; m],
        };
        let mut out = vec![7.0; m * n];
        packed.product_i8(m, a, &bias, &mut out, Threads::Auto);
        assert_eq!(out, expected, "PackedInt4 and codes of [{m}, {n}, {k}]");
    }
}
