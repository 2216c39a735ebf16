//! Cargo's files, cut to what a release holds: members that are there, targets whose files are there, a lock file without the rest.
//!
//! The texts are edited, not written anew: comments and order stay.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::files::Files;
use crate::failure::Failure;

/// A package of the workspace.
#[derive(Clone, Debug)]
pub struct Package {
    /// `tinytorch-core`.
    pub name: String,
    /// `crates/tinytorch-core`.
    pub folder: String,
    /// Packages it is linked with, also those that are not of the workspace.
    pub dependencies: BTreeSet<String>,
}

/// The packages among the files, by folder.
///
/// # Errors
///
/// An environment error for a manifest that is not TOML or names no package.
pub fn packages(files: &Files) -> Result<Vec<Package>> {
    let mut found = Vec::new();
    for path in files.keys() {
        let Some(folder) = path.strip_suffix("/Cargo.toml") else {
            continue;
        };
        let table = table(path, text(files, path)?)?;
        let name = table
            .get("package")
            .and_then(|package| package.get("name")?.as_str());
        let Some(name) = name else {
            return Err(Failure::environment(format!("{path} names no package")).into());
        };
        let dependencies = ["dependencies", "build-dependencies"]
            .iter()
            .filter_map(|section| table.get(*section)?.as_table())
            .flat_map(|section| section.keys().cloned())
            .collect();
        found.push(Package {
            name: name.to_owned(),
            folder: folder.to_owned(),
            dependencies,
        });
    }
    Ok(found)
}

/// The workspace's manifest: members that are there, and as default members those that `is_default` chooses.
///
/// # Errors
///
/// An environment error for a manifest that is not TOML.
pub fn workspace(
    manifest: &str,
    packages: &[Package],
    is_default: impl Fn(&Package) -> bool,
) -> Result<String> {
    let table = table("Cargo.toml", manifest)?;
    let members = table
        .get("workspace")
        .and_then(|workspace| workspace.get("members")?.as_array())
        .cloned()
        .unwrap_or_default();
    let members: Vec<String> = members
        .iter()
        .filter_map(|member| member.as_str())
        .filter(|member| {
            member.contains('*') || packages.iter().any(|package| package.folder == *member)
        })
        .map(str::to_owned)
        .collect();
    let defaults: Vec<String> = packages
        .iter()
        .filter(|package| is_default(package))
        .map(|package| package.folder.clone())
        .collect();
    let text = with_array(manifest, "members", Some(&members));
    // Without an entry all members are the default ones.
    let defaults = (!defaults.is_empty()).then_some(&defaults);
    Ok(with_array(
        &text,
        "default-members",
        defaults.map(Vec::as_slice),
    ))
}

/// A text with another array after `key = `, or without the key.
fn with_array(text: &str, key: &str, values: Option<&[String]>) -> String {
    let begins = |line: &str| {
        line.strip_prefix(key)
            .is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let mut result = String::new();
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        if inside {
            inside = !line.trim_end().ends_with(']');
        } else if begins(line) {
            inside = !line.trim_end().ends_with(']');
            if let Some(values) = values {
                let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
                result += &format!("{key} = [{}]\n", quoted.join(", "));
            }
        } else {
            result += line;
        }
    }
    result
}

/// A package's manifest without targets whose files are not there and without dependencies that are not handed out.
///
/// # Errors
///
/// An environment error for a manifest that is not TOML.
pub fn package(
    manifest: &str,
    folder: &str,
    files: &Files,
    left_out: &BTreeSet<String>,
) -> Result<String> {
    let mut result = String::new();
    for section in sections(manifest) {
        let header = section.lines().find(|line| line.starts_with('['));
        let header = header.unwrap_or("").trim();
        let is_there = match header {
            "[[bench]]" => has_target(section, "bench", "benches", folder, files)?,
            "[[test]]" => has_target(section, "test", "tests", folder, files)?,
            "[[example]]" => has_target(section, "example", "examples", folder, files)?,
            "[[bin]]" => has_target(section, "bin", "src/bin", folder, files)?,
            _ => true,
        };
        if !is_there {
            continue;
        }
        if header.ends_with("dependencies]") {
            let names = |line: &str| {
                let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
                line[..end].to_owned()
            };
            result.extend(
                section
                    .split_inclusive('\n')
                    .filter(|line| !left_out.contains(&names(line))),
            );
        } else {
            result += section;
        }
    }
    Ok(format!("{}\n", result.trim_end()))
}

/// A text cut before each line that begins a section. Comment lines directly above a section go with it.
fn sections(manifest: &str) -> Vec<&str> {
    let mut cuts = vec![0];
    let mut offset = 0;
    let mut comment = None;
    for line in manifest.split_inclusive('\n') {
        if line.starts_with('[') {
            cuts.push(comment.unwrap_or(offset));
        }
        comment = line.starts_with('#').then(|| comment.unwrap_or(offset));
        offset += line.len();
    }
    cuts.push(manifest.len());
    cuts.windows(2)
        .map(|pair| &manifest[pair[0]..pair[1]])
        .collect()
}

fn has_target(section: &str, kind: &str, place: &str, folder: &str, files: &Files) -> Result<bool> {
    let table = table(folder, section)?;
    let target = table.get(kind).and_then(|targets| targets.get(0));
    let field = |name: &str| target.and_then(|target| target.get(name)?.as_str());
    let Some(name) = field("name") else {
        return Ok(true);
    };
    let places = match field("path") {
        Some(path) => vec![path.to_owned()],
        None => vec![
            format!("{place}/{name}.rs"),
            format!("{place}/{name}/main.rs"),
        ],
    };
    Ok(places
        .iter()
        .any(|path| files.contains_key(&format!("{folder}/{path}"))))
}

/// The lints of one manifest replaced by those of another: an empty exercise file uses little of what it is given, and that is no
/// reason to warn.
pub fn with_lints_of(manifest: &str, other: &str) -> String {
    let is_lints = |section: &&str| {
        let header = section.lines().find(|line| line.starts_with('['));
        header.is_some_and(|header| header.starts_with("[lints"))
    };
    let lints: String = sections(other).into_iter().filter(is_lints).collect();
    if lints.is_empty() {
        return manifest.to_owned();
    }
    let rest: String = sections(manifest)
        .into_iter()
        .filter(|section| !is_lints(section))
        .collect();
    format!("{}\n\n{}\n", rest.trim_end(), lints.trim_end())
}

/// The lock file without packages that nothing in the release leads to, so that `cargo --locked` finds it as it should be.
///
/// # Errors
///
/// An environment error for a lock file that is not TOML.
pub fn lock(lock: &str, members: &BTreeSet<String>) -> Result<String> {
    let table = table("Cargo.lock", lock)?;
    let packages = table
        .get("package")
        .and_then(|packages| packages.as_array());
    let mut entries: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages.into_iter().flatten() {
        let field = |name: &str| package.get(name)?.as_str().map(str::to_owned);
        let (Some(name), Some(version)) = (field("name"), field("version")) else {
            continue;
        };
        let needs = package.get("dependencies").and_then(|list| list.as_array());
        let needs = needs
            .into_iter()
            .flatten()
            .filter_map(|need| need.as_str().map(str::to_owned))
            .collect();
        versions
            .entry(name.clone())
            .or_default()
            .push(version.clone());
        entries.insert((name, version), needs);
    }
    let mut reached: BTreeSet<(String, String)> = BTreeSet::new();
    let mut open: Vec<(String, String)> = entries
        .keys()
        .filter(|(name, _)| members.contains(name))
        .cloned()
        .collect();
    while let Some(package) = open.pop() {
        if !reached.insert(package.clone()) {
            continue;
        }
        for need in entries.get(&package).into_iter().flatten() {
            let mut words = need.split(' ');
            let name = words.next().unwrap_or_default().to_owned();
            match words.next() {
                Some(version) => open.push((name, version.to_owned())),
                None => open.extend(
                    versions
                        .get(&name)
                        .into_iter()
                        .flatten()
                        .map(|version| (name.clone(), version.clone())),
                ),
            }
        }
    }
    let mut blocks = lock.split("[[package]]\n");
    let mut result = blocks.next().unwrap_or_default().to_owned();
    for block in blocks {
        let value = |key: &str| {
            block.lines().find_map(|line| {
                let value = line.strip_prefix(key)?.strip_prefix(" = \"")?;
                Some(value.trim_end_matches('"').to_owned())
            })
        };
        let (Some(name), Some(version)) = (value("name"), value("version")) else {
            continue;
        };
        if reached.contains(&(name, version)) {
            result += "[[package]]\n";
            result += block;
        }
    }
    Ok(format!("{}\n", result.trim_end()))
}

/// A file of the release as text.
///
/// # Errors
///
/// An environment error if it is not there or not UTF-8.
pub fn text<'a>(files: &'a Files, path: &str) -> Result<&'a str> {
    let content = files
        .get(path)
        .ok_or_else(|| Failure::environment(format!("{path} is not there")))?;
    Ok(std::str::from_utf8(content)
        .map_err(|error| Failure::environment(format!("{path} is not UTF-8: {error}")))?)
}

fn table(path: &str, text: &str) -> Result<toml::Table> {
    Ok(text
        .parse()
        .map_err(|error| Failure::environment(format!("{path} is damaged: {error}")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_replaced_on_one_line_and_on_many() {
        let text =
            "[workspace]\nmembers = [\n  \"a\",\n  \"b\",\n]\ndefault-members = [\"a\"]\nx = 1\n";
        let wanted = "[workspace]\nmembers = [\"a\"]\nx = 1\n";
        let text = with_array(text, "members", Some(&["a".to_owned()]));
        assert_eq!(with_array(&text, "default-members", None), wanted);
    }

    #[test]
    fn targets_without_files_and_dependencies_that_stay_are_cut_out() {
        let manifest = "[package]\nname = \"labs\"\n\n# The first.\n[[bin]]\nname = \"a\"\npath = \"a/main.rs\"\n\n[[bin]]\nname = \"b\"\npath = \"b/main.rs\"\n\n[dependencies]\nkept.workspace = true\nleft.workspace = true\nleft-too = \"1\"\n\n[[bench]]\nname = \"speed\"\nharness = false\n";
        let files = Files::from([("labs/b/main.rs".to_owned(), Vec::new())]);
        let left = BTreeSet::from(["left".to_owned()]);
        let wanted = "[package]\nname = \"labs\"\n\n[[bin]]\nname = \"b\"\npath = \"b/main.rs\"\n\n[dependencies]\nkept.workspace = true\nleft-too = \"1\"\n";
        assert_eq!(
            package(manifest, "labs", &files, &left).expect("TOML"),
            wanted
        );
    }

    #[test]
    fn lints_are_taken_from_the_module() {
        let library =
            "[package]\nname = \"l\"\n\n[lints]\nworkspace = true\n\n[dependencies]\na = \"1\"\n";
        let module = "[package]\nname = \"m\"\n\n# Why.\n[lints.rust]\ndead_code = \"allow\"\n";
        let wanted = "[package]\nname = \"l\"\n\n[dependencies]\na = \"1\"\n\n# Why.\n[lints.rust]\ndead_code = \"allow\"\n";
        assert_eq!(with_lints_of(library, module), wanted);
    }

    #[test]
    fn the_lock_file_keeps_what_the_members_lead_to() {
        let text = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\ndependencies = [\n \"b 2.0.0\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\ndependencies = [\n \"a\",\n]\n\n[[package]]\nname = \"c\"\nversion = \"1.0.0\"\n";
        let kept = lock(text, &BTreeSet::from(["a".to_owned()])).expect("TOML");
        assert_eq!(kept.matches("[[package]]").count(), 2);
        assert!(kept.contains("name = \"b\"\nversion = \"2.0.0\""), "{kept}");
        assert!(!kept.contains("name = \"c\""), "{kept}");
    }
}
