//! Submissions that the compiler never finishes, in one function or in many.

use tito_grade::model::{Status, SubmissionResult};

use crate::class::{Body, Class};

/// The lint that would stop it is allowed, which the compiler complains about and obeys.
const ENDLESS: &str = "#[allow(long_running_const_eval)]
const NEVER: u32 = { let mut n = 0u32; loop { n = n.wrapping_add(1); if n == 7 && false { break n; } } };
todo!(\"{NEVER}\")
";

/// Processor seconds of a compilation; all of a submission's together get four times as much.
const LIMIT: &str = "8";

fn points(result: &SubmissionResult, id: &str) -> (f64, u32) {
    let mut exercises = result.exercises.iter();
    let exercise = exercises.find(|one| one.id == id).unwrap();
    (exercise.points, exercise.of)
}

/// Two endless functions, in two files, are found one after the other, and everything else counts. Where every function is endless, all that a
/// submission's compilations may take is used up, and it says so.
#[test]
#[ignore = "uses up the time that compilations may take, a minute or more; .ci/run asks for it"]
fn endless_functions_cost_their_own_points_and_no_more_than_the_budget() {
    let class = Class::new();
    let two = ["15.3", "15.7"];
    class.write("two", |tag| match two.contains(&tag) {
        true => Body::Text(ENDLESS.into()),
        false => Body::Solved,
    });
    class.write("all", |_| Body::Text(ENDLESS.into()));
    let summary = class.run(&["--seed", "5", "--jobs", "2", "--compile-limit", LIMIT]);
    assert_eq!(summary["faults"], 0, "{summary}");

    let result = class.result("two");
    assert_eq!(result.status, Status::Graded);
    assert!(result.needs_human);
    let replaced: Vec<_> = result
        .replaced
        .iter()
        .filter_map(|one| one.hole.as_deref())
        .collect();
    assert_eq!(replaced.len(), two.len(), "{:?}", result.reasons);
    for id in two {
        assert!(replaced.contains(&id), "{replaced:?}");
        assert_eq!(points(&result, id).0, 0.0);
        let without = format!("it is graded without {id}");
        assert!(
            result
                .reasons
                .iter()
                .any(|reason| reason.ends_with(&without) && reason.contains("s of processor time")),
            "{:?}",
            result.reasons
        );
    }
    for id in ["15.1", "15.4", "15.11"] {
        let (points, of) = points(&result, id);
        assert_eq!(points, f64::from(of), "{id}");
    }

    let result = class.result("all");
    assert_eq!((result.status, result.points), (Status::Graded, 0.0));
    assert!(result.needs_human);
    let holes = class.files("all", |_| Body::Open);
    let holes: usize = holes
        .values()
        .map(|text| text.matches("BEGIN SOLUTION").count())
        .sum();
    assert_eq!(result.replaced.len(), holes, "{:?}", result.replaced);
    assert!(!result.reasons.is_empty());
}
