//! 15.2: scale and zero point from a range.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Values, Visibility, refused};

use super::common::{FOUR_BITS, INT8, NARROW, SCALE_ROUNDING, TWO_BITS, codes_of, with_codes};
use super::subject::qparams::choose_qparams;
use super::subject::scheme::{CodeRange, ValueRange};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.2/ends-on-end-codes",
        weight: 3,
        visibility: Visibility::Public,
        what: "the parameters of ranges with a negative and a positive end, over -128..=127",
        why: "Both ends of the range must land on the end codes. 256 codes have 255 steps between them: with 256 steps, or with a \
              range made symmetric, codes are never used and every step is coarser than it need be.",
        item: "choose_qparams",
        cases: |rng| {
            let mut cases = vec![
                case("the worked example", -1.0, 2.0, INT8),
                case("[-3, 1]", -3.0, 1.0, INT8),
            ];
            cases.extend((0..6).map(|_| lopsided(rng, INT8)));
            cases
        },
        run,
        judge,
    },
    Check {
        id: "15.2/zero-point",
        weight: 2,
        visibility: Visibility::Public,
        what: "the zero point of ranges that start at zero, end at zero, or lie around it",
        why: "The zero point is the code of 0.0. If its sign or its origin is wrong, every value of the tensor is shifted by the \
              same amount, and padding no longer means zero.",
        item: "choose_qparams",
        cases: |rng| {
            let end = rng.f32(1.0, 9.0);
            vec![
                case("after a ReLU", 0.0, end, INT8),
                case("never positive", -end, 0.0, INT8),
                case("a quarter below zero", -end, 3.0 * end, INT8),
                case("three quarters below zero", -3.0 * end, end, INT8),
            ]
        },
        run,
        judge,
    },
    Check {
        id: "15.2/holds-zero",
        weight: 3,
        visibility: Visibility::Public,
        what: "ranges that lie wholly above or wholly below zero",
        why: "0.0 must be a code exactly: zero padding and ReLU write it all the time. A range that does not hold zero is widened \
              until it does, on either side, before anything is computed from it.",
        item: "choose_qparams",
        cases: |rng| {
            let low = rng.f32(1.0, 3.0);
            let high = low + rng.f32(1.0, 5.0);
            vec![
                case("above zero", low, high, INT8),
                case("below zero", -high, -low, INT8),
                case("a constant above zero", 5.0, 5.0, INT8),
                case("a constant below zero", -5.0, -5.0, INT8),
            ]
        },
        run,
        judge,
    },
    Check {
        id: "15.2/zero-point-rounds",
        weight: 2,
        visibility: Visibility::Public,
        what: "zero points that fall between two codes, nearer to one of them, or exactly in the middle (scale 1, so no rounding \
               hides it)",
        why: "Rounding towards zero is off by one code for half of all tensors; rounding ties away from zero disagrees with ONNX, so \
              the same model would give other codes elsewhere.",
        item: "choose_qparams",
        cases: |_| {
            [0.5, 1.5, 2.5, 3.5, 200.5, 201.5, 0.75, 7.25, 9.75, 130.25]
                .into_iter()
                .map(|below| case("scale 1", -below, 255.0 - below, INT8))
                .collect()
        },
        run,
        judge,
    },
    Check {
        id: "15.2/zeros",
        weight: 2,
        visibility: Visibility::Public,
        what: "the range [0, 0], beside one that is not empty",
        why: "A layer that only ever answered zero has no range. 0 / 0 is NaN, and a scale that is not above zero poisons \
              whatever is divided by it; scale 1 and zero point 0 keep zero exact.",
        item: "choose_qparams",
        cases: |rng| {
            vec![
                case("all zeros", 0.0, 0.0, INT8),
                case("negative zero", -0.0, 0.0, NARROW),
                lopsided(rng, INT8),
            ]
        },
        run,
        judge,
    },
    Check {
        id: "15.2/other-codes",
        weight: 2,
        visibility: Visibility::Public,
        what: "ranges over -127..=127, -8..=7, -2..=1 and 0..=255",
        why: "The code range is an argument because INT4, narrow INT8 and the unsigned codes of other run times all exist. A \
              constant 255 or -128 is right for one of them only.",
        item: "choose_qparams",
        cases: |rng| {
            let unsigned = CodeRange { min: 0, max: 255 };
            [NARROW, FOUR_BITS, TWO_BITS, unsigned]
                .into_iter()
                .map(|codes| lopsided(rng, codes))
                .collect()
        },
        run,
        judge,
    },
];

pub(super) fn case(note: &str, min: f32, max: f32, codes: CodeRange) -> Case {
    Case::new(
        note,
        with_codes(Values::new().float("min", min).float("max", max), codes),
    )
}

/// A range around zero, much longer on one side, with a zero point well away from a tie.
pub(super) fn lopsided(rng: &mut Rng, codes: CodeRange) -> Case {
    let steps = codes.max as f32 - codes.min as f32;
    let width = rng.f32(0.01, 40.0);
    // Never the middle: there symmetric parameters would nearly be right.
    let share = if rng.flag() {
        rng.f32(0.05, 0.4)
    } else {
        rng.f32(0.6, 0.95)
    };
    let below = ((share * steps).round() + rng.f32(-0.4, 0.4)).clamp(0.1, steps - 0.1) / steps;
    case(
        "a random range",
        -width * below,
        width * (1.0 - below),
        codes,
    )
}

pub(super) fn run(case: &Case) -> Answer {
    let range = ValueRange {
        min: case.float("min")?,
        max: case.float("max")?,
    };
    let qparams = choose_qparams(range, codes_of(case)?).map_err(refused)?;
    Ok(Values::new()
        .float("scale", qparams.scale)
        .int("zero_point", qparams.zero_point))
}

pub(super) fn judge() -> Judge {
    Judge::ulps(2, SCALE_ROUNDING)
}
