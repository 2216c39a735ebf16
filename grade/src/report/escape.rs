//! Foreign text in a file that something will interpret: a browser, a spreadsheet, a Markdown viewer, an XML parser, a runner's log.
//!
//! Names and messages began with students. Everything here first goes through [`crate::clean`].

use crate::clean;

/// A name or message on one line, cleaned: what every format starts from.
pub fn line(raw: &str) -> String {
    clean::line(raw, 400)
}

/// For HTML text and for attributes in double or single quotes.
pub fn html(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    for letter in clean::text(raw).chars() {
        match letter {
            '&' => text += "&amp;",
            '<' => text += "&lt;",
            '>' => text += "&gt;",
            '"' => text += "&quot;",
            '\'' => text += "&#39;",
            // No characters, though they have numbers: forbidden in XML (section 2.2).
            '\u{fffe}' | '\u{ffff}' => text.push('\u{fffd}'),
            letter => text.push(letter),
        }
    }
    text
}

/// For a line of Markdown: nothing in it is a heading, a list, a link, an image, HTML, code or a table cell. What means nothing where it stands is left as
/// it is, so that the file can be read without a viewer too.
pub fn markdown(raw: &str) -> String {
    let line = line(raw);
    let mut text = String::with_capacity(line.len());
    for (at, letter) in line.char_indices() {
        let (before, after) = (&line[..at], &line[at + letter.len_utf8()..]);
        let is_number = || {
            let ends = after.is_empty() || after.starts_with(' ');
            ends && !before.is_empty() && before.bytes().all(|byte| byte.is_ascii_digit())
        };
        // CommonMark, section 2.4: a backslash before punctuation makes it literal.
        let is_active = match letter {
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' | '@' => true,
            // A list, a rule, the line under a heading.
            '+' | '-' | '=' => before.is_empty(),
            // A numbered list; an address that some viewers make a link of.
            '.' => is_number() || before.to_ascii_lowercase().ends_with("www"),
            ')' => is_number(),
            // The second half of a link.
            '(' => before.ends_with(']'),
            ':' => after.starts_with("//"),
            _ => false,
        };
        match letter {
            '&' => text += "&amp;",
            '<' => text += "&lt;",
            '>' => text += "&gt;",
            letter => {
                if is_active {
                    text.push('\\');
                }
                text.push(letter);
            }
        }
    }
    text
}

/// For XML 1.0 text and attributes: as for HTML, whose escapes are XML's as well.
pub fn xml(raw: &str) -> String {
    html(raw)
}

/// A cell of a CSV file (RFC 4180), harmless in a spreadsheet: a text that begins like a formula gets an apostrophe in front.
pub fn csv(raw: &str) -> String {
    let text = clean::text(raw);
    let is_formula = text.trim_start().starts_with([
        '=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
    ]);
    let is_formula = is_formula || text.starts_with(['\t', '\n']);
    let text = if is_formula { format!("'{text}") } else { text };
    quoted(&text)
}

/// A cell as it is, in quotes where RFC 4180 wants them.
pub fn quoted(text: &str) -> String {
    if text.contains([',', ';', '"', '\n', '\r', '\t', '\'']) || text != text.trim() {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A line that a GitHub runner may print: no workflow command (`::set-output ...`) can begin in it.
pub fn github(raw: &str) -> String {
    let mut text = line(raw).replace("##[", "# #[");
    while text.contains("::") {
        text = text.replace("::", ": :");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_sees_text_only() {
        assert_eq!(
            html("<script>\"a\" & 'b'</script>"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;"
        );
    }

    #[test]
    fn markdown_is_shown_as_it_was_typed() {
        assert_eq!(
            markdown("![x](http://a)\n# b"),
            "!\\[x\\]\\(http\\://a) \\# b"
        );
        for (raw, shown) in [
            ("- a", "\\- a"),
            ("=", "\\="),
            ("1. a", "1\\. a"),
            ("12) a", "12\\) a"),
            ("WWW.a.example", "WWW\\.a.example"),
            // These mean nothing where they stand.
            (
                "15.3/ties-to-even: 58.33 of 100 (bonus)!",
                "15.3/ties-to-even: 58.33 of 100 (bonus)!",
            ),
        ] {
            assert_eq!(markdown(raw), shown);
        }
        assert_eq!(markdown("a|b `c` <i>"), "a\\|b \\`c\\` &lt;i&gt;");
    }

    #[test]
    fn a_spreadsheet_computes_nothing() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\u{ff1d}1"] {
            assert!(
                csv(formula).trim_matches('"').starts_with('\''),
                "{formula}"
            );
        }
        assert_eq!(csv("Doe, \"Jane\""), "\"Doe, \"\"Jane\"\"\"");
        assert_eq!(csv("plain"), "plain");
    }

    #[test]
    fn no_workflow_command_begins() {
        assert_eq!(
            github("\n::set-output name=x::1"),
            ": :set-output name=x: :1"
        );
        assert!(!github("::::error::").contains("::"));
    }
}
