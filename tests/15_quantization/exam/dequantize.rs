//! 15.4: codes back to real numbers.

use tinytorch_exam::{Answer, Case, Check, Judge, Values, Visibility};

use super::common::{qparams, qparams_of, scale, with_qparams};
use super::subject::quantize::dequantize;
use super::subject::scheme::QParams;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.4/reads-back",
        weight: 2,
        visibility: Visibility::Public,
        what: "positive and negative codes with zero point 0 and scales above and below one",
        why: "This is the meaning of a code: real = scale · (code − zero point). Everything else in the module is measured by it.",
        item: "dequantize",
        cases: |rng| {
            (0..3)
                .map(|_| {
                    let mut codes = vec![0, 1, -1, 127, -127];
                    codes.extend(rng.ints(8, -127, 127));
                    case("zero point 0", codes, qparams(scale(rng), 0))
                })
                .collect()
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.4/zero-point",
        weight: 2,
        visibility: Visibility::Public,
        what: "codes on both sides of a zero point that is not 0",
        why: "The zero point was added on the way in, so it is subtracted on the way out, before the scale is applied. Otherwise \
              every value comes back shifted, and zero does not come back as zero.",
        item: "dequantize",
        cases: |rng| {
            let mut cases = vec![case(
                "small differences",
                vec![10, 11, 60, -30],
                qparams(0.5, 10),
            )];
            for zero_point in [3, -20, 45] {
                let mut codes = vec![i64::from(zero_point)];
                // Differences that fit an i8: this check is about the sign.
                codes.extend((0..8).map(|_| i64::from(zero_point) + rng.int(-80, 80)));
                cases.push(case(
                    "small differences",
                    codes,
                    qparams(scale(rng), zero_point),
                ));
            }
            cases
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.4/differences-beyond-i8",
        weight: 2,
        visibility: Visibility::Public,
        what: "codes more than 127 away from the zero point",
        why: "A difference of two i8 has nine bits: 127 − (−128) is 255. After a ReLU the zero point is −128, so half of all codes are \
              affected; in a release build the overflow wraps silently.",
        item: "dequantize",
        cases: |rng| {
            let mut low = vec![127, 100, 0, -128];
            low.extend(rng.ints(6, 1, 127));
            let mut high = vec![-128, -100, -1, 127];
            high.extend(rng.ints(6, -128, -2));
            vec![
                case("after a ReLU", low, qparams(scale(rng), -128)),
                case("never positive", high, qparams(scale(rng), 127)),
                case(
                    "in between",
                    vec![-128, 127, 60, -60],
                    qparams(scale(rng), 60),
                ),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.4/one-rounding",
        weight: 1,
        visibility: Visibility::Public,
        what: "codes next to a large zero point, with scales that are not powers of two",
        why: "Subtract first, in integers, and only the final product rounds. scale · code − scale · zero point rounds twice and \
              then cancels: next to zero most digits are gone.",
        item: "dequantize",
        cases: |rng| {
            [(0.1, 113), (0.3, -101), (rng.f32(0.01, 1.0), 97)]
                .into_iter()
                .map(|(scale, zero_point)| {
                    let codes = (-6..=6).map(|step| i64::from(zero_point) + step).collect();
                    case("next to zero", codes, qparams(scale, zero_point))
                })
                .collect()
        },
        run,
        judge: || Judge::Equal,
    },
];

pub(super) fn case(note: &str, codes: Vec<i64>, qparams: QParams) -> Case {
    Case::new(
        note,
        with_qparams(Values::new().ints("codes", codes), qparams),
    )
}

pub(super) fn run(case: &Case) -> Answer {
    Ok(Values::new().f32s(
        "values",
        dequantize(&case.ints::<i8>("codes")?, qparams_of(case)?),
    ))
}
