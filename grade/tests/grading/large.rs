//! A class of two hundred. Many minutes, so only on demand, before a release of the course:
//! `cargo test --package tito-grade --test grading -- --ignored two_hundred`.

use std::collections::BTreeMap;
use std::process::Command;

use tinytorch_exam::{ExamRecord, Reply, judge_check};
use tito::subject::Runner;
use tito::{dependencies, mistakes};

use crate::class::{Body, Class, failed};

const SEED: &str = "20260131";

/// Every catalogued mistake, and beside them perfect, partial, broken and hostile submissions: 200 in all.
#[test]
#[ignore = "takes many minutes; run it before a release of the course"]
fn a_class_of_two_hundred_is_graded_as_constructed() {
    let class = Class::new();
    let catalogue = class.mistakes();
    let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
    for mistake in &catalogue {
        let name = format!("wrong-{}", mistake.slug);
        class.write_wrong(&name, mistake);
    }
    let exercises = class.module.manifest.exercises.clone();
    let rest = 200usize.saturating_sub(catalogue.len());
    for number in 0..rest {
        let name = format!("other-{number:03}");
        match number % 4 {
            0 => {
                class.write(&name, |_| Body::Solved);
                expected.insert(name, Expected::Points(100.0, 5.0));
            }
            1 => {
                // The first exercises, as many as this student got done.
                let done = 1 + number / 4 % exercises.len();
                let ids: Vec<&str> = exercises[..done]
                    .iter()
                    .map(|one| one.id.as_str())
                    .collect();
                let is_done = |tag: &str| ids.contains(&tito::manifest::exercise_id(tag));
                class.write(&name, |tag| {
                    if is_done(tag) {
                        Body::Solved
                    } else {
                        Body::Open
                    }
                });
                expected.insert(
                    name,
                    Expected::Full(ids.iter().map(|&id| id.to_owned()).collect()),
                );
            }
            2 => {
                class.write(&name, |tag| match tag {
                    "15.11a" => Body::Text("this is no Rust\n".into()),
                    _ => Body::Solved,
                });
                expected.insert(name, Expected::Lost("15.11".into()));
            }
            _ => {
                let attack = [
                    "std::process::exit(0)\n",
                    "std::panic::set_hook(Box::new(|_| std::process::exit(0))); panic!()\n",
                    "loop { std::hint::black_box(values); }\n",
                    "eprintln!(\"{}\", include_str!(\"/etc/passwd\")); Ok(Vec::new())\n",
                ][number / 4 % 4];
                class.write(&name, |tag| {
                    if tag == "15.3" {
                        Body::Text(attack.into())
                    } else {
                        Body::Open
                    }
                });
                expected.insert(name, Expected::Points(0.0, 0.0));
            }
        }
    }

    let summary = class.run(&["--seed", SEED, "--time-limit", "2"]);
    println!("{summary}");
    assert_eq!(summary["submissions"], 200, "{summary}");
    assert_eq!(summary["faults"], 0, "{summary}");

    for (id, expected) in &expected {
        let result = class.result(id);
        match expected {
            Expected::Points(points, bonus) => {
                assert_eq!(
                    (result.points, result.bonus),
                    (*points, *bonus),
                    "{id}: {:?}",
                    failed(&result)
                );
            }
            Expected::Full(ids) => {
                for exercise in &result.exercises {
                    let full = if ids.contains(&exercise.id) {
                        f64::from(exercise.of)
                    } else {
                        0.0
                    };
                    assert_eq!(exercise.points, full, "{id}: {}", exercise.id);
                }
            }
            Expected::Lost(lost) => {
                for exercise in &result.exercises {
                    let is_full = exercise.points >= f64::from(exercise.of);
                    assert_eq!(is_full, exercise.id != *lost, "{id}: {}", exercise.id);
                }
            }
        }
    }

    // Each wrong solution fails exactly the checks that it fails when it is asked without any sandbox, by another way of compiling.
    let runners = Unconfined::new(&class);
    for (mistake, wanted) in catalogue.iter().zip(runners.failures()) {
        let id = format!("wrong-{}", mistake.slug);
        let mut got = failed(&class.result(&id));
        assert!(got.contains(&mistake.caught_by), "{id}: {got:?}");
        if let Some(mut wanted) = wanted {
            // A result goes by exercise, the exam asks public checks before hidden ones.
            got.sort();
            wanted.sort();
            assert_eq!(got, wanted, "{id}");
        }
    }
}

enum Expected {
    Points(f64, f64),
    /// These exercises in full, the others nothing.
    Full(Vec<String>),
    /// All in full but this one.
    Lost(String),
}

/// The reference and the wrong solutions as `tito dev` compiles them.
struct Unconfined {
    record: ExamRecord,
    wrong: Vec<Runner>,
}

impl Unconfined {
    fn new(class: &Class) -> Unconfined {
        let dependencies = dependencies::build(&class.module).unwrap();
        let reference = mistakes::build_reference(&class.module, &dependencies).unwrap();
        let wrong = mistakes::build_all(&class.module, &dependencies, &class.mistakes()).unwrap();
        let record = ask(reference.command()).expect("the reference answers");
        Unconfined { record, wrong }
    }

    /// Ids of the checks each wrong solution fails; nothing for one that does not get to the end.
    fn failures(&self) -> impl Iterator<Item = Option<Vec<String>>> {
        self.wrong.iter().map(|runner| {
            let answers = ask(runner.command())?;
            let pairs = self.record.checks.iter().zip(answers.checks);
            let wrong = pairs.filter(|(check, answer)| {
                let replies: Vec<Reply> = answer
                    .cases
                    .iter()
                    .map(|case| case.expected.clone())
                    .collect();
                !judge_check(check, &replies).passed
            });
            Some(wrong.map(|(check, _)| check.id.clone()).collect())
        })
    }
}

fn ask(mut command: Command) -> Option<ExamRecord> {
    let output = command.args(["expect", "--seed", SEED]).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}
