//! `tito grade report`, and below it `answers`, `plagiarism` and `gradescope-zip`: which files are written where.

mod copies;
mod packed;
mod sheets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;
use tito::failure::{Failure, Outcome};
use tito::lock::cannot_write;
use tito::snapshot::write_atomically;
use tito::ui::{self, CODE, FAINT, OPEN, paint};
use tito::workspace::Workspace;

use super::answers::{Marks, Rubric};
use super::book::Book;
use super::feedback::Feedback;
use super::gradescope::Hidden;
use super::late::Policy;
use super::stats::Statistics;
use super::{canvas, github, gradescope, junit, pages, tables};
use crate::model::Plan;
use crate::results::Results;

pub use copies::{CopyWishes, lay_out};
pub use packed::{ZipWishes, gradescope_zip};
pub use sheets::{AnswerWishes, answer_sheets};

/// What is wanted of a folder of results.
#[derive(Args, Debug)]
pub struct Wishes {
    /// The folder that `run --out` wrote.
    pub results: PathBuf,
    /// What to write.
    #[arg(long, value_enum, default_value = "csv")]
    pub format: Format,
    /// The file or, for one file per student, the folder; without it, in the folder of results.
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Deadline, grace, percent per day, free days, exceptions: a TOML file.
    #[arg(long, value_name = "FILE")]
    pub late: Option<PathBuf>,
    /// The marks of the written answers: the table that `answers` wrote, filled in.
    #[arg(long, value_name = "FILE")]
    pub marks: Option<PathBuf>,
    /// What the written answers are worth; without it, rubric.toml of the module's exam.
    #[arg(long, value_name = "FILE")]
    pub rubric: Option<PathBuf>,
    /// Only this student, by the id of the submission.
    #[arg(long, value_name = "ID")]
    pub student: Option<String>,
    /// Canvas: the gradebook you exported.
    #[arg(long, value_name = "FILE", required_if_eq("format", "canvas"))]
    pub gradebook: Option<PathBuf>,
    /// Canvas: the column to fill, by its title or its number.
    #[arg(long, value_name = "TITLE", required_if_eq("format", "canvas"))]
    pub column: Option<String>,
    /// Canvas: bring the grades to the points that the column has.
    #[arg(long)]
    pub scale: bool,
    /// Gradescope: when students may see how hidden checks ended.
    #[arg(long, value_enum, default_value = "hidden")]
    pub hidden_checks: Hidden,
}

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table of grades: one row per student.
    Csv,
    /// A table of checks: one row per student and check, for staff.
    Checks,
    /// The grades in nbgrader's columns.
    Nbgrader,
    /// Feedback for every student: Markdown, HTML and JSON.
    Feedback,
    /// Gradescope's results.json for every student.
    Gradescope,
    /// The gradebook you exported from Canvas, one column filled.
    Canvas,
    /// A runner's result for GitHub Classroom, for every student.
    GithubClassroom,
    /// JUnit XML of the class.
    Junit,
    /// How hard each check was, how well it tells, who gave the same wrong answer.
    Stats,
}

/// Path from the output's place to content.
type Written = BTreeMap<PathBuf, Vec<u8>>;

/// Writes a report.
///
/// # Errors
///
/// Usage, for folders, policies and tables that are not what they should be; an environment error for files that cannot be written.
pub fn report(workspace: Option<&Path>, wishes: &Wishes, json: bool) -> Result<Outcome> {
    let results = Results::new(&wishes.results);
    let policy = wishes.late.as_deref().map(Policy::load).transpose()?;
    let marks = match &wishes.marks {
        Some(path) => {
            let plan = plan(&results)?;
            let rubric = rubric(workspace, wishes.rubric.as_deref(), &plan)?;
            Some(Marks::load(path, rubric, &plan)?)
        }
        None => None,
    };
    let mut book = Book::load(&results, policy.as_ref(), marks.as_ref())?;
    if let Some(id) = &wishes.student {
        book.rows.retain(|row| row.submission.id == *id);
        if book.rows.is_empty() {
            return Err(
                Failure::usage(format!("there is no submission `{id}` in these results")).into(),
            );
        }
    }
    let place = wishes.out.clone();
    let place = place.unwrap_or_else(|| results.folder().join(default_place(wishes.format)));
    let mut notes: Vec<String> = Vec::new();
    let mut document = json!({ "out": place.display().to_string() });
    let written = match wishes.format {
        Format::Csv => one(tables::grades(&book)),
        Format::Checks => one(tables::checks(&book)),
        Format::Nbgrader => one(tables::nbgrader(
            &book,
            policy.as_ref().map(|policy| policy.deadline),
        )),
        Format::Junit => one(junit::document(&book)),
        Format::Stats => {
            let statistics = Statistics::of(&book);
            document["statistics"] = serde_json::to_value(&statistics)?;
            if !json {
                ui::say(statistics.markdown());
            }
            Written::from([
                ("stats.json".into(), pretty(&statistics)?),
                ("stats.md".into(), statistics.markdown().into_bytes()),
            ])
        }
        Format::Feedback => {
            let mut files = Written::new();
            for row in &book.rows {
                let told = Feedback::of(&book, row, marks.as_ref());
                let folder = PathBuf::from(&row.submission.id);
                files.insert(
                    folder.join("feedback.md"),
                    pages::markdown(&told).into_bytes(),
                );
                files.insert(
                    folder.join("feedback.html"),
                    pages::html(&told).into_bytes(),
                );
                files.insert(folder.join("feedback.json"), pretty(&told)?);
            }
            files
        }
        Format::Gradescope => per_student(&book, wishes, "results.json", |row| {
            let document = gradescope::results(&book, row, wishes.hidden_checks);
            sound(&row.submission.id, &gradescope::problems(&document))?;
            pretty(&document)
        })?,
        Format::GithubClassroom => per_student(&book, wishes, "result.txt", |row| {
            let document = github::runner(&book, row);
            sound(&row.submission.id, &github::problems(&document))?;
            Ok(format!("result={}\n", github::encoded(&document)).into_bytes())
        })?,
        Format::Canvas => {
            let (Some(path), Some(column)) = (&wishes.gradebook, &wishes.column) else {
                return Err(Failure::usage("canvas needs --gradebook and --column").into());
            };
            let shown = path.display();
            let exported = std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
            let filled = canvas::fill(&book, &exported, column, wishes.scale)?;
            notes.push(format!(
                "{} filled in `{}`",
                ui::count(filled.matched, "grade"),
                filled.column
            ));
            notes.extend(
                filled
                    .unmatched
                    .iter()
                    .map(|who| format!("no row for {who}")),
            );
            notes.extend(
                filled
                    .excused
                    .iter()
                    .map(|who| format!("excused in Canvas, and left so: {who}")),
            );
            if filled.above > 0 {
                notes.push(format!(
                    "{} above the points of the column, by bonus points",
                    ui::count(filled.above, "grade")
                ));
            }
            notes.extend(
                filled
                    .without
                    .iter()
                    .map(|who| format!("no grade for {who}")),
            );
            document["matched"] = json!(filled.matched);
            document["unmatched"] = json!(filled.unmatched);
            document["without"] = json!(filled.without);
            document["excused"] = json!(filled.excused);
            document["above"] = json!(filled.above);
            one(filled.text)
        }
    };
    write(&place, &written)?;
    for row in &book.rows {
        notes.extend(
            row.open
                .iter()
                .map(|open| format!("{}: {open}", row.submission.id)),
        );
    }
    let unmatched = document["unmatched"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    let open = unmatched || book.rows.iter().any(|row| !row.open.is_empty());
    if json {
        document["files"] = json!(written.len());
        document["open"] = json!(notes);
        ui::print_json(&document);
    } else {
        ui::say(format!(
            "{}  {}",
            paint(CODE, place.display()),
            paint(FAINT, ui::count(written.len(), "file"))
        ));
        for note in notes {
            ui::note(paint(OPEN, note));
        }
    }
    Ok(if open {
        Outcome::WorkLeft
    } else {
        Outcome::Good
    })
}

fn default_place(format: Format) -> &'static str {
    match format {
        Format::Csv => "grades.csv",
        Format::Checks => "checks.csv",
        Format::Nbgrader => "nbgrader.csv",
        Format::Feedback => "feedback",
        Format::Gradescope => "gradescope",
        Format::Canvas => "canvas.csv",
        Format::GithubClassroom => "github-classroom",
        Format::Junit => "junit.xml",
        Format::Stats => "stats",
    }
}

/// A report that is one file has no path below its place.
fn one(text: String) -> Written {
    Written::from([(PathBuf::new(), text.into_bytes())])
}

/// With one student named, a file; else a folder with one per student.
fn per_student(
    book: &Book,
    wishes: &Wishes,
    name: &str,
    make: impl Fn(&super::Row) -> Result<Vec<u8>>,
) -> Result<Written> {
    if let (Some(_), Some(row)) = (&wishes.student, book.rows.first()) {
        return Ok(Written::from([(PathBuf::new(), make(row)?)]));
    }
    let rows = book.rows.iter();
    rows.map(|row| Ok((PathBuf::from(&row.submission.id).join(name), make(row)?)))
        .collect()
}

/// Nothing leaves that the reader would refuse.
fn sound(id: &str, problems: &[String]) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::environment(format!(
        "the report of {id} is not as specified: {}",
        problems.join(", ")
    ))
    .into())
}

fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

fn write(place: &Path, files: &Written) -> Result<()> {
    for (path, content) in files {
        let path = if path.as_os_str().is_empty() {
            place.to_owned()
        } else {
            place.join(path)
        };
        write_atomically(&path, content).map_err(|error| cannot_write(&path, &error))?;
    }
    Ok(())
}

fn plan(results: &Results) -> Result<Plan> {
    Ok(results.plan()?.ok_or_else(|| {
        Failure::usage(format!("{} holds no plan.json", results.folder().display()))
            .help("name the folder that `tito grade run --out` wrote")
    })?)
}

/// The rubric named, or that of the module's exam.
fn rubric(workspace: Option<&Path>, named: Option<&Path>, plan: &Plan) -> Result<Rubric> {
    match named {
        Some(path) => Rubric::load(path),
        None => {
            let workspace = Workspace::find(workspace)?;
            let module = workspace.module(&plan.module)?;
            Rubric::load(
                &workspace
                    .root
                    .join(&module.manifest.exam)
                    .join("rubric.toml"),
            )
        }
    }
}

fn tell(place: &Path, files: usize, json: bool) {
    if json {
        ui::print_json(&json!({ "out": place.display().to_string(), "files": files }));
    } else {
        ui::say(format!(
            "{}  {}",
            paint(CODE, place.display()),
            paint(FAINT, ui::count(files, "file"))
        ));
    }
}

#[cfg(test)]
mod tests;
