//! 15.10: fake quantization and its straight-through gradient.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Values, Visibility};

use super::common::{
    FOUR_BITS, INT8, NARROW, TWO_BITS, codes_of, off_ties, qparams, qparams_of, scale, with_codes,
    with_qparams,
};
use super::subject::fake_quantize::{fake_quantize_values, straight_through_gradient};
use super::subject::scheme::{CodeRange, QParams};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.10/values-on-the-grid",
        weight: 2,
        visibility: Visibility::Public,
        what: "values inside the range, with and without a zero point: each must come back as the nearest real value that has a code",
        why: "Training has to feel exactly the error that inference will make. The result is a real value, not a code, and it lies on \
              the grid.",
        item: "fake_quantize_values",
        cases: |rng| {
            let mut cases = vec![values_case(
                "the worked example",
                vec![0.3, -0.25, 9.0, -9.0],
                qparams(0.5, 0),
                TWO_BITS,
            )];
            for zero_point in [0, 33, -90] {
                let scale = scale(rng);
                let values = off_ties(rng, 16, scale, -30, 30);
                cases.push(values_case(
                    "inside the range",
                    values,
                    qparams(scale, zero_point),
                    INT8,
                ));
            }
            cases
        },
        run: run_values,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.10/values-saturate",
        weight: 1,
        visibility: Visibility::Public,
        what: "values outside the range of 8, 4 and 2 bits",
        why: "If training does not see the clipping, it learns weights and activations that are cut off later.",
        item: "fake_quantize_values",
        cases: |rng| {
            [(INT8, 20), (NARROW, 0), (FOUR_BITS, -3), (TWO_BITS, 0)]
                .into_iter()
                .map(|(codes, zero_point)| {
                    let scale = scale(rng);
                    let mut values = off_ties(rng, 8, scale, -400, 400);
                    values.extend([600.0 * scale, -600.0 * scale]);
                    values_case("outside", values, qparams(scale, zero_point), codes)
                })
                .collect()
        },
        run: run_values,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.10/values-ties",
        weight: 1,
        visibility: Visibility::Public,
        what: "ties, with odd and even zero points",
        why: "Fake quantization must round as quantize does, ties to even before the zero point is added, or training adapts to \
              another grid than the one it will run on.",
        item: "fake_quantize_values",
        cases: |_| {
            [(0, 0.25), (7, 0.5), (-10, 2.0)]
                .into_iter()
                .map(|(zero_point, scale)| {
                    let values = (-8..8).map(|step| (step as f32 + 0.5) * scale).collect();
                    values_case("ties", values, qparams(scale, zero_point), INT8)
                })
                .collect()
        },
        run: run_values,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.10/gradient-masked",
        weight: 2,
        visibility: Visibility::Public,
        what: "gradients of values far inside and far outside the range, with and without a zero point",
        why: "A saturated value can move without changing the result, so its gradient is 0. Passed on, it keeps pushing weights \
              further out of the range, where they never come back from.",
        item: "straight_through_gradient",
        cases: |rng| {
            [(INT8, 0), (INT8, -100), (FOUR_BITS, 3)]
                .map(|(codes, zero)| gradient_far(rng, codes, zero))
                .into()
        },
        run: run_gradient,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.10/gradient-at-the-ends",
        weight: 2,
        visibility: Visibility::Public,
        what: "gradients of values that have exactly the end codes, that lie just beyond the ends but still round to them, and \
               that round to the next code outside",
        why: "The end codes are inside. The mask is decided on the rounded code before saturation, as in PyTorch: one code too few \
              at either end stops exactly those weights from learning that carry the most.",
        item: "straight_through_gradient",
        cases: |rng| {
            [(INT8, 0), (NARROW, 0), (FOUR_BITS, 2), (TWO_BITS, 0)]
                .map(|(codes, zero)| gradient_ends(rng, codes, zero))
                .into()
        },
        run: run_gradient,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.10/gradient-straight-through",
        weight: 1,
        visibility: Visibility::Public,
        what: "gradients of different size and sign, for values inside the range",
        why: "Rounding is taken for the identity: the gradient passes unchanged, neither scaled nor replaced by a 1.",
        item: "straight_through_gradient",
        cases: |rng| {
            (0..2)
                .map(|_| {
                    let scale = scale(rng);
                    let values = off_ties(rng, 12, scale, -100, 100);
                    gradient_case(
                        "inside",
                        values,
                        rng.f32s(12, -3.0, 3.0),
                        qparams(scale, 5),
                        INT8,
                    )
                })
                .collect()
        },
        run: run_gradient,
        judge: || Judge::Equal,
    },
];

pub(super) fn values_case(
    note: &str,
    values: Vec<f32>,
    qparams: QParams,
    codes: CodeRange,
) -> Case {
    Case::new(
        note,
        with_codes(
            with_qparams(Values::new().f32s("values", values), qparams),
            codes,
        ),
    )
}

pub(super) fn gradient_case(
    note: &str,
    values: Vec<f32>,
    upstream: Vec<f32>,
    qparams: QParams,
    codes: CodeRange,
) -> Case {
    let inputs = Values::new()
        .f32s("values", values)
        .f32s("upstream", upstream);
    Case::new(note, with_codes(with_qparams(inputs, qparams), codes))
}

/// Values of which about half are outside the range, none near an end.
pub(super) fn gradient_far(rng: &mut Rng, codes: CodeRange, zero_point: i32) -> Case {
    let scale = scale(rng);
    let (low, high) = (
        (codes.min - zero_point) as f32,
        (codes.max - zero_point) as f32,
    );
    let width = high - low;
    let values: Vec<f32> = (0..16)
        .map(|i| match i % 4 {
            0 => high + rng.f32(1.5, 3.0) * width,
            1 => low - rng.f32(1.5, 3.0) * width,
            _ => low + rng.f32(0.2, 0.8) * width,
        })
        .map(|steps| steps * scale)
        .collect();
    let upstream = values.iter().map(|_| rng.f32(0.5, 2.0)).collect();
    gradient_case(
        "inside and far outside",
        values,
        upstream,
        qparams(scale, zero_point),
        codes,
    )
}

/// Values in steps of 0.2 around both ends, never on a tie. The scale is a power of two, so the quotients are exact.
pub(super) fn gradient_ends(rng: &mut Rng, codes: CodeRange, zero_point: i32) -> Case {
    let scale = [0.125, 0.25, 2.0][rng.size(0, 2)];
    let ends = [codes.min - zero_point, codes.max - zero_point];
    let offsets = [-1.0, -0.7, -0.3, 0.0, 0.3, 0.7, 1.0];
    let values: Vec<f32> = ends
        .into_iter()
        .flat_map(|end| offsets.map(|offset| (end as f32 + offset) * scale))
        .collect();
    let upstream = values.iter().map(|_| rng.f32(0.5, 2.0)).collect();
    gradient_case(
        "around the ends",
        values,
        upstream,
        qparams(scale, zero_point),
        codes,
    )
}

pub(super) fn run_values(case: &Case) -> Answer {
    Ok(Values::new().f32s(
        "values",
        fake_quantize_values(case.f32s("values")?, qparams_of(case)?, codes_of(case)?),
    ))
}

pub(super) fn run_gradient(case: &Case) -> Answer {
    let (values, upstream) = (case.f32s("values")?, case.f32s("upstream")?);
    let gradient = straight_through_gradient(values, upstream, qparams_of(case)?, codes_of(case)?);
    Ok(Values::new().f32s("gradient", gradient))
}
