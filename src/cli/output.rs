//! How results reach the terminal: tables for people, JSON for programs.

use std::fmt::Display;
use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::args::OutputFormat;
use super::error::CliError;

/// Writes a text and a line end.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.trim_end_matches('\n').as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .map_err(CliError::Output)
}

/// Writes a result in the form that was asked for.
pub fn print_as<T: Serialize>(
    format: OutputFormat,
    result: &T,
    as_text: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    match format {
        OutputFormat::Table => print(&as_text(result)),
        OutputFormat::Json => print(&json(result)),
    }
}

/// Several lines of JSON.
pub fn json<T: Serialize>(result: &T) -> String {
    serde_json::to_string_pretty(result).expect("results have text keys and finite numbers")
}

/// One line of JSON.
pub fn json_line<T: Serialize>(result: &T) -> String {
    serde_json::to_string(result).expect("results have text keys and finite numbers")
}

/// Column of a table: its heading, and whether it holds numbers.
pub enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// A table without lines, columns two blanks apart.
pub fn table<R: IntoIterator<Item = Vec<String>>>(columns: &[Column], rows: R) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(columns.iter().map(|column| match column {
        Column::Text(name) | Column::Number(name) => *name,
    }));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in columns.iter().enumerate() {
        if let Some(place) = table.column_mut(index) {
            place.set_padding((0, 2));
            if matches!(column, Column::Number(_)) {
                place.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// As [`table`], with `nothing` in the place of one that has no rows.
pub fn table_or<T>(
    nothing: &str,
    columns: &[Column],
    items: &[T],
    row: impl Fn(&T) -> Vec<String>,
) -> String {
    if items.is_empty() { nothing.to_owned() } else { table(columns, items.iter().map(row)) }
}

/// `heading: value` lines, aligned.
pub fn facts<V: Display>(facts: &[(&str, V)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// Whether nobody reads our output any more: `telstar consume … | head` must end though no message comes.
pub fn is_output_gone() -> bool {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut watched, Some(&now)).is_ok() && watched[0].revents().contains(PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_bare() {
        let rows = [vec!["a".to_owned(), "7".to_owned()], vec!["long".to_owned(), "1234".to_owned()]];
        let text = table(&[Column::Text("NAME"), Column::Number("LAG")], rows);
        assert_eq!(text, "NAME   LAG\na        7\nlong  1234\n");
        assert_eq!(facts(&[("a", 1), ("bcd", 22)]), "a    1\nbcd  22\n");
    }
}
