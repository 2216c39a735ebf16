//! A later version of the course, brought to a repository a student has worked in.
//!
//! Three versions of each file decide: what was given (its hash is in the record), what the student made of it, what is given now.
//!
//! | the student's file | becomes |
//! |---|---|
//! | as it was given, or gone | the new one |
//! | changed, and the new one is the old one | stays |
//! | changed between its markers only | the new one, with the student's text between the markers |
//! | changed elsewhere too | stays; the new one is laid beside, in `.tito/incoming/`, and named |
//!
//! All files change together or none, after a snapshot.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::record::{Given, uniform};
use super::{RECORD, Record, Release};
use crate::exported::Export;
use crate::failure::Failure;
use crate::lock::Lock;
use crate::markers::Marked;
use crate::snapshot::{Change, Store, Transaction, hash};
use crate::workspace::Workspace;

/// Where new versions lie that could not be put in place.
pub const INCOMING: &str = ".tito/incoming";

/// What an update did.
#[derive(Debug, Default, Serialize)]
pub struct Update {
    /// Files that are new, or new again.
    pub added: Vec<String>,
    /// Files that the student had not changed.
    pub replaced: Vec<String>,
    /// Files with the student's text in the new version's holes.
    pub merged: Vec<String>,
    /// Files the course no longer has.
    pub removed: Vec<String>,
    /// Files that stay as the student left them, and why the new version could not be put in place.
    pub conflicts: BTreeMap<String, String>,
    /// The transaction, if anything changed.
    #[serde(skip)]
    pub done: Option<Transaction>,
}

/// How one file goes on.
enum Step {
    Keep,
    Write(Vec<u8>, How),
    Remove,
    Conflict(&'static str),
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Added,
    Replaced,
    Merged,
}

/// Updates the repository in `folder`.
///
/// # Errors
///
/// Usage, if it is no student's repository or lacks a module that it has now; an environment error for files that cannot be read or written, and then all
/// files are as before.
pub fn run(release: &Release, folder: &Path) -> Result<Update> {
    let foreign = || {
        Failure::usage(format!(
            "{} was not made by `tito release`: it has no {RECORD}",
            folder.display()
        ))
        .help("name the folder that `tito release --out` made")
    };
    // A folder that is no course at all is a wrong word on the command line, not a damaged environment.
    let workspace = Workspace::find(Some(folder)).map_err(|_| foreign())?;
    let root = &workspace.root;
    let Some(base) = Record::load(root)? else {
        return Err(foreign().into());
    };
    let lost: Vec<&str> = base
        .modules
        .iter()
        .filter(|name| !release.record.modules.contains(name))
        .map(String::as_str)
        .collect();
    if !lost.is_empty() {
        return Err(Failure::usage(format!(
            "{} has {}, which this release would take away",
            root.display(),
            lost.join(", ")
        ))
        .help("name it too: --modules")
        .into());
    }
    let lock = Lock::take(&workspace.state())?;
    let store = Store::new(root);
    store.recover(&lock)?;

    let mut update = Update::default();
    let mut changes: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    let paths = base.files.keys().chain(release.record.files.keys());
    let paths: std::collections::BTreeSet<&String> = paths.collect();
    for path in paths {
        let mine = read(root, path)?;
        let theirs = release.files.get(path);
        match step(path, base.files.get(path), mine.as_deref(), theirs) {
            Step::Keep => {}
            Step::Write(content, how) => {
                let list = match how {
                    How::Added => &mut update.added,
                    How::Replaced => &mut update.replaced,
                    How::Merged => &mut update.merged,
                };
                list.push(path.clone());
                changes.insert(path.clone(), Some(content));
            }
            Step::Remove => {
                update.removed.push(path.clone());
                changes.insert(path.clone(), None);
            }
            Step::Conflict(why) => {
                update.conflicts.insert(path.clone(), why.to_owned());
                if let Some(theirs) = theirs {
                    changes.insert(format!("{INCOMING}/{path}"), Some(theirs.clone()));
                }
            }
        }
    }
    follow_exports(&workspace, release, &store, &lock, &mut changes)?;
    changes.insert(RECORD.into(), Some(release.record.content()?));
    let changes: Vec<Change> = changes
        .into_iter()
        .map(|(path, content)| Change { path, content })
        .collect();
    update.done = store.apply(&lock, "release --update", &changes)?;
    Ok(update)
}

fn step(path: &str, base: Option<&Given>, mine: Option<&[u8]>, theirs: Option<&Vec<u8>>) -> Step {
    let given = mine.map(Given::of);
    let Some(theirs) = theirs else {
        return match (&given, base) {
            (None, _) => Step::Keep,
            (Some(given), Some(base)) if given == base => Step::Remove,
            _ => Step::Conflict("the course no longer has it, and you changed it"),
        };
    };
    let new = Given::of(theirs);
    let (Some(mine), Some(given)) = (mine, given) else {
        return Step::Write(theirs.clone(), How::Added);
    };
    if given == new {
        return Step::Keep;
    }
    // Cargo adds again what the student's own manifests want.
    if base == Some(&given) || path == "Cargo.lock" {
        return Step::Write(theirs.clone(), How::Replaced);
    }
    match base {
        Some(base) if *base == new => Step::Keep,
        None => Step::Conflict("you have a file of your own with this name"),
        Some(base) if base.outside.is_none() || new.outside.is_none() => {
            Step::Conflict("you and the course both changed it")
        }
        Some(base) if base.outside != given.outside => {
            Step::Conflict("you changed it outside the markers, and the course changed it too")
        }
        Some(_) => match merged(mine, theirs) {
            Some(content) => Step::Write(content, How::Merged),
            None => Step::Conflict("the course no longer has an exercise that you wrote"),
        },
    }
}

/// The new file with what the student wrote between the markers; nothing if a hole the student filled is gone.
fn merged(mine: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    let mine = uniform(mine);
    let mine = Marked::parse(std::str::from_utf8(&mine).ok()?).ok()?;
    let theirs = Marked::parse(std::str::from_utf8(theirs).ok()?).ok()?;
    let is_lost = mine
        .holes()
        .iter()
        .any(|hole| !mine.is_unfinished(hole) && theirs.hole(hole.tag).is_none());
    // Also an unfinished body may hold an hour of work beside its `todo!`.
    let text = theirs.with_bodies(|hole| mine.hole(hole.tag).map(|own| mine.body(own)));
    (!is_lost).then(|| text.into_bytes())
}

/// The library's files that hold an export change with everything else; what is known about the export follows.
fn follow_exports(
    workspace: &Workspace,
    release: &Release,
    store: &Store,
    lock: &Lock,
    changes: &mut BTreeMap<String, Option<Vec<u8>>>,
) -> Result<()> {
    for entry in workspace.written() {
        let module = workspace.load(entry)?;
        let Some(mut export) = Export::load(&module)? else {
            continue;
        };
        for (path, exported) in &mut export.files {
            let (Some(Some(content)), Some(own)) = (changes.get(path), release.files.get(path))
            else {
                continue;
            };
            store.keep_content(lock, own)?;
            exported.original = hash(own);
            exported.student = hash(content);
        }
        let change = export.change(&module)?;
        changes.insert(change.path, change.content);
    }
    Ok(())
}

fn read(root: &Path, path: &str) -> Result<Option<Vec<u8>>> {
    match std::fs::read(root.join(path)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::environment(format!("cannot read {path}: {error}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(word: &str, body: &str) -> Vec<u8> {
        format!("// {word}\n// BEGIN SOLUTION 1.1\n{body}\n// END SOLUTION\n").into_bytes()
    }

    fn stepped(base: Option<&[u8]>, mine: Option<&[u8]>, theirs: Option<&[u8]>) -> String {
        let base = base.map(Given::of);
        let theirs = theirs.map(<[u8]>::to_vec);
        match step("a.rs", base.as_ref(), mine, theirs.as_ref()) {
            Step::Keep => "keep".into(),
            Step::Write(content, _) => String::from_utf8_lossy(&content).into_owned(),
            Step::Remove => "remove".into(),
            Step::Conflict(why) => format!("conflict: {why}"),
        }
    }

    #[test]
    fn the_table_of_the_three_versions() {
        let (a, b, c) = (b"a".as_slice(), b"b".as_slice(), b"c".as_slice());
        // given, the student's, given now
        assert_eq!(stepped(Some(a), Some(a), Some(b)), "b");
        assert_eq!(stepped(Some(a), None, Some(b)), "b");
        assert_eq!(stepped(None, None, Some(b)), "b");
        assert_eq!(stepped(Some(a), Some(b), Some(a)), "keep");
        assert_eq!(stepped(Some(a), Some(b), Some(b)), "keep");
        assert_eq!(stepped(Some(a), Some(a), None), "remove");
        assert_eq!(stepped(Some(a), None, None), "keep");
        assert!(stepped(Some(a), Some(b), Some(c)).starts_with("conflict: you and the course"));
        assert!(stepped(Some(a), Some(b), None).starts_with("conflict: the course no longer"));
        assert!(stepped(None, Some(b), Some(c)).starts_with("conflict: you have a file"));
    }

    #[test]
    fn text_between_the_markers_moves_into_the_new_file_also_with_other_line_breaks() {
        let (old, new) = (file("old", "todo!()"), file("new", "todo!()"));
        let mine = file("old", "my work");
        let wanted = String::from_utf8(file("new", "my work")).expect("text");
        assert_eq!(stepped(Some(&old), Some(&mine), Some(&new)), wanted);
        let windows = String::from_utf8(mine).expect("text").replace('\n', "\r\n");
        assert_eq!(
            stepped(Some(&old), Some(windows.as_bytes()), Some(&new)),
            wanted
        );
    }

    #[test]
    fn text_outside_the_markers_and_exercises_that_are_gone_are_conflicts() {
        let (old, new) = (file("old", "todo!()"), file("new", "todo!()"));
        let outside = file("mine", "my work");
        let found = stepped(Some(&old), Some(&outside), Some(&new));
        assert!(
            found.starts_with("conflict: you changed it outside"),
            "{found}"
        );
        let mine = file("old", "my work");
        let gone = String::from_utf8(new).expect("text").replace("1.1", "1.2");
        let found = stepped(Some(&old), Some(&mine), Some(gone.as_bytes()));
        assert!(
            found.starts_with("conflict: the course no longer has an exercise"),
            "{found}"
        );
    }
}
