use super::*;
use crate::report::sample;

pub(crate) const RUBRIC: &str = r#"
    [[question]]
    number = 1
    title = "Scales"
    [[question.criterion]]
    points = 2
    text = "names the channel"
    [[question.criterion]]
    points = 1.5
    text = "names the cost"
    [[question]]
    number = 2
    title = "Bytes"
    [[question.criterion]]
    points = 1
    text = "counts them"
"#;

fn written(path: &Path, text: &str) -> Result<Marks> {
    std::fs::write(path, text).expect("writes");
    let (plan, _) = sample::class();
    Marks::load(path, toml::from_str(RUBRIC).expect("a rubric"), &plan)
}

#[test]
fn answers_are_found_under_their_line_and_without_it() {
    let sheet = tests_sheet("one\n\n- two", "three");
    assert_eq!(answer(&sheet, 1), "one\n\n- two");
    assert_eq!(answer(&sheet, 2), "three");
    assert_eq!(answer(&sheet, 3), "");
    assert_eq!(answer("## 1. Scales?\nmy words", 1), "my words");
    assert_eq!(answer(&tests_sheet("", ""), 1), "");
}

#[test]
fn a_blind_sheet_names_nobody() {
    let (plan, _) = sample::class();
    let mut jane = plan.submissions[0].clone();
    jane.answers = Some(tests_sheet("I, JANE doe (jdoe@example.org), think so.", ""));
    let rubric: Rubric = toml::from_str(RUBRIC).expect("a rubric");
    let sheet = sheet(&plan, &[&jane], &rubric.questions[0], true);
    for name in ["Jane", "JANE", "jdoe", "jane"] {
        assert!(!sheet.contains(name), "{sheet}");
    }
    assert!(
        sheet.contains("I, [name] [name] ([name]), think so.")
            || sheet.contains("I, [name] ([name]), think so."),
        "{sheet}"
    );
    assert!(sheet.contains(&key(&plan, &jane, true)), "{sheet}");
}

/// Of Canvas only `doejane` is known, which left "Jane Doe"; short names stayed, and parts of words were taken for names.
#[test]
fn names_of_canvas_and_short_names_go_and_words_stay() {
    let mut jane = sample::submission("doejane_1001", "doejane");
    jane.origin = Origin::Canvas;
    jane.student_number = Some("1001".into());
    let text = "I am Jane Doe (doejane, 1001); Doe, Jane. Does janet agree?";
    assert_eq!(
        anonymous(text, &jane),
        "I am [name] ([name], [name]); [name]. Does janet agree?"
    );
    let long = sample::submission("x_1", "y");
    let long = Submission {
        id: "vanderbergli_7".into(),
        origin: Origin::Canvas,
        ..long
    };
    assert_eq!(anonymous("Li van der Berg.", &long), "[name].");
    let ann = sample::submission("al7", "Li, Ann");
    assert_eq!(
        anonymous("Ann Li and Li: an annotated list, li.", &ann),
        "[name] and [name]: an annotated list, li."
    );
    let mark = sample::submission("mark", "mark");
    assert_eq!(
        anonymous("Mark: a benchmark, remarkable", &mark),
        "[name]: a benchmark, remarkable"
    );
}

#[test]
fn a_hostile_answer_stays_in_its_block() {
    let (plan, _) = sample::class();
    let rubric: Rubric = toml::from_str(RUBRIC).expect("a rubric");
    let mut student = sample::submission("x", "X");
    student.answers = Some(tests_sheet(&format!("```\n{}\n```", sample::HOSTILE), ""));
    let sheet = sheet(&plan, &[&student], &rubric.questions[0], false);
    let (_, answer) = sheet.split_once("## x\n\n").expect("there");
    assert!(
        answer.lines().all(|line| line.starts_with("    ")),
        "{sheet}"
    );
    assert!(!sheet.contains('\u{1b}') && !sheet.contains('\u{202e}'));
}

#[test]
fn what_was_marked_is_read_back_by_id_and_by_code_and_stays() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("marks.csv");
    let (plan, _) = sample::class();
    let code = code(&plan, "jane");
    let text = format!(
        "key,question,of,points,comment\n{code},1,3.5,\"2,5\",\"good, but\"\njane,2,1,1,\npartial,1,3.5,,\n"
    );
    let marks = written(&path, &text).expect("marks");
    assert_eq!(marks.points_of("jane"), Some(3.5));
    assert_eq!(marks.points_of("partial"), None);
    assert_eq!(marks.of(), 4.5);
    assert_eq!(
        marks.mark("jane", 1).map(|mark| mark.comment.as_str()),
        Some("good, but")
    );
    // A second table keeps them, gives nothing for no answer, and waits for the others.
    let rubric: Rubric = toml::from_str(RUBRIC).expect("a rubric");
    let submissions: Vec<&Submission> = plan.submissions.iter().collect();
    let table = table(&plan, &submissions, &rubric, false, Some(&marks)).expect("a table");
    assert!(
        table.contains("jane,1,3.5,2.5,\"good, but\"\r\n"),
        "{table}"
    );
    assert!(
        table.contains("refused,1,3.5,0,no QUESTIONS.md was handed in\r\n"),
        "{table}"
    );
    assert!(written(&path, &table).is_ok());
}

#[test]
fn wrong_marks_are_named_by_row() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("marks.csv");
    for (row, words) in [
        ("nobody,1,3.5,1,", "row 2: there is no student"),
        ("jane,9,3.5,1,", "row 2: the rubric has no question"),
        ("jane,1,3.5,4,", "row 2: 4 points; question 1 has 0 to 3.5"),
        ("jane,1,3.5,NaN,", "points; question 1 has"),
        ("jane,1,3.5,many,", "is no number"),
        (
            "jane,1,3.5,1,\njane,1,3.5,2,",
            "row 3: question 1 of jane is marked twice",
        ),
        ("\"jane", "a quote begins"),
    ] {
        let error = written(&path, &format!("key,question,of,points,comment\n{row}\n"))
            .expect_err(row)
            .to_string();
        assert!(error.contains(words), "{error}");
    }
}
