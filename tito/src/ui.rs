//! Words on the terminal: colours only where a terminal shows them, and no panic when a pipe closes early.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

/// Headings and what the eye should find first.
pub const STRONG: Style = Style::new().bold();
/// Good news.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What waits for the student.
pub const OPEN: Style = AnsiColor::Yellow.on_default();
/// Paths and commands.
pub const CODE: Style = AnsiColor::Cyan.on_default();
/// Less important.
pub const FAINT: Style = Style::new().dimmed();

/// `text` in `style`.
pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The command as the reader called it, for every piece of advice: `cargo` sets `CARGO` for what it runs.
pub fn tito() -> &'static str {
    if std::env::var_os("CARGO").is_some() {
        "cargo tito"
    } else {
        "tito"
    }
}

/// A command to type, painted: `advice("test 15")` is `cargo tito test 15`.
pub fn advice(arguments: &str) -> String {
    paint(CODE, format!("{} {arguments}", tito()))
}

/// True if standard output shows colours.
pub fn is_colored() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Prints one or more lines to standard output.
pub fn say(text: impl AsRef<str>) {
    let mut out = anstream::stdout().lock();
    finish(writeln!(out, "{}", text.as_ref()));
}

/// Prints to standard error what a program meanwhile does; nothing of it is a result.
pub fn note(text: impl AsRef<str>) {
    let mut err = anstream::stderr().lock();
    let _ = writeln!(err, "{}", text.as_ref());
}

/// Prints an error and the advice that goes with it to standard error.
pub fn complain(message: &str, help: Option<&str>) {
    note(format!("{} {message}", paint(BAD, "error:")));
    if let Some(help) = help {
        for line in help.lines() {
            note(format!("  {line}"));
        }
    }
}

/// Prints a JSON document: one value, pretty, on standard output, never coloured, whatever texts were painted on their way.
pub fn print_json(value: &serde_json::Value) {
    let mut out = io::stdout().lock();
    finish(writeln!(out, "{:#}", plain(value)));
}

/// The same document without terminal escapes.
fn plain(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => anstream::adapter::strip_str(text).to_string().into(),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect(),
        other => other.clone(),
    }
}

/// A closed pipe (`tito list | head -1`) is not an error of ours: nobody reads on, so stop.
fn finish(written: io::Result<()>) {
    if let Err(error) = written {
        let code = match error.kind() {
            io::ErrorKind::BrokenPipe => 0,
            _ => 3,
        };
        std::process::exit(code);
    }
}

/// `1 check`, `2 checks`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

/// Folds a text to `width` columns, each line indented by `indent` spaces. Line breaks of the text start new lines.
pub fn fold(text: &str, indent: usize, width: usize) -> String {
    let room = width.saturating_sub(indent).max(20);
    let margin = " ".repeat(indent);
    let mut lines = Vec::new();
    for paragraph in text.trim().lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                lines.push(format!("{margin}{line}"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(format!("{margin}{line}").trim_end().to_owned());
    }
    lines.join("\n")
}

/// The difference between two versions of a file, as a coloured unified diff.
pub fn diff(path: &str, old: &str, new: &str) -> String {
    let diff = similar::TextDiff::from_lines(old, new);
    let text = diff
        .unified_diff()
        .context_radius(2)
        .header(&format!("a/{path}"), &format!("b/{path}"))
        .to_string();
    let lines = text.lines().map(|line| match line.as_bytes().first() {
        Some(b'+') => paint(GOOD, line),
        Some(b'-') => paint(AnsiColor::Red.on_default(), line),
        Some(b'@') => paint(FAINT, line),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_folded_at_words() {
        assert_eq!(
            fold("one two three four five six", 2, 22),
            "  one two three four\n  five six"
        );
    }

    #[test]
    fn a_document_has_no_escapes_however_deep() {
        let painted = serde_json::json!({ "a": [1, { "b": advice("test 15") }, null] });
        let text = plain(&painted).to_string();
        assert!(
            text.contains("tito test 15") && !text.contains("\\u001b"),
            "{text}"
        );
    }

    #[test]
    fn a_word_longer_than_the_line_is_kept_whole() {
        assert_eq!(
            fold("a aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa b", 0, 20),
            "a\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nb"
        );
    }
}
