//! Written answers: sheets to mark them by, question by question and, if wished, without names; and the marks, read back.
//!
//! ```text
//! QUESTIONS.md of every student + rubric.toml -> question-1.md, question-2.md, ... (all answers to one question, shuffled) + marks.csv
//! marks.csv, filled in                        -> points and comments
//! ```
//!
//! One question is marked for the whole class before the next, so that the first and the last student meet the same measure.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;
use tito::failure::Failure;
use tito::snapshot::hash;

use super::csv::{Table, Writer};
use super::{escape, points};
use crate::clean;
use crate::model::{Origin, Plan, Submission};

/// What the answers are worth: `rubric.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rubric {
    /// In the order of QUESTIONS.md.
    #[serde(rename = "question")]
    pub questions: Vec<Question>,
}

/// One question.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// As the heading in QUESTIONS.md counts: `## 1. ...`.
    pub number: u32,
    /// For people.
    pub title: String,
    /// What gives points.
    #[serde(rename = "criterion")]
    pub criteria: Vec<Criterion>,
}

/// One reason for points.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// Its worth.
    pub points: f64,
    /// What must be in the answer.
    pub text: String,
}

impl Question {
    /// Points to be had.
    pub fn of(&self) -> f64 {
        self.criteria.iter().map(|criterion| criterion.points).sum()
    }
}

impl Rubric {
    /// Reads a rubric.
    ///
    /// # Errors
    ///
    /// A usage error that names file, line and what is wrong.
    pub fn load(path: &Path) -> Result<Rubric> {
        let shown = path.display();
        let wrong = |what: String| Failure::usage(format!("{shown} is no rubric: {what}"));
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
        let rubric: Rubric = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        for (index, question) in rubric.questions.iter().enumerate() {
            let number = question.number;
            if rubric.questions[..index]
                .iter()
                .any(|earlier| earlier.number == number)
            {
                return Err(wrong(format!("question {number} is there twice")).into());
            }
            let is_sound =
                |criterion: &Criterion| criterion.points > 0.0 && criterion.points.is_finite();
            if !question.criteria.iter().all(is_sound) || question.criteria.is_empty() {
                return Err(
                    wrong(format!("question {number} has a criterion without points")).into(),
                );
            }
        }
        Ok(rubric)
    }

    /// Points to be had.
    pub fn of(&self) -> f64 {
        self.questions.iter().map(Question::of).sum()
    }
}

/// The line under which an answer begins.
const ANSWER: &str = "**Your answer:**";

/// A student's answer to a question of QUESTIONS.md: what stands under `**Your answer:**` in its section. Where that line is
/// gone, everything under the heading. Empty if there is no such section or nothing in it.
pub fn answer(sheet: &str, number: u32) -> String {
    let begins = |line: &str| {
        let rest = line.strip_prefix("## ")?;
        let (digits, _) = rest.split_once('.')?;
        digits.trim().parse::<u32>().ok()
    };
    let section: Vec<&str> = sheet
        .lines()
        .skip_while(|line| begins(line) != Some(number))
        .skip(1)
        .take_while(|line| begins(line).is_none())
        .collect();
    let at = section
        .iter()
        .position(|line| line.trim().starts_with(ANSWER));
    let (first, rest) = match at {
        Some(at) => (
            section[at].trim().trim_start_matches(ANSWER),
            &section[at + 1..],
        ),
        None => ("", &section[..]),
    };
    let text = format!("{first}\n{}", rest.join("\n"));
    clean::long(text.trim())
}

/// By what a student is called on the sheets: the id, or a code that says nothing and is the same in every run of a plan.
pub fn key(plan: &Plan, submission: &Submission, blind: bool) -> String {
    if blind {
        code(plan, &submission.id)
    } else {
        submission.id.clone()
    }
}

fn code(plan: &Plan, id: &str) -> String {
    let code = hash(format!("{} {} {id}", plan.seed, plan.created).as_bytes());
    format!("A-{}", &code[..8])
}

/// The sheet of one question: the rubric, then every answer, shuffled.
pub fn sheet(plan: &Plan, submissions: &[&Submission], question: &Question, blind: bool) -> String {
    let mut text = format!(
        "# {}, question {}: {}\n\n",
        escape::markdown(&plan.title),
        question.number,
        escape::markdown(&question.title)
    );
    for criterion in &question.criteria {
        let _ = writeln!(
            text,
            "- {} of {}: {}",
            points(criterion.points),
            points(question.of()),
            escape::markdown(&criterion.text)
        );
    }
    for submission in shuffled(plan, submissions, question.number) {
        let key = key(plan, submission, blind);
        let _ = write!(text, "\n## {key}\n\n");
        let sheet = submission.answers.as_deref().unwrap_or_default();
        let mut answer = answer(sheet, question.number);
        if answer.is_empty() {
            let _ = writeln!(text, "({})", nothing(submission));
            continue;
        }
        if blind {
            answer = anonymous(&answer, submission);
        }
        // An indented block shows everything as it was typed, and nothing in it ends it.
        for line in answer.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

/// Why there is no answer.
fn nothing(submission: &Submission) -> &'static str {
    match submission.answers {
        Some(_) => "no answer",
        None => "no QUESTIONS.md was handed in",
    }
}

/// Neither by name nor by number: an order of its own for every question, the same in every run.
fn shuffled<'a>(plan: &Plan, submissions: &[&'a Submission], number: u32) -> Vec<&'a Submission> {
    let mut order = submissions.to_vec();
    order.sort_by_cached_key(|submission| {
        hash(format!("{} {number} {}", plan.seed, submission.id).as_bytes())
    });
    order
}

/// An answer without its author's name, address and id.
fn anonymous(answer: &str, submission: &Submission) -> String {
    let mut names = vec![submission.name.clone(), submission.id.clone()];
    names.extend(submission.email.clone());
    names.extend(submission.student_number.clone());
    names.extend(submission.group.iter().cloned());
    let all = submission.group.iter().chain([&submission.name]);
    let parts: Vec<&str> = all
        .flat_map(|name| name.split(|letter: char| letter.is_whitespace() || letter == ','))
        .filter(|part| !part.is_empty())
        .collect();
    // `Doe, Jane` calls herself Jane Doe.
    names.push(parts.iter().rev().copied().collect::<Vec<_>>().join(" "));
    names.extend(parts.iter().map(|part| (*part).to_owned()));
    names.sort_by_key(|name| std::cmp::Reverse(name.chars().count()));
    let mut text = answer.to_owned();
    for name in names {
        text = replaced(&text, &name);
    }
    match (submission.origin, submission.id.split('_').next()) {
        (Origin::Canvas, Some(glued)) => unglued(&text, glued),
        _ => text,
    }
}

/// Canvas names `doejane` who is Jane Doe: neighbouring words that, put together in some order, are that name are replaced.
fn unglued(text: &str, glued: &str) -> String {
    let mut words: Vec<(usize, usize)> = Vec::new();
    for (at, letter) in text.char_indices() {
        let end = at + letter.len_utf8();
        if !letter.is_alphanumeric() {
            continue;
        }
        match words.last_mut() {
            Some(last) if last.1 == at => last.1 = end,
            _ => words.push((at, end)),
        }
    }
    let lower = |(from, to): &(usize, usize)| text[*from..*to].to_lowercase();
    let is_name = |words: &[(usize, usize)]| {
        // First names stand before or behind the last name, which may be of several words.
        (0..words.len()).any(|first| {
            let turned = words[first..].iter().chain(&words[..first]);
            turned.map(lower).collect::<String>() == glued
        })
    };
    let mut result = String::new();
    let (mut copied, mut at) = (0, 0);
    while at < words.len() {
        let most = (words.len() - at).min(4);
        let found = (1..=most)
            .rev()
            .find(|count| is_name(&words[at..at + count]));
        if let Some(count) = found {
            result += &text[copied..words[at].0];
            result += "[name]";
            copied = words[at + count - 1].1;
        }
        at += found.unwrap_or(1);
    }
    result + &text[copied..]
}

/// Every occurrence of a name as a word of its own replaced, whatever its case. A short name (Li, Ann) may be a word of the language: it is one only
/// with a capital letter.
fn replaced(text: &str, name: &str) -> String {
    let lower = |letter: char| letter.to_lowercase().next().unwrap_or(letter);
    let letters: Vec<char> = text.chars().collect();
    let wanted: Vec<char> = name.chars().map(lower).collect();
    if wanted.is_empty() {
        return text.to_owned();
    }
    let is_short = wanted.len() < 4;
    let mut result = String::new();
    let mut at = 0;
    while at < letters.len() {
        let there = letters.get(at..at + wanted.len());
        // Inside of a word it is no name, and the rest of the word would tell it.
        let is_word = |letter: Option<&char>| letter.is_some_and(|one| one.is_alphanumeric());
        let stands_alone = !is_word(at.checked_sub(1).and_then(|before| letters.get(before)))
            && !is_word(letters.get(at + wanted.len()));
        let is_meant = !is_short || letters[at].is_uppercase() || letters[at].is_numeric();
        if stands_alone
            && is_meant
            && there.is_some_and(|there| {
                there
                    .iter()
                    .map(|letter| lower(*letter))
                    .eq(wanted.iter().copied())
            })
        {
            result += "[name]";
            at += wanted.len();
        } else {
            result.push(letters[at]);
            at += 1;
        }
    }
    result
}

/// The table to be filled in. What was filled in before stays; an answer that is not there has no points.
///
/// # Errors
///
/// Those of reading the earlier marks.
pub fn table(
    plan: &Plan,
    submissions: &[&Submission],
    rubric: &Rubric,
    blind: bool,
    earlier: Option<&Marks>,
) -> Result<String> {
    let mut writer = Writer::new(',');
    for title in ["key", "question", "of", "points", "comment"] {
        writer.verbatim(title);
    }
    writer.end();
    for question in &rubric.questions {
        for submission in shuffled(plan, submissions, question.number) {
            let own = earlier.and_then(|marks| marks.mark(&submission.id, question.number));
            let sheet = submission.answers.as_deref().unwrap_or_default();
            let is_empty = answer(sheet, question.number).is_empty();
            let (given, comment) = match own {
                Some(mark) => (points(mark.points), mark.comment.as_str()),
                None if is_empty => ("0".to_owned(), nothing(submission)),
                None => (String::new(), ""),
            };
            writer
                .verbatim(&key(plan, submission, blind))
                .number(f64::from(question.number))
                .number(question.of())
                .verbatim(&given)
                .verbatim(comment)
                .end();
        }
    }
    Ok(writer.finish())
}

/// What answers were given.
#[derive(Clone, Debug)]
pub struct Marks {
    rubric: Rubric,
    /// Id and question to the mark.
    marks: BTreeMap<(String, u32), Mark>,
}

/// Points and words for one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Given.
    pub points: f64,
    /// For the student.
    pub comment: String,
}

impl Marks {
    /// Reads a table that was filled in; lines without points are still to be marked.
    ///
    /// # Errors
    ///
    /// A usage error that names file, line and what is wrong: an unknown key or question, points that are no number or more than there are, a mark given twice.
    pub fn load(path: &Path, rubric: Rubric, plan: &Plan) -> Result<Marks> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
        let table =
            Table::parse(&text).map_err(|error| Failure::usage(format!("{shown}, {error}")))?;
        let mut students = BTreeMap::new();
        for submission in &plan.submissions {
            students.insert(submission.id.clone(), submission.id.clone());
            students.insert(code(plan, &submission.id), submission.id.clone());
        }
        let title = |name: &str| {
            let first = table.rows.first()?;
            first
                .iter()
                .position(|cell| cell.trim().eq_ignore_ascii_case(name))
        };
        let columns = (
            title("key"),
            title("question"),
            title("points"),
            title("comment"),
        );
        let (Some(key), Some(question), Some(given), comment) = columns else {
            return Err(Failure::usage(format!(
                "{shown} has no columns `key`, `question` and `points`"
            ))
            .into());
        };
        let mut marks = BTreeMap::new();
        for (index, row) in table.rows.iter().enumerate().skip(1) {
            let cell = |column: usize| row.get(column).map_or("", |cell| cell.trim());
            let wrong =
                |what: String| Failure::usage(format!("{shown}, row {}: {what}", index + 1));
            if row.iter().all(|cell| cell.trim().is_empty()) || cell(given).is_empty() {
                continue;
            }
            let id = students.get(cell(key)).ok_or_else(|| {
                wrong(format!("there is no student `{}`", escape::line(cell(key))))
            })?;
            let number = cell(question).parse::<u32>().ok();
            let found = rubric
                .questions
                .iter()
                .find(|one| Some(one.number) == number);
            let found = found.ok_or_else(|| {
                wrong(format!(
                    "the rubric has no question `{}`",
                    escape::line(cell(question))
                ))
            })?;
            let number: f64 = cell(given).replace(',', ".").parse().map_err(|_| {
                wrong(format!(
                    "`{}` is no number of points",
                    escape::line(cell(given))
                ))
            })?;
            if !(0.0..=found.of()).contains(&number) {
                return Err(wrong(format!(
                    "{} points; question {} has 0 to {}",
                    points(number),
                    found.number,
                    points(found.of())
                ))
                .into());
            }
            let mark = Mark {
                points: number,
                comment: clean::text(comment.map_or("", cell)),
            };
            if marks.insert((id.clone(), found.number), mark).is_some() {
                return Err(
                    wrong(format!("question {} of {id} is marked twice", found.number)).into(),
                );
            }
        }
        Ok(Marks { rubric, marks })
    }

    /// Points to be had.
    pub fn of(&self) -> f64 {
        self.rubric.of()
    }

    /// The mark of one answer, if it was given.
    pub fn mark(&self, id: &str, question: u32) -> Option<&Mark> {
        self.marks.get(&(id.to_owned(), question))
    }

    /// The points of a student, once every answer is marked.
    pub fn points_of(&self, id: &str) -> Option<f64> {
        let marks = self.rubric.questions.iter();
        marks
            .map(|question| Some(self.mark(id, question.number)?.points))
            .sum()
    }

    /// The questions with what this student was given.
    pub fn of_student(&self, id: &str) -> Vec<(&Question, Option<&Mark>)> {
        let questions = self.rubric.questions.iter();
        questions
            .map(|question| (question, self.mark(id, question.number)))
            .collect()
    }
}

/// A sheet with two answers, for tests.
#[cfg(test)]
pub(crate) fn tests_sheet(first: &str, second: &str) -> String {
    format!(
        "# Questions\n\nWrite.\n\n## 1. Scales?\n\nWhy?\n\n{ANSWER}\n\n{first}\n\n## 2. Bytes?\n\nHow many?\n\n{ANSWER} {second}\n"
    )
}

#[cfg(test)]
pub(crate) mod tests;
