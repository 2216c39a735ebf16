//! Text that began in a submission, made fit to be stored and shown: no control characters, no tricks with directions, bounded length.

/// Longest text of a submission that is kept; of a longer one its head and its tail.
pub const KEPT_CHARACTERS: usize = 4_000;

/// One kind of line break, no control characters (terminal escapes), no invisible or direction-changing characters, at most
/// [`KEPT_CHARACTERS`]. What is removed leaves a mark.
pub fn text(raw: &str) -> String {
    let visible: String = raw.replace("\r\n", "\n").chars().map(visible).collect();
    shorten(&visible, KEPT_CHARACTERS)
}

/// The same for a whole document: a hundred times as long.
pub fn long(raw: &str) -> String {
    let visible: String = raw.replace("\r\n", "\n").chars().map(visible).collect();
    shorten(&visible, 100 * KEPT_CHARACTERS)
}

/// The same on one line, at most `most` characters.
pub fn line(raw: &str, most: usize) -> String {
    let flat = raw.split_whitespace().collect::<Vec<_>>().join(" ");
    let visible: String = flat.chars().map(visible).collect();
    shorten(&visible, most)
}

/// Bytes that should be text.
pub fn bytes(raw: &[u8]) -> String {
    text(&String::from_utf8_lossy(raw))
}

fn visible(letter: char) -> char {
    match letter {
        '\n' | '\t' => letter,
        // Overrides and isolates of direction, zero-width characters, the byte-order mark, separators of lines and paragraphs.
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => '\u{fffd}',
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    }
}

/// Head and tail of a text that is too long.
fn shorten(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let half = most / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(length - half).collect();
    format!(
        "{head} [... {} characters cut ...] {tail}",
        length - 2 * half
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_directions_are_made_visible() {
        assert_eq!(text("a\u{1b}[31mb\r\nc\rd"), "a\u{fffd}[31mb\nc\u{fffd}d");
        assert_eq!(text("x\u{202e}y\u{200b}z"), "x\u{fffd}y\u{fffd}z");
        assert_eq!(bytes(b"\xff\x00ok"), "\u{fffd}\u{fffd}ok");
    }

    #[test]
    fn a_flood_keeps_its_head_and_its_tail() {
        let flood = format!("begin{}end", "ä".repeat(100_000));
        let kept = text(&flood);
        assert!(kept.starts_with("begin") && kept.ends_with("end"));
        assert!(kept.chars().count() < KEPT_CHARACTERS + 60);
    }

    #[test]
    fn a_name_is_one_line() {
        assert_eq!(line("Doe,\n  Jane\t", 40), "Doe, Jane");
    }
}
