//! A student's feedback as Markdown and as a page that loads nothing and runs nothing. What may be told was decided before, in [`super::feedback`].

use std::fmt::Write;

use super::feedback::{Answer, Check, Feedback};
use super::{escape, points};
use crate::model::CompileError;

/// As Markdown.
pub fn markdown(feedback: &Feedback) -> String {
    let safe = escape::markdown;
    let mut text = format!("# {}: {}\n\n", safe(&feedback.title), safe(&feedback.name));
    let _ = writeln!(text, "**{}**\n", safe(&grade(feedback)));
    for note in &feedback.notes {
        let _ = writeln!(text, "- {}", safe(note));
    }
    if !feedback.compile_errors.is_empty() {
        text += "\n## The compiler says\n\n";
        for error in &feedback.compile_errors {
            let _ = writeln!(text, "- {}", safe(&compile_error(error)));
        }
    }
    for exercise in &feedback.exercises {
        let _ = writeln!(
            text,
            "\n## {} {}: {} of {}{}\n",
            safe(&exercise.id),
            safe(&exercise.title),
            points(exercise.points),
            points(exercise.of),
            if exercise.bonus { " (bonus)" } else { "" }
        );
        for (check, is_first) in first_named(&exercise.checks) {
            let _ = writeln!(text, "- {}", safe(&headline(check)));
            for line in details(check, is_first) {
                let _ = writeln!(text, "  - {}", safe(&line));
            }
        }
    }
    if !feedback.answers.is_empty() {
        text += "\n## Written answers\n\n";
        for answer in &feedback.answers {
            let _ = writeln!(text, "- {}", safe(&answered(answer)));
        }
    }
    if !feedback.noticed.is_empty() {
        text += "\n## Noticed\n\nSomebody may ask about these places. What cost points is said above.\n\n";
        for place in &feedback.noticed {
            let _ = writeln!(text, "- {}", safe(place));
        }
    }
    if let Some(hash) = &feedback.submission {
        let _ = writeln!(text, "\nGraded: files with SHA-256 {}", safe(hash));
    }
    text
}

/// As a page that loads nothing and runs nothing.
pub fn html(feedback: &Feedback) -> String {
    let safe = escape::html;
    let mut body = format!(
        "<h1>{}: {}</h1>\n<p class=\"grade\">{}</p>\n",
        safe(&feedback.title),
        safe(&escape::line(&feedback.name)),
        safe(&grade(feedback))
    );
    let list = |body: &mut String, lines: &[String]| {
        if !lines.is_empty() {
            *body += "<ul>\n";
            for line in lines {
                let _ = writeln!(body, "<li>{}</li>", safe(line));
            }
            *body += "</ul>\n";
        }
    };
    list(&mut body, &feedback.notes);
    if !feedback.compile_errors.is_empty() {
        body += "<h2>The compiler says</h2>\n";
        let errors: Vec<String> = feedback.compile_errors.iter().map(compile_error).collect();
        list(&mut body, &errors);
    }
    for exercise in &feedback.exercises {
        let _ = writeln!(
            body,
            "<h2>{} {}: {} of {}{}</h2>\n<table>",
            safe(&exercise.id),
            safe(&exercise.title),
            points(exercise.points),
            points(exercise.of),
            if exercise.bonus { " (bonus)" } else { "" }
        );
        for (check, is_first) in first_named(&exercise.checks) {
            let lines = details(check, is_first);
            let lines: Vec<String> = lines.iter().map(|line| safe(line)).collect();
            let _ = writeln!(
                body,
                "<tr class=\"{}\"><th scope=\"row\">{}</th><td>{}</td></tr>",
                if check.passed { "passed" } else { "failed" },
                safe(&headline(check)),
                lines.join("<br>")
            );
        }
        body += "</table>\n";
    }
    if !feedback.answers.is_empty() {
        body += "<h2>Written answers</h2>\n";
        let answers: Vec<String> = feedback.answers.iter().map(answered).collect();
        list(&mut body, &answers);
    }
    if !feedback.noticed.is_empty() {
        body += "<h2>Noticed</h2>\n<p>Somebody may ask about these places. What cost points is said above.</p>\n";
        list(&mut body, &feedback.noticed);
    }
    if let Some(hash) = &feedback.submission {
        let _ = writeln!(
            body,
            "<p>Graded: files with SHA-256 <code>{}</code></p>",
            safe(hash)
        );
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        safe(&feedback.title)
    )
}

const STYLE: &str = "\
body { font-family: sans-serif; line-height: 1.5; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
.grade { font-size: 1.3rem; font-weight: bold; }
table { border-collapse: collapse; width: 100%; }
th, td { border-top: 1px solid #bbb; padding: 0.4rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { width: 45%; font-weight: normal; }
.failed th { border-left: 0.3rem solid #b00; }
.passed th { border-left: 0.3rem solid #080; }
";

fn grade(feedback: &Feedback) -> String {
    let mut text = match feedback.total {
        Some(total) => format!("{} of {} points", points(total), points(feedback.of)),
        None => "no grade yet".to_owned(),
    };
    if let Some(late) = &feedback.late {
        let _ = write!(
            text,
            "; {} late, {} free, {} percent of {} taken",
            tito::ui::count(late.days as usize, "day"),
            late.free_days,
            points(late.percent),
            points(feedback.earned)
        );
    }
    text
}

/// One line per check; passed or failed is said in words, not only by colour.
fn headline(check: &Check) -> String {
    let verdict = if check.passed { "passed" } else { "failed" };
    let hidden = if check.hidden { " (hidden)" } else { "" };
    format!(
        "{verdict}: {}{hidden}, {} of {}",
        check.id,
        points(check.points),
        points(check.of)
    )
}

/// The checks of an exercise, each with whether it is the first to name its mistake.
fn first_named(checks: &[Check]) -> impl Iterator<Item = (&Check, bool)> {
    let title = |check: &Check| Some(check.misconception.as_ref()?.title.clone());
    checks.iter().enumerate().map(move |(at, check)| {
        let earlier = checks[..at].iter().any(|one| title(one) == title(check));
        (check, !earlier)
    })
}

fn details(check: &Check, explains: bool) -> Vec<String> {
    if check.passed {
        return Vec::new();
    }
    let mut lines = Vec::new();
    lines.extend(check.what.as_ref().map(|what| format!("tried: {what}")));
    lines.extend(check.message.clone());
    if let Some(mistake) = &check.misconception {
        lines.push(if explains {
            format!(
                "this is the answer of: {}. {}",
                mistake.title, mistake.explanation
            )
        } else {
            format!("this is the answer of: {}, as above", mistake.title)
        });
    }
    lines.push(format!("why it matters: {}", check.why));
    lines.push(format!("look at: {}", check.item));
    lines
}

fn compile_error(error: &CompileError) -> String {
    let code = error
        .code
        .as_deref()
        .map_or(String::new(), |code| format!("[{code}] "));
    let place = match (&error.file, error.line) {
        (Some(file), Some(line)) => format!("{file}:{line}: "),
        (Some(file), None) => format!("{file}: "),
        _ => String::new(),
    };
    format!("{place}{code}{}", error.message)
}

fn answered(answer: &Answer) -> String {
    let given = answer.points.map_or("not marked yet".into(), points);
    format!(
        "{}. {}: {given} of {}. {}",
        answer.number,
        answer.title,
        points(answer.of),
        answer.comment
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Misconception;
    use crate::report::sample;

    fn all() -> Vec<Feedback> {
        let book = sample::book();
        book.rows
            .iter()
            .map(|row| Feedback::of(&book, row, None))
            .collect()
    }

    #[test]
    fn nothing_of_a_hidden_check_is_told() {
        for feedback in all() {
            let json = serde_json::to_string(&feedback).expect("JSON");
            for text in [json, markdown(&feedback), html(&feedback)] {
                assert!(!text.contains(sample::CANARY), "{text}");
            }
        }
    }

    #[test]
    fn a_failure_of_a_hidden_check_is_told_in_our_words_only() {
        let hostile = &all()[2];
        let hidden = hostile.exercises[0]
            .checks
            .iter()
            .find(|check| check.hidden)
            .expect("one");
        assert_eq!(hidden.message.as_deref(), Some("the values are wrong"));
        assert_eq!(hidden.what, None);
        let public = hostile.exercises[0]
            .checks
            .iter()
            .find(|check| !check.hidden && !check.passed)
            .expect("one");
        assert_eq!(public.message.as_deref(), Some(sample::HOSTILE));
    }

    #[test]
    fn a_page_holds_no_markup_of_a_student() {
        for feedback in all() {
            let page = html(&feedback);
            let tags: Vec<&str> = page
                .split('<')
                .skip(1)
                .map(|rest| rest.split(['>', ' ']).next().unwrap_or(""))
                .collect();
            for tag in tags {
                let known = [
                    "!DOCTYPE", "html", "head", "meta", "title", "style", "body", "h1", "h2", "p",
                    "ul", "li", "table", "tr", "th", "td", "br", "code",
                ];
                assert!(known.contains(&tag.trim_start_matches('/')), "<{tag}>");
            }
            assert!(
                !page.contains('\u{1b}') && !page.contains('\u{202e}') && !page.contains('\u{0}')
            );
            // Well formed but for the document type and void tags: read as XML.
            let xml = page
                .replacen("<!DOCTYPE html>\n", "", 1)
                .replace("<br>", "<br/>");
            let xml = xml
                .replace("\"utf-8\">", "\"utf-8\"/>")
                .replace("'unsafe-inline'\">", "'unsafe-inline'\"/>");
            roxmltree::Document::parse(&xml).expect("well formed");
        }
    }

    #[test]
    fn markdown_holds_no_markup_of_a_student() {
        let text = markdown(&all()[2]);
        for raw in ["<script", "](http", "`rm`", "\n::", "\u{1b}", "| `"] {
            assert!(!text.contains(raw), "{raw}: {text}");
        }
        // Only our own headings.
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
        assert_eq!(headings.len(), 6, "{headings:?}");
    }

    /// An explanation of three lines stood below every check of an exercise.
    #[test]
    fn a_mistake_is_explained_once_in_an_exercise_and_named_at_every_check() {
        let mut feedback = all().swap_remove(1);
        feedback.exercises.truncate(1);
        let exercise = &mut feedback.exercises[0];
        let failed = exercise
            .checks
            .iter()
            .find(|check| check.misconception.is_some());
        let mut failed = failed.expect("one").clone();
        failed.misconception = Some(Misconception {
            title: "truncation".into(),
            explanation: "It drifts away.".into(),
        });
        exercise.checks = vec![failed.clone(), failed];
        for text in [markdown(&feedback), html(&feedback)] {
            let count = |what: &str| text.matches(what).count();
            assert_eq!((count("truncation"), count("It drifts")), (2, 1), "{text}");
        }
    }

    #[test]
    fn the_grade_and_its_reasons_are_there() {
        let feedback = all();
        let text = markdown(&feedback[0]);
        assert!(text.contains("105 of 100 points"), "{text}");
        let text = markdown(&feedback[1]);
        // 60 · 3/4 + 40 · 1/3
        assert!(text.contains("58.33 of 100 points"), "{text}");
        assert!(text.contains("truncation &lt;b&gt;"), "{text}");
        let text = markdown(&feedback[3]);
        assert!(text.contains("The archive is not a zip file"), "{text}");
        assert!(markdown(&feedback[5]).contains("no grade yet"));
    }
}
