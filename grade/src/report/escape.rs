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

/// For a line of Markdown: nothing in it is a heading, a link, an image, HTML, code or a table cell.
pub fn markdown(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    for letter in line(raw).chars() {
        match letter {
            '&' => text += "&amp;",
            '<' => text += "&lt;",
            '>' => text += "&gt;",
            // CommonMark, section 2.4: a backslash before any of these makes it literal.
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '+' | '-' | '.'
            | '!' | '|' | '~' | ':' | '@' => {
                text.push('\\');
                text.push(letter);
            }
            letter => text.push(letter),
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
            "\\!\\[x\\]\\(http\\://a\\) \\# b"
        );
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
