//! 15.1: the scale from the largest magnitude.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Values, Visibility, refused};

use super::common::{
    FOUR_BITS, INT8, NARROW, SCALE_ROUNDING, TWO_BITS, codes_of, magnitude, with_codes,
};
use super::subject::qparams::symmetric_scale;
use super::subject::scheme::CodeRange;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.1/largest-on-last-code",
        weight: 3,
        visibility: Visibility::Public,
        what: "the scale for several largest magnitudes, over the codes -127..=127",
        why: "If the largest magnitude lands beyond the last code it is cut off, and if it lands before it, codes are wasted: \
              every value of the layer pays for either.",
        item: "symmetric_scale",
        cases: |rng| {
            let mut cases = vec![
                case("the worked example", 2.54, NARROW),
                case("one", 1.0, NARROW),
            ];
            cases.extend((0..6).map(|_| case("a random magnitude", rng.f32(0.001, 50.0), NARROW)));
            cases
        },
        run,
        judge,
    },
    Check {
        id: "15.1/positive-end",
        weight: 2,
        visibility: Visibility::Public,
        what: "the scale over code ranges that reach further down than up, and over fewer bits",
        why: "Full INT8 has the codes -128..=127 and INT4 has -8..=7. The positive end is the nearer one, so it alone decides \
              what fits; a scale from the lower end would cut off the largest positive values.",
        item: "symmetric_scale",
        cases: |rng| {
            let ranges = [INT8, FOUR_BITS, TWO_BITS, CodeRange { min: -3, max: 5 }];
            ranges
                .into_iter()
                .map(|codes| case("codes other than -127..=127", rng.f32(0.5, 9.0), codes))
                .collect()
        },
        run,
        judge,
    },
    Check {
        id: "15.1/zeros",
        weight: 2,
        visibility: Visibility::Public,
        what: "the scale of a tensor that is all zeros, beside one that is not",
        why: "Pruned channels and fresh biases are all zeros. A scale of 0 turns the next division into NaN, far from its cause.",
        item: "symmetric_scale",
        cases: |rng| {
            vec![
                case("all zeros", 0.0, NARROW),
                case("not zeros", rng.f32(0.1, 3.0), NARROW),
                case("all zeros, 4 bits", 0.0, FOUR_BITS),
            ]
        },
        run,
        judge,
    },
    Check {
        id: "15.1/tiny",
        weight: 2,
        visibility: Visibility::Public,
        what: "the scale of magnitudes between 1e-6 and the smallest f32",
        why: "A quotient can underflow to a denormal or to zero, so the scale has a floor. It must be the smallest normal f32: \
              a floor such as 1e-8 would wipe out layers whose values are small but perfectly good.",
        item: "symmetric_scale",
        cases: |rng| {
            vec![
                case("small but good", rng.f32(1e-7, 9e-7), NARROW),
                case("very small but good", rng.f32(1e-30, 9e-30), NARROW),
                case("underflows", f32::MIN_POSITIVE, NARROW),
                case("denormal", 1e-40, NARROW),
                case("the smallest f32", f32::from_bits(1), INT8),
            ]
        },
        run,
        judge,
    },
];

pub(super) fn case(note: &str, max_abs: f32, codes: CodeRange) -> Case {
    Case::new(
        note,
        with_codes(Values::new().float("max_abs", max_abs), codes),
    )
}

pub(super) fn run(case: &Case) -> Answer {
    let scale = symmetric_scale(case.float("max_abs")?, codes_of(case)?).map_err(refused)?;
    Ok(Values::new().float("scale", scale))
}

pub(super) fn judge() -> Judge {
    Judge::ulps(2, SCALE_ROUNDING)
}

/// Magnitudes over the whole range of f32.
pub(super) fn any_magnitude(rng: &mut Rng) -> f32 {
    magnitude(rng, -116, 116)
}
