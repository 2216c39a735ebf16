//! An example of an instructor's own hidden checks: copy this folder out of the course, change it, and name it with `--hidden`.
//!
//! A check draws its cases from the run's seed and returns what the student's function makes of them; the same run on the course's own solution says what
//! is right. So no expected value is written here, and every run asks something else. `super::super::subject` is the student's library.

use tinytorch_exam::{Case, Check, Judge, Values, Visibility, refused};

use super::super::subject::quantize::quantize;
use super::super::subject::scheme::{CodeRange, QParams};

/// The folder's checks.
pub(super) fn checks() -> Vec<Check> {
    vec![Check {
        // The exercise, and a name that no other check has.
        id: "15.3/own-temperatures",
        // Its share of the exercise's points, beside the weights of the other checks.
        weight: 1,
        visibility: Visibility::Hidden,
        what: "temperatures of a day",
        why: "A sensor's readings are quantized like everything else.",
        item: "quantize",
        cases: |rng| {
            let readings = rng.f32s(16, -40.0, 60.0);
            vec![Case::new("a day", Values::new().f32s("readings", readings))]
        },
        run: |case| {
            let qparams = QParams {
                scale: 0.4,
                zero_point: -28,
            };
            let codes = CodeRange {
                min: -128,
                max: 127,
            };
            let codes = quantize(case.f32s("readings")?, qparams, codes).map_err(refused)?;
            Ok(Values::new().ints("codes", codes))
        },
        judge: || Judge::Equal,
    }]
}
