//! Every integer kernel computes what module 15 defines, bit for bit (N13): students write the definition, the library
//! runs the kernels.

use proptest::prelude::*;
use tinytorch_kernels::{PackedWeights, Requantize, kernels};
use tinytorch_quantization::{CodeRange, Dims, gemm_i8, requantize};

#[derive(Clone, Debug)]
struct Layer {
    dims: Dims,
    a: Vec<i8>,
    a_zero_point: i32,
    weight: Vec<i8>,
    bias: Vec<i32>,
    multipliers: Vec<f32>,
    zero_point: i32,
    relu: bool,
}

fn layers() -> impl Strategy<Value = Layer> {
    // Sizes around the tiles of the kernels, and single rows and columns.
    let size = |limit: usize| prop_oneof![0..=limit, Just(1), Just(4), Just(16), Just(17)];
    (size(9), size(35), size(130)).prop_flat_map(|(m, n, k)| {
        let codes = |n| prop::collection::vec(any::<i8>(), n);
        let weights = prop::collection::vec(-127_i8..=127, n * k);
        let bias = prop::collection::vec(-100_000_i32..=100_000, n);
        // Powers of two make ties, others do not.
        let multiplier = prop_oneof![(-14_i32..0).prop_map(|e| (e as f32).exp2()), 1e-5_f32..0.1];
        let multipliers = prop::collection::vec(multiplier, n);
        let zero_points = (-128_i32..=127, -128_i32..=127, any::<bool>());
        (codes(m * k), weights, bias, multipliers, zero_points).prop_map(
            move |(a, weight, bias, multipliers, (a_zero_point, zero_point, relu))| Layer {
                dims: Dims { m, n, k },
                a,
                a_zero_point,
                weight,
                bias,
                multipliers,
                zero_point,
                relu,
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_gives_the_sums_and_codes_of_the_definition(layer in layers()) {
        let Dims { m, n, k } = layer.dims;
        let mut sums = vec![7; m * n];
        gemm_i8(layer.dims, &layer.a, layer.a_zero_point, &layer.weight, 0, &mut sums);

        let with_bias: Vec<i32> = sums.iter().zip(layer.bias.iter().cycle()).map(|(sum, bias)| sum + bias).collect();
        let min = if layer.relu { layer.zero_point } else { -128 };
        let range = CodeRange { min, max: 127 };
        let codes = requantize(&with_bias, &layer.multipliers, layer.zero_point, range);

        for &kernel in kernels() {
            let packed = PackedWeights::with_kernel(kernel, n, k, &layer.weight);
            let mut got = vec![9; m * n];
            packed.product(m, &layer.a, layer.a_zero_point, &mut got);
            prop_assert_eq!(&got, &sums, "sums of {}", kernel.name());

            let ending = Requantize {
                bias: &layer.bias,
                multipliers: &layer.multipliers,
                zero_point: layer.zero_point,
                min,
                max: 127,
            };
            let mut got = vec![9; m * n];
            packed.requantized(m, &layer.a, layer.a_zero_point, &ending, &mut got);
            prop_assert_eq!(&got, &codes, "codes of {}", kernel.name());
        }
    }
}
