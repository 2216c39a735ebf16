//! The exam of a made-up module.

use tinytorch_exam::{Case, Check, Judge, Values, Visibility, refused, serve};

use subject::extra::twice;
use subject::halves::half;
use subject::sums::Summer;

#[cfg(hidden)]
#[path = "exam/hidden/mod.rs"]
mod hidden;

fn main() -> std::process::ExitCode {
    serve("01_mini", &checks(), std::env::args().skip(1))
}

fn checks() -> Vec<Check> {
    let halves = Check {
        id: "1.1/fractions",
        weight: 2,
        visibility: Visibility::Public,
        what: "halves of odd numbers",
        why: "A half that is cut to a whole number is no half.",
        item: "half",
        cases: |_| vec![Case::new("odd ones", Values::new().f32s("values", [2.0, 3.0, 5.0]))],
        run: |case| Ok(Values::new().f32s("halves", half(case.f32s("values")?))),
        judge: || Judge::Equal,
    };
    let sums = Check {
        id: "1.2/sums",
        item: "Summer::sum",
        weight: 1,
        what: "sums of a few numbers",
        why: "Every other sum is made of these.",
        cases: |rng| {
            vec![
                Case::new("some", Values::new().ints("values", [1, 2, 3])),
                Case::new("random", Values::new().ints("values", rng.ints(5, -9, 9))),
            ]
        },
        run: |case| {
            let sum = Summer.sum(&case.ints("values")?).map_err(refused)?;
            Ok(Values::new().int("sum", sum))
        },
        ..halves.clone()
    };
    #[allow(unused_mut, reason = "mutable where hidden checks are compiled in")]
    let mut checks = vec![
        Check {
            id: "1.1/empty",
            weight: 1,
            what: "no values at all",
            why: "An empty batch is a batch.",
            cases: |_| vec![Case::new("", Values::new().f32s("values", []))],
            ..halves.clone()
        },
        halves.clone(),
        sums.clone(),
        Check {
            id: "1.2/overflow",
            what: "a sum that does not fit",
            why: "A sum that wraps is a wrong sum nobody notices.",
            cases: |_| vec![Case::new("", Values::new().ints("values", [i32::MAX, 1]))],
            ..sums.clone()
        },
        Check {
            id: "1.2/mean",
            item: "Summer::mean",
            what: "the mean of a few numbers",
            why: "Means are what sums are for.",
            run: |case| {
                let mean = Summer.mean(&case.ints("values")?);
                Ok(Values::new().f32s("mean", mean))
            },
            ..sums.clone()
        },
        Check {
            id: "1.3/twice",
            item: "twice",
            what: "twice a number",
            why: "It is asked for.",
            cases: |_| vec![Case::new("", Values::new().int("number", 21))],
            run: |case| Ok(Values::new().int("twice", twice(case.int("number")?))),
            ..sums.clone()
        },
    ];
    #[cfg(hidden)]
    checks.extend(hidden::checks(&halves, &sums));
    checks
}
