//! The contract and the code speak of the same rules: `docs/numerics.md` against the sources.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use tinytorch_quantization::{CodeRange, Sketch, requantize};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn contract() -> String {
    fs::read_to_string(root().join("docs/numerics.md"))
        .expect("the contract is part of the project")
}

/// All files below a folder, but what was built.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

fn crates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root().join("crates"), &mut found);
    found
}

/// The numbers of the rules that a text names: `N` and digits, as a word of its own.
fn rules(text: &str) -> BTreeSet<u32> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let number = |word: &str| word.strip_prefix('N')?.parse().ok();
    words.filter_map(number).collect()
}

/// The rules that stand in the contract, by their headings.
fn stated() -> BTreeSet<u32> {
    let contract = contract();
    let headings = contract.lines().filter(|line| line.starts_with("**N"));
    let number = |line: &str| rules(line.split('.').next().unwrap_or_default());
    headings.flat_map(number).collect()
}

#[test]
fn every_rule_is_cited_by_code_and_every_citation_is_a_rule() {
    let stated = stated();
    let count = u32::try_from(stated.len()).expect("a few");
    assert_eq!(stated, (1..=count).collect(), "numbered without gaps");
    let mut cited = BTreeSet::new();
    for path in crates() {
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file");
        let is_comment = |line: &&str| line.trim_start().starts_with("//");
        let comments: String = text
            .lines()
            .filter(is_comment)
            .map(|l| format!("{l}\n"))
            .collect();
        let of_file = rules(&comments);
        let unknown: Vec<_> = of_file.difference(&stated).collect();
        assert!(unknown.is_empty(), "{} cites {unknown:?}", path.display());
        // Tests do not implement a rule.
        if path.components().any(|part| part.as_os_str() == "src") {
            cited.extend(of_file);
        }
    }
    let silent: Vec<_> = stated.difference(&cited).collect();
    assert!(silent.is_empty(), "no code cites {silent:?}");
}

#[test]
fn every_file_that_the_contract_names_exists() {
    let all: Vec<String> = crates()
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let contract = contract();
    let named = contract.split('`').skip(1).step_by(2);
    let is_file = |name: &&str| {
        let ours = [".rs", ".txt", ".safetensors"];
        ours.iter().any(|end| name.ends_with(end)) && !name.contains(' ')
    };
    let mut checked = 0;
    for name in named.filter(is_file) {
        let end = format!("/{name}");
        assert!(
            all.iter().any(|path| path.ends_with(&end)),
            "{name} does not exist"
        );
        checked += 1;
    }
    assert!(checked > 5, "only {checked} names were found");
}

/// The documents state the bytes of a sketch as a number.
#[test]
fn the_bytes_of_a_sketch_are_those_the_documents_state() {
    // Fields; two signs of 4481 counts in 8 bytes; 1024 batches of a number, a count and two ends.
    let bytes = 64 + 2 * 4481 * 8 + 1024 * (8 + 8 + 2 * 4);
    assert_eq!(Sketch::BYTES, bytes);
    let stated = format!("{},{:03} bytes", bytes / 1000, bytes % 1000);
    for document in ["docs/numerics.md", "docs/comparison.md"] {
        let text = fs::read_to_string(root().join(document)).expect("a document");
        assert!(text.contains(&stated), "{document} does not say {stated}");
    }
}

/// N5: NaN times a sum would become code 0 without a word.
#[test]
fn requantization_refuses_multipliers_that_are_not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let call = || requantize(&[1, 0], &[0.5, bad], 0, CodeRange::INT8);
        let panic = catch_unwind(call).expect_err("it was accepted");
        let message = panic.downcast_ref::<&str>().copied();
        assert_eq!(message, Some("a multiplier is not finite"));
    }
}
