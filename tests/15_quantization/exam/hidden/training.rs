//! 15.10 to 15.12: fake quantization, loss scaling, entropy calibration.

use tinytorch_exam::{Check, Judge, Visibility};

use super::super::common::{FOUR_BITS, INT8, NARROW, off_ties, qparams, scale};
use super::super::{entropy, fake_quantize, loss_scaling};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.10/values-random",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "random values inside and outside, random scales and zero points, ties and a NaN among them",
        why: "Training must see exactly what inference will do, and must not lose sight of a NaN.",
        item: "fake_quantize_values",
        cases: |rng| {
            (0..5)
                .map(|i| {
                    let (scale, codes) = (scale(rng), [INT8, NARROW, FOUR_BITS][i % 3]);
                    let zero_point = rng.int(i64::from(codes.min), i64::from(codes.max)) as i32;
                    let mut values = off_ties(rng, 14, scale, -200, 200);
                    values.extend(off_ties(rng, 8, scale, -6, 6));
                    if i == 4 {
                        values.push(f32::NAN);
                    }
                    fake_quantize::values_case("random", values, qparams(scale, zero_point), codes)
                })
                .collect()
        },
        run: fake_quantize::run_values,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.10/gradient-random",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "gradients inside, outside and around the ends, random scales and zero points",
        why: "The mask decides which weights may still learn.",
        item: "straight_through_gradient",
        cases: |rng| {
            let mut cases = Vec::new();
            for codes in [INT8, NARROW, FOUR_BITS] {
                let zero_point = rng.int(i64::from(codes.min), i64::from(codes.max)) as i32;
                cases.push(fake_quantize::gradient_far(rng, codes, zero_point));
                cases.push(fake_quantize::gradient_ends(rng, codes, zero_point));
            }
            cases
        },
        run: fake_quantize::run_gradient,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.11/unscale-random",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "random gradients, about half of the cases with one that is not finite; and no gradients at all",
        why: "The answer decides whether a step is taken.",
        item: "LossScaler::unscale",
        cases: |rng| {
            let mut cases = vec![loss_scaling::unscale_case("none", 4.0, Vec::new())];
            for i in 0..8 {
                let mut gradients = rng.f32s(7, -50.0, 50.0);
                if i % 2 == 1 {
                    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.size(0, 2)];
                    gradients[rng.size(0, 6)] = bad;
                }
                cases.push(loss_scaling::unscale_case(
                    "random",
                    [2.0, 1024.0][i / 4],
                    gradients,
                ));
            }
            cases
        },
        run: loss_scaling::run_unscale,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.11/update-random",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "random sequences of good steps and overflows, several intervals",
        why: "A training run is thousands of these; any drift in the counting shows in the end.",
        item: "LossScaler::update",
        cases: |rng| {
            (1..5)
                .map(|interval| {
                    let scale = [2.0, 64.0, 65_536.0][rng.size(0, 2)];
                    loss_scaling::update_case(
                        "random",
                        scale,
                        interval,
                        &loss_scaling::random_steps(rng),
                    )
                })
                .collect()
        },
        run: loss_scaling::run_update,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.12/random",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "random bells with few and with many outliers and behind a ReLU, several numbers of bins and levels",
        why: "A calibration that works on one layer only is of no use.",
        item: "entropy_range",
        cases: |rng| {
            vec![
                entropy::bell(rng, 48, 8, 4.0),
                entropy::bell(rng, 64, 16, 7.0),
                entropy::heavy(rng, 64, 8),
                entropy::heavy(rng, 32, 4),
                entropy::rectified(rng, 48, 8),
            ]
        },
        run: entropy::run,
        judge: entropy::judge,
    },
];
