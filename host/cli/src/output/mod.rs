//! What is printed, and how.

mod table;
mod units;
mod yaml;

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

pub(crate) use table::{Table, printable};
pub(crate) use units::{bytes, minute, time};
pub(crate) use yaml::{from_yaml, to_yaml};

use crate::error::{Error, Result};

/// How a list is printed: as columns with or without lines, as comma-separated values without a header, or as the objects.
/// (The values have no explanations of their own, because `clap` spreads help over pages for them.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Compact,
    Csv,
    Json,
    Yaml,
}

/// The flag that lists have.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FormatArg {
    /// How to print the list
    #[arg(short, long, value_enum, default_value = "table", hide_default_value = true)]
    pub(crate) format: Format,
}

/// Writes to standard output. A reader that went away ends the program, as it would end a filter.
pub(crate) fn write_out(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|source| Error::io("cannot write to standard output", source)),
    }
}

/// Prints a line.
pub(crate) fn print_line(text: &str) -> Result<()> {
    write_out(format!("{text}\n").as_bytes())
}

/// Prints an object as YAML.
pub(crate) fn print_yaml<T: Serialize>(value: &T) -> Result<()> {
    write_out(to_yaml(value)?.as_bytes())
}

/// Prints an object as JSON.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|source| Error::Json {
        what: "the list".into(),
        source,
    })?;
    write_out(format!("{}\n", without_controls(&text)).as_bytes())
}

/// The same JSON with those control characters escaped that JSON leaves as they are (RFC 8259, 7) and a terminal may obey: DEL and C1
/// (ECMA-48). They can only be in its strings.
fn without_controls(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match u32::from(c) {
            code @ 0x7f..=0x9f => text.push_str(&format!("\\u{code:04x}")),
            _ => text.push(c),
        }
    }
    text
}

/// Prints a list: the table that `rows` makes of it, or the objects themselves.
pub(crate) fn print_list<T: Serialize>(format: Format, values: &[T], rows: impl FnOnce(&[T]) -> Table) -> Result<()> {
    match format {
        Format::Json => print_json(&values),
        Format::Yaml => print_yaml(&values),
        Format::Table => write_out(rows(values).bordered().as_bytes()),
        Format::Compact => write_out(rows(values).compact().as_bytes()),
        Format::Csv => write_out(rows(values).csv().as_bytes()),
    }
}

/// `YES` or `NO`.
pub(crate) fn yes_no(yes: bool) -> String {
    if yes { "YES" } else { "NO" }.into()
}

/// How many objects use something, from its `used_by`.
pub(crate) fn used_by(paths: &[String]) -> String {
    paths.len().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_nothing_that_a_terminal_obeys() {
        let text = "a\u{1b}\u{7f}\u{9b}ä";
        let json = without_controls(&serde_json::to_string(text).unwrap());
        assert_eq!(json, r#""a\u001b\u007f\u009bä""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
