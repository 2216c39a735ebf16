//! 15.11: dynamic loss scaling.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Values, Visibility};

use super::subject::loss_scaling::LossScaler;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.11/unscale",
        weight: 2,
        visibility: Visibility::Public,
        what: "finite gradients, with scales that are powers of two",
        why: "The optimizer must see gradients of the right size. Multiplied instead of divided, or left as they are, the first step \
              throws the weights away.",
        item: "LossScaler::unscale",
        cases: |rng| {
            vec![
                unscale_case("the worked example", 4.0, vec![8.0, -2.0]),
                unscale_case("the usual scale", 65_536.0, rng.f32s(6, -3e4, 3e4)),
                unscale_case("scale 1", 1.0, rng.f32s(4, -2.0, 2.0)),
            ]
        },
        run: run_unscale,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.11/overflow-is-noticed",
        weight: 3,
        visibility: Visibility::Public,
        what: "gradients with one NaN or infinity, first, in the middle or last, beside gradients that are all finite",
        why: "One infinite gradient makes every weight NaN, and training never recovers. The step must be skipped, whichever of the \
              gradients it is: the test comes before clipping, which would turn the infinity into a NaN or hide it.",
        item: "LossScaler::unscale",
        cases: |rng| {
            let mut cases = vec![unscale_case("all finite", 8.0, rng.f32s(5, -9.0, 9.0))];
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for position in [0, 2, 4] {
                    let mut gradients = rng.f32s(5, -9.0, 9.0);
                    gradients[position] = bad;
                    cases.push(unscale_case(
                        &format!("{bad} at {position}"),
                        8.0,
                        gradients,
                    ));
                }
            }
            cases.push(unscale_case(
                "large but finite",
                2.0,
                vec![f32::MAX, f32::MIN],
            ));
            cases
        },
        run: run_unscale,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.11/grows",
        weight: 2,
        visibility: Visibility::Public,
        what: "good steps only, several growth intervals long",
        why: "The scale grows once per interval and the count starts again. If it does not, the scale doubles at every step from then \
              on, and every second step overflows and is thrown away.",
        item: "LossScaler::update",
        cases: |_| {
            vec![
                update_case("interval 2", 8.0, 2, &[true; 7]),
                update_case("interval 3", 1024.0, 3, &[true; 11]),
                update_case("interval 1", 2.0, 1, &[true; 4]),
            ]
        },
        run: run_update,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.11/backs-off",
        weight: 2,
        visibility: Visibility::Public,
        what: "good steps and overflows mixed",
        why: "After an overflow the scale is halved and the good steps are counted anew: growing back at once would overflow again.",
        item: "LossScaler::update",
        cases: |rng| {
            vec![
                update_case(
                    "the worked example",
                    8.0,
                    2,
                    &[true, true, true, false, true, true],
                ),
                update_case(
                    "an overflow just before growth",
                    64.0,
                    3,
                    &[true, true, false, true, true, true],
                ),
                update_case(
                    "random steps",
                    65_536.0,
                    2,
                    &(0..14).map(|_| rng.int(0, 3) > 0).collect::<Vec<_>>(),
                ),
            ]
        },
        run: run_update,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.11/bounds",
        weight: 1,
        visibility: Visibility::Public,
        what: "many overflows in a row, and growth at the largest f32",
        why: "Below 1 the scale would shrink gradients, the opposite of its purpose; grown to infinity it would make every step overflow, \
              and half of infinity is still infinity.",
        item: "LossScaler::update",
        cases: |_| {
            vec![
                update_case(
                    "many overflows",
                    6.0,
                    2,
                    &[false, false, false, false, true, true],
                ),
                update_case(
                    "growth at the largest f32",
                    f32::MAX,
                    1,
                    &[true, true, false],
                ),
            ]
        },
        run: run_update,
        judge: || Judge::Equal,
    },
];

pub(super) fn unscale_case(note: &str, scale: f32, gradients: Vec<f32>) -> Case {
    Case::new(
        note,
        Values::new()
            .float("scale", scale)
            .f32s("gradients", gradients),
    )
}

pub(super) fn update_case(note: &str, scale: f32, interval: u32, good: &[bool]) -> Case {
    let inputs = Values::new()
        .float("scale", scale)
        .int("growth_interval", interval);
    Case::new(
        note,
        inputs.ints("good", good.iter().map(|&good| i64::from(good))),
    )
}

/// A scaler with the usual factors.
fn scaler(scale: f32, growth_interval: u32) -> LossScaler {
    LossScaler {
        scale,
        growth_factor: 2.0,
        backoff_factor: 0.5,
        growth_interval,
        good_steps: 0,
    }
}

pub(super) fn run_unscale(case: &Case) -> Answer {
    let mut gradients = case.f32s("gradients")?.to_vec();
    // What becomes of the gradients of a skipped step is nobody's business.
    let step = gradients.iter().copied().all(f32::is_finite);
    let all_finite = scaler(case.float("scale")?, 2000).unscale(&mut gradients);
    let values = Values::new().flag("all_finite", all_finite);
    Ok(if step {
        values.f32s("gradients", gradients)
    } else {
        values
    })
}

pub(super) fn run_update(case: &Case) -> Answer {
    let mut scaler = scaler(case.float("scale")?, case.int("growth_interval")?);
    let mut scales = Vec::new();
    for good in case.ints::<i64>("good")? {
        scaler.update(good == 1);
        scales.push(scaler.scale);
    }
    Ok(Values::new().f32s("scales", scales))
}

/// A mixed run of steps with at least one growth and one overflow.
pub(super) fn random_steps(rng: &mut Rng) -> Vec<bool> {
    let mut steps = vec![true, true, true, true, false];
    steps.extend((0..12).map(|_| rng.int(0, 4) > 0));
    steps
}
