//! `release.json`: what a student's repository was given, file by file. An update compares with it what the student made of it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::files::Files;
use crate::failure::Failure;
use crate::markers::Marked;
use crate::snapshot::hash;

/// Where it is, from the root of a student's repository.
pub const RECORD: &str = "release.json";

/// The record of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// For whoever opens the file.
    pub about: String,
    /// The version of the course.
    pub version: String,
    /// SHA-256 over the names and contents of all files: names this release.
    pub release: String,
    /// `15_quantization`, ...: the modules whose exercises were handed out.
    pub modules: Vec<String>,
    /// Path to what was given.
    pub files: BTreeMap<String, Given>,
}

/// A file as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// SHA-256 of the content, line breaks made uniform.
    pub sha256: String,
    /// The same of what lies outside the holes, for a file that has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
}

impl Given {
    /// Of a content.
    pub fn of(content: &[u8]) -> Given {
        let text = uniform(content);
        let outside = std::str::from_utf8(&text).ok().and_then(|text| {
            let marked = Marked::parse(text).ok()?;
            (!marked.holes().is_empty()).then(|| hash(marked.outside().as_bytes()))
        });
        Given {
            sha256: hash(&text),
            outside,
        }
    }
}

impl Record {
    /// Of files and modules.
    pub fn of(files: &Files, modules: Vec<String>) -> Record {
        let files: BTreeMap<String, Given> = files
            .iter()
            .map(|(path, content)| (path.clone(), Given::of(content)))
            .collect();
        let listed: String = files
            .iter()
            .map(|(path, given)| format!("{} {path}\n", given.sha256))
            .collect();
        Record {
            about: "What this repository was given: `tito release --update` compares it with what you made of it."
                .into(),
            version: env!("CARGO_PKG_VERSION").into(),
            release: hash(listed.as_bytes()),
            modules,
            files,
        }
    }

    /// The record of a student's repository; nothing if the folder has none.
    ///
    /// # Errors
    ///
    /// An environment error if it is damaged.
    pub fn load(root: &Path) -> Result<Option<Record>> {
        let Ok(text) = std::fs::read(root.join(RECORD)) else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&text).map_err(|error| {
            Failure::environment(format!(
                "{} is damaged: {error}",
                root.join(RECORD).display()
            ))
            .help("bring back the file as it was given, from your repository's history")
        })?;
        Ok(Some(record))
    }

    /// As the file holds it.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn content(&self) -> Result<Vec<u8>> {
        Ok(format!("{}\n", serde_json::to_string_pretty(self)?).into_bytes())
    }
}

/// A text's line breaks as we write them: some systems change them when a repository is cloned.
pub fn uniform(content: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(content) {
        Ok(text) if !text.contains('\0') => text.replace("\r\n", "\n").into_bytes(),
        _ => content.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_do_not_make_another_file_and_bytes_do() {
        let text = "// BEGIN SOLUTION 1.1\nx\n// END SOLUTION\n";
        assert_eq!(
            Given::of(text.as_bytes()),
            Given::of(text.replace('\n', "\r\n").as_bytes())
        );
        assert!(Given::of(text.as_bytes()).outside.is_some());
        assert_eq!(Given::of(b"no hole").outside, None);
        assert_ne!(Given::of(b"a\r\n\0"), Given::of(b"a\n\0"));
    }

    #[test]
    fn what_is_in_a_hole_changes_the_content_and_not_the_outside() {
        let (one, two) = (
            Given::of(b"a\n// BEGIN SOLUTION 1.1\nx\n// END SOLUTION\n"),
            Given::of(b"a\n// BEGIN SOLUTION 1.1\ny\n// END SOLUTION\n"),
        );
        assert_ne!(one.sha256, two.sha256);
        assert_eq!(one.outside, two.outside);
    }
}
