//! `tito grade answers`: the written answers, laid out to be marked.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tito::failure::{Failure, Outcome};
use tito::ui::{self, CODE, paint};

use super::{Written, plan, rubric, write};
use crate::model::{Origin, Submission};
use crate::report::answers::{self, Marks};
use crate::report::book::Book;
use crate::report::canvas;
use crate::results::Results;

/// How the written answers shall be laid out.
#[derive(Args, Debug)]
pub struct AnswerWishes {
    /// The folder that `run --out` wrote.
    pub results: PathBuf,
    /// Where the sheets and the table go; without it, `answers` in the folder of results.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Codes instead of names, and no name in an answer.
    #[arg(long)]
    pub blind: bool,
    /// The gradebook you exported from Canvas, whose downloads do not say names as they are written.
    #[arg(long, value_name = "FILE", requires = "blind")]
    pub gradebook: Option<PathBuf>,
    /// What the written answers are worth; without it, rubric.toml of the module's exam.
    #[arg(long, value_name = "FILE")]
    pub rubric: Option<PathBuf>,
}

/// Writes a sheet per question and the table to be filled in. Marks that are in the table already stay.
///
/// # Errors
///
/// As for [`super::report`].
pub fn answer_sheets(
    workspace: Option<&Path>,
    wishes: &AnswerWishes,
    json: bool,
) -> Result<Outcome> {
    let results = Results::new(&wishes.results);
    let plan = plan(&results)?;
    let rubric = rubric(workspace, wishes.rubric.as_deref(), &plan)?;
    let place = wishes
        .out
        .clone()
        .unwrap_or_else(|| results.folder().join("answers"));
    let book = Book::load(&results, None, None)?;
    let mut known: Vec<Submission> = book.rows.iter().map(|row| row.submission.clone()).collect();
    if let Some(path) = &wishes.gradebook {
        let shown = path.display();
        let exported = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
        let names = canvas::names(&exported)?;
        for submission in &mut known {
            let number = submission.student_number.as_deref().unwrap_or_default();
            let is_canvas = submission.origin == Origin::Canvas;
            if let (true, Some(name)) = (is_canvas, names.get(number)) {
                submission.name.clone_from(name);
            }
        }
    }
    let submissions: Vec<&Submission> = known.iter().collect();
    let table = place.join("marks.csv");
    let earlier = table
        .is_file()
        .then(|| Marks::load(&table, rubric.clone(), &plan))
        .transpose()?;
    let mut files = Written::new();
    for question in &rubric.questions {
        let sheet = answers::sheet(&plan, &submissions, question, wishes.blind);
        files.insert(
            format!("question-{}.md", question.number).into(),
            sheet.into_bytes(),
        );
    }
    let text = answers::table(&plan, &submissions, &rubric, wishes.blind, earlier.as_ref())?;
    files.insert("marks.csv".into(), text.into_bytes());
    write(&place, &files)?;
    if json {
        ui::print_json(&json!({
            "out": place.display().to_string(),
            "questions": rubric.questions.len(),
            "students": submissions.len(),
            "blind": wishes.blind,
        }));
        return Ok(Outcome::Good);
    }
    ui::say(format!(
        "{}  {} of {}; fill in the column `points` of {}",
        paint(CODE, place.display()),
        ui::count(rubric.questions.len(), "question"),
        ui::count(submissions.len(), "student"),
        paint(CODE, table.display())
    ));
    Ok(Outcome::Good)
}
