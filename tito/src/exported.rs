//! What of a module the library has from the student, and what it had before.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::snapshot::{Change, Store};
use crate::workspace::Module;

/// The record of an export. It changes together with the files it is about, in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// `15_quantization`.
    pub module: String,
    /// Seconds since 1970.
    pub time: u64,
    /// The library's file to its two contents.
    pub files: BTreeMap<String, Exported>,
}

/// One file of the library.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exported {
    /// SHA-256 of the library's own content, before the first export.
    pub original: String,
    /// SHA-256 of what the student's export wrote.
    pub student: String,
}

impl Export {
    /// Where the record of a module is, from the workspace's root.
    pub fn path(module: &Module) -> String {
        format!(".tito/exports/{:02}.json", module.manifest.number)
    }

    /// The record of a module, if it was exported.
    ///
    /// # Errors
    ///
    /// An environment error if the record is damaged.
    pub fn load(module: &Module) -> Result<Option<Export>> {
        let path = Export::path(module);
        let Ok(text) = std::fs::read(module.root.join(&path)) else {
            return Ok(None);
        };
        let export = serde_json::from_slice(&text)
            .map_err(|error| Failure::environment(format!("{path} is damaged: {error}")))?;
        Ok(Some(export))
    }

    /// The record as a change of its file.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn change(&self, module: &Module) -> Result<Change> {
        Ok(Change {
            path: Export::path(module),
            content: Some(serde_json::to_vec_pretty(self)?),
        })
    }

    /// True if the library still holds what was exported.
    ///
    /// # Errors
    ///
    /// An environment error if a file cannot be read.
    pub fn is_in_place(&self, store: &Store) -> Result<bool> {
        for (path, exported) in &self.files {
            if store.hash_of(path)?.as_ref() != Some(&exported.student) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
