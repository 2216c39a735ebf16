//! `RESULTS/`: the plan and one file per student, each whole or not there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tito::failure::Failure;
use tito::lock::cannot_write;
use tito::snapshot::write_atomically;

use crate::model::{FORMAT, Plan, SubmissionResult};
use crate::seal::seal;

/// Where a run puts what it finds.
///
/// ```text
/// RESULTS/plan.json            what was asked, of whom
/// RESULTS/students/<id>.json   what came of it
/// ```
#[derive(Clone, Debug)]
pub struct Results {
    folder: PathBuf,
}

impl Results {
    /// The results in a folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of one student.
    pub fn path(&self, id: &str) -> PathBuf {
        self.folder.join("students").join(format!("{id}.json"))
    }

    /// The plan of the run, if there is one.
    ///
    /// # Errors
    ///
    /// An environment error if it is damaged or newer than this program.
    pub fn plan(&self) -> Result<Option<Plan>> {
        read(&self.folder.join("plan.json"))
    }

    /// Writes the plan.
    ///
    /// # Errors
    ///
    /// An environment error if it cannot be written.
    pub fn keep_plan(&self, plan: &Plan) -> Result<()> {
        write(&self.folder.join("plan.json"), plan)
    }

    /// The result of one student, if there is one.
    ///
    /// # Errors
    ///
    /// An environment error if it is damaged or newer than this program.
    pub fn get(&self, id: &str) -> Result<Option<SubmissionResult>> {
        read(&self.path(id))
    }

    /// Writes the result of one student: beside, then renamed, so that a killed process leaves the old file or the new one.
    ///
    /// # Errors
    ///
    /// An environment error if it cannot be written.
    pub fn keep(&self, result: &SubmissionResult) -> Result<()> {
        let mut sealed = result.clone();
        sealed.seal = seal(result);
        write(&self.path(&result.submission.id), &sealed)
    }

    /// Ids of the students who have a result, in order.
    ///
    /// # Errors
    ///
    /// An environment error if the folder cannot be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        let folder = self.folder.join("students");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(Failure::environment(format!(
                    "cannot read {}: {error}",
                    folder.display()
                ))
                .into());
            }
        };
        let mut ids: Vec<String> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                // Half-written files of a killed process begin with a dot.
                let is_whole = !name.starts_with('.');
                is_whole.then(|| name.strip_suffix(".json").map(str::to_owned))?
            })
            .collect();
        ids.sort();
        Ok(ids)
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write_atomically(path, &text).map_err(|error| cannot_write(path, &error))?;
    Ok(())
}

/// Only what every version writes first.
#[derive(serde::Deserialize)]
struct Head {
    format: u32,
}

/// Reads a file of results, if it is there.
///
/// # Errors
///
/// An environment error if it is damaged or newer than this program.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let shown = path.display();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::environment(format!("cannot read {shown}: {error}")).into());
        }
    };
    let damaged = |error: serde_json::Error| {
        Failure::environment(format!("{shown} is damaged: {error}"))
            .help("remove it and grade again: only what is missing is graded")
    };
    let head: Head = serde_json::from_slice(&text).map_err(damaged)?;
    if head.format > FORMAT {
        return Err(Failure::environment(format!(
            "{shown} has format {}, this grader knows formats up to {FORMAT}",
            head.format
        ))
        .help("use the version of the course that wrote it")
        .into());
    }
    Ok(Some(serde_json::from_slice(&text).map_err(damaged)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newer_or_damaged_is_refused_with_its_name() {
        let folder = std::env::temp_dir().join(format!("tito-results-{}", std::process::id()));
        let results = Results::new(&folder);
        assert!(
            results
                .get("jane")
                .expect("a folder that is not there is empty")
                .is_none()
        );
        assert!(results.ids().expect("likewise").is_empty());
        for (text, words) in [("{\"format\":99}", "99"), ("{\"for", "damaged")] {
            write_atomically(&results.path("jane"), text.as_bytes()).expect("writes");
            let error = results.get("jane").expect_err(words).to_string();
            assert!(
                error.contains(words) && error.contains("jane.json"),
                "{error}"
            );
        }
        assert_eq!(results.ids().expect("reads"), ["jane"]);
        let _ = fs::remove_dir_all(&folder);
    }
}
