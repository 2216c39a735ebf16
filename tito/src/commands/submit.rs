//! `tito submit 15`: one zip file with the student's files, the answers, and the hashes of both.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::Context;
use crate::failure::Outcome;
use crate::lock::cannot_write;
use crate::progress;
use crate::receipt::{Receipt, basis, points};
use crate::snapshot::{hash, write_atomically};
use crate::ui::{self, CODE, FAINT, OPEN, paint};

/// Writes the bundle. Unfinished exercises do not stop it: what is there earns its points.
///
/// # Errors
///
/// Those of reading the files; an environment error if the bundle cannot be written.
pub fn run(context: &Context, module: &str, out: Option<&Path>) -> Result<Outcome> {
    let module = context.workspace.module(module)?;
    let files = module.student_files()?;
    let standings = progress::standings(&module, &files)?;
    let receipt = Receipt::load(&context.workspace, &module)
        .filter(|receipt| receipt.is_current(&basis(&module, &files)));

    let mut contents: Vec<(String, Vec<u8>)> = files
        .into_iter()
        .map(|file| (file.name, file.text.into_bytes()))
        .collect();
    let questions = module.shown("QUESTIONS.md");
    if let Ok(answers) = std::fs::read(module.root.join(&questions)) {
        contents.push(("QUESTIONS.md".into(), answers));
    }
    let hashes: BTreeMap<&str, String> = contents
        .iter()
        .map(|(name, content)| (name.as_str(), hash(content)))
        .collect();
    let manifest = json!({
        "module": module.name,
        "tito": env!("CARGO_PKG_VERSION"),
        "sha256": hashes,
        // What the student's own machine found. It helps to explain a difference; it is never a grade.
        "self_check": receipt,
    });
    let manifest_text = format!("{manifest:#}\n").into_bytes();
    let bundle = zip(&module.name, &contents, &manifest_text)?;

    let name = format!("{}-submission.zip", module.name);
    let path = match out {
        Some(path) if path.is_dir() => path.join(name),
        Some(path) => path.to_owned(),
        None => context.workspace.root.join(name),
    };
    write_atomically(&path, &bundle).map_err(|error| cannot_write(&path, &error))?;

    let waiting: Vec<&str> = standings
        .iter()
        .filter(|standing| !standing.is_written())
        .map(|standing| standing.exercise.id.as_str())
        .collect();
    if context.json {
        ui::print_json(&json!({
            "module": module.name,
            "file": path.display().to_string(),
            "sha256": hash(&bundle),
            "files": hashes,
            "unfinished": waiting,
            "points": receipt.map(|receipt| receipt.points().0),
        }));
        return Ok(Outcome::Good);
    }
    ui::say(format!(
        "{}  {} files, sha256 {}",
        paint(CODE, path.display()),
        contents.len() + 1,
        &hash(&bundle)[..16]
    ));
    match receipt {
        Some(receipt) => ui::say(format!(
            "Your last test: {} of 100 points. The grade is the instructor's.",
            points(receipt.points().0)
        )),
        None => ui::say(paint(
            OPEN,
            format!(
                "These files were not tested yet: {} first?",
                ui::advice(&format!("test {}", module.name))
            ),
        )),
    }
    if !waiting.is_empty() {
        ui::say(format!(
            "{} {}",
            paint(FAINT, "Unfinished:"),
            waiting.join(", ")
        ));
    }
    Ok(Outcome::Good)
}

/// The same files make the same bytes: no times, fixed order.
fn zip(folder: &str, contents: &[(String, Vec<u8>)], manifest: &[u8]) -> Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    let manifest = [("manifest.json".to_owned(), manifest.to_vec())];
    for (name, content) in manifest.iter().chain(contents) {
        archive
            .start_file(format!("{folder}/{name}"), options)
            .and_then(|()| Ok(archive.write_all(content)?))
            .with_context(|| format!("cannot pack {name}"))?;
    }
    Ok(archive
        .finish()
        .context("cannot finish the bundle")?
        .into_inner())
}
