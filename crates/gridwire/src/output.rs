//! What the program says: answers on standard output, remarks for a person on standard error.
//!
//! Answers are tables or JSON; a program reading them never meets a remark or a colour. Colours appear only
//! where a person looks (a terminal, `NO_COLOR` unset).

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value;

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for a person.
    #[default]
    Table,
    /// One JSON value for a program.
    Json,
}

/// Where and how answers are written. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    colour: bool,
}

#[expect(
    clippy::unused_self,
    reason = "whoever may write holds an `Output`, whether the form matters or not"
)]
impl Output {
    /// For this process: colours when standard output is a terminal and `no_colour` is false.
    pub(crate) fn new(format: Format, no_colour: bool) -> Self {
        Self { format, colour: !no_colour && io::stdout().is_terminal() }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// One line on standard output.
    pub(crate) fn line(self, text: impl Display) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    /// A value as indented JSON on standard output.
    pub(crate) fn json(self, value: &Value) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{value:#}")
    }

    /// A value on one line, for streams of values.
    pub(crate) fn json_line(self, value: &Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{value}")?;
        out.flush()
    }

    /// Rows under headings: aligned columns, or with JSON an array of objects with the headings as keys.
    pub(crate) fn table(self, headings: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self.format {
            Format::Json => writeln!(out, "{:#}", rows_as_json(headings, rows)),
            Format::Table => out.write_all(self.aligned(headings, rows).as_bytes()),
        }
    }

    /// A remark for a person, on standard error: never part of an answer.
    pub(crate) fn remark(self, text: impl Display) {
        // Nobody can be told that standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    pub(crate) fn green(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    pub(crate) fn red(self, text: impl Display) -> String {
        self.paint("31", text)
    }

    pub(crate) fn yellow(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    fn aligned(self, headings: &[&str], rows: &[Vec<String>]) -> String {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        let widths: Vec<usize> = headings
            .iter()
            .enumerate()
            .map(|(column, heading)| {
                let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
                cells.chain([heading.len()]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (cell, width) in cells.zip(&widths) {
                line = format!("{line}{cell:<width$}  ");
            }
            line.trim_end().to_owned()
        };
        let mut text = self.bold(line(&mut headings.iter().copied()));
        text.push('\n');
        for row in &rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
            text.push('\n');
        }
        text
    }
}

fn rows_as_json(headings: &[&str], rows: &[Vec<String>]) -> Value {
    let object = |row: &Vec<String>| {
        let members =
            headings.iter().zip(row).map(|(key, cell)| ((*key).to_owned(), Value::from(cell.as_str())));
        Value::Object(members.collect())
    };
    Value::Array(rows.iter().map(object).collect())
}

/// This program as the user called it, for lines to copy.
pub(crate) fn program() -> String {
    let called =
        std::env::args().next().filter(|name| !name.is_empty() && !name.contains(char::is_whitespace));
    called.unwrap_or_else(|| "gridwire".to_owned())
}

/// `text` with its control characters escaped: what an event carries must not drive a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Output = Output { format: Format::Table, colour: false };

    fn rows() -> Vec<Vec<String>> {
        vec![vec!["orders".into(), "2".into()], vec!["a".into(), "long value".into()]]
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(PLAIN.aligned(&["name", "n"], &rows()), "name    n\norders  2\na       long value\n");
    }

    #[test]
    fn colours_appear_only_where_they_are_wanted() {
        assert_eq!(PLAIN.red("no"), "no");
        assert_eq!(Output { colour: true, ..PLAIN }.red("no"), "\x1b[31mno\x1b[0m");
    }

    #[test]
    fn json_rows_are_objects() {
        let value = rows_as_json(&["name", "n"], &rows());
        assert_eq!(value[1]["n"], "long value");
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(printable("a\x1b[31m\nb"), "a\\u{1b}[31m\\nb");
        assert!(!PLAIN.aligned(&["x"], &[vec!["\x07".into()]]).contains('\x07'));
    }
}
