//! 15.1, 15.2, 15.5, 15.6: scales, zero points, ranges.

use tinytorch_exam::{Case, Check, Visibility};

use super::super::common::{FOUR_BITS, FOUR_BITS_NARROW, INT8, NARROW, TWO_BITS};
use super::super::subject::scheme::CodeRange;
use super::super::{choose_qparams, observer, per_channel, symmetric_scale};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.1/any-magnitude-any-codes",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "magnitudes over the whole range of f32, also 0, and random code ranges",
        why: "A scale is needed for every tensor of every model, with whatever codes the target has.",
        item: "symmetric_scale",
        cases: |rng| {
            let mut cases: Vec<Case> = (0..12)
                .map(|_| {
                    let codes = CodeRange {
                        min: -(rng.int(1, 128) as i32),
                        max: rng.int(1, 127) as i32,
                    };
                    symmetric_scale::case("random", symmetric_scale::any_magnitude(rng), codes)
                })
                .collect();
            cases.push(symmetric_scale::case("zeros", 0.0, INT8));
            cases.push(symmetric_scale::case("denormal", 3e-41, INT8));
            cases.push(symmetric_scale::case("largest", f32::MAX, NARROW));
            cases
        },
        run: symmetric_scale::run,
        judge: symmetric_scale::judge,
    },
    Check {
        id: "15.2/any-range-any-codes",
        weight: 3,
        visibility: Visibility::Hidden,
        what: "random ranges around, above and below zero, over random code ranges",
        why: "Activations come in every range, and the parameters are chosen without anyone looking.",
        item: "choose_qparams",
        cases: |rng| {
            let mut cases = Vec::new();
            for codes in [
                INT8,
                NARROW,
                FOUR_BITS,
                TWO_BITS,
                CodeRange { min: 0, max: 15 },
            ] {
                cases.extend((0..3).map(|_| choose_qparams::lopsided(rng, codes)));
                let (low, high) = (rng.f32(0.1, 2.0), rng.f32(2.1, 7.0));
                cases.push(choose_qparams::case("above zero", low, high, codes));
                cases.push(choose_qparams::case("below zero", -high, -low, codes));
            }
            cases
        },
        run: choose_qparams::run,
        judge: choose_qparams::judge,
    },
    Check {
        id: "15.2/tiny-and-huge",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "denormal ranges, an all-zero range, and ranges near the largest f32",
        why: "The scale must stay above zero and finite, whatever a dead or an exploding layer produces.",
        item: "choose_qparams",
        cases: |rng| {
            vec![
                choose_qparams::case("denormal", 0.0, 1e-40, INT8),
                choose_qparams::case("denormal, negative", -f32::from_bits(1), 0.0, INT8),
                choose_qparams::case("huge", 0.0, rng.f32(1e38, 3e38), INT8),
                choose_qparams::case("small but good", 0.0, rng.f32(1e-9, 1e-8), INT8),
                choose_qparams::case("zeros", 0.0, -0.0, FOUR_BITS),
            ]
        },
        run: choose_qparams::run,
        judge: choose_qparams::judge,
    },
    Check {
        id: "15.5/random-shapes",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "parameters of random tensors along random axes, some with a channel of zeros",
        why: "Weights come as [out, in], [out, in, h, w], [in, out]; the function must not care.",
        item: "choose_qparams_per_channel",
        cases: |rng| {
            (0..8)
                .map(|i| {
                    let shape: Vec<usize> = (0..rng.size(1, 4)).map(|_| rng.size(2, 5)).collect();
                    let axis = rng.size(0, shape.len() - 1);
                    let codes = if i % 2 == 0 { NARROW } else { FOUR_BITS_NARROW };
                    let mut values = per_channel::random_values(rng, &shape, axis);
                    if i == 3 {
                        let inner: usize = shape[axis + 1..].iter().product();
                        values
                            .iter_mut()
                            .enumerate()
                            .filter(|(i, _)| i / inner % shape[axis] == 1)
                            .for_each(|(_, v)| *v = 0.0);
                    }
                    per_channel::parameters_case("random", &shape, axis, values, codes)
                })
                .collect()
        },
        run: per_channel::run_parameters,
        judge: per_channel::judge_parameters,
    },
    Check {
        id: "15.5/transposed-view",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "parameters of views whose order in memory is not that of their axes",
        why: "Weights are transposed, sliced and permuted without being copied. An index into memory is not an index along an axis.",
        item: "choose_qparams_per_channel",
        cases: |rng| {
            [(vec![3, 4], 0), (vec![2, 3, 4], 2), (vec![5, 2], 1)]
                .into_iter()
                .map(|(shape, axis)| {
                    let case = per_channel::random_parameters(rng, &shape, axis, NARROW);
                    Case::new("transposed", case.inputs.flag("transposed", true))
                })
                .collect()
        },
        run: per_channel::run_parameters,
        judge: per_channel::judge_parameters,
    },
    Check {
        id: "15.5/random-codes",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "codes of random tensors along random axes, with and without zero points (calls quantize_per_channel, with given \
               parameters)",
        why: "The codes of every weight of every layer are made here, once; a wrong channel is never noticed again.",
        item: "quantize_per_channel",
        cases: |rng| {
            (0..8)
                .map(|i| {
                    let shape: Vec<usize> = (0..rng.size(2, 4)).map(|_| rng.size(2, 4)).collect();
                    let axis = rng.size(0, shape.len() - 1);
                    per_channel::random_codes(rng, &shape, axis, i % 2 == 1)
                })
                .collect()
        },
        run: per_channel::run_codes,
        judge: || tinytorch_exam::Judge::Equal,
    },
    Check {
        id: "15.6/min-max-random",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "random batches of random length, some of them empty, some of one sign only",
        why: "Calibration data comes as it comes, and the last batch is usually shorter.",
        item: "MinMaxObserver::observe",
        cases: |rng| {
            (0..6)
                .map(|i| {
                    let shift = [0.0, 3.0, -3.0][i % 3];
                    let batches: Vec<_> = (0..5)
                        .map(|_| {
                            let n = rng.size(0, 4);
                            rng.f32s(n, shift - 2.0, shift + 2.0)
                        })
                        .chain([vec![shift]])
                        .collect();
                    observer::batches_case("random batches", &batches)
                })
                .collect()
        },
        run: observer::run_min_max,
        judge: || tinytorch_exam::Judge::Equal,
    },
    Check {
        id: "15.6/moving-average-random",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "random batches with random averaging constants, empty batches among them",
        why: "An average is only as good as its weights and its start.",
        item: "MovingAverageMinMaxObserver::observe",
        cases: |rng| {
            (0..5)
                .map(|i| {
                    let mut batches: Vec<_> = (0..4).map(|_| observer::spread(rng)).collect();
                    if i % 2 == 1 {
                        batches.insert(rng.size(0, 3), Vec::new());
                    }
                    observer::average_case("random batches", rng.f32(0.02, 0.4), &batches)
                })
                .collect()
        },
        run: observer::run_average,
        judge: observer::judge_average,
    },
    Check {
        id: "15.6/percentile-random",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "bell-shaped values with outliers, of both signs and after a ReLU, at percentiles from 50 to 99.9",
        why: "That is what activations look like: a bulk worth every code, and a few outliers that would make all steps coarse.",
        item: "PercentileObserver::range",
        cases: |rng| {
            [50.0, 90.0, 97.0, 99.0, 99.9]
                .into_iter()
                .enumerate()
                .map(|(i, percentile)| {
                    let mut values = rng.normals(300);
                    values.extend([rng.f32(8.0, 20.0), rng.f32(-25.0, -9.0)]);
                    if i % 2 == 1 {
                        values.iter_mut().for_each(|value| *value = value.max(0.0));
                    }
                    observer::percentile_case("a bell with outliers", percentile, 128, values)
                })
                .collect()
        },
        run: observer::run_percentile,
        judge: observer::judge_percentile,
    },
];
