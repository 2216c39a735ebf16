//! A plain text table: aligned, without colours, good to read in a terminal,
//! a file and a screen reader.

/// Rows of cells under a header. The first column is aligned left, the others
/// right, as numbers are.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with its header.
    #[must_use]
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self {
            rows: vec![header.into_iter().map(Into::into).collect()],
        }
    }

    /// Adds a row; missing cells at its end stay empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let gap = " ".repeat(width - cell.chars().count());
                if column == 0 {
                    line += &format!("{cell}{gap}");
                } else {
                    line += &format!("  {gap}{cell}");
                }
            }
            writeln!(f, "{}", line.trim_end())?;
            if index == 0 {
                let total: usize = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
                writeln!(f, "{}", "-".repeat(total))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_line_up_at_the_right() {
        let mut table = Table::new(["what", "f32", "INT8"]);
        table.row(["bytes", "400", "101"]).row(["µs", "9", "4"]);
        assert_eq!(
            table.to_string(),
            "what   f32  INT8\n----------------\nbytes  400   101\nµs       9     4\n"
        );
    }

    #[test]
    fn an_empty_table_prints_nothing_much() {
        assert_eq!(Table::default().to_string(), "");
    }
}
