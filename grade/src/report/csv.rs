//! CSV as spreadsheets and learning platforms read and write it (RFC 4180; a semicolon where a comma is the decimal sign).

use super::escape;

/// A table as read: cells without their quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `,` or `;` or a tab.
    pub separator: char,
    /// Rows of cells; rows may differ in length.
    pub rows: Vec<Vec<String>>,
}

/// Where a text stops being CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoTable {
    /// From 1.
    pub line: usize,
    /// What is wrong there.
    pub what: &'static str,
}

impl std::fmt::Display for NoTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl Table {
    /// Reads a table. A byte-order mark is dropped; the separator is the one that the first line has most of, outside quotes.
    ///
    /// # Errors
    ///
    /// A quote that never ends, or text behind a closing one.
    pub fn parse(text: &str) -> Result<Table, NoTable> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let separator = separator(text);
        let mut rows = Vec::new();
        let mut row = Vec::new();
        let mut letters = text.chars().peekable();
        let mut line = 1;
        while letters.peek().is_some() {
            let mut cell = String::new();
            if letters.next_if_eq(&'"').is_some() {
                let begin = line;
                loop {
                    match letters.next() {
                        Some('"') if letters.next_if_eq(&'"').is_some() => cell.push('"'),
                        Some('"') => break,
                        Some(letter) => {
                            line += usize::from(letter == '\n');
                            cell.push(letter);
                        }
                        None => {
                            return Err(NoTable {
                                line: begin,
                                what: "a quote begins and never ends",
                            });
                        }
                    }
                }
                let is_end = letters
                    .peek()
                    .is_none_or(|next| *next == separator || *next == '\n' || *next == '\r');
                if !is_end {
                    return Err(NoTable {
                        line,
                        what: "text behind a closing quote",
                    });
                }
            } else {
                while let Some(letter) =
                    letters.next_if(|next| *next != separator && *next != '\n' && *next != '\r')
                {
                    cell.push(letter);
                }
            }
            row.push(cell);
            match letters.next() {
                // A separator at the very end is followed by an empty cell.
                Some(letter) if letter == separator => {
                    row.extend(letters.peek().is_none().then(String::new));
                }
                Some('\r') => {
                    let _ = letters.next_if_eq(&'\n');
                    line += 1;
                    rows.push(std::mem::take(&mut row));
                }
                Some(_) => {
                    line += 1;
                    rows.push(std::mem::take(&mut row));
                }
                None => {}
            }
        }
        if !row.is_empty() {
            rows.push(row);
        }
        Ok(Table { separator, rows })
    }
}

fn separator(text: &str) -> char {
    let mut inside = false;
    let mut counts = [(',', 0), (';', 0), ('\t', 0)];
    for letter in text.chars() {
        match letter {
            '"' => inside = !inside,
            '\n' if !inside => break,
            _ if inside => {}
            letter => {
                for (separator, count) in &mut counts {
                    *count += usize::from(*separator == letter);
                }
            }
        }
    }
    // Of equals the first: a comma.
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let found = counts.iter().find(|(_, count)| *count == most);
    found.map_or(',', |(separator, _)| *separator)
}

/// A table being written. Lines end with CR LF, as RFC 4180 says.
#[derive(Clone, Debug)]
pub struct Writer {
    separator: char,
    text: String,
    is_first: bool,
}

impl Writer {
    /// An empty one.
    pub fn new(separator: char) -> Writer {
        Writer {
            separator,
            text: String::new(),
            is_first: true,
        }
    }

    fn put(&mut self, cell: &str) -> &mut Self {
        if !self.is_first {
            self.text.push(self.separator);
        }
        self.is_first = false;
        self.text += cell;
        self
    }

    /// A cell of foreign text, made harmless.
    pub fn text(&mut self, cell: &str) -> &mut Self {
        self.put(&escape::csv(cell))
    }

    /// A cell that must come back as it was given.
    pub fn verbatim(&mut self, cell: &str) -> &mut Self {
        self.put(&escape::quoted(cell))
    }

    /// A number of ours.
    pub fn number(&mut self, number: f64) -> &mut Self {
        self.put(&super::points(number))
    }

    /// Ends the row.
    pub fn end(&mut self) {
        self.text += "\r\n";
        self.is_first = true;
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_line_breaks_and_empty_cells_are_read() {
        let table = Table::parse("\u{feff}a,\"b, \"\"c\"\"\nd\",\r\n,,\r\nx").expect("a table");
        assert_eq!(
            table.rows,
            [vec!["a", "b, \"c\"\nd", ""], vec!["", "", ""], vec!["x"]]
        );
        let table = Table::parse("\"a,b\";c\n1;2").expect("a table");
        assert_eq!((table.separator, table.rows[0].len()), (';', 2));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let cells = ["plain", "a,b", "say \"no\"", "two\nlines", "", " blank "];
        let mut writer = Writer::new(',');
        for cell in cells {
            writer.verbatim(cell);
        }
        writer.end();
        let table = Table::parse(&writer.finish()).expect("a table");
        assert_eq!(table.rows, [cells]);
    }

    #[test]
    fn broken_quotes_are_named_by_line() {
        let error = Table::parse("a,b\nc,\"d\n").expect_err("never ends");
        assert_eq!(error.line, 2);
        let error = Table::parse("a\n\"b\"c").expect_err("text behind");
        assert_eq!((error.line, error.what), (2, "text behind a closing quote"));
    }
}
