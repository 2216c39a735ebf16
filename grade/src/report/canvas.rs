//! Canvas: one column of the gradebook the instructor exported is filled, and nothing else is touched.
//!
//! The importer creates an assignment for a title it does not know, so no title is ever made up here: the column must be in the
//! exported file. What is written has the student columns and that one; grades of other assignments, given since the export, stay as they are
//! in Canvas. Source: Canvas, `lib/gradebook_importer.rb`.

mod gradebook;

use std::collections::BTreeMap;

use anyhow::Result;
use tito::failure::Failure;

use super::book::{Book, Row};
use super::csv::{Table, Writer};
use super::{escape, points};
use crate::model::Origin;
use gradebook::{find, is_excused, is_possible, number, target, who};

/// What was filled and what was not.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// To be uploaded.
    pub text: String,
    /// The column.
    pub column: String,
    /// Students with a grade in it.
    pub matched: usize,
    /// Submissions with a grade for which the file has no row, or several, or whose row another submission claims too.
    pub unmatched: Vec<String>,
    /// Students whom Canvas excuses (`EX`): that stays, whatever they handed in.
    pub excused: Vec<String>,
    /// Students with more points than the column has.
    pub above: usize,
    /// Rows without a grade.
    pub without: Vec<String>,
}

/// Fills a column.
///
/// `column` is the title, the title without its number, or the number alone. With `scale` the grades are brought to the
/// points that Canvas has for the column.
///
/// # Errors
///
/// A usage error if the file is no exported gradebook, has no such column or several, or has other points for it.
pub fn fill(book: &Book, exported: &str, column: &str, scale: bool) -> Result<Filled> {
    let wrong = |what: String| Failure::usage(format!("the exported gradebook: {what}"));
    let table = Table::parse(exported).map_err(|error| wrong(error.to_string()))?;
    let header = table
        .rows
        .first()
        .ok_or_else(|| wrong("it is empty".into()))?;
    let who = who(header).ok_or_else(|| {
        wrong("its first line must begin with `Student` and `ID`, as Canvas writes it".into())
    })?;
    let target = target(header, who.end, column).map_err(wrong)?;
    let title = &header[target];
    let possible = table
        .rows
        .iter()
        .skip(1)
        .find(|row| is_possible(row))
        .and_then(|row| number(row.get(target)?));
    let factor = match possible {
        Some(possible) if possible != book.of() => {
            if !scale {
                return Err(wrong(format!(
                    "`{title}` has {} points, the results have {}",
                    points(possible),
                    points(book.of())
                ))
                .help("change the assignment's points in Canvas, or bring the grades to its points: --scale")
                .into());
            }
            possible / book.of()
        }
        _ => 1.0,
    };

    let rows: Vec<&Vec<String>> = table
        .rows
        .iter()
        .skip(1)
        .filter(|row| !is_possible(row))
        .collect();
    let mut claims: BTreeMap<usize, Vec<(&Row, f64)>> = BTreeMap::new();
    let mut unmatched = Vec::new();
    for row in &book.rows {
        let Some(total) = row.total else { continue };
        match find(&who, &rows, &row.submission) {
            Some(at) => claims.entry(at).or_default().push((row, total * factor)),
            None if row.submission.origin == Origin::Canvas
                && row.submission.student_number.is_none() =>
            {
                unmatched.push(format!(
                    "{}: it was downloaded without names; download again once Canvas shows them",
                    named(row)
                ));
            }
            None => unmatched.push(named(row)),
        }
    }
    let mut grades: BTreeMap<usize, f64> = BTreeMap::new();
    let mut excused = Vec::new();
    for (at, claimants) in claims {
        let cell = |column: usize| rows[at].get(column).map_or("", String::as_str);
        match claimants.as_slice() {
            // Somebody excused this student; that is not for a program to take back.
            _ if is_excused(cell(target)) => {
                excused.push(escape::line(cell(who.name)));
            }
            [(_, grade)] => {
                grades.insert(at, *grade);
            }
            several => unmatched.extend(several.iter().map(|(row, _)| named(row))),
        }
    }
    let most = possible.unwrap_or_else(|| book.of());
    let above = grades.values().filter(|grade| **grade > most).count();

    let mut writer = Writer::new(table.separator);
    let mut without = Vec::new();
    let mut at = 0;
    for (index, row) in table.rows.iter().enumerate() {
        let cell = |column: usize| row.get(column).map_or("", String::as_str);
        for column in 0..who.end {
            // As exported, since Canvas finds students by it; harmless in a spreadsheet all the same. Canvas itself begins the row of
            // possible points with blanks.
            if index == 0 || is_possible(row) {
                writer.verbatim(cell(column));
            } else {
                writer.text(cell(column));
            }
        }
        if index == 0 || is_possible(row) {
            writer.verbatim(cell(target));
        } else {
            match grades.get(&at) {
                Some(grade) => {
                    writer.verbatim(&decimal(*grade, table.separator));
                }
                None if is_excused(cell(target)) => {
                    writer.verbatim(cell(target));
                }
                None => {
                    without.push(escape::line(cell(who.name)));
                    writer.verbatim(cell(target));
                }
            }
            at += 1;
        }
        writer.end();
    }
    Ok(Filled {
        text: writer.finish(),
        column: title.clone(),
        matched: grades.len(),
        unmatched,
        excused,
        above,
        without,
    })
}

/// The names in an exported gradebook, by Canvas' number of the student.
///
/// # Errors
///
/// A usage error if the file is no exported gradebook.
pub fn names(exported: &str) -> Result<BTreeMap<String, String>> {
    let wrong = |what: String| Failure::usage(format!("the exported gradebook: {what}"));
    let table = Table::parse(exported).map_err(|error| wrong(error.to_string()))?;
    let header = table.rows.first().and_then(|header| who(header));
    let (name, Some(id)) = header.map_or((0, None), |who| (who.name, who.id)) else {
        return Err(wrong(
            "its first line must begin with `Student` and `ID`, as Canvas writes it".into(),
        )
        .into());
    };
    let rows = table.rows.iter().skip(1).filter(|row| !is_possible(row));
    Ok(rows
        .filter_map(|row| Some((row.get(id)?.trim().to_owned(), row.get(name)?.clone())))
        .collect())
}

/// Where a comma separates decimals, a semicolon separates cells.
fn decimal(number: f64, separator: char) -> String {
    let text = points(number);
    if separator == ';' {
        text.replace('.', ",")
    } else {
        text
    }
}

fn named(row: &Row) -> String {
    format!(
        "{} ({})",
        escape::line(&row.submission.name),
        row.submission.id
    )
}

#[cfg(test)]
mod tests;
