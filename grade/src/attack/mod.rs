//! The catalogue of attacks as real submissions: `grade/attacks/*.toml`.
//!
//! Each is a submission in which everything is a stub but for the attack, so any point it earns was stolen. What runs says `ATTEMPT` when it
//! begins and `BREACH` if it got what it wanted; an attack that was meant to run and did not begin proves nothing, and fails.

mod judge;
mod shapes;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tito::failure::Failure;
use tito::markers::Marked;

pub use judge::{Proof, judge, ran_out_of_time};

use crate::graft::Stubs;

/// One attack.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// The file's name, without the ending; also the submission's.
    #[serde(skip)]
    pub slug: String,
    /// `A7`, of the catalogue.
    pub id: String,
    /// What it tries.
    pub title: String,
    /// The wall that stops it.
    pub stopped_by: String,
    /// `true` if its code must have run, `false` if it must not have been compiled.
    pub runs: Option<bool>,
    /// The hole it fills.
    pub hole: Option<String>,
    /// With what.
    pub body: Option<String>,
    /// How deep `@DEEP@` is.
    pub deep: Option<usize>,
    /// Other files it brings.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Text added at the end of exercise files, outside the markers.
    #[serde(default)]
    pub outside: BTreeMap<String, String>,
    /// A folder or an archive that is not what it seems; see `shapes`.
    pub shape: Option<String>,
    /// What the student is called, where the name is part of the attack.
    pub name: Option<String>,
}

/// Reads the catalogue, in the order of the file names.
///
/// # Errors
///
/// An environment error if a file is damaged or there is none.
pub fn catalogue(root: &Path) -> Result<Vec<Attack>> {
    let shown = "grade/attacks";
    let folder = root.join(shown);
    let mut names: Vec<String> = fs::read_dir(&folder)
        .map_err(|error| Failure::environment(format!("cannot read {shown}: {error}")))?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".toml").map(str::to_owned)
        })
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(Failure::environment(format!("{shown} holds no attack")).into());
    }
    names
        .into_iter()
        .map(|slug| {
            let file = format!("{slug}.toml");
            let mut attack: Attack =
                tito::manifest::read(&folder.join(&file), &format!("{shown}/{file}"))?;
            attack.slug = slug;
            Ok(attack)
        })
        .collect()
}

/// What the words between `@` in an attack stand for.
pub type Words = BTreeMap<&'static str, String>;

impl Attack {
    /// The name of its folder or archive among the submissions.
    pub fn folder(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} {}", self.slug),
            None => self.slug.clone(),
        }
    }

    /// Writes it as a submission.
    ///
    /// # Errors
    ///
    /// If a file cannot be written, or the attack names a hole that is not there.
    pub fn write(&self, submissions: &Path, stubs: &Stubs, words: &Words) -> Result<()> {
        let folder = submissions.join(self.folder());
        if let Some(shape) = &self.shape {
            return shapes::write(shape, &folder, stubs)
                .with_context(|| format!("cannot write the attack {}", self.slug));
        }
        let mut files = stubs.clone();
        if let (Some(tag), Some(body)) = (&self.hole, &self.body) {
            let mut body = replaced(body, words);
            if let Some(deep) = self.deep {
                let deep = format!("{}1{}", "(".repeat(deep), ")".repeat(deep));
                body = body.replace("@DEEP@", &deep);
            }
            let mut is_filled = false;
            for text in files.values_mut() {
                let Ok(marked) = Marked::parse(text) else {
                    continue;
                };
                let changed = marked.with_bodies(|hole| (hole.tag == tag).then(|| body.clone()));
                is_filled |= marked.hole(tag).is_some();
                *text = changed;
            }
            if !is_filled {
                return Err(Failure::environment(format!(
                    "the attack {} fills hole {tag}, which is not there",
                    self.slug
                ))
                .into());
            }
        }
        for (file, more) in &self.outside {
            *files.entry(file.clone()).or_default() += &replaced(more, words);
        }
        for (file, text) in &self.files {
            files.insert(file.clone(), replaced(text, words));
        }
        for (file, text) in files {
            let path = folder.join(file);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn replaced(text: &str, words: &Words) -> String {
    words.iter().fold(text.to_owned(), |text, (word, value)| {
        text.replace(&format!("@{word}@"), value)
    })
}
