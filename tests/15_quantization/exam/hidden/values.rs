//! 15.3, 15.4: values to codes and back.

use tinytorch_exam::{Check, Judge, Visibility};

use super::super::common::{FOUR_BITS, INT8, NARROW, TWO_BITS, off_ties, qparams, scale};
use super::super::{dequantize, quantize};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.3/random",
        weight: 3,
        visibility: Visibility::Hidden,
        what: "random values inside and outside the range, random scales, zero points and code ranges",
        why: "Every weight and every activation passes here.",
        item: "quantize",
        cases: |rng| {
            let mut cases = Vec::new();
            for codes in [INT8, INT8, NARROW, FOUR_BITS, TWO_BITS] {
                let scale = scale(rng);
                let zero_point = rng.int(i64::from(codes.min), i64::from(codes.max)) as i32;
                let mut values = off_ties(rng, 20, scale, -300, 300);
                values.extend(off_ties(rng, 12, scale, -8, 8));
                values.push(0.0);
                cases.push(quantize::case(
                    "random",
                    values,
                    qparams(scale, zero_point),
                    codes,
                ));
            }
            cases
        },
        run: quantize::run,
        judge: quantize::judge,
    },
    Check {
        id: "15.3/random-ties",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "random ties with random zero points",
        why: "On a coarse grid one value in eight can be a tie; ties to even keeps the average where it was, and agrees with ONNX.",
        item: "quantize",
        cases: |rng| {
            (0..4)
                .map(|i| {
                    let scale = [0.5, 2.0, 0.0625, 1.0][i];
                    let values = (0..20)
                        .map(|_| (rng.int(-60, 60) as f32 + 0.5) * scale)
                        .collect();
                    quantize::case(
                        "ties",
                        values,
                        qparams(scale, rng.int(-60, 60) as i32),
                        INT8,
                    )
                })
                .collect()
        },
        run: quantize::run,
        judge: quantize::judge,
    },
    Check {
        id: "15.3/next-to-ties",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "values next to ties, where a product with 1 / scale rounds differently",
        why: "The definition divides; the same model must give the same codes in every run time that follows it.",
        item: "quantize",
        cases: |rng| (0..3).map(|_| quantize::divides(rng)).collect(),
        run: quantize::run,
        judge: quantize::judge,
    },
    Check {
        id: "15.4/all-codes",
        weight: 2,
        visibility: Visibility::Hidden,
        what: "all 256 codes, with random scales and zero points",
        why: "There are only 256 of them, so there is no reason to be wrong about one.",
        item: "dequantize",
        cases: |rng| {
            (0..3)
                .map(|_| {
                    let qparams = qparams(scale(rng), rng.int(-128, 127) as i32);
                    dequantize::case("every code", (-128..=127).collect(), qparams)
                })
                .collect()
        },
        run: dequantize::run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.4/extreme-scales",
        weight: 1,
        visibility: Visibility::Hidden,
        what: "very small and very large scales; the zero point must read back as exactly 0",
        why: "Gradients and logits have scales of any size; zero is zero in all of them.",
        item: "dequantize",
        cases: |_| {
            [
                (1e-37, -128),
                (f32::MIN_POSITIVE, 5),
                (1e36, 127),
                (3e30, -1),
            ]
            .into_iter()
            .map(|(scale, zero_point)| {
                let codes = vec![i64::from(zero_point), -128, -1, 0, 1, 127];
                dequantize::case("extreme scale", codes, qparams(scale, zero_point))
            })
            .collect()
        },
        run: dequantize::run,
        judge: || Judge::Equal,
    },
];
