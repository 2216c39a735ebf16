//! The exam of module 15, judged itself: the reference passes, constant and empty answers do not, and the catalogue of
//! mistakes is in order. That every mistake is really caught takes a compiler and is `tito dev check`'s work.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tinytorch_exam::{
    CheckRecord, Panic, Reply, Value, Values, Visibility, expect_check, judge_check,
};
use tinytorch_tests::quantization::exam::checks;

const SEEDS: [u64; 4] = [0, 1, 15, 20_260_101];

fn records(seed: u64) -> Vec<CheckRecord> {
    checks()
        .iter()
        .map(|check| expect_check(check, seed).expect("cases fit their own check"))
        .collect()
}

fn replies(record: &CheckRecord) -> Vec<Reply> {
    record
        .cases
        .iter()
        .map(|case| case.expected.clone())
        .collect()
}

#[test]
fn the_reference_answers_every_case_the_same_way_twice() {
    for seed in SEEDS {
        for (first, second) in records(seed).iter().zip(records(seed)) {
            assert_eq!(first, &second, "seed {seed}");
            assert!(
                judge_check(first, &replies(&second)).passed,
                "{}, seed {seed}",
                first.id
            );
            for case in &first.cases {
                let panicked = matches!(case.expected, Reply::Panicked(_));
                assert!(
                    !panicked,
                    "{}, `{}`: {:?}",
                    first.id, case.case.note, case.expected
                );
            }
        }
    }
}

#[test]
fn checks_are_complete_and_their_ids_are_unique() {
    let mut ids = BTreeSet::new();
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for check in checks() {
        assert!(ids.insert(check.id), "{} is there twice", check.id);
        let (exercise, slug) = check.id.split_once('/').expect("exercise/slug");
        assert!(
            exercise.starts_with("15.") && !slug.is_empty(),
            "{}",
            check.id
        );
        assert!(
            slug.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
            "{}",
            check.id
        );
        assert!(check.weight >= 1, "{} weighs nothing", check.id);
        assert!(
            check.what.len() > 20 && !check.what.ends_with('.'),
            "{}: what",
            check.id
        );
        assert!(
            check.why.len() > 40 && check.why.ends_with('.'),
            "{}: why",
            check.id
        );
        assert!(!check.item.is_empty(), "{}: item", check.id);
        counts.entry(exercise).or_default()[usize::from(check.visibility == Visibility::Hidden)] +=
            1;
    }
    for (exercise, [public, hidden]) in counts {
        assert!(public >= 2, "{exercise} has {public} public checks");
        assert!(
            cfg!(not(hidden)) || hidden >= 1,
            "{exercise} has {hidden} hidden checks"
        );
    }
}

#[test]
fn no_check_passes_on_an_answer_that_does_not_depend_on_the_case() {
    for seed in SEEDS {
        for record in records(seed) {
            for reply in replies(&record) {
                let constant = vec![reply; record.cases.len()];
                assert!(
                    !judge_check(&record, &constant).passed,
                    "{}, seed {seed}: {:?}",
                    record.id,
                    constant[0]
                );
            }
        }
    }
}

#[test]
fn no_check_passes_on_plausible_nonsense() {
    for record in records(1) {
        let everywhere = |change: &dyn Fn(&Value) -> Value| -> Vec<Reply> {
            let changed = |reply: Reply| match reply {
                Reply::Values(values) => {
                    let mut named: Vec<_> = values.iter().cloned().collect();
                    named
                        .iter_mut()
                        .for_each(|named| named.value = change(&named.value));
                    Reply::Values(named.into())
                }
                other => other,
            };
            replies(&record).into_iter().map(changed).collect()
        };
        // Right names, shapes and lengths, but every number the same.
        let zeros = everywhere(&|value| constant(value, 0.0));
        let ones = everywhere(&|value| constant(value, 1.0));
        let nans = everywhere(&|value| constant(value, f32::NAN));
        let nothing = vec![Reply::Values(Values::new()); record.cases.len()];
        let errors = vec![Reply::Error("NotFinite: always".to_owned()); record.cases.len()];
        let panic = Panic {
            message: "boom".to_owned(),
            file: None,
            line: None,
        };
        let panics = vec![Reply::Panicked(panic); record.cases.len()];
        for (name, nonsense) in [
            ("zeros", zeros),
            ("ones", ones),
            ("NaN", nans),
            ("no values", nothing),
            ("errors", errors),
            ("panics", panics),
            ("no replies", Vec::new()),
        ] {
            assert!(
                !judge_check(&record, &nonsense).passed,
                "{} passes on {name}",
                record.id
            );
        }
    }
}

fn constant(value: &Value, number: f32) -> Value {
    match value {
        Value::I64(values) => Value::I64(vec![number as i64; values.len()]),
        Value::F32(values) => Value::F32(vec![number; values.len()]),
        Value::Bool(_) => Value::Bool(number != 0.0),
        Value::Text(_) => Value::Text(number.to_string()),
    }
}

#[test]
fn other_seeds_ask_other_questions() {
    for check in checks()
        .iter()
        .filter(|check| check.visibility == Visibility::Hidden)
    {
        // A hidden check with fixed cases could be answered from memory after one leak.
        let same = check.cases(1) == check.cases(2);
        assert!(
            !same || check.id == "15.4/extreme-scales",
            "{} asks the same for every seed",
            check.id
        );
    }
}

/// One file of `15_quantization/wrong/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrong {
    title: String,
    hole: String,
    caught_by: String,
    explanation: String,
    body: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn catalogue() -> BTreeMap<String, Wrong> {
    let folder = root().join("tests/15_quantization/wrong");
    let entries = fs::read_dir(folder).expect("the catalogue is there");
    entries
        .map(|entry| {
            let path = entry.expect("the folder can be listed").path();
            let slug = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .expect("UTF-8")
                .to_owned();
            let text = fs::read_to_string(&path).expect("the file can be read");
            let wrong = toml::from_str(&text).unwrap_or_else(|error| panic!("{slug}: {error}"));
            (slug, wrong)
        })
        .collect()
}

/// The body of every hole of the reference, by its tag.
fn holes() -> BTreeMap<String, String> {
    let mut holes = BTreeMap::new();
    let sources = fs::read_dir(root().join("crates/tinytorch-quantization/src"))
        .expect("the reference is there");
    for entry in sources {
        let path = entry.expect("the folder can be listed").path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("the file can be read");
        for part in text.split("// BEGIN SOLUTION ").skip(1) {
            let (tag, rest) = part.split_once('\n').expect("a marker ends its line");
            let (body, _) = rest.split_once("// END SOLUTION").expect("every hole ends");
            holes.insert(tag.trim().to_owned(), body.trim().to_owned());
        }
    }
    holes
}

#[test]
fn every_catalogued_mistake_names_a_hole_and_a_public_check_of_its_exercise() {
    let (holes, checks) = (holes(), checks());
    let catalogue = catalogue();
    assert!(catalogue.len() >= 36, "{} mistakes", catalogue.len());
    let mut titles = BTreeSet::new();
    for (slug, wrong) in &catalogue {
        let right = holes
            .get(&wrong.hole)
            .unwrap_or_else(|| panic!("{slug}: there is no hole {}", wrong.hole));
        assert_ne!(right, wrong.body.trim(), "{slug} is the reference itself");
        let check = checks.iter().find(|check| check.id == wrong.caught_by);
        let check =
            check.unwrap_or_else(|| panic!("{slug}: there is no check {}", wrong.caught_by));
        assert_eq!(
            check.visibility,
            Visibility::Public,
            "{slug}: students never see {}",
            check.id
        );
        let exercise = wrong
            .hole
            .trim_end_matches(|c: char| c.is_ascii_lowercase());
        assert_eq!(exercise, check.exercise(), "{slug}");
        assert!(
            titles.insert(&wrong.title),
            "{slug}: the title is there twice"
        );
        assert!(
            !wrong.title.ends_with('.') && wrong.explanation.ends_with('.'),
            "{slug}"
        );
    }
}

#[test]
fn every_public_check_is_named_by_a_mistake_and_every_hole_can_be_got_wrong() {
    let catalogue = catalogue();
    let named: BTreeSet<&str> = catalogue
        .values()
        .map(|wrong| wrong.caught_by.as_str())
        .collect();
    for check in checks()
        .iter()
        .filter(|check| check.visibility == Visibility::Public)
    {
        assert!(named.contains(check.id), "no mistake names {}", check.id);
    }
    let wrong: BTreeSet<&str> = catalogue
        .values()
        .map(|wrong| wrong.hole.as_str())
        .collect();
    let examined: BTreeSet<&str> = checks().iter().map(|check| check.exercise()).collect();
    for hole in holes().keys() {
        let exercise = hole.trim_end_matches(|c: char| c.is_ascii_lowercase());
        if examined.contains(exercise) {
            assert!(
                wrong.contains(hole.as_str()),
                "no mistake is catalogued for hole {hole}"
            );
        }
    }
}
