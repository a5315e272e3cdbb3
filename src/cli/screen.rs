//! What is printed: tables, colours where a terminal shows them, and nothing that would move its
//! cursor. Texts of users and brokers are not to be trusted with that.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

/// The longest cell; a reason may be long.
const CELL_CHARS_MAX: usize = 100;

/// How a cell looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Uneasy,
    Bad,
    Faint,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Uneasy => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Faint => "\x1b[2m",
        }
    }
}

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: printable(&text.into(), CELL_CHARS_MAX),
            ..Self::default()
        }
    }

    /// A number.
    pub(super) fn right(text: impl Into<String>) -> Self {
        Self {
            right: true,
            ..Self::new(text)
        }
    }

    pub(super) fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

/// Whether colours are wanted: on a terminal, unless NO_COLOR says otherwise (no-color.org).
pub(super) fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_terminal() && !refused
}

pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Columns that are as wide as they must be, two spaces between them.
pub(super) fn table(head: &[&str], rows: &[Vec<Cell>], colours: bool) -> String {
    let mut widths: Vec<usize> = head.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let rights = rows.first();
    let head: Vec<Cell> = head
        .iter()
        .enumerate()
        .map(|(at, name)| Cell {
            text: (*name).to_owned(),
            tone: Tone::Faint,
            right: rights
                .and_then(|row| row.get(at))
                .is_some_and(|cell| cell.right),
        })
        .collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        line(&mut text, row, &widths, colours);
    }
    text
}

fn line(text: &mut String, row: &[Cell], widths: &[usize], colours: bool) {
    let mut line = String::new();
    for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
        let space = " ".repeat(width.saturating_sub(cell.text.chars().count()));
        let gap = if at == 0 { "" } else { "  " };
        let painted = paint(&cell.text, cell.tone, colours);
        // Writing to a string cannot fail.
        let _ = if cell.right {
            write!(line, "{gap}{space}{painted}")
        } else {
            write!(line, "{gap}{painted}{space}")
        };
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

pub(super) fn paint(text: &str, tone: Tone, colours: bool) -> String {
    if colours && tone != Tone::Plain {
        format!("{}{text}\x1b[0m", tone.code())
    } else {
        text.to_owned()
    }
}

/// One line without anything that a terminal would obey.
pub(super) fn printable(text: &str, chars_max: usize) -> String {
    let mut shown: String = text
        .chars()
        .map(|char| if char.is_control() { '?' } else { char })
        .take(chars_max)
        .collect();
    if text.chars().nth(chars_max).is_some() {
        shown.push('…');
    }
    shown
}

/// Prints, and does not mind a reader that has gone, as `head` does; whether one is still there.
pub(super) fn print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_colours_do_not_count() {
        let rows = [
            vec![Cell::new("a").tone(Tone::Good), Cell::right("1.00")],
            vec![Cell::new("long name"), Cell::right("100.00")],
        ];
        let plain = table(&["NAME", "SUM"], &rows, false);
        assert_eq!(
            plain,
            "NAME          SUM\na            1.00\nlong name  100.00\n"
        );
        let coloured = table(&["NAME", "SUM"], &rows, true);
        assert!(
            coloured.contains("\x1b[32ma\x1b[0m            1.00"),
            "{coloured:?}"
        );
    }

    #[test]
    fn nobody_elses_text_moves_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\nc", 100), "a?[2Jb?c");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
