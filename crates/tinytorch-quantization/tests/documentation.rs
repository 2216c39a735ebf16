//! What rustc and clippy do not check of the documentation: whoever takes or gives many numbers says in what shape.

use std::fs;
use std::path::Path;

/// Types that hold many numbers.
const MANY: [&str; 9] = [
    "Tensor",
    "ArrayView",
    "ArrayD<",
    "&[f32]",
    "&[i32]",
    "&[i8]",
    "Vec<f32>",
    "Vec<i32>",
    "Vec<i8>",
];

/// How a shape is stated: as a list of axes, or in words.
const STATED: [&str; 8] = [
    "`[",
    "shape",
    "length",
    "flattened",
    "as many",
    "one for each",
    "one code",
    "one value",
];

/// The public functions of a file that take or give many numbers and do not say in what shape.
fn silent(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text
        .lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let line = line.trim_start();
        if !line.starts_with("pub fn ") && !line.starts_with("pub const fn ") {
            continue;
        }
        let end = lines[index..]
            .iter()
            .position(|line| line.ends_with(['{', ';']));
        let signature = lines[index..=index + end.unwrap_or(0)].concat();
        let arguments = signature
            .split_once('(')
            .map_or("", |(_, arguments)| arguments);
        if !MANY.iter().any(|kind| arguments.contains(kind)) {
            continue;
        }
        let above = lines[..index].iter().rev().map(|line| line.trim_start());
        let about = above.take_while(|line| !line.is_empty() && !line.starts_with('}'));
        let docs: String = about.filter(|line| line.starts_with("///")).collect();
        let docs = docs.to_lowercase();
        if !STATED.iter().any(|word| docs.contains(word)) {
            found.push(line.to_owned());
        }
    }
    found
}

fn check(folder: &Path, checked: &mut usize) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            check(&path, checked);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let silent = silent(&text);
            assert!(
                silent.is_empty(),
                "{}: no shape in the documentation of {silent:#?}",
                path.display()
            );
            *checked += 1;
        }
    }
}

#[test]
fn who_takes_or_gives_many_numbers_says_in_what_shape() {
    let mut checked = 0;
    check(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut checked,
    );
    assert!(checked > 50, "only {checked} files were found");
}

#[test]
fn what_says_nothing_is_found() {
    let text = "    /// Adds.\n    #[must_use]\n    pub fn add(\n        values: &[f32],\n    ) -> f32 {\n    }\n";
    assert_eq!(silent(text), ["pub fn add("]);
    assert!(silent(&text.replace("Adds", "Adds a row `[n]`")).is_empty());
    assert!(silent(&text.replace("&[f32]", "f32")).is_empty());
}
