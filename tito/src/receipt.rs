//! What the last test found, tied by hashes to the files it found it in.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::lock;
use crate::snapshot::{hash, now, write_atomically};
use crate::workspace::{Module, SourceFile, Workspace};

/// The result of the last complete or partial test of a module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// `15_quantization`.
    pub module: String,
    /// Seconds since 1970.
    pub time: u64,
    /// SHA-256 of the exam.
    pub exam: String,
    /// File name to SHA-256.
    pub files: BTreeMap<String, String>,
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

    /// Keeps the receipt.
    ///
    /// # Errors
    ///
    /// An environment error if it cannot be written.
    pub fn save(&self, workspace: &Workspace, module: &Module) -> Result<()> {
        lock::prepare(&workspace.state())?;
        let path = path(workspace, module);
        let text = serde_json::to_vec_pretty(self)?;
        write_atomically(&path, &text).map_err(|error| lock::cannot_write(&path, &error))?;
        Ok(())
    }

    /// A receipt without results, for files as they are.
    pub fn of_files(module: &Module, files: &[SourceFile], exam: String) -> Receipt {
        Receipt {
            module: module.name.clone(),
            time: now(),
            exam,
            files: hashes(files),
            exercises: BTreeMap::new(),
        }
    }

    /// True if it was made for just these files.
    pub fn is_current(&self, files: &[SourceFile]) -> bool {
        self.files == hashes(files)
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

fn hashes(files: &[SourceFile]) -> BTreeMap<String, String> {
    let files = files.iter();
    files
        .map(|file| (file.name.clone(), hash(file.text.as_bytes())))
        .collect()
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
