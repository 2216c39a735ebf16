//! JUnit XML: a test suite per student, a test case per check.

use std::fmt::Write;

use super::book::{Book, Row, shares};
use super::escape::{self, xml};
use super::feedback::Feedback;
use super::time::Moment;
use super::{points, short};
use crate::model::{Status, SubmissionResult};

/// The whole class. A student's fault is a `failure`, the grader's an `error`, what was not graded is `skipped`.
pub fn document(book: &Book) -> String {
    let mut suites = String::new();
    let (mut tests, mut failures, mut errors, mut time) = (0, 0, 0, 0.0);
    for row in &book.rows {
        let suite = Suite::of(book, row);
        tests += suite.tests;
        failures += suite.failures;
        errors += suite.errors;
        time += suite.time;
        suites += &suite.text;
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"tito grade {}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{time:.3}\">\n{suites}</testsuites>\n",
        xml(&book.plan.module)
    )
}

#[derive(Default)]
struct Suite {
    text: String,
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
    time: f64,
}

impl Suite {
    fn of(book: &Book, row: &Row) -> Suite {
        let mut suite = Suite::default();
        let mut cases = String::new();
        match &row.result {
            Some(result) if result.status == Status::Graded => {
                suite.checks(&mut cases, book, row, result)
            }
            Some(result) if result.status == Status::Refused => {
                suite.tests = 1;
                suite.failures = 1;
                cases += &one("submission", "failure", &result.reasons.join(" "));
            }
            Some(result) => {
                suite.tests = 1;
                suite.errors = 1;
                cases += &one("submission", "error", &result.reasons.join(" "));
            }
            None => {
                suite.tests = 1;
                suite.skipped = 1;
                cases += "    <testcase classname=\"submission\" name=\"graded\"><skipped message=\"not graded yet\"/></testcase>\n";
            }
        }
        let total = row.total.map_or("unknown".into(), points);
        let receipt = row
            .result
            .as_ref()
            .and_then(|result| result.receipt.as_ref());
        let receipt = receipt.map_or("", |receipt| receipt.submission.as_str());
        let Suite {
            tests,
            failures,
            errors,
            skipped,
            time,
            ..
        } = suite;
        let created = Moment(i64::try_from(book.plan.created).unwrap_or(0)).to_string();
        suite.text = format!(
            "  <testsuite name=\"{}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{time:.3}\" timestamp=\"{}\" hostname=\"local\">\n    \
             <properties>\n      <property name=\"student\" value=\"{}\"/>\n      <property name=\"points\" value=\"{total}\"/>\n      <property name=\"submission\" value=\"{}\"/>\n    </properties>\n{cases}  </testsuite>\n",
            xml(&row.submission.id),
            created.trim_end_matches('Z'),
            xml(&escape::line(&row.submission.name)),
            xml(receipt),
        );
        suite
    }

    fn checks(&mut self, cases: &mut String, book: &Book, row: &Row, result: &SubmissionResult) {
        let feedback = Feedback::of(book, row, None);
        let told = |id: &str| {
            let checks = feedback
                .exercises
                .iter()
                .flat_map(|exercise| &exercise.checks);
            checks
                .into_iter()
                .find(|check| check.id == id)
                .and_then(|check| check.message.clone())
        };
        for share in shares(result) {
            let check = share.check;
            let shown = check.for_student();
            let seconds = shown.milliseconds as f64 / 1000.0;
            self.tests += 1;
            self.time += seconds;
            let _ = write!(
                cases,
                "    <testcase classname=\"{}.{}\" name=\"{}\" time=\"{seconds:.3}\"",
                xml(&book.plan.module),
                xml(&share.exercise.id),
                xml(short(&check.id)),
            );
            if check.passed() {
                *cases += "/>\n";
                continue;
            }
            self.failures += 1;
            let kind = serde_json::to_value(&check.outcome).unwrap_or_default();
            let kind = kind.as_str().unwrap_or("unfinished").to_owned();
            let message = told(&check.id).unwrap_or_default();
            let why = book.plan.checks.iter().find(|info| info.id == check.id);
            let _ = write!(
                cases,
                ">\n      <failure message=\"{}\" type=\"{}\">{}</failure>\n",
                xml(&escape::line(&message)),
                xml(&kind),
                xml(why.map_or("", |info| info.why.as_str())),
            );
            if let Some(printed) = shown.printed {
                let _ = writeln!(cases, "      <system-out>{}</system-out>", xml(&printed));
            }
            *cases += "    </testcase>\n";
        }
    }
}

fn one(name: &str, kind: &str, message: &str) -> String {
    format!(
        "    <testcase classname=\"submission\" name=\"{name}\" time=\"0.000\"><{kind} message=\"{}\" type=\"submission\"/></testcase>\n",
        xml(&escape::line(message))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_class_is_xml_whatever_its_names_and_output() {
        let text = document(&sample::book());
        let xml = roxmltree::Document::parse(&text).expect("well formed");
        let root = xml.root_element();
        assert_eq!(root.tag_name().name(), "testsuites");
        let suites: Vec<_> = root
            .children()
            .filter(|node| node.has_tag_name("testsuite"))
            .collect();
        assert_eq!(suites.len(), 6);
        assert!(
            !text.contains(sample::CANARY) && !text.contains('\u{1b}') && !text.contains("]]>"),
            "{text}"
        );
        // The counts are those of the elements.
        let count = |name: &str| {
            root.descendants()
                .filter(|node| node.has_tag_name(name))
                .count()
        };
        let says = |name: &str| {
            root.attribute(name)
                .and_then(|value| value.parse::<usize>().ok())
        };
        assert_eq!(says("tests"), Some(count("testcase")));
        assert_eq!(says("failures"), Some(count("failure")));
        assert_eq!(says("errors"), Some(count("error")));
        assert_eq!((count("error"), count("skipped")), (1, 1));
        for suite in suites {
            let own = |name: &str| {
                suite
                    .descendants()
                    .filter(|node| node.has_tag_name(name))
                    .count()
                    .to_string()
            };
            for (attribute, element) in [
                ("tests", "testcase"),
                ("failures", "failure"),
                ("errors", "error"),
                ("skipped", "skipped"),
            ] {
                assert_eq!(suite.attribute(attribute), Some(own(element).as_str()));
            }
        }
    }

    #[test]
    fn a_failure_has_its_message_its_kind_and_what_was_printed() {
        let text = document(&sample::book());
        let xml = roxmltree::Document::parse(&text).expect("well formed");
        let failure = xml
            .descendants()
            .find(|node| node.has_tag_name("failure"))
            .expect("one");
        assert_eq!(failure.attribute("type"), Some("wrong_values"));
        assert!(
            xml.descendants()
                .any(|node| node.has_tag_name("system-out"))
        );
    }
}
