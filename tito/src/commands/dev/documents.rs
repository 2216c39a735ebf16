//! Every `tito ...` in the documents must be a command that exists.

use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::cli::Arguments;

/// Folders that hold no document of ours.
const SKIPPED: [&str; 4] = ["target", ".git", ".tito", "node_modules"];

/// Commands that documents name and `tito` does not have, with file and line.
pub fn problems(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    collect(root, 0, &mut files);
    files.sort();
    let known = known();
    let mut problems = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        let shown = file.strip_prefix(root).unwrap_or(&file).display();
        for (line, command) in commands(&text) {
            if !known.contains(&command) {
                problems.push(format!("{shown}:{line}: there is no `tito {command}`"));
            }
        }
    }
    problems
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if path.is_dir() {
            if depth < 5 && !SKIPPED.contains(&name.as_ref()) {
                collect(&path, depth + 1, files);
            }
        } else if name.ends_with(".md") || name == "module.toml" {
            files.push(path);
        }
    }
}

/// `status`, `dev check`, ...
fn known() -> Vec<String> {
    let command = Arguments::command();
    let mut names = Vec::new();
    for sub in command.get_subcommands() {
        names.push(sub.get_name().to_owned());
        for inner in sub.get_subcommands() {
            names.push(format!("{} {}", sub.get_name(), inner.get_name()));
        }
    }
    names
}

/// The commands that a text names in code: `cargo tito test 15` names `test`.
fn commands(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        let spans: Vec<&str> = if in_block {
            vec![line]
        } else {
            line.split('`').skip(1).step_by(2).collect()
        };
        for span in spans {
            let words: Vec<&str> = span.split_whitespace().collect();
            for (at, word) in words.iter().enumerate() {
                let begins = at == 0 || matches!(words[at - 1], "cargo" | "$" | "&&" | ";" | "|");
                if *word == "tito"
                    && begins
                    && let Some(name) = command_after(&words[at + 1..])
                {
                    found.push((index + 1, name));
                }
            }
        }
    }
    found
}

fn command_after(words: &[&str]) -> Option<String> {
    let is_name = |word: &&&str| {
        !word.is_empty()
            && word
                .chars()
                .all(|letter| letter.is_ascii_lowercase() || letter == '-')
            && !word.starts_with('-')
    };
    let first = words.first().filter(is_name)?;
    match words.get(1).filter(is_name) {
        Some(second) if *first == "dev" => Some(format!("dev {second}")),
        _ => Some((*first).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_code_and_not_in_prose() {
        let text = "\
tito prose is no command, `tito test 15` is, and `cargo tito dev check`.
```sh
cargo tito lab 15_quantization   # a comment about tito things
let x = tito;
```
`tito` alone, `tito --help`, `tito NAME` are none.";
        let found = commands(text);
        let names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["test", "dev check", "lab"]);
        assert_eq!(found[2].0, 3);
    }

    #[test]
    fn the_commands_of_this_program_are_known() {
        let known = known();
        for name in ["test", "dev check", "status"] {
            assert!(known.iter().any(|known| known == name), "{name}");
        }
    }
}
