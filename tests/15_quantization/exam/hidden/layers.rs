//! 15.7 to 15.9: integer products, quantized layers, whole models.

use tinytorch_exam::{Check, Judge, Visibility};

use super::super::common::{INT8, NARROW};
use super::super::subject::scheme::CodeRange;
use super::super::{convert, gemm, linear, requantize};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.7/random",
        weight: 3,
        visibility: Visibility::Hidden,
        what: "random shapes, codes and zero points, single rows and columns among them",
        why: "Layers have every shape, and the last batch is rarely full.",
        item: "gemm_i8",
        cases: |rng| {
            let shapes = [
                [1, 1, 9],
                [1, 5, 3],
                [5, 1, 4],
                [3, 4, 7],
                [4, 3, 1],
                [2, 2, 16],
            ];
            shapes
                .into_iter()
                .map(|dims| {
                    let [m, n, k] = dims;
                    let (a, b) = (rng.ints(m * k, -128, 127), rng.ints(n * k, -127, 127));
                    let zero = if rng.flag() { rng.int(-128, 127) } else { 0 };
                    gemm::case("random", dims, a, rng.int(-128, 127), b, zero)
                })
                .collect()
        },
        run: gemm::run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.7/largest-sums",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "the largest sums that can occur, with the zero point at the far end",
        why: "255 · 128 for each product is the worst case that the limit on k is derived from.",
        item: "gemm_i8",
        cases: |rng| {
            let k = rng.size(1000, 1400);
            vec![
                gemm::case(
                    "all at the ends",
                    [1, 1, k],
                    vec![127; k],
                    -128,
                    vec![-128; k],
                    0,
                ),
                gemm::case(
                    "the other end",
                    [1, 1, k],
                    vec![-128; k],
                    127,
                    vec![-128; k],
                    0,
                ),
                gemm::case(
                    "both zero points",
                    [1, 1, k],
                    vec![127; k],
                    -128,
                    vec![-128; k],
                    127,
                ),
            ]
        },
        run: gemm::run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/requantize-random",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "random sums of several samples and outputs, random zero points and code ranges, a fused ReLU among them",
        why: "Between any two layers of the model, this is all that happens.",
        item: "requantize",
        cases: |rng| {
            (0..6)
                .map(|i| {
                    let zero_point = rng.int(-100, 100) as i32;
                    let relu = CodeRange {
                        min: zero_point,
                        max: 127,
                    };
                    let dims = [rng.size(2, 4), rng.size(2, 5)];
                    requantize::off_tie(rng, dims, zero_point, [INT8, NARROW, relu][i % 3])
                })
                .collect()
        },
        run: requantize::run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/bias-random",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "random biases from a few to a thousand million steps (calls quantize_bias)",
        why: "A bias is small for one layer and huge for the next; its unit is the same.",
        item: "quantize_bias",
        cases: |rng| {
            [10, 1000, 1_000_000, 1_000_000_000]
                .map(|reach| linear::random_bias(rng, 6, reach))
                .into()
        },
        run: linear::run_bias,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/forward-random",
        weight: 3,
        visibility: Visibility::Hidden,
        what: "random layers with and without bias and ReLU (this calls forward_definition, which builds on your gemm_i8 and requantize)",
        why: "Every linear layer of the model runs through here.",
        item: "QLinear::forward_definition",
        cases: |rng| {
            (0..6)
                .map(|i| {
                    let dims = [rng.size(1, 4), rng.size(1, 5), rng.size(1, 8)];
                    let zero = rng.int(-128, 127);
                    linear::layer(rng, "random", dims, zero, i % 3 != 0, i % 2 == 0)
                })
                .collect()
        },
        run: linear::run_forward,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/memory-random",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "the bytes of layers of random shapes (calls memory_bytes)",
        why: "What is promised about size must hold for every layer, also for small ones, where scales and bias weigh more.",
        item: "QLinear::memory_bytes",
        cases: |rng| {
            (0..5)
                .map(|i| linear::memory_case(rng.size(1, 40), rng.size(1, 40), i % 2 == 0))
                .collect()
        },
        run: linear::run_memory,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.9/calibrate-random",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "the ranges of random networks after several batches (calls calibrate, which builds on MinMaxObserver and, for the \
               input, choose_qparams)",
        why: "Calibration is run once, before release, on whatever model there is.",
        item: "calibrate",
        cases: |rng| {
            [(2, 3), (4, 2), (5, 5), (3, 1)]
                .map(|(features, hidden)| convert::network(rng, features, hidden))
                .into()
        },
        run: convert::run_calibrate,
        judge: convert::judge,
    },
    Check {
        id: "15.9/convert-random",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "layers and parameters of random converted models (this calls convert, which builds on the quantized linear layer and all \
               that it is made of)",
        why: "Models differ in their layers and not in the rule: what leaves one layer enters the next.",
        item: "convert",
        cases: |rng| {
            vec![
                convert::images(rng),
                convert::network(rng, 4, 3),
                convert::images(rng),
            ]
        },
        run: convert::run_convert,
        judge: convert::judge,
    },
    Check {
        id: "15.9/sizes-random",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "the bytes of models of random size",
        why: "A ratio that is right for one size only is a coincidence.",
        item: "compare_sizes",
        cases: |rng| {
            (0..5)
                .map(|_| convert::sizes(rng.size(1, 60), rng.size(1, 60)))
                .collect()
        },
        run: convert::run_sizes,
        judge: || Judge::Equal,
    },
];
