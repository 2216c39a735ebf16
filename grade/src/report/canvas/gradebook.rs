//! What an exported gradebook is: which columns say who a row is, which rows are students', and whose.

use crate::model::{Origin, Submission};

/// The columns that say who a row is.
pub(super) struct Who {
    pub name: usize,
    pub id: Option<usize>,
    pub sis_user: Option<usize>,
    pub sis_login: Option<usize>,
    /// The first column that is an assignment's.
    pub end: usize,
}

pub(super) fn who(header: &[String]) -> Option<Who> {
    let named = |wanted: &str| header.iter().position(|cell| cell.trim() == wanted);
    let id = named("ID");
    let begins = header.first()?.trim();
    let is_gradebook = begins.contains("Student") || begins == "LastName";
    if !is_gradebook || id.is_none() {
        return None;
    }
    let (sis_user, sis_login) = (named("SIS User ID"), named("SIS Login ID"));
    let last = [
        named("Section"),
        named("Root Account"),
        named("Integration ID"),
        sis_login,
        sis_user,
        id,
    ];
    let end = last.into_iter().flatten().max()? + 1;
    Some(Who {
        name: 0,
        id,
        sis_user,
        sis_login,
        end,
    })
}

pub(super) fn is_possible(row: &[String]) -> bool {
    row.first()
        .is_some_and(|cell| cell.contains("Points Possible"))
}

pub(super) fn is_excused(cell: &str) -> bool {
    cell.trim().eq_ignore_ascii_case("EX")
}

pub(super) fn number(cell: &str) -> Option<f64> {
    cell.trim().replace(',', ".").parse().ok()
}

pub(super) fn target(header: &[String], first: usize, wanted: &str) -> Result<usize, String> {
    let wanted = wanted.trim();
    let names = |title: &str| {
        let title = title.trim();
        let (name, number) = match title
            .strip_suffix(')')
            .and_then(|rest| rest.rsplit_once('('))
        {
            Some((name, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                (name.trim(), number)
            }
            _ => (title, ""),
        };
        title == wanted || name == wanted || (!number.is_empty() && number == wanted)
    };
    let found: Vec<usize> = (first..header.len())
        .filter(|at| names(&header[*at]))
        .collect();
    let titles = || {
        let titles = header[first..]
            .iter()
            .filter(|title| !title.contains("(read only)"));
        titles
            .map(|title| title.trim())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match found.as_slice() {
        [] => Err(format!("it has no column `{wanted}`; it has: {}", titles())),
        [one] if header[*one].contains("(read only)") => {
            Err(format!("`{}` cannot be filled", header[*one]))
        }
        [one] => Ok(*one),
        several => Err(format!(
            "`{wanted}` names {} columns; name one by its number, as in `{}`",
            several.len(),
            header[several[0]].trim()
        )),
    }
}

/// The row of a student. Two rows that fit equally well are none.
///
/// The number in a Canvas download is Canvas' own and stands in `ID`, or the student is not in this file; the same digits in another column are somebody
/// else. A number from elsewhere is the university's, in `SIS User ID`. Then login and name.
pub(super) fn find(who: &Who, rows: &[&Vec<String>], submission: &Submission) -> Option<usize> {
    let number = submission.student_number.as_deref();
    let email = submission.email.as_deref();
    let login = email.and_then(|email| email.split('@').next());
    let ids = [number, Some(submission.id.as_str()), email, login];
    let by = |column: Option<usize>, values: &[Option<&str>]| {
        let column = column?;
        for value in values.iter().flatten().filter(|value| !value.is_empty()) {
            let mut fitting = rows.iter().enumerate().filter(|(_, row)| {
                row.get(column)
                    .is_some_and(|cell| cell.trim().eq_ignore_ascii_case(value.trim()))
            });
            if let (Some((at, _)), None) = (fitting.next(), fitting.next()) {
                return Some(at);
            }
        }
        None
    };
    match submission.origin {
        Origin::Canvas => return by(who.id, &[number]),
        Origin::Folder | Origin::Archive | Origin::Gradescope => {}
    }
    by(who.sis_user, &ids)
        .or_else(|| by(who.sis_login, &ids))
        .or_else(|| {
            let wanted = words(&submission.name);
            let mut fitting = rows
                .iter()
                .enumerate()
                .filter(|(_, row)| row.get(who.name).is_some_and(|name| words(name) == wanted));
            match (fitting.next(), fitting.next()) {
                (Some((at, _)), None) if !wanted.is_empty() => Some(at),
                _ => None,
            }
        })
}

/// `Doe, Jane` and `Jane Doe` are the same words.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = name
        .split(|letter: char| letter.is_whitespace() || letter == ',')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.sort();
    words
}
