//! `tito grade plagiarism`: the submissions, laid out for programs that look for copies.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use tito::failure::{Failure, Outcome};
use tito::markers::Marked;
use tito::workspace::Workspace;

use super::{Written, plan, tell, write};
use crate::report::plagiarism;
use crate::results::Results;

/// Where the layout for programs that look for copies goes.
#[derive(Args, Debug)]
pub struct CopyWishes {
    /// The folder that `run --out` wrote.
    pub results: PathBuf,
    /// Without it, `plagiarism` in the folder of results.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Lays the submissions out for MOSS and Dolos.
///
/// # Errors
///
/// As for [`super::report`], and those of reading the course's exercise files.
pub fn lay_out(workspace: Option<&Path>, wishes: &CopyWishes, json: bool) -> Result<Outcome> {
    let results = Results::new(&wishes.results);
    let plan = plan(&results)?;
    let module = Workspace::find(workspace)?.module(&plan.module)?;
    let mut given = plagiarism::Texts::new();
    for twin in module.twin_files()? {
        let marked = Marked::parse(&twin.text).map_err(|error| {
            Failure::environment(format!("{}:{}: {}", twin.shown, error.line, error.what))
        })?;
        given.insert(twin.name.clone(), marked.stub());
    }
    let mut submissions = plan.submissions.clone();
    let texts: Vec<_> = submissions
        .iter_mut()
        .map(|submission| crate::intake::take(&module, &plan.submissions_folder, submission))
        .collect();
    let students: Vec<_> = submissions.iter().zip(texts).collect();
    let files: Written = plagiarism::layout(&plan, &given, &students)?
        .into_iter()
        .map(|(path, content)| (PathBuf::from(path), content))
        .collect();
    let place = wishes
        .out
        .clone()
        .unwrap_or_else(|| results.folder().join("plagiarism"));
    write(&place, &files)?;
    tell(&place, files.len(), json);
    Ok(Outcome::Good)
}
