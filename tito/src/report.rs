//! What a student reads after a test: points, and for each failure what was tried, what came, why it matters, where to look.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use tinytorch_exam::{Case, Named, Value};

use crate::ending;
use crate::exam::{Checked, Graded, Stopped};
use crate::manifest::Exercise;
use crate::process::Captured;
use crate::progress::{self, Standing};
use crate::receipt::points;
use crate::ui::{self, BAD, CODE, FAINT, GOOD, OPEN, STRONG, paint};
use crate::workspace::{Module, SourceFile};

/// Width of the text.
const WIDTH: usize = 100;
/// Elements of an input that are shown.
const SHOWN_ELEMENTS: usize = 8;
/// Lines of what the student's code printed that are shown.
const SHOWN_LINES: usize = 12;
/// Letters of such a line that are shown.
const SHOWN_COLUMNS: usize = 120;

/// Everything a report is made from.
pub struct Report<'a> {
    /// The module.
    pub module: &'a Module,
    /// The student's files.
    pub files: &'a [SourceFile],
    /// Every exercise and its holes.
    pub standings: &'a [Standing],
    /// The exercises that were graded.
    pub graded: &'a [Graded<'a>],
    /// Show every failed check.
    pub all: bool,
    /// The check to show first.
    pub check: Option<&'a str>,
}

impl Report<'_> {
    /// Points without bonus, and what could be had.
    pub fn points(&self) -> (f64, u32) {
        self.sum(false)
    }

    /// Bonus points, and what could be had.
    pub fn bonus(&self) -> (f64, u32) {
        self.sum(true)
    }

    fn sum(&self, bonus: bool) -> (f64, u32) {
        let graded = self.graded.iter();
        graded
            .filter(|graded| graded.exercise.bonus == bonus)
            .fold((0.0, 0), |(points, of), graded| {
                (points + graded.points, of + graded.exercise.points)
            })
    }

    /// The first exercise, bonus last, that did not earn all its points.
    pub fn next(&self) -> Option<&Standing> {
        let open = |bonus: bool| {
            self.graded
                .iter()
                .find(|graded| graded.exercise.bonus == bonus && !graded.is_full())
        };
        let id = &open(false).or_else(|| open(true))?.exercise.id;
        self.standing(id)
    }

    fn standing(&self, id: &str) -> Option<&Standing> {
        self.standings
            .iter()
            .find(|standing| standing.exercise.id == id)
    }

    fn place(&self, exercise: &Exercise, item: &str) -> String {
        let place = progress::place_of(self.module, self.files, &exercise.file, item);
        if place.contains(".rs:") {
            place
        } else {
            progress::place_of(self.module, self.files, &exercise.file, &exercise.item)
        }
    }

    /// The report as text.
    pub fn print(&self) {
        let (earned, of) = self.points();
        let (bonus, bonus_of) = self.bonus();
        let style = if earned >= f64::from(of) { GOOD } else { OPEN };
        let mut head = format!("{} of {of} points", points(earned));
        if bonus_of > 0 {
            head += &format!(", {} of {bonus_of} bonus", points(bonus));
        }
        ui::say(format!(
            "{}  {}\n",
            paint(STRONG, &self.module.name),
            paint(style, head)
        ));
        for graded in self.graded {
            ui::say(self.line(graded));
        }
        for graded in self.graded {
            self.failures(graded);
        }
        self.print_next();
    }

    fn line(&self, graded: &Graded<'_>) -> String {
        let exercise = graded.exercise;
        let (passed, all) = (graded.passed(), graded.checks.len());
        let unfinished = self
            .standing(&exercise.id)
            .is_some_and(|standing| !standing.is_written());
        let (style, mark, remark) = if graded.is_full() {
            (GOOD, "✓", ui::count(all, "check"))
        } else if unfinished && !graded.fails_where_written() {
            (FAINT, "·", self.unfinished(exercise))
        } else if unfinished {
            let remark = format!("{}; what is written fails", self.unfinished(exercise));
            (BAD, "✗", remark)
        } else {
            (
                BAD,
                "✗",
                format!("{passed} of {} passed", ui::count(all, "check")),
            )
        };
        let worth = format!("{:>5} of {:<2}", points(graded.points), exercise.points);
        // Every column as wide as its widest row.
        let widest = |of: fn(&Exercise) -> usize| {
            let rows = self.graded.iter();
            rows.map(|graded| of(graded.exercise)).max().unwrap_or(0)
        };
        let width = widest(|exercise| exercise.title.chars().count());
        let beside = widest(|exercise| bonus(exercise).len());
        format!(
            "  {} {:<6} {:<width$} {worth}{:<beside$}  {}",
            paint(style, mark),
            exercise.id,
            exercise.title,
            bonus(exercise),
            paint(FAINT, remark)
        )
    }

    fn unfinished(&self, exercise: &Exercise) -> String {
        match self.standing(&exercise.id) {
            Some(standing) => format!("not written yet: {}", standing.place),
            None => "not written yet".into(),
        }
    }

    /// The failed checks of a written exercise: the first, or all.
    fn failures(&self, graded: &Graded<'_>) {
        let failed: Vec<&Checked<'_>> = graded
            .checks
            .iter()
            .filter(|checked| !checked.verdict.passed)
            .collect();
        let unfinished = self
            .standing(&graded.exercise.id)
            .is_none_or(|standing| !standing.is_written());
        if failed.is_empty() || (unfinished && !graded.fails_where_written()) {
            return;
        }
        ui::say(format!(
            "\n{} {}",
            paint(STRONG, &graded.exercise.id),
            paint(STRONG, &graded.exercise.title)
        ));
        // A check that only waits for another exercise teaches nothing; show one that does, if there is one.
        let mut order = failed.clone();
        order.sort_by_key(|checked| {
            let is_other = self.check != Some(checked.record.id.as_str());
            (is_other, checked.waits_for.is_some())
        });
        if !self.all {
            // The first of each function: an exercise may have several, each with a mistake of its own.
            let mut items = BTreeSet::new();
            let waiting_only = order.iter().all(|checked| checked.waits_for.is_some());
            order.retain(|checked| waiting_only || checked.waits_for.is_none());
            order.retain(|checked| items.insert(&checked.record.item));
        }
        let shown = order.len();
        for checked in order {
            self.failure(graded.exercise, checked);
        }
        self.say_shortened(graded);
        let more = failed.len() - shown;
        if more > 0 {
            ui::say(paint(
                FAINT,
                format!(
                    "    {} failed; all of them: {} test {} {} --all",
                    ui::count(more, "more check"),
                    ui::tito(),
                    self.module.manifest.number,
                    graded.exercise.id
                ),
            ));
        }
    }

    /// After a check ran out of time the others of its exercise had less.
    fn say_shortened(&self, graded: &Graded<'_>) {
        let limits = graded
            .checks
            .iter()
            .filter_map(|checked| match checked.stopped {
                Some(Stopped::TimedOut(seconds)) => Some(seconds),
                _ => None,
            });
        let longest = limits.clone().fold(0.0, f64::max);
        if let Some(short) = limits.reduce(f64::min).filter(|short| *short < longest) {
            ui::say(paint(
                FAINT,
                format!(
                    "    after {longest} s without an answer the other checks had {short} s each"
                ),
            ));
        }
    }

    fn failure(&self, exercise: &Exercise, checked: &Checked<'_>) {
        let record = checked.record;
        ui::say(format!("  {} {}", paint(BAD, "✗"), record.id));
        if let Some(tag) = &checked.waits_for {
            field(
                "waits for",
                &format!("exercise {tag}, which is not written yet"),
            );
            return;
        }
        field("tried", &tried(checked));
        if let Some(case) = checked.verdict.case.and_then(|case| record.cases.get(case)) {
            let input = inputs(&case.case);
            if !input.is_empty() {
                field("with", &input);
            }
        }
        self.answer(checked);
        if let Some(mistake) = checked.mistake() {
            field(
                "looks like",
                &format!("your values are those of {}", mistake.title),
            );
            field("", &mistake.explanation);
        }
        field("why", ending::why(checked));
        let place = self.place(exercise, &record.item);
        ui::say(format!(
            "      {:<11}{}  {}",
            "look at",
            paint(CODE, place),
            record.item
        ));
        print_printed(&checked.printed);
    }

    /// What should have come, and what came.
    fn answer(&self, checked: &Checked<'_>) {
        let difference = checked.verdict.difference.as_ref();
        if difference.is_none_or(|difference| difference.name == "outcome")
            && let Some(expected) =
                ending::expected(checked, |values| list(values.iter().map(named)))
        {
            field("expected", &expected);
        }
        match (&checked.stopped, difference) {
            (_, Some(difference)) if difference.name == "outcome" => {
                // A panic may be in a file of the library, which the module includes by a way up and down again.
                let detour = format!("{}/../../", self.module.folder());
                field("got", &difference.got.replace(&detour, ""));
            }
            (_, Some(difference)) => {
                let place = index(&difference.name, &difference.index, &difference.shape);
                field("expected", &format!("{place} = {}", difference.expected));
                let mut got = format!("{place} = {}", difference.got);
                if difference.of > 1 {
                    got += &format!(
                        " ({} of {} are wrong)",
                        difference.count_wrong, difference.of
                    );
                }
                field("got", &got);
            }
            (Some(Stopped::TimedOut(seconds)), None) => field(
                "got",
                &format!("no answer within {seconds} s: a loop that never ends?"),
            ),
            (Some(Stopped::Died(how)), None) => {
                field("got", &format!("no answer: {}", ending::cut(how)));
            }
            (None, None) => field("got", "more answers than questions"),
        }
    }

    fn print_next(&self) {
        let number = self.module.manifest.number;
        let next = self.next();
        let is_whole = self.graded.len() == self.standings.len();
        if is_whole && next.is_none_or(|next| next.exercise.bonus) {
            ui::say(format!(
                "\n{} Put it into the library: {}",
                paint(GOOD, "All done."),
                ui::advice(&format!("export {}", self.module.name))
            ));
        } else if next.is_none() {
            ui::say(format!(
                "\n{} {}",
                paint(GOOD, "Done. Everything:"),
                ui::advice(&format!("test {}", self.module.name))
            ));
        }
        if let Some(next) = next {
            let id = &next.exercise.id;
            let word = if next.exercise.bonus {
                "Bonus:"
            } else {
                "Next:"
            };
            ui::say(format!(
                "\n{} {id} {}: {}\n      {}    {}",
                paint(STRONG, word),
                next.exercise.title,
                paint(CODE, &next.place),
                ui::advice(&format!("hint {number} {id}")),
                ui::advice(&format!("test {number} {id}"))
            ));
        }
    }

    /// The report as data.
    pub fn json(&self) -> Json {
        let (earned, of) = self.points();
        let (bonus, bonus_of) = self.bonus();
        let exercises: Vec<Json> = self
            .graded
            .iter()
            .map(|graded| {
                let standing = self.standing(&graded.exercise.id);
                json!({
                    "id": graded.exercise.id,
                    "title": graded.exercise.title,
                    "points": graded.points,
                    "of": graded.exercise.points,
                    "bonus": graded.exercise.bonus,
                    "written": standing.is_some_and(Standing::is_written),
                    "passed": graded.passed(),
                    "checks": graded.checks.iter()
                        .map(|checked| self.check_json(graded.exercise, checked))
                        .collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "module": self.module.name,
            "compiled": true,
            "points": earned,
            "of": of,
            "bonus": bonus,
            "bonus_of": bonus_of,
            "exercises": exercises,
            "next": self.next().map(|next| json!({
                "id": next.exercise.id,
                "place": next.place,
            })),
        })
    }

    fn check_json(&self, exercise: &Exercise, checked: &Checked<'_>) -> Json {
        let record = checked.record;
        let passed = checked.verdict.passed;
        let note = checked
            .verdict
            .case
            .and_then(|case| record.cases.get(case))
            .map(|case| &case.case.note);
        json!({
            "id": record.id,
            "passed": passed,
            "what": record.what,
            "why": record.why,
            "item": record.item,
            "place": self.place(exercise, &record.item),
            "case": note,
            "difference": checked.verdict.difference,
            "stopped": checked.stopped,
            "waits_for": checked.waits_for,
            "mistake": checked.mistake().map(|mistake| json!({
                "title": mistake.title,
                "explanation": mistake.explanation,
            })),
            "printed": (!passed).then_some(&checked.printed.text),
        })
    }
}

fn tried(checked: &Checked<'_>) -> String {
    let record = checked.record;
    match checked.verdict.case.and_then(|case| record.cases.get(case)) {
        Some(case) if !case.case.note.is_empty() => format!("{} ({})", record.what, case.case.note),
        _ => record.what.clone(),
    }
}

/// The inputs of a case, long ones cut.
fn inputs(case: &Case) -> String {
    list(case.inputs.iter().map(named))
}

fn list(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join("; ")
}

fn named(named: &Named) -> String {
    let shape = match &named.shape {
        Some(shape) => format!(" {shape:?}"),
        None => String::new(),
    };
    format!("{}{shape} = {}", named.name, show(named))
}

fn show(named: &Named) -> String {
    fn list<T: std::fmt::Debug>(values: &[T]) -> String {
        match values {
            [one] => format!("{one:?}"),
            many => {
                let mut shown: Vec<String> = many
                    .iter()
                    .take(SHOWN_ELEMENTS)
                    .map(|value| format!("{value:?}"))
                    .collect();
                if many.len() > SHOWN_ELEMENTS {
                    shown.push(format!("... {} in all", many.len()));
                }
                format!("[{}]", shown.join(", "))
            }
        }
    }
    match &named.value {
        Value::I64(values) => list(values),
        Value::F32(values) => list(values),
        Value::Text(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
    }
}

/// `codes[1, 3]`, with the shape where there is one.
fn index(name: &str, index: &[usize], shape: &[usize]) -> String {
    if index.is_empty() {
        return name.to_owned();
    }
    let numbers: Vec<String> = index.iter().map(usize::to_string).collect();
    format!("{name}[{}] (shape {shape:?})", numbers.join(", "))
}

fn field(name: &str, text: &str) {
    if text.trim().is_empty() {
        return;
    }
    let folded = ui::fold(text, 17, WIDTH);
    ui::say(format!("      {name:<11}{}", folded.trim_start()));
}

fn print_printed(printed: &Captured) {
    if printed.text.trim().is_empty() {
        return;
    }
    ui::say("      your code printed:");
    let lines: Vec<&str> = printed.text.lines().collect();
    for line in lines.iter().take(SHOWN_LINES) {
        ui::say(format!("        {} {}", paint(FAINT, "|"), cut(line)));
    }
    if lines.len() > SHOWN_LINES {
        let cut = if printed.is_cut { "at least " } else { "" };
        ui::say(paint(
            FAINT,
            format!(
                "        | {cut}{} more",
                ui::count(lines.len() - SHOWN_LINES, "line")
            ),
        ));
    }
}

/// A line of the student's output, as much as a terminal shows well.
fn cut(line: &str) -> String {
    match line.char_indices().nth(SHOWN_COLUMNS) {
        Some((end, _)) => format!("{} {}", &line[..end], paint(FAINT, "… cut")),
        None => line.to_owned(),
    }
}

fn bonus(exercise: &Exercise) -> &'static str {
    if exercise.bonus { " bonus" } else { "" }
}
