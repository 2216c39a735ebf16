//! 15.8, first part: from sums back to codes.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Values, Visibility};

use super::common::{FOUR_BITS, INT8, NARROW, codes_of, magnitude, with_codes};
use super::subject::requantize::requantize;
use super::subject::scheme::CodeRange;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.8/requantize-rounds",
        weight: 2,
        visibility: Visibility::Public,
        what: "sums that land between two codes, some of them exactly in the middle, with zero point 0",
        why: "Every value of every layer passes here once. Truncation loses half a step each time, always towards zero, and the losses \
              of the layers add up.",
        item: "requantize",
        cases: |rng| {
            vec![
                case("ties", (-9..9).collect(), &[0.5], 0, INT8),
                case("quarters", (-12..12).collect(), &[0.25, 0.25], 0, INT8),
                off_tie(rng, [3, 4], 0, INT8),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/requantize-per-channel",
        weight: 2,
        visibility: Visibility::Public,
        what: "several samples of several outputs, each output with its own multiplier",
        why: "Each output has its own weight scale, so its own multiplier. The multiplier belongs to the column: it starts again with \
              every sample.",
        item: "requantize",
        cases: |rng| {
            vec![
                case(
                    "the worked example without its tie",
                    vec![5, 100, -1000, 160],
                    &[0.5, 0.01],
                    3,
                    INT8,
                ),
                off_tie(rng, [3, 3], 0, INT8),
                off_tie(rng, [2, 5], 4, INT8),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/requantize-zero-point",
        weight: 2,
        visibility: Visibility::Public,
        what: "zero points of either sign, odd ones with ties among them, and sums of 0",
        why: "The zero point of the output is added after rounding, in units of codes. Forgotten, or scaled along with the sum, the \
              next layer subtracts something that was never added.",
        item: "requantize",
        cases: |rng| {
            vec![
                case(
                    "ties and an odd zero point",
                    (-8..8).collect(),
                    &[0.5],
                    7,
                    INT8,
                ),
                case(
                    "ties and an odd negative zero point",
                    (-8..8).collect(),
                    &[0.5, 0.5],
                    -43,
                    INT8,
                ),
                off_tie(rng, [2, 4], -90, INT8),
                off_tie(rng, [2, 4], 55, INT8),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/requantize-saturates",
        weight: 2,
        visibility: Visibility::Public,
        what: "sums far outside the output's range, several code ranges, among them one raised to the zero point",
        why: "Saturation is also how a fused ReLU works: the lower bound is raised to the zero point. Bounds that are taken from the \
              type instead of the argument lose both.",
        item: "requantize",
        cases: |rng| {
            let sums = vec![1_000_000, -1_000_000, 300, -300, 256, 40, -40, 1];
            vec![
                case("INT8", sums.clone(), &[1.0, 0.5], 10, INT8),
                case("narrow", sums.clone(), &[1.0], -20, NARROW),
                case("4 bits", sums.clone(), &[0.125], 1, FOUR_BITS),
                case(
                    "a fused ReLU",
                    sums,
                    &[0.5, 0.25],
                    -30,
                    CodeRange { min: -30, max: 127 },
                ),
                case(
                    "the largest sums",
                    vec![i32::MAX, i32::MIN, 5],
                    &[rng.f32(0.9, 1.1)],
                    3,
                    INT8,
                ),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/requantize-in-f32",
        weight: 1,
        visibility: Visibility::Public,
        what: "sums and multipliers whose product rounds to a tie in f32, and is none in f64",
        why: "The definition multiplies in f32, once rounded, because every kernel can do that and give the same bits. A wider product \
              is no more right, only different, on the one machine that uses it.",
        item: "requantize",
        cases: |rng| (0..2).map(|_| ties_in_f32(rng)).collect(),
        run,
        judge: || Judge::Equal,
    },
];

pub(super) fn case(
    note: &str,
    sums: Vec<i32>,
    multipliers: &[f32],
    zero_point: i32,
    codes: CodeRange,
) -> Case {
    let n = multipliers.len();
    let shape = [sums.len() / n, n];
    let inputs = Values::new()
        .ints("accumulators", sums)
        .shaped(&shape)
        .f32s("multipliers", multipliers.iter().copied())
        .int("zero_point", zero_point);
    Case::new(note, with_codes(inputs, codes))
}

/// Sums of `[m, n]` with multipliers of very different size, each at least 0.05 codes away from a tie.
pub(super) fn off_tie(
    rng: &mut Rng,
    [m, n]: [usize; 2],
    zero_point: i32,
    codes: CodeRange,
) -> Case {
    let multipliers: Vec<f32> = (0..n).map(|_| magnitude(rng, -10, -2)).collect();
    let mut sums = Vec::new();
    for _ in 0..m {
        for &multiplier in &multipliers {
            let code = rng.int(i64::from(codes.min) - 10, i64::from(codes.max) + 10)
                - i64::from(zero_point);
            let wanted = code as f32 + rng.f32(-0.3, 0.3);
            let mut sum = (wanted / multiplier) as i32;
            // A coarse multiplier may step over the wanted fraction: walk on until the product is off a tie.
            while ((sum as f32 * multiplier).rem_euclid(1.0) - 0.5).abs() < 0.05 {
                sum += 1;
            }
            sums.push(sum);
        }
    }
    case("random sums", sums, &multipliers, zero_point, codes)
}

/// Sums for which the product in f32 gives another code than the product in f64.
fn ties_in_f32(rng: &mut Rng) -> Case {
    loop {
        let multiplier = rng.f32(0.001, 0.1);
        let differs = |&sum: &i32| {
            let wide = f64::from(sum) * f64::from(multiplier);
            (sum as f32 * multiplier).round_ties_even() as i64 != wide.round_ties_even() as i64
        };
        // Only sums next to a tie can differ, so only those are tried.
        let near_ties = (-120..120).map(|code| ((code as f32 + 0.5) / multiplier).round() as i32);
        let sums: Vec<i32> = near_ties.filter(differs).collect();
        if sums.len() >= 3 {
            return case("ties in f32", sums, &[multiplier], 0, INT8);
        }
    }
}

pub(super) fn run(case: &Case) -> Answer {
    let sums = case.ints::<i32>("accumulators")?;
    let codes = requantize(
        &sums,
        case.f32s("multipliers")?,
        case.int("zero_point")?,
        codes_of(case)?,
    );
    Ok(Values::new()
        .ints("codes", codes)
        .shaped(&case.shape("accumulators")?))
}
