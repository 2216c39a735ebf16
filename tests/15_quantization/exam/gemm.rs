//! 15.7: the integer product of matrices.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Values, Visibility};

use super::subject::gemm::gemm_i8;
use super::subject::scheme::Dims;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.7/products",
        weight: 3,
        visibility: Visibility::Public,
        what: "products of matrices that are not square, with zero points 0 and small codes",
        why: "This loop is where an INT8 model spends its time. b has one row per output, as weights are stored: read the other way \
              round, every output mixes the weights of all outputs.",
        item: "gemm_i8",
        cases: |rng| {
            vec![
                case(
                    "by hand",
                    [2, 2, 2],
                    [1, 2, 3, 4].into(),
                    0,
                    [1, 1, 1, -1].into(),
                    0,
                ),
                small(rng, [2, 3, 4], 0, 0),
                small(rng, [3, 2, 5], 0, 0),
                small(rng, [1, 4, 3], 0, 0),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.7/extremes",
        weight: 2,
        visibility: Visibility::Public,
        what: "products of the largest and smallest codes, and sums of many of them, with zero points 0",
        why: "−128 · −128 is 16384: not an i8, and two of them are not an i16. Overflow here is silent in a release build and strikes \
              exactly the strongest activations.",
        item: "gemm_i8",
        cases: |rng| {
            let ends = |rng: &mut Rng, n: usize| -> Vec<i64> {
                (0..n)
                    .map(|_| if rng.flag() { 127 } else { -128 })
                    .collect()
            };
            let (a, b) = (ends(rng, 24), ends(rng, 36));
            vec![
                case("one product", [1, 1, 1], vec![-128], 0, vec![-128], 0),
                case(
                    "three products",
                    [1, 2, 3],
                    vec![-128; 3],
                    0,
                    vec![-128, -128, -128, 127, 127, 127],
                    0,
                ),
                case("ends of the range", [2, 3, 12], a, 0, b, 0),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.7/long-sums",
        weight: 1,
        visibility: Visibility::Public,
        what: "sums of 1500 products that exceed 2^24",
        why: "Above 2^24 an f32 no longer holds every integer. Sums in i32 are exact and may be added in any order, which is why every \
              fast kernel can give the same bits.",
        item: "gemm_i8",
        cases: |rng| {
            let n = 1500;
            let (a, b) = (rng.ints(n, 100, 127), rng.ints(n, 100, 127));
            let mut first = vec![127; n];
            first[0] = 126;
            vec![
                case("random", [1, 1, n], a, 0, b, 0),
                case("an odd sum", [1, 1, n], first, 0, vec![127; n], 0),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.7/a-zero-point",
        weight: 3,
        visibility: Visibility::Public,
        what: "activations with a zero point, weights without",
        why: "This is the usual case: after a ReLU the zero point is −128. Each output needs its own correction, the sum of its own \
              weights times the zero point.",
        item: "gemm_i8",
        cases: |rng| {
            vec![
                case(
                    "the worked example",
                    [2, 2, 2],
                    [1, 2, 3, 4].into(),
                    1,
                    [1, 1, 1, -1].into(),
                    0,
                ),
                small(rng, [3, 3, 4], 7, 0),
                small(rng, [2, 4, 3], -128, 0),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.7/b-zero-point",
        weight: 2,
        visibility: Visibility::Public,
        what: "weights with a zero point, activations without",
        why: "ONNX allows asymmetric weights. Their correction belongs to the row of a, that is to the sample, not to the output.",
        item: "gemm_i8",
        cases: |rng| vec![small(rng, [3, 3, 4], 0, 5), small(rng, [2, 3, 6], 0, -21)],
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.7/both-zero-points",
        weight: 2,
        visibility: Visibility::Public,
        what: "zero points on both sides",
        why: "Multiplied out there are four terms. The last one, k · a₀ · b₀, was subtracted twice and must be added back once.",
        item: "gemm_i8",
        cases: |rng| {
            vec![
                small(rng, [2, 2, 3], 4, -3),
                small(rng, [3, 2, 5], -100, 50),
            ]
        },
        run,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.7/overwrites",
        weight: 1,
        visibility: Visibility::Public,
        what: "an output that held other numbers before, with zero points 0; also with no products to sum",
        why: "Buffers are reused from batch to batch. Adding to what is there makes every answer depend on the one before.",
        item: "gemm_i8",
        cases: |rng| {
            let mut used = small(rng, [2, 3, 4], 0, 0);
            used.inputs = used.inputs.ints("before", rng.ints(6, -50, 50));
            let empty = case("k = 0", [2, 2, 0], Vec::new(), 0, Vec::new(), 0);
            let empty = Case::new(empty.note, empty.inputs.ints("before", [7i64, -7, 1, 0]));
            vec![used, empty]
        },
        run,
        judge: || Judge::Equal,
    },
];

pub(super) fn case(
    note: &str,
    [m, n, k]: [usize; 3],
    a: Vec<i64>,
    a_zero: i64,
    b: Vec<i64>,
    b_zero: i64,
) -> Case {
    let inputs = Values::new()
        .ints("a", a)
        .shaped(&[m, k])
        .int("a_zero_point", a_zero)
        .ints("b", b)
        .shaped(&[n, k])
        .int("b_zero_point", b_zero);
    Case::new(note, inputs)
}

/// Codes in −5..=5: nothing overflows even an i16.
pub(super) fn small(rng: &mut Rng, dims: [usize; 3], a_zero: i64, b_zero: i64) -> Case {
    let [m, n, k] = dims;
    let (a, b) = (rng.ints(m * k, -5, 5), rng.ints(n * k, -5, 5));
    case(
        &format!("[{m}, {k}] times [{n}, {k}]"),
        dims,
        a,
        a_zero,
        b,
        b_zero,
    )
}

pub(super) fn run(case: &Case) -> Answer {
    let (a, b) = (case.ints::<i8>("a")?, case.ints::<i8>("b")?);
    let dims = match (&case.shape("a")?[..], &case.shape("b")?[..]) {
        (&[m, k], &[n, _]) => Dims { m, n, k },
        _ => {
            return Err(tinytorch_exam::Stop::Malformed(
                "`a` and `b` are matrices".to_owned(),
            ));
        }
    };
    // What was in the output before does not matter to a correct solution; usually it is zeros.
    let mut c = match case.inputs.find("before") {
        Some(_) => case.ints::<i32>("before")?,
        None => vec![0; dims.m * dims.n],
    };
    gemm_i8(
        dims,
        &a,
        case.int("a_zero_point")?,
        &b,
        case.int("b_zero_point")?,
        &mut c,
    );
    Ok(Values::new().ints("c", c).shaped(&[dims.m, dims.n]))
}
