//! The manifests: `modules/course.toml` lists the twenty modules, `modules/NN_name/module.toml` describes a written one.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use crate::failure::Failure;

/// The whole course, written or not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// In the order of the course.
    #[serde(rename = "module")]
    pub modules: Vec<Entry>,
}

/// One line of the course's table of contents.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// 1..=20.
    pub number: u32,
    /// `quantization`.
    pub name: String,
    /// For people.
    pub title: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
}

impl Entry {
    /// `15_quantization`: the folder and the module's full name.
    pub fn folder(&self) -> String {
        format!("{:02}_{}", self.number, self.name)
    }

    /// Everything a user may call the module.
    pub fn names(&self) -> Vec<String> {
        let mut names = vec![
            self.folder(),
            self.name.clone(),
            self.number.to_string(),
            format!("{:02}", self.number),
        ];
        for alias in &self.aliases {
            names.push(alias.clone());
            names.push(format!("{:02}_{alias}", self.number));
        }
        names
    }
}

/// A written module: `module.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// As in `course.toml`.
    pub number: u32,
    /// As in `course.toml`.
    pub name: String,
    /// As in `course.toml`.
    pub title: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Numbers of the modules it builds on.
    #[serde(default)]
    pub prerequisites: Vec<u32>,
    /// The Cargo package in the module's folder.
    pub package: String,
    /// The crate root in the module's folder.
    pub root: String,
    /// The crate that holds the reference and receives an export.
    pub target: String,
    /// The folder of the exam: `runner.rs`, `public.json`, `wrong/`.
    pub exam: String,
    /// The binary of package `tinytorch-labs`.
    pub lab: Option<String>,
    /// Words that the grader's source policy notices elsewhere and this module needs: `fs`, `thread`.
    #[serde(default)]
    pub grants: Vec<String>,
    /// Exercise files, in the order of the lesson.
    pub files: Vec<String>,
    /// In the order of the lesson.
    #[serde(rename = "exercise")]
    pub exercises: Vec<Exercise>,
}

/// One exercise of a module.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exercise {
    /// `15.3`.
    pub id: String,
    /// For people.
    pub title: String,
    /// The file with its holes.
    pub file: String,
    /// The function (or `Type::method`) of its first hole.
    pub item: String,
    /// Its worth.
    pub points: u32,
    /// Counted beside the hundred.
    #[serde(default)]
    pub bonus: bool,
    /// From nudge to nearly the answer.
    pub hints: Vec<String>,
}

impl Manifest {
    /// The exercise a hole belongs to: `15.6b` is a hole of `15.6`.
    pub fn exercise_of_hole(&self, tag: &str) -> Option<&Exercise> {
        let id = exercise_id(tag);
        self.exercises.iter().find(|exercise| exercise.id == id)
    }

    /// Finds an exercise by what a user typed: `15.3`, `3`, `15.6b` or a function's name.
    ///
    /// # Errors
    ///
    /// A usage error that names the nearest exercise.
    pub fn exercise(&self, typed: &str) -> Result<&Exercise> {
        let wanted = typed.trim().to_lowercase();
        let by_number = format!("{}.{wanted}", self.number);
        let found = self.exercises.iter().find(|exercise| {
            exercise.id == wanted
                || exercise.id == by_number
                || exercise.id == exercise_id(&wanted)
                || exercise.item.to_lowercase() == wanted
                || exercise.item.rsplit("::").next() == Some(wanted.as_str())
        });
        if let Some(exercise) = found {
            return Ok(exercise);
        }
        let known = self
            .exercises
            .iter()
            .flat_map(|exercise| [exercise.id.clone(), exercise.item.clone()]);
        let mut failure = Failure::usage(format!(
            "module {:02}_{} has no exercise `{typed}`",
            self.number, self.name
        ));
        if let Some(near) = nearest(&wanted, known) {
            failure = failure.help(format!("did you mean {near}?"));
        } else if let (Some(first), Some(last)) = (self.exercises.first(), self.exercises.last()) {
            failure = failure.help(format!("its exercises are {} to {}", first.id, last.id));
        }
        Err(failure.into())
    }

    /// What is wrong with the manifest itself, without looking at any other file.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let sum: u32 = self
            .exercises
            .iter()
            .filter(|exercise| !exercise.bonus)
            .map(|exercise| exercise.points)
            .sum();
        if sum != 100 {
            problems.push(format!(
                "the points sum to {sum}, not to 100 (bonus counts beside)"
            ));
        }
        for (position, exercise) in self.exercises.iter().enumerate() {
            if exercise.points == 0 {
                problems.push(format!("exercise {} is worth nothing", exercise.id));
            }
            if exercise.hints.len() != 3 {
                problems.push(format!(
                    "exercise {} has {} hints, not 3",
                    exercise.id,
                    exercise.hints.len()
                ));
            }
            if !self.files.contains(&exercise.file) {
                problems.push(format!(
                    "exercise {} is in {}, which `files` does not list",
                    exercise.id, exercise.file
                ));
            }
            if !exercise.id.starts_with(&format!("{}.", self.number)) {
                problems.push(format!(
                    "exercise {} does not begin with the module's number",
                    exercise.id
                ));
            }
            if self.exercises[..position]
                .iter()
                .any(|earlier| earlier.id == exercise.id)
            {
                problems.push(format!("exercise {} is there twice", exercise.id));
            }
        }
        problems
    }
}

/// The exercise of a hole's tag: letters at the end number the holes of one exercise.
pub fn exercise_id(tag: &str) -> &str {
    tag.trim_end_matches(|letter: char| letter.is_ascii_lowercase())
}

/// The known name nearest to what was typed, if one is near.
pub fn nearest(typed: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(typed, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Reads a TOML file of ours.
///
/// # Errors
///
/// What is wrong, with the file and, from the parser, the line.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path, shown: &str) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::environment(format!("cannot read {shown}: {error}")))?;
    let value = toml::from_str(&text)
        .map_err(|error| Failure::environment(format!("{shown} is damaged: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        toml::from_str(
            r#"
            number = 15
            name = "quantization"
            title = "Quantization"
            package = "m15-quantization"
            root = "quantization_dev.rs"
            target = "crates/tinytorch-quantization"
            exam = "tests/15_quantization"
            files = ["quantize.rs", "linear.rs"]
            [[exercise]]
            id = "15.3"
            title = "Quantize"
            file = "quantize.rs"
            item = "quantize"
            points = 60
            hints = ["a", "b", "c"]
            [[exercise]]
            id = "15.8"
            title = "Layer"
            file = "linear.rs"
            item = "QLinear::memory_bytes"
            points = 40
            hints = ["a", "b", "c"]
            [[exercise]]
            id = "15.12"
            title = "More"
            file = "linear.rs"
            item = "more"
            points = 5
            bonus = true
            hints = ["a", "b", "c"]
            "#,
        )
        .expect("a valid manifest")
    }

    #[test]
    fn an_exercise_is_found_by_id_number_hole_and_function() {
        let manifest = manifest();
        for typed in [
            "15.8",
            "8",
            "15.8c",
            "QLinear::memory_bytes",
            "memory_bytes",
        ] {
            let found = manifest.exercise(typed).expect(typed);
            assert_eq!(found.id, "15.8", "{typed}");
        }
    }

    #[test]
    fn a_mistyped_exercise_names_the_nearest() {
        let error = manifest().exercise("quantise").expect_err("a typing error");
        assert!(format!("{error:#}").contains("no exercise `quantise`"));
    }

    #[test]
    fn bonus_points_count_beside_the_hundred() {
        assert_eq!(manifest().problems(), Vec::<String>::new());
        let mut poor = manifest();
        poor.exercises[0].points = 50;
        assert_eq!(poor.problems().len(), 1);
    }

    #[test]
    fn names_far_from_all_known_ones_suggest_nothing() {
        let known = || ["quantization".to_owned(), "tensor".to_owned()];
        assert_eq!(
            nearest("quantisation", known()).as_deref(),
            Some("quantization")
        );
        assert_eq!(nearest("xyz", known()), None);
    }
}
