//! What is printed: tables that fit the terminal, styles where it shows them, and nothing that would
//! move its cursor. Texts of users and brokers are not trusted with that.
//!
//! Styles are always written; [`print_styled`] strips them where they are not wanted: if standard output
//! is no terminal, or if `NO_COLOR` or `TERM` forbids them.

use std::io::{self, IsTerminal, Write};

use anstream::AutoStream;
use anstyle::AnsiColor;
use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, Table, Width,
};

/// The longest cell, in characters.
const CELL_CHARS_MAX: usize = 100;

/// Spaces between two columns.
const GAP: u16 = 2;

/// Moves to the top left corner, and erases the screen and what was scrolled off it.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// The style of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Success,
    Warning,
    Error,
    Dim,
}

/// A column, and what becomes of it in a terminal that is too narrow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    name: &'static str,
    alignment: CellAlignment,
    /// The width down to which its cells may be cut. `None`: they are shown whole, since a part would say
    /// something else, as with numbers.
    cut_to: Option<u16>,
    /// The column with the highest value is hidden first; one with 0 never is.
    hide_order: u8,
}

impl Column {
    /// A column of texts.
    pub(super) const fn text(name: &'static str) -> Self {
        Self {
            name,
            alignment: CellAlignment::Left,
            cut_to: None,
            hide_order: 0,
        }
    }

    /// A column of numbers.
    pub(super) const fn number(name: &'static str) -> Self {
        Self {
            alignment: CellAlignment::Right,
            ..Self::text(name)
        }
    }

    /// Its cells may be cut, down to `width`.
    pub(super) const fn cut_to(self, width: u16) -> Self {
        Self {
            cut_to: Some(width),
            ..self
        }
    }

    /// It may be hidden, after those with a higher value.
    pub(super) const fn hide(self, hide_order: u8) -> Self {
        Self { hide_order, ..self }
    }
}

/// A cell of a table.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(printable(text.as_ref(), CELL_CHARS_MAX))
}

/// A cell of a table, in a style.
pub(super) fn styled_cell(text: impl AsRef<str>, style: Style) -> Cell {
    let cell = cell(text);
    match style {
        Style::Plain => cell,
        Style::Success => cell.fg(Color::DarkGreen),
        Style::Warning => cell.fg(Color::DarkYellow),
        Style::Error => cell.fg(Color::DarkRed),
        Style::Dim => cell.add_attribute(Attribute::Dim),
    }
}

/// A text in a style, for [`print_styled`].
pub(super) fn paint(text: &str, style: Style) -> String {
    let style = match style {
        Style::Plain => anstyle::Style::new(),
        Style::Success => AnsiColor::Green.on_default(),
        Style::Warning => AnsiColor::Yellow.on_default(),
        Style::Error => AnsiColor::Red.on_default(),
        Style::Dim => anstyle::Style::new().dimmed(),
    };
    format!("{style}{text}{style:#}")
}

/// A table for [`print_styled`], one line per row. On a terminal no line is wider than the terminal: columns
/// are hidden and cells are cut. Elsewhere nothing is left out.
pub(super) fn table(columns: &[Column], rows: Vec<Vec<Cell>>) -> String {
    // A terminal without a size reports 0.
    let width = Table::new().width().filter(|width| *width > 0);
    table_of_width(columns, rows, width)
}

fn table_of_width(columns: &[Column], rows: Vec<Vec<Cell>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).enforce_styling();
    table.style_text_only();
    // No cell has this character: cells are cut at the edge of the column, not before a word.
    table.set_delimiter('\0');
    let header = columns
        .iter()
        .map(|column| styled_cell(column.name, Style::Dim));
    table.set_header(single_line(header.collect()));
    table.add_rows(rows.into_iter().map(single_line));
    for (shown, column) in table.column_iter_mut().zip(columns) {
        shown.set_padding((0, GAP));
        shown.set_cell_alignment(column.alignment);
    }
    if let Some(width) = width {
        fit(&mut table, columns, width);
    }
    table.trim_fmt() + "\n"
}

fn single_line(cells: Vec<Cell>) -> Row {
    let mut row = Row::from(cells);
    row.max_height(1);
    row
}

/// Hides columns until the others fit, and lets those that may be cut share what is left.
fn fit(table: &mut Table, columns: &[Column], width: u16) {
    table
        .set_width(width)
        .set_content_arrangement(ContentArrangement::Dynamic);
    let widths_min: Vec<u16> = columns
        .iter()
        .zip(table.column_max_content_widths())
        .map(|(column, content)| column.cut_to.map_or(content, |cut_to| content.min(cut_to)))
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let fits = loop {
        let texts: u16 = shown.iter().filter_map(|at| widths_min.get(*at)).sum();
        let gaps: u16 = shown.iter().skip(1).map(|_| GAP).sum();
        if texts + gaps <= width {
            break true;
        }
        let hide_order = |at: &usize| columns.get(*at).map_or(0, |column| column.hide_order);
        match shown.iter().copied().max_by_key(hide_order) {
            Some(at) if hide_order(&at) > 0 => shown.retain(|other| *other != at),
            // All that is left may be cut.
            _ => break false,
        }
    };
    let last = shown.last().copied();
    for (at, (column, width_min)) in table.column_iter_mut().zip(widths_min).enumerate() {
        let padding = if Some(at) == last { 0 } else { GAP };
        column.set_padding((0, padding));
        if !shown.contains(&at) {
            column.set_constraint(ColumnConstraint::Hidden);
        } else if fits {
            // Boundaries count the padding.
            let width = Width::Fixed(width_min + padding);
            column.set_constraint(ColumnConstraint::LowerBoundary(width));
        }
    }
}

/// One line without anything that a terminal would obey, of at most `chars_max` characters and an ellipsis.
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

/// Prints data as it is, and returns whether anybody still reads: a reader that has gone, as `head` does,
/// is no error.
pub(super) fn print(text: &str) -> bool {
    write(io::stdout().lock(), text)
}

/// Prints a text that may have styles; otherwise the same as [`print`].
pub(super) fn print_styled(text: &str) -> bool {
    write(AutoStream::auto(io::stdout().lock()), text)
}

/// The same as [`print_styled`]; on a terminal it replaces what is shown.
pub(super) fn replace_styled(text: &str) -> bool {
    if io::stdout().is_terminal() {
        // Not through the stream that strips styles: it would strip this too.
        print(CLEAR);
    }
    print_styled(text)
}

fn write(mut out: impl Write, text: &str) -> bool {
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;
    use unicode_width::UnicodeWidthStr;

    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::text("NAME").cut_to(8),
        Column::number("SUM"),
        Column::text("STATE").hide(1),
        Column::text("REASON").cut_to(8),
    ];

    fn row(name: &str, sum: &str, reason: &str) -> Vec<Cell> {
        vec![
            styled_cell(name, Style::Success),
            cell(sum),
            cell("live"),
            cell(reason),
        ]
    }

    fn plain(columns: &[Column], rows: Vec<Vec<Cell>>, width: Option<u16>) -> String {
        strip_str(&table_of_width(columns, rows, width)).to_string()
    }

    #[test]
    fn columns_line_up_and_styles_do_not_count() {
        let columns = [Column::text("NAME"), Column::number("SUM")];
        let rows = vec![
            vec![styled_cell("a", Style::Success), cell("1.00")],
            vec![cell("long name"), cell("100.00")],
        ];
        assert_eq!(
            plain(&columns, rows.clone(), None),
            "NAME          SUM\na            1.00\nlong name  100.00\n"
        );
        let styled = table_of_width(&columns, rows, None);
        let line = styled.lines().nth(1).expect("a row");
        assert!(line.starts_with("\x1b[38;5;2ma\x1b["), "{line:?}");
        assert!(line.ends_with("m            1.00"), "{line:?}");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let text = plain(
            &COLUMNS,
            vec![
                row("山田太郎", "1.00", "市場休止 🛑 again"),
                row("ab", "100.00", "👩‍🚀"),
            ],
            None,
        );
        let starts: Vec<usize> = text
            .lines()
            .map(|line| {
                let at = line.find("live").or(line.find("STATE")).expect("a column");
                line.split_at(at).0.width()
            })
            .collect();
        assert_eq!(starts, [18, 18, 18], "{text}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let reason = "市場休止 🛑 the market is closed until Monday";
        let rows = vec![
            row("a-long-name@example.org", "10000.00 EUR", reason),
            row("山田太郎", "1.00 EUR", "none"),
        ];
        for width in 32..=100 {
            let text = plain(&COLUMNS, rows.clone(), Some(width));
            assert_eq!(text.lines().count(), 3, "{text}");
            for line in text.lines() {
                assert!(line.width() <= usize::from(width), "{width}: {line}");
            }
            // A number is shown whole, or not at all.
            assert!(text.contains("  10000.00 EUR  "), "{text}");
            assert_eq!(text.contains("STATE"), width >= 39, "{width}: {text}");
        }
        let text = plain(&COLUMNS, rows.clone(), Some(60));
        assert!(text.contains('…') && text.contains("市場休止"), "{text}");
        // The narrowest that there are: cut, and still one line a row.
        for width in 12..32 {
            let text = plain(&COLUMNS, rows.clone(), Some(width));
            assert_eq!(text.lines().count(), 3, "{text}");
            assert!(!text.contains("STATE"), "{text}");
        }
        assert!(plain(&COLUMNS, rows, None).contains(reason));
    }

    #[test]
    fn nobody_elses_text_moves_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\nc", 100), "a?[2Jb?c");
        assert_eq!(printable("abcdef", 3), "abc…");
        let text = table_of_width(
            &COLUMNS,
            vec![row("\x1b[2J", "\r1", "\t\u{9b}2J")],
            Some(80),
        );
        assert_eq!(text.matches("[2J").count(), 1);
        assert!(!text.contains("\x1b[2J") && !text.contains(['\r', '\t', '\u{9b}']));
    }
}
