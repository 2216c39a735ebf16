//! 15.3: real numbers to codes.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Values, Visibility, refused};

use super::common::{
    FOUR_BITS, INT8, NARROW, TWO_BITS, codes_of, off_ties, qparams, qparams_of, scale, with_codes,
    with_qparams,
};
use super::subject::quantize::quantize;
use super::subject::scheme::{CodeRange, QParams};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.3/rounds-to-nearest",
        weight: 3,
        visibility: Visibility::Public,
        what: "values between two codes, nearer to one of them, with zero point 0",
        why: "Cutting the fraction off doubles the average error and pushes every value towards zero, so whole layers fade.",
        item: "quantize",
        cases: |rng| {
            let mut cases = vec![case(
                "the worked example without its ties",
                vec![0.0, 0.6, -0.6, 5.2, -5.2],
                qparams(0.5, 0),
                INT8,
            )];
            for _ in 0..3 {
                let scale = scale(rng);
                let values = off_ties(rng, 24, scale, -120, 120);
                cases.push(case("random values", values, qparams(scale, 0), INT8));
            }
            cases
        },
        run,
        judge,
    },
    Check {
        id: "15.3/ties-to-even",
        weight: 3,
        visibility: Visibility::Public,
        what: "values exactly halfway between two codes, with scales that are powers of two and zero point 0",
        why: "Values on a coarse grid (half precision, images, earlier layers) hit ties often. Ties to even is what ONNX, \
              PyTorch and the processor do; any other rule gives other codes than they do, and rounding all ties one way adds a bias.",
        item: "quantize",
        cases: |_| {
            let ties = |first: i32, scale: f32| {
                let mut values: Vec<f32> = (first..first + 7)
                    .map(|step| (step as f32 + 0.5) * scale)
                    .collect();
                values.extend([-100.5 * scale, -99.5 * scale, 99.5 * scale, 100.5 * scale]);
                case("ties", values, qparams(scale, 0), INT8)
            };
            vec![ties(-4, 1.0), ties(-3, 0.25), ties(0, 8.0)]
        },
        run,
        judge,
    },
    Check {
        id: "15.3/zero-point",
        weight: 3,
        visibility: Visibility::Public,
        what: "values of either sign and 0.0, with positive and negative zero points",
        why: "The zero point shifts the codes so that a lopsided range fits. Forgotten or with the wrong sign, every value is off \
              by the same amount, and zero is no longer zero.",
        item: "quantize",
        cases: |rng| {
            [10, -43, 77, -128, 127]
                .into_iter()
                .map(|zero_point| {
                    let scale = scale(rng);
                    let mut values = vec![0.0, -0.0];
                    let reach = i64::from(zero_point);
                    values.extend(off_ties(rng, 14, scale, -127 - reach, 126 - reach));
                    case("inside the range", values, qparams(scale, zero_point), INT8)
                })
                .collect()
        },
        run,
        judge,
    },
    Check {
        id: "15.3/rounds-before-zero-point",
        weight: 2,
        visibility: Visibility::Public,
        what: "ties with odd and even zero points",
        why: "The quotient is rounded and then the zero point is added. Rounding the sum makes the same value land on another code \
              depending on the parity of the zero point, and disagrees with ONNX for every odd one.",
        item: "quantize",
        cases: |_| {
            [7, -7, 10, -33]
                .into_iter()
                .map(|zero_point| {
                    let values = (-12..12).map(|step| (step as f32 + 0.5) * 0.5).collect();
                    case("ties", values, qparams(0.5, zero_point), INT8)
                })
                .collect()
        },
        run,
        judge,
    },
    Check {
        id: "15.3/saturates",
        weight: 3,
        visibility: Visibility::Public,
        what: "values a little and far outside the range, with and without a zero point",
        why: "Calibration never sees everything. A value beyond the range must become the end code; an integer that wraps around \
              turns the largest activation into the most negative one.",
        item: "quantize",
        cases: |rng| {
            [0, 10, -100, 127]
                .into_iter()
                .map(|zero_point| {
                    let ends = [(-128 - zero_point) as f32, (127 - zero_point) as f32];
                    // A value inside first: the codes must not be the same for every zero point.
                    let mut values: Vec<f32> =
                        vec![0.0, ends[0] - 1.0, ends[0], ends[1], ends[1] + 1.0];
                    values.extend([-1e4, 1e4, 300.0, -300.0, 256.0, -256.0]);
                    values.push(rng.f32(500.0, 5000.0));
                    values.push(rng.f32(-5000.0, -500.0));
                    case("outside", values, qparams(1.0, zero_point), INT8)
                })
                .collect()
        },
        run,
        judge,
    },
    Check {
        id: "15.3/huge-quotients",
        weight: 1,
        visibility: Visibility::Public,
        what: "quotients far beyond the range of an i32, even infinite ones, beside ordinary ones",
        why: "A tiny scale and one outlier are enough. The sum with the zero point must be taken, and clamped, where it cannot overflow.",
        item: "quantize",
        cases: |rng| {
            let huge = [3e9, -3e9, 1e30, -1e30, f32::MAX, f32::MIN];
            let tiny = qparams(1e-30, 5);
            vec![
                case(
                    "beyond i32",
                    [&huge[..], &[rng.f32(-3.0, 3.0)]].concat(),
                    qparams(0.5, 20),
                    INT8,
                ),
                case(
                    "beyond i32, negative zero point",
                    huge.to_vec(),
                    qparams(0.5, -20),
                    INT8,
                ),
                case(
                    "an infinite quotient",
                    vec![1e30, -1e30, 2e-30, 0.0],
                    tiny,
                    NARROW,
                ),
            ]
        },
        run,
        judge,
    },
    Check {
        id: "15.3/keeps-to-the-codes",
        weight: 2,
        visibility: Visibility::Public,
        what: "values outside the ranges -127..=127, -8..=7 and -2..=1",
        why: "Symmetric weights must not use -128, and INT4 has 16 codes. The type i8 does not know that; the code range does.",
        item: "quantize",
        cases: |rng| {
            [NARROW, FOUR_BITS, TWO_BITS]
                .into_iter()
                .map(|codes| {
                    let mut values = off_ties(
                        rng,
                        6,
                        0.5,
                        2 * i64::from(codes.min),
                        2 * i64::from(codes.max),
                    );
                    values.extend([-64.0, 63.5, 900.0, -900.0]);
                    case("fewer codes", values, qparams(0.5, 0), codes)
                })
                .collect()
        },
        run,
        judge,
    },
    Check {
        id: "15.3/divides",
        weight: 1,
        visibility: Visibility::Public,
        what: "values whose quotient by the scale rounds to another code than their product with 1 / scale",
        why: "1 / scale is itself rounded, so multiplying by it moves some values across a tie. The contract divides, as ONNX does; \
              torchao's tests once saw one element in a thousand differ for this reason.",
        item: "quantize",
        cases: |rng| (0..2).map(|_| divides(rng)).collect(),
        run,
        judge,
    },
];

pub(super) fn case(note: &str, values: Vec<f32>, qparams: QParams, codes: CodeRange) -> Case {
    Case::new(
        note,
        with_codes(
            with_qparams(Values::new().f32s("values", values), qparams),
            codes,
        ),
    )
}

pub(super) fn run(case: &Case) -> Answer {
    let codes =
        quantize(case.f32s("values")?, qparams_of(case)?, codes_of(case)?).map_err(refused)?;
    Ok(Values::new().ints("codes", codes))
}

pub(super) fn judge() -> Judge {
    Judge::Equal
}

/// Values next to ties for which division and multiplication by the reciprocal give different codes, while division in
/// f32 and in f64 give the same: the answer does not depend on how wide the student's division is.
pub(super) fn divides(rng: &mut Rng) -> Case {
    let mut scale = 0.0;
    let mut values = Vec::new();
    // Some scales have hardly any such values; one in a few does. The bound only guards against a wrong condition.
    for _ in 0..10_000 {
        scale = rng.f32(0.01, 1.0);
        values.clear();
        for step in -120..120 {
            let tie = (step as f32 + 0.5) * scale;
            values.extend(
                [tie.next_down(), tie, tie.next_up()]
                    .into_iter()
                    .filter(|&value| {
                        let quotient = (value / scale).round_ties_even();
                        let exact = (f64::from(value) / f64::from(scale)).round_ties_even();
                        let product = (value * (1.0 / scale)).round_ties_even();
                        f64::from(quotient) == exact && quotient != product
                    }),
            );
        }
        if values.len() >= 8 {
            break;
        }
    }
    values.truncate(24);
    case("next to ties", values, qparams(scale, 0), INT8)
}
