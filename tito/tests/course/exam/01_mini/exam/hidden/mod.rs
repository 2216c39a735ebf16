//! The checks that students do not see.

use subject::extra::twice;
use tinytorch_exam::{Case, Check, Values, Visibility};

pub fn checks(halves: &Check, sums: &Check) -> Vec<Check> {
    vec![
        Check {
            id: "1.1/random",
            visibility: Visibility::Hidden,
            what: "halves of random numbers",
            cases: |rng| vec![Case::new("", Values::new().f32s("values", rng.f32s(9, -9.0, 9.0)))],
            ..halves.clone()
        },
        Check {
            id: "1.2/hidden",
            visibility: Visibility::Hidden,
            ..sums.clone()
        },
        Check {
            id: "1.3/hidden",
            visibility: Visibility::Hidden,
            item: "twice",
            what: "twice another number",
            why: "It is asked for.",
            cases: |rng| vec![Case::new("", Values::new().int("number", rng.int(3, 99)))],
            run: |case| Ok(Values::new().int("twice", twice(case.int("number")?))),
            ..sums.clone()
        },
    ]
}
