//! Canvas: one column of the gradebook the instructor exported is filled, and nothing else is touched.
//!
//! The importer creates an assignment for a title it does not know, so no title is ever made up here: the column must be in the
//! exported file. What is written has the student columns and that one; grades of other assignments, given since the export, stay as they are
//! in Canvas. Source: Canvas, `lib/gradebook_importer.rb`.

use std::collections::BTreeMap;

use anyhow::Result;
use tito::failure::Failure;

use super::book::{Book, Row};
use super::csv::{Table, Writer};
use super::{escape, points};
use crate::model::{Origin, Submission};

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

/// The columns that say who a row is.
struct Who {
    name: usize,
    id: Option<usize>,
    sis_user: Option<usize>,
    sis_login: Option<usize>,
    /// The first column that is an assignment's.
    end: usize,
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

fn who(header: &[String]) -> Option<Who> {
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

fn is_possible(row: &[String]) -> bool {
    row.first()
        .is_some_and(|cell| cell.contains("Points Possible"))
}

fn is_excused(cell: &str) -> bool {
    cell.trim().eq_ignore_ascii_case("EX")
}

fn number(cell: &str) -> Option<f64> {
    cell.trim().replace(',', ".").parse().ok()
}

fn target(header: &[String], first: usize, wanted: &str) -> Result<usize, String> {
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
fn find(who: &Who, rows: &[&Vec<String>], submission: &Submission) -> Option<usize> {
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

fn named(row: &Row) -> String {
    format!(
        "{} ({})",
        escape::line(&row.submission.name),
        row.submission.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    const EXPORTED: &str = "Student,ID,SIS User ID,SIS Login ID,Section,Module 14 (4710),Module 01 (4711),Final Score (read only)\r\n\
        \x20   Points Possible,,,,,10,100,(read only)\r\n\
        \"Doe, Jane\",1001,jd001,jdoe,Sec A,7,,70\r\n\
        \"Ial, Pat\",1002,partial,pial,Sec A,8,12,80\r\n\
        \"Fused, Ré\",1003,,,Sec A,,,\r\n\
        \"Body, No\",1004,,,Sec A,,3,\r\n";

    #[test]
    fn one_column_is_filled_and_no_other_is_written() {
        let filled = fill(&sample::book(), EXPORTED, "Module 01", false).expect("fills");
        let rows = Table::parse(&filled.text).expect("a table").rows;
        assert_eq!(
            rows[0],
            [
                "Student",
                "ID",
                "SIS User ID",
                "SIS Login ID",
                "Section",
                "Module 01 (4711)"
            ]
        );
        assert_eq!(rows[1], ["    Points Possible", "", "", "", "", "100"]);
        // By ID, by SIS user id, by name; whoever handed nothing in keeps what Canvas had.
        let grades: Vec<&str> = rows[2..].iter().map(|row| row[5].as_str()).collect();
        assert_eq!(grades, ["105", "58.33", "0", "3"]);
        assert_eq!(filled.matched, 3);
        assert_eq!(filled.without, ["Body, No"]);
        // The hostile one is not in the class; faults and missing ones have no grade to be matched.
        assert_eq!(filled.unmatched.len(), 1);
        assert!(filled.unmatched[0].ends_with("(hostile)"));
    }

    #[test]
    fn names_are_read_by_canvas_number() {
        let names = names(EXPORTED).expect("a gradebook");
        assert_eq!(names.get("1001").map(String::as_str), Some("Doe, Jane"));
        assert_eq!(names.len(), 4);
        assert!(super::names("Name,Grade\nJane,3\n").is_err());
    }

    #[test]
    fn a_column_is_never_made_up() {
        let book = sample::book();
        for (column, words) in [
            (
                "Module 15",
                "it has no column `Module 15`; it has: Module 14 (4710), Module 01 (4711)",
            ),
            ("Final Score (read only)", "cannot be filled"),
            ("Section", "it has no column"),
        ] {
            let error = fill(&book, EXPORTED, column, false)
                .expect_err(column)
                .to_string();
            assert!(error.contains(words), "{error}");
        }
        let twice = EXPORTED.replace("Module 14", "Module 01");
        let error = fill(&book, &twice, "Module 01", false)
            .expect_err("two")
            .to_string();
        assert!(error.contains("names 2 columns"), "{error}");
        assert_eq!(
            fill(&book, &twice, "4711", false)
                .expect("by number")
                .matched,
            3
        );
        let error = fill(&book, "Name,Grade\nJane,3\n", "Grade", false)
            .expect_err("foreign")
            .to_string();
        assert!(error.contains("must begin with `Student`"), "{error}");
    }

    #[test]
    fn other_points_are_refused_or_scaled() {
        let book = sample::book();
        let fifty = EXPORTED.replace(",100,", ",50,");
        let error = fill(&book, &fifty, "4711", false)
            .expect_err("50")
            .to_string();
        assert!(
            error.contains("has 50 points, the results have 100"),
            "{error}"
        );
        let filled = fill(&book, &fifty, "4711", true).expect("scaled");
        assert!(filled.text.contains(",52.5\r\n"), "{}", filled.text);
    }

    #[test]
    fn semicolons_and_decimal_commas_stay() {
        let filled = fill(
            &sample::book(),
            &EXPORTED.replace("\"Doe, Jane\"", "Doe").replace(',', ";"),
            "4711",
            false,
        );
        let text = filled.expect("fills").text;
        assert!(
            text.contains(";58,33\r\n") || text.contains(";\"58,33\"\r\n"),
            "{text}"
        );
    }

    #[test]
    fn two_students_of_one_name_are_not_guessed() {
        let twins = EXPORTED.replace("\"Body, No\"", "\"Fused, Ré\"");
        let filled = fill(&sample::book(), &twins, "4711", false).expect("fills");
        assert!(
            filled.unmatched.iter().any(|name| name.contains("refused")),
            "{filled:?}"
        );
    }

    fn from_canvas(ids: &[(&str, &str)]) -> Book {
        let (plan, results) = sample::class();
        let result = results.into_iter().flatten().next().expect("a result");
        let mut submissions = Vec::new();
        let mut graded = Vec::new();
        for (id, number) in ids {
            let mut submission = sample::submission(id, id);
            submission.origin = Origin::Canvas;
            submission.student_number = Some((*number).to_owned());
            let mut result = result.clone();
            result.submission = submission.clone();
            submissions.push(submission);
            graded.push(Some(result));
        }
        Book::new(
            crate::model::Plan {
                submissions,
                ..plan
            },
            graded,
            None,
            None,
        )
        .expect("a book")
    }

    /// A number of Canvas that was no longer in `ID` was found in `SIS User ID`, and another person got the grade.
    #[test]
    fn a_number_of_canvas_is_never_another_persons_sis_id() {
        let exported = EXPORTED.replace("partial", "1009");
        let book = from_canvas(&[("doejane_1009", "1009"), ("ialpat_1002", "1002")]);
        let filled = fill(&book, &exported, "4711", false).expect("fills");
        assert_eq!(filled.matched, 1);
        assert_eq!(filled.unmatched, ["doejane_1009 (doejane_1009)"]);
        assert_eq!(filled.above, 1);
        assert!(
            filled.text.contains("1002,1009,pial,Sec A,105\r\n"),
            "{}",
            filled.text
        );
    }

    /// Whichever came first filled the row, the older one as well.
    #[test]
    fn two_grades_for_one_row_fill_nothing_and_are_named() {
        let book = from_canvas(&[("a", "1001"), ("b", "1001")]);
        let filled = fill(&book, EXPORTED, "4711", false).expect("fills");
        assert_eq!((filled.matched, filled.unmatched.len()), (0, 2));
    }

    /// An excused student was given the grade, which takes the excuse away in Canvas.
    #[test]
    fn who_is_excused_stays_excused() {
        let exported = EXPORTED.replace(",1004,,,Sec A,,3,", ",1004,,,Sec A,,EX,");
        assert_ne!(exported, EXPORTED);
        let book = from_canvas(&[("bodyno_1004", "1004")]);
        let filled = fill(&book, &exported, "4711", false).expect("fills");
        assert_eq!((filled.matched, filled.excused.len()), (0, 1));
        assert!(
            filled.text.contains("1004,,,Sec A,EX\r\n"),
            "{}",
            filled.text
        );
        assert_eq!(filled.unmatched, [] as [String; 0]);
    }

    #[test]
    fn a_name_that_is_a_formula_computes_nothing() {
        let hostile = EXPORTED.replace("\"Body, No\"", "=1+1");
        let text = fill(&sample::book(), &hostile, "4711", false)
            .expect("fills")
            .text;
        assert!(text.contains("\"'=1+1\""), "{text}");
    }
}
