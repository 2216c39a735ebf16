//! Filling a column of an exported gradebook.

use super::*;
use crate::model::Origin;
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
