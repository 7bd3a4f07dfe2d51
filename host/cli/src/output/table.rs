//! Tables, for people and for scripts.

use comfy_table::{ContentLineStyle, LineStyle, TableStyle};

/// Lines around every cell, as people know it from `lxc list`.
const BORDERED: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('+', '-', '+', '+'))
    .header_lines(ContentLineStyle::new('|', '|', '|'))
    .header_separator(LineStyle::new('+', '-', '+', '+'))
    .content_lines(ContentLineStyle::new('|', '|', '|'))
    .row_separator(LineStyle::new('+', '-', '+', '+'))
    .bottom_border(LineStyle::new('+', '-', '+', '+'));

/// No lines at all.
const BARE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none())
    .content_lines(ContentLineStyle::none());

/// Rows under a header. A cell may have several lines.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self {
            header: header.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// With lines around every cell.
    pub(crate) fn bordered(&self) -> String {
        self.render(BORDERED)
    }

    /// With blanks between the columns.
    pub(crate) fn compact(&self) -> String {
        self.render(BARE)
    }

    fn render(&self, style: TableStyle) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_style(style)
            .set_header(self.header.iter().map(|cell| printable(cell, &['\n'])));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| printable(cell, &['\n'])));
        }
        let lines: Vec<_> = table.lines().collect();
        // The line under the header and the one at the bottom are the same where there is nothing between them.
        let twice = self.rows.is_empty() && lines.len() > 1 && lines.last() == lines.iter().rev().nth(1);
        let mut text = String::new();
        for line in &lines[..lines.len() - usize::from(twice)] {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// As RFC 4180, without the header.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            for (at, cell) in row.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                let cell = printable(cell, &['\n', '\t']);
                if cell.contains(['"', ',', '\n']) {
                    text.push('"');
                    text.push_str(&cell.replace('"', "\"\""));
                    text.push('"');
                } else {
                    text.push_str(&cell);
                }
            }
            text.push('\n');
        }
        text
    }
}

/// A cell without control characters but for those that are `kept`: a name or description is the daemon's word, or an image server's, and
/// must not steer the terminal.
pub(crate) fn printable(cell: &str, kept: &[char]) -> String {
    cell.chars()
        .map(|c| {
            if c.is_control() && !kept.contains(&c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["NAME", "IPV4"]);
        table.row(vec!["c1".into(), "10.0.0.2 (eth0)\n10.1.0.2 (eth1)".into()]);
        table.row(vec!["ö,\"x".into(), String::new()]);
        table
    }

    #[test]
    fn bordered_tables_have_lines_around_cells() {
        let expected = "\
+------+-----------------+
| NAME | IPV4            |
+------+-----------------+
| c1   | 10.0.0.2 (eth0) |
|      | 10.1.0.2 (eth1) |
+------+-----------------+
| ö,\"x |                 |
+------+-----------------+
";
        assert_eq!(table().bordered(), expected);
    }

    #[test]
    fn compact_tables_have_blanks() {
        assert_eq!(
            table().compact(),
            " NAME  IPV4\n c1    10.0.0.2 (eth0)\n       10.1.0.2 (eth1)\n ö,\"x\n"
        );
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(table().csv(), "c1,\"10.0.0.2 (eth0)\n10.1.0.2 (eth1)\"\n\"ö,\"\"x\",\n");
    }

    #[test]
    fn a_cell_can_not_steer_the_terminal() {
        let mut table = Table::new(["D"]);
        table.row(vec!["\u{1b}[31mred".into()]);
        assert!(!table.bordered().contains('\u{1b}'));
        assert!(!table.csv().contains('\u{1b}'));
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(Table::new(["NAME"]).bordered(), "+------+\n| NAME |\n+------+\n");
    }
}
