//! Tables for spreadsheets: the grades, the checks, and the grades as nbgrader exports them.

use tinytorch_exam::Visibility;

use super::book::{Book, Row, shares};
use super::csv::Writer;
use super::short;
use super::time::Moment;
use crate::model::Status;

/// One row per student: who, the grade, what it is made of, the points of every exercise, what is open.
pub fn grades(book: &Book) -> String {
    let mut writer = Writer::new(',');
    for title in [
        "id",
        "name",
        "email",
        "student_number",
        "group",
        "module",
        "status",
        "total",
        "of",
        "code",
        "bonus",
        "written",
        "written_of",
        "submitted",
        "days_late",
        "free_days_used",
        "percent_taken",
        "open",
    ] {
        writer.verbatim(title);
    }
    for exercise in &book.plan.exercises {
        writer.verbatim(&exercise.id);
    }
    writer.end();
    for row in &book.rows {
        let submission = &row.submission;
        let result = row.result.as_ref();
        writer
            .text(&submission.id)
            .text(&submission.name)
            .text(submission.email.as_deref().unwrap_or_default())
            .text(submission.student_number.as_deref().unwrap_or_default())
            .text(&submission.group.join("; "))
            .text(&book.plan.module)
            .verbatim(status(row));
        number(&mut writer, row.total);
        writer.number(book.of());
        number(&mut writer, result.map(|result| result.points));
        number(&mut writer, result.map(|result| result.bonus));
        number(&mut writer, row.written);
        writer
            .number(book.written_of)
            .text(submission.submitted.as_deref().unwrap_or_default())
            .number(f64::from(row.lateness.days))
            .number(f64::from(row.lateness.free_days))
            .number(row.lateness.percent)
            .text(&row.open.join("; "));
        for exercise in &book.plan.exercises {
            let exercises = result.into_iter().flat_map(|result| &result.exercises);
            let own = exercises.into_iter().find(|one| one.id == exercise.id);
            number(&mut writer, own.map(|own| own.points));
        }
        writer.end();
    }
    writer.finish()
}

fn number(writer: &mut Writer, number: Option<f64>) {
    match number {
        Some(number) => writer.number(number),
        None => writer.verbatim(""),
    };
}

/// In one word.
pub fn status(row: &Row) -> &'static str {
    match row.result.as_ref().map(|result| result.status) {
        None => "missing",
        Some(Status::Graded) => "graded",
        Some(Status::Refused) => "refused",
        Some(Status::Fault) => "fault",
    }
}

/// One row per student and check, for staff.
pub fn checks(book: &Book) -> String {
    let mut writer = Writer::new(',');
    for title in [
        "id",
        "exercise",
        "check",
        "visibility",
        "passed",
        "points",
        "of",
        "outcome",
        "message",
        "mistake",
        "milliseconds",
    ] {
        writer.verbatim(title);
    }
    writer.end();
    for row in &book.rows {
        for share in row.result.iter().flat_map(shares) {
            let check = share.check;
            let outcome = serde_json::to_value(&check.outcome).unwrap_or_default();
            let outcome = match &outcome {
                serde_json::Value::String(word) => word.clone(),
                // `unfinished` carries the hole.
                other => other.to_string(),
            };
            writer
                .text(&row.submission.id)
                .text(&share.exercise.id)
                .text(short(&check.id))
                .verbatim(match check.visibility {
                    Visibility::Public => "public",
                    Visibility::Hidden => "hidden",
                })
                .verbatim(if check.passed() { "1" } else { "0" })
                .number(share.points)
                .number(share.of)
                .text(&outcome)
                .text(&check.message)
                .text(
                    check
                        .misconception
                        .as_ref()
                        .map_or("", |mistake| mistake.title.as_str()),
                )
                .number(check.milliseconds as f64)
                .end();
        }
    }
    writer.finish()
}

/// The columns of nbgrader's export, for scripts that read it.
pub fn nbgrader(book: &Book, deadline: Option<Moment>) -> String {
    let mut writer = Writer::new(',');
    for title in [
        "assignment",
        "duedate",
        "timestamp",
        "student_id",
        "last_name",
        "first_name",
        "email",
        "raw_score",
        "late_submission_penalty",
        "score",
        "max_score",
    ] {
        writer.verbatim(title);
    }
    writer.end();
    let deadline = deadline.map_or(String::new(), |deadline| deadline.to_string());
    for row in &book.rows {
        let submission = &row.submission;
        let (first, last) = match submission.name.rsplit_once(' ') {
            Some((first, last)) => (first, last),
            None => ("", submission.name.as_str()),
        };
        writer
            .text(&book.plan.module)
            .verbatim(&deadline)
            .text(submission.submitted.as_deref().unwrap_or_default())
            .text(&submission.id)
            .text(last)
            .text(first)
            .text(submission.email.as_deref().unwrap_or_default())
            .number(row.earned);
        number(&mut writer, row.total.map(|total| row.earned - total));
        number(&mut writer, row.total);
        writer.number(book.of()).end();
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::csv::Table;
    use crate::report::sample;

    fn parsed(text: &str) -> Vec<Vec<String>> {
        let table = Table::parse(text).expect("a table");
        assert_eq!(table.separator, ',');
        let width = table.rows[0].len();
        assert!(table.rows.iter().all(|row| row.len() == width), "{text}");
        table.rows
    }

    #[test]
    fn every_table_is_rectangular_and_no_cell_is_a_formula() {
        let book = sample::book();
        for text in [grades(&book), checks(&book), nbgrader(&book, None)] {
            for row in &parsed(&text)[1..] {
                for cell in row {
                    let is_number = cell.parse::<f64>().is_ok();
                    let begins = cell.trim_start().starts_with(['=', '+', '-', '@']);
                    assert!(is_number || !begins, "{cell}");
                }
            }
            assert!(text.lines().count() > 3 && text.ends_with("\r\n"));
        }
    }

    #[test]
    fn grades_are_in_their_columns() {
        let rows = parsed(&grades(&sample::book()));
        let column = |title: &str| {
            rows[0]
                .iter()
                .position(|cell| cell == title)
                .expect("there")
        };
        assert_eq!(rows.len(), 7);
        assert_eq!(rows[1][column("total")], "105");
        assert_eq!(rows[2][column("1.1")], "45");
        assert_eq!(rows[2][column("code")], "58.33");
        assert_eq!(rows[4][column("total")], "0");
        assert_eq!(
            (
                rows[5][column("status")].as_str(),
                rows[5][column("total")].as_str()
            ),
            ("fault", "")
        );
        assert_eq!(rows[6][column("status")], "missing");
    }

    #[test]
    fn nbgraders_columns_are_nbgraders() {
        let rows = parsed(&nbgrader(&sample::book(), Some(Moment(0))));
        assert_eq!(
            rows[0].join(","),
            "assignment,duedate,timestamp,student_id,last_name,first_name,email,raw_score,late_submission_penalty,score,max_score"
        );
        assert_eq!(
            rows[1][..6].join(","),
            "01_mini,1970-01-01T00:00:00Z,,jane,Doe,Jane"
        );
    }
}
