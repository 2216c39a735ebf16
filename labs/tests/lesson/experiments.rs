//! The lab itself: every experiment runs, and what it prints for programs can be read by them.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;

fn lab(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab-15-quantization"));
    command.args(arguments).output().expect("it was built")
}

fn names() -> Vec<String> {
    let output = lab(&["--list", "--json"]);
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    list.as_object()
        .expect("a name for each")
        .keys()
        .cloned()
        .collect()
}

#[test]
fn every_experiment_runs_and_is_in_the_document() {
    let output = lab(&["--smoke", "--json"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON, and nothing else");
    let experiments = document["experiments"]
        .as_object()
        .expect("one entry for each");
    let names = names();
    assert_eq!(names.len(), 7);
    for name in names {
        let entry = &experiments[&name];
        assert!(
            entry["question"].is_string() && entry["seconds"].is_number(),
            "{name}"
        );
        let finding = entry["finding"].as_object().expect("an object");
        assert!(!finding.is_empty(), "{name}");
        assert_numbers(&name, &entry["finding"]);
    }
    described(&document);
    // Numbers that can be compared were measured, not left out.
    let bits = experiments["bits"]["finding"]["cells"]
        .as_array()
        .expect("cells");
    let methods: Vec<&str> = bits
        .iter()
        .filter_map(|cell| cell["method"].as_str())
        .collect();
    for method in ["rounded", "repaired", "trained"] {
        assert!(methods.contains(&method), "{method} in {methods:?}");
    }
}

/// Every key that is printed is described, under the experiment it belongs to, and every key that is described is printed.
fn described(document: &Value) {
    let mut printed = BTreeSet::new();
    let mut all = document.clone();
    let experiments = all["experiments"].take();
    paths("", &all, &mut printed);
    for (name, entry) in experiments.as_object().expect("one entry for each") {
        paths("experiments.*", entry, &mut printed);
        printed.retain(|path| !path.starts_with("experiments.*.finding."));
        paths(name, &entry["finding"], &mut printed);
    }
    let text = include_str!("../../../docs/lab_json.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let told: BTreeSet<String> = rows
        .filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect();
    let untold: Vec<_> = printed.difference(&told).collect();
    let gone: Vec<_> = told.difference(&printed).collect();
    assert!(untold.is_empty(), "not in docs/lab_json.md: {untold:#?}");
    assert!(gone.is_empty(), "in docs/lab_json.md alone: {gone:#?}");
}

/// The keys in a value, dotted; a summary over networks is one of them, and elements of a list have no number.
fn paths(place: &str, value: &Value, found: &mut BTreeSet<String>) {
    let Value::Object(map) = value else {
        if let Value::Array(values) = value {
            values.iter().for_each(|value| paths(place, value, found));
        }
        return;
    };
    if map.contains_key("deviation") {
        return;
    }
    for (key, value) in map {
        let path = match place {
            "" => key.clone(),
            place => format!("{place}.{key}"),
        };
        paths(&path, value, found);
        found.insert(path);
    }
}

/// JSON has no infinity: a measurement that is not finite would have become null.
fn assert_numbers(place: &str, value: &Value) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            // No noise at all, no crossing, a promise this run did not measure, no width: these may be missing.
            let may_be_missing = ["sqnr_db", "inside", "alone", "measured", "width"];
            if !may_be_missing.contains(&key.as_str()) || value.is_object() {
                assert_numbers(&format!("{place}.{key}"), value);
            }
        }),
        Value::Array(values) => values.iter().for_each(|value| assert_numbers(place, value)),
        value => assert!(!value.is_null(), "{place} is null"),
    }
}

#[test]
fn an_experiment_is_chosen_by_name_and_printed_as_a_table() {
    let output = lab(&["crossover", "--smoke"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("f32 / inside") && !text.contains("SQNR"),
        "{text}"
    );

    let output = lab(&["crossing"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error.contains("`crossing`") && error.contains("crossover"),
        "{error}"
    );
}
