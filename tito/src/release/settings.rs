//! `modules/release.toml`: what a student gets beside the modules.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use crate::manifest;

/// Where it is, from the course's root. It stays there: a student's repository has none.
pub const SETTINGS: &str = "modules/release.toml";

/// What the course's maintainers decided.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Files and folders, from the course's root; all that is not listed stays.
    pub files: Vec<String>,
    /// Of these, what stays; `*` stands for one name.
    #[serde(default)]
    pub leave_out: Vec<String>,
    /// Lines of solutions that say nothing about a solution.
    #[serde(default)]
    pub commonplace: Vec<String>,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// An environment error if the file is missing or damaged.
    pub fn load(root: &Path) -> Result<Settings> {
        manifest::read(&root.join(SETTINGS), SETTINGS)
    }

    /// True if a path, or a folder it is in, stays here.
    pub fn is_left_out(&self, path: &str) -> bool {
        self.leave_out.iter().any(|pattern| covers(pattern, path))
    }
}

/// True if the pattern names the path or a folder above it.
fn covers(pattern: &str, path: &str) -> bool {
    let mut names = path.split('/');
    pattern.split('/').all(|wanted| {
        names
            .next()
            .is_some_and(|name| wanted == "*" || wanted == name)
    })
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_pattern_covers_a_folder_and_all_below_it() {
        assert!(covers("crates/*/tests", "crates/core/tests"));
        assert!(covers("crates/*/tests", "crates/core/tests/golden/a.json"));
        assert!(covers("labs", "labs/src/lib.rs"));
        assert!(!covers("crates/*/tests", "crates/core/src/tests.rs"));
        assert!(!covers("crates/*/tests", "crates/core"));
    }
}
