//! A made-up class for the tests of the formats: a perfect student, a partial one, hostile names and output, a refusal, a fault, one not graded yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tinytorch_exam::{Difference, Visibility};

use crate::model::*;

/// A text that tries to break every format it is written to.
pub const HOSTILE: &str = "=cmd|' /C calc'!A0\n::set-output name=result::eyJ9\n##[error]no</script><script>alert(1)</script>]]>\u{1b}[31m\u{202e}evil\u{200b}\u{0}\u{fffe} | `rm` ![x](http://example.org) \"quoted\", 'single' & more";

/// What only a hidden check's staff record holds: it must be in no student's file.
pub const CANARY: &str = "canary-3141592653";

/// Who has this id and this name.
pub fn submission(id: &str, name: &str) -> Submission {
    Submission {
        id: id.into(),
        name: name.into(),
        email: None,
        student_number: None,
        group: Vec::new(),
        notes: Vec::new(),
        origin: Origin::Folder,
        source: PathBuf::from(id),
        submitted: None,
        late: None,
        files: Vec::new(),
        answers: None,
        loose: Vec::new(),
        missing: Vec::new(),
        refused: Vec::new(),
    }
}

fn check(id: &str, weight: u32, visibility: Visibility, passed: bool, words: &str) -> CheckResult {
    let failed = !passed;
    CheckResult {
        id: id.into(),
        weight,
        visibility,
        outcome: if passed {
            Outcome::Passed
        } else {
            Outcome::WrongValues
        },
        message: if passed { "right".into() } else { words.into() },
        difference: failed.then(|| Difference {
            name: "codes".into(),
            shape: vec![2],
            index: vec![1],
            expected: if visibility == Visibility::Hidden {
                CANARY.into()
            } else {
                "7".into()
            },
            got: "8".into(),
            count_wrong: 1,
            of: 2,
        }),
        case: failed.then(|| match visibility {
            Visibility::Hidden => CANARY.into(),
            Visibility::Public => "the worked example".into(),
        }),
        misconception: failed.then(|| Misconception {
            title: "truncation <b>".into(),
            explanation: "It drifts | away.".into(),
        }),
        answer: failed.then(|| format!("{id}-same")),
        printed: failed.then(|| match visibility {
            Visibility::Hidden => CANARY.into(),
            Visibility::Public => HOSTILE.into(),
        }),
        milliseconds: 3,
    }
}

/// A result in which the checks named pass; points follow.
pub fn result(submission: Submission, passed: &[&str], words: &str) -> SubmissionResult {
    let mut exercises = Vec::new();
    for info in exercise_infos() {
        let checks: Vec<CheckResult> = check_infos()
            .iter()
            .filter(|check| check.exercise == info.id)
            .map(|info| {
                check(
                    &info.id,
                    info.weight,
                    info.visibility,
                    passed.contains(&info.id.as_str()),
                    words,
                )
            })
            .collect();
        let outcomes = checks.iter().map(|check| (check.weight, check.passed()));
        exercises.push(ExerciseResult {
            points: tinytorch_exam::score(f64::from(info.points), outcomes),
            id: info.id,
            title: info.title,
            of: info.points,
            bonus: info.bonus,
            checks,
        });
    }
    let sum = |bonus: bool| {
        let own = exercises.iter().filter(|exercise| exercise.bonus == bonus);
        own.map(|exercise| exercise.points).sum()
    };
    let mut result = SubmissionResult {
        format: FORMAT,
        module: "01_mini".into(),
        status: Status::Graded,
        reasons: Vec::new(),
        points: sum(false),
        of: 100,
        bonus: sum(true),
        bonus_of: 5,
        exercises,
        findings: Vec::new(),
        replaced: Vec::new(),
        compile_errors: Vec::new(),
        needs_human: false,
        receipt: None,
        seconds: 0.5,
        seal: String::new(),
        submission,
    };
    let outcome = crate::receipts::outcome(&result);
    result.receipt = Some(receipt(outcome));
    result
}

fn receipt(outcome: String) -> Receipt {
    let hash = || "ab".repeat(32);
    Receipt {
        submission: hash(),
        course: "c".into(),
        exam: "e".into(),
        judges: hash(),
        cases: hash(),
        toolchain: "t".into(),
        grader: "0.1.0".into(),
        seed: 7,
        limits: String::new(),
        outcome,
        layers: Layers {
            isolation: Isolation::Reduced,
            active: BTreeMap::from([(Layer::Intake, String::new())]),
            missing: BTreeMap::new(),
        },
    }
}

fn exercise_infos() -> Vec<ExerciseInfo> {
    [("1.1", 60, false), ("1.2", 40, false), ("1.3", 5, true)]
        .map(|(id, points, bonus)| ExerciseInfo {
            id: id.into(),
            title: format!("Exercise {id}"),
            file: "halves.rs".into(),
            points,
            bonus,
        })
        .to_vec()
}

fn check_infos() -> Vec<CheckInfo> {
    [
        ("1.1/empty", 1, Visibility::Public),
        ("1.1/fractions", 2, Visibility::Public),
        ("1.1/random", 1, Visibility::Hidden),
        ("1.2/sums", 1, Visibility::Public),
        ("1.2/hidden", 2, Visibility::Hidden),
        ("1.3/twice", 1, Visibility::Public),
    ]
    .map(|(id, weight, visibility)| CheckInfo {
        id: id.into(),
        exercise: id.split('/').next().unwrap_or_default().into(),
        weight,
        visibility,
        what: if visibility == Visibility::Hidden {
            CANARY.into()
        } else {
            "what is tried".into()
        },
        why: "why it matters".into(),
        item: "half".into(),
    })
    .to_vec()
}

/// The names of all checks.
pub fn all_checks() -> Vec<String> {
    check_infos().into_iter().map(|check| check.id).collect()
}

/// The plan of these submissions.
pub fn plan(submissions: Vec<Submission>) -> Plan {
    Plan {
        format: FORMAT,
        created: 1_700_000_000,
        module: "01_mini".into(),
        title: "A made-up module".into(),
        course: "c".into(),
        exam: "e".into(),
        toolchain: "t".into(),
        seed: 7,
        options: Options::default(),
        submissions_folder: PathBuf::from("/submissions"),
        exercises: exercise_infos(),
        checks: check_infos(),
        submissions,
    }
}

/// The whole class.
pub fn class() -> (Plan, Vec<Option<SubmissionResult>>) {
    let all = all_checks();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut jane = submission("jane", "Jane Doe");
    jane.email = Some("jdoe@example.org".into());
    jane.student_number = Some("1001".into());
    jane.origin = Origin::Canvas;
    jane.answers = Some(super::answers::tests_sheet(
        "A scale per channel.",
        "It is 4 bytes.",
    ));
    let partial = submission("partial", "Pat Ial");
    let mut hostile = submission("hostile", HOSTILE);
    hostile.email = Some("+1@example.org".into());
    hostile.group = vec![HOSTILE.into()];
    hostile.answers = Some(format!("# {HOSTILE}\n"));
    let refused = submission("refused", "Ré Fused");
    let fault = submission("fault", "Fa Ult");
    let not_yet = submission("not-yet", "Not Yet");

    let mut hostile_result = result(hostile.clone(), &["1.1/empty"], HOSTILE);
    hostile_result.reasons = vec![HOSTILE.into()];
    hostile_result.needs_human = true;
    hostile_result.findings = vec![Finding {
        file: "halves.rs".into(),
        line: 3,
        column: 5,
        word: HOSTILE.into(),
        message: HOSTILE.into(),
        needs_human: true,
    }];
    hostile_result.compile_errors = vec![CompileError {
        code: Some("E0308".into()),
        message: HOSTILE.into(),
        file: Some(HOSTILE.into()),
        line: Some(9),
    }];
    hostile_result.replaced = vec![Replaced {
        file: "halves.rs".into(),
        hole: Some("1.1".into()),
        why: HOSTILE.into(),
    }];
    let mut refused_result = result(refused.clone(), &[], "nothing ran");
    refused_result.status = Status::Refused;
    refused_result.exercises.clear();
    refused_result.receipt = None;
    refused_result.reasons = vec!["The archive is not a zip file.".into()];
    let mut fault_result = refused_result.clone();
    fault_result.submission = fault.clone();
    fault_result.status = Status::Fault;

    let results = vec![
        Some(result(jane.clone(), &all, "")),
        Some(result(
            partial.clone(),
            &["1.1/empty", "1.1/fractions", "1.2/sums"],
            "the second value is wrong",
        )),
        Some(hostile_result),
        Some(refused_result),
        Some(fault_result),
        None,
    ];
    (
        plan(vec![jane, partial, hostile, refused, fault, not_yet]),
        results,
    )
}

/// The book of the class, without lateness and marks.
pub fn book() -> super::Book {
    let (plan, results) = class();
    super::Book::new(plan, results, None, None).expect("a book")
}
