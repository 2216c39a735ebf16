//! What the last test found, tied by hashes to the files it found it in.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::exam::Graded;
use crate::lock;
use crate::manifest::Exercise;
use crate::snapshot::{hash, now, write_atomically};
use crate::workspace::{Module, SourceFile, Workspace};

/// The results of the last tests of a module. Exercises may be tested one by one, so each carries what it was tested on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// `15_quantization`.
    pub module: String,
    /// Exercise to result.
    pub exercises: BTreeMap<String, Earned>,
}

/// What one exercise earned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Earned {
    /// Points, of [`Earned::of`].
    pub points: f64,
    /// Points to be had.
    pub of: u32,
    /// Counted beside the hundred.
    pub bonus: bool,
    /// Seconds since 1970.
    pub time: u64,
    /// Hash of the student's files and the exam.
    pub basis: String,
}

impl Earned {
    /// True if nothing is missing.
    pub fn is_full(&self) -> bool {
        self.points >= f64::from(self.of)
    }
}

impl Receipt {
    /// The receipt of a module's last test, if there is one that can be read.
    pub fn load(workspace: &Workspace, module: &Module) -> Option<Receipt> {
        let text = std::fs::read(path(workspace, module)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Notes what the exercises just graded earned, beside what others earned before.
    ///
    /// # Errors
    ///
    /// An environment error if it cannot be written.
    pub fn keep(
        workspace: &Workspace,
        module: &Module,
        graded: &[Graded<'_>],
        basis: &str,
    ) -> Result<()> {
        let mut receipt = Receipt::load(workspace, module).unwrap_or_default();
        module.name.clone_into(&mut receipt.module);
        for graded in graded {
            receipt.note(graded.exercise, graded.points, basis);
        }
        receipt.save(workspace, module)
    }

    /// Keeps the receipt.
    ///
    /// # Errors
    ///
    /// An environment error if it cannot be written.
    fn save(&self, workspace: &Workspace, module: &Module) -> Result<()> {
        lock::prepare(&workspace.state())?;
        let path = path(workspace, module);
        let folder = workspace.state().join("receipts");
        std::fs::create_dir_all(&folder).map_err(|error| lock::cannot_write(&folder, &error))?;
        let text = serde_json::to_vec_pretty(self)?;
        write_atomically(&path, &text).map_err(|error| lock::cannot_write(&path, &error))?;
        Ok(())
    }

    /// Notes what an exercise earned.
    fn note(&mut self, exercise: &Exercise, points: f64, basis: &str) {
        let earned = Earned {
            points,
            of: exercise.points,
            bonus: exercise.bonus,
            time: now(),
            basis: basis.to_owned(),
        };
        self.exercises.insert(exercise.id.clone(), earned);
    }

    /// What an exercise earned, if it was tested on just this basis.
    pub fn current(&self, exercise: &str, basis: &str) -> Option<&Earned> {
        let earned = self.exercises.get(exercise)?;
        (earned.basis == basis).then_some(earned)
    }

    /// True if everything in it was tested on just this basis.
    pub fn is_current(&self, basis: &str) -> bool {
        let mut exercises = self.exercises.values();
        exercises.all(|earned| earned.basis == basis)
    }

    /// Points, without bonus and bonus alone.
    pub fn points(&self) -> (f64, f64) {
        let sum = |bonus: bool| {
            let earned = self.exercises.values();
            earned
                .filter(|earned| earned.bonus == bonus)
                .map(|earned| earned.points)
                .sum()
        };
        (sum(false), sum(true))
    }
}

/// What a result depends on: the student's files and the recorded exam.
pub fn basis(module: &Module, files: &[SourceFile]) -> String {
    let exam = module.root.join(&module.manifest.exam).join("public.json");
    let mut parts: Vec<String> = files
        .iter()
        .map(|file| hash(file.text.as_bytes()))
        .collect();
    parts.push(hash(&std::fs::read(exam).unwrap_or_default()));
    hash(parts.join(" ").as_bytes())
}

fn path(workspace: &Workspace, module: &Module) -> std::path::PathBuf {
    let name = format!("{:02}.json", module.manifest.number);
    workspace.state().join("receipts").join(name)
}

/// Points as people write them: `8`, `8.5`, `3.33`.
pub fn points(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_written_without_needless_decimals() {
        assert_eq!(points(8.0), "8");
        assert_eq!(points(8.5), "8.5");
        assert_eq!(points(10.0 / 3.0), "3.33");
        assert_eq!(points(0.0), "0");
    }
}
