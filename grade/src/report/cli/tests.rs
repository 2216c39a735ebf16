use std::fs;

use clap::Parser;

use super::*;
use crate::report::{answers, sample};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    wishes: Wishes,
}

struct Class {
    folder: tempfile::TempDir,
}

impl Class {
    fn new() -> Class {
        let folder = tempfile::TempDir::new().expect("a folder");
        let class = Class { folder };
        let results = Results::new(class.path("results"));
        let (plan, graded) = sample::class();
        results.keep_plan(&plan).expect("writes");
        for result in graded.iter().flatten() {
            results.keep(result).expect("writes");
        }
        fs::write(class.path("rubric.toml"), answers::tests::RUBRIC).expect("writes");
        class
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn report(&self, words: &str) -> Result<Outcome> {
        let results = self.path("results").display().to_string();
        let folder = self.folder.path().display().to_string();
        let words = words.replace("DIR", &folder);
        let line = ["report", &results]
            .into_iter()
            .chain(words.split_whitespace());
        let line = Line::try_parse_from(line).map_err(|error| Failure::usage(error.to_string()))?;
        report(None, &line.wishes, true)
    }

    fn read(&self, path: &str) -> String {
        let path = self.path("results").join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

#[test]
fn every_format_is_written_and_what_is_open_is_an_exit_code() {
    let class = Class::new();
    fs::write(
        class.path("gradebook.csv"),
        "Student,ID,Section,Module (1)\n    Points Possible,,,100\n\"Doe, Jane\",1001,A,\n",
    )
    .expect("writes");
    for format in Format::value_variants() {
        let name = format
            .to_possible_value()
            .expect("a name")
            .get_name()
            .to_owned();
        let more = if name == "canvas" {
            "--gradebook DIR/gradebook.csv --column Module"
        } else {
            ""
        };
        let outcome = class
            .report(&format!("--format {name} {more}"))
            .expect("a report");
        assert_eq!(outcome, Outcome::WorkLeft, "one is not graded yet");
        assert!(
            class.path("results").join(default_place(*format)).exists(),
            "{name}"
        );
    }
    assert_eq!(
        class
            .report("--student jane --out DIR/jane.csv")
            .expect("a report"),
        Outcome::Good
    );
    for name in ["feedback.md", "feedback.html", "feedback.json"] {
        assert!(
            class
                .read(&format!("feedback/jane/{name}"))
                .contains("Jane Doe")
        );
    }
    assert!(
        class
            .read("github-classroom/jane/result.txt")
            .starts_with("result=eyJ")
    );
    let document = class.read("gradescope/jane/results.json");
    assert!(document.contains("\"score\": 105.0"), "{document}");
    assert!(
        class
            .read("canvas.csv")
            .contains("\"Doe, Jane\",1001,A,105\r\n")
    );
}

#[test]
fn written_answers_are_laid_out_marked_and_counted() {
    let class = Class::new();
    // Canvas knows her by another name than its download does; in the answer it is a name.
    let book = "Student,ID,Section\n\"Channel, Scale\",1001,A\n";
    fs::write(class.path("gradebook.csv"), book).expect("writes");
    let wishes = AnswerWishes {
        results: class.path("results"),
        out: None,
        blind: true,
        gradebook: Some(class.path("gradebook.csv")),
        rubric: Some(class.path("rubric.toml")),
    };
    answer_sheets(None, &wishes, true).expect("sheets");
    assert!(
        class
            .read("answers/question-1.md")
            .contains("A [name] per [name].")
    );
    let table = class.read("answers/marks.csv");
    let (plan, _) = sample::class();
    let code = answers::key(&plan, &plan.submissions[0], true);
    let filled = table
        .replace(&format!("{code},1,3.5,,"), &format!("{code},1,3.5,3,yes"))
        .replace(&format!("{code},2,1,,"), &format!("{code},2,1,0.5,nearly"));
    assert_ne!(filled, table);
    fs::write(class.path("results/answers/marks.csv"), &filled).expect("writes");
    // Asked again, the marks stay.
    answer_sheets(None, &wishes, true).expect("sheets");
    assert_eq!(class.read("answers/marks.csv"), filled);

    let marks = "--marks DIR/results/answers/marks.csv --rubric DIR/rubric.toml --student jane";
    assert_eq!(class.report(marks).expect("a report"), Outcome::Good);
    let grades = class.read("grades.csv");
    // 100 + 5 + 3 + 0.5 of 100 + 4.5.
    assert!(
        grades.contains("graded,108.5,104.5,100,5,3.5,4.5"),
        "{grades}"
    );
    class
        .report(&format!("{marks} --format feedback"))
        .expect("a report");
    assert!(class.read("feedback/jane/feedback.md").contains("nearly"));
}

#[test]
fn lateness_reaches_the_table() {
    let class = Class::new();
    fs::write(
        class.path("late.toml"),
        "deadline = 2026-01-31T12:00:00Z\npercent_per_day = 10\nfree_days = 1\n[students.jane]\nsubmitted = 2026-02-02T13:00:00Z\n",
    )
    .expect("writes");
    class
        .report("--late DIR/late.toml --student jane")
        .expect("a report");
    // Three days begun, one free: 20 percent of 105.
    let grades = class.read("grades.csv");
    assert!(
        grades.contains("graded,84,100,100,5,,0,,3,1,20,"),
        "{grades}"
    );
}

#[test]
fn wrong_wishes_are_usage_errors() {
    let class = Class::new();
    for (words, wanted) in [
        ("--format canvas", "--gradebook"),
        ("--student nobody", "no submission `nobody`"),
        ("--late DIR/none.toml", "cannot read"),
        ("--format sheet", "invalid value"),
    ] {
        let error = class.report(words).expect_err(words).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    fs::remove_file(class.path("results/plan.json")).expect("removes");
    let error = class.report("").expect_err("no plan").to_string();
    assert!(error.contains("no plan.json"), "{error}");
}

/// Points that were changed in a result's file were published as they were.
#[test]
fn a_result_that_was_changed_by_hand_counts_for_nothing_and_is_open() {
    let class = Class::new();
    let path = class.path("results/students/partial.json");
    let text = fs::read_to_string(&path).expect("reads");
    let more = text.replacen("\"points\": 58.3", "\"points\": 98.3", 1);
    assert_ne!(text, more);
    fs::write(&path, more).expect("writes");
    // Somebody else's result under another name is noticed as well.
    fs::copy(&path, class.path("results/students/not-yet.json")).expect("copies");
    assert_eq!(class.report("").expect("a report"), Outcome::WorkLeft);
    let table = class.read("grades.csv");
    let row = |id: &str| {
        table
            .lines()
            .find(|line| line.starts_with(id))
            .expect("a row")
    };
    assert!(row("partial").contains(",missing,,"), "{table}");
    assert!(
        row("partial").contains(
            "was changed after it was graded: the result says 98.33 points, its checks give 58.33"
        ),
        "{table}"
    );
    assert!(!table.contains(",98.33"), "{table}");
    assert!(
        row("not-yet").contains("was changed after it was graded"),
        "{table}"
    );
    assert!(!row("jane").contains("changed"), "{table}");
}
