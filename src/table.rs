//! Tables for people, and JSON for programs.
//!
//! A table is as wide as the terminal, or 80 columns where there is none. Long texts lose their middles; where that is not
//! enough, each row becomes a block of its own.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns of an output that is no terminal.
const COLUMNS: usize = 80;
/// What texts keep at least when they are cut.
const KEPT: usize = 16;
/// Between two columns.
const GAP: usize = 2;

/// A header, then rows.
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns from here on are right-aligned.
    numbers: usize,
    width: usize,
}

/// A plain table: a header, then rows. Columns from `numbers` on are right-aligned.
pub(crate) fn table(header: &[&str], numbers: usize) -> Table {
    let header = header.iter().map(|&text| text.to_owned()).collect();
    Table { header, rows: Vec::new(), numbers, width: columns() }
}

/// Columns of standard output.
pub(crate) fn columns() -> usize {
    terminal_size::terminal_size_of(std::io::stdout())
        .map_or(COLUMNS, |(terminal_size::Width(width), _)| width.into())
        .max(40)
}

impl Table {
    pub(crate) fn add_row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| escaped(&cell).into_owned());
        self.rows.push(cells.collect());
    }

    /// The widths of the columns, cut where they must be; `None` where no cut is enough.
    fn widths(&self) -> Option<Vec<usize>> {
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width());
            cells.chain([self.header[column].width()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.header.len()).map(widest).collect();
        loop {
            let total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            let Some(excess) = total.checked_sub(self.width).filter(|&excess| excess > 0) else {
                return Some(widths);
            };
            // The widest gives way first, down to the next widest.
            let most = *widths.iter().max()?;
            let next = widths.iter().copied().filter(|&width| width < most).max().unwrap_or(0);
            if most <= KEPT {
                return None;
            }
            let column = widths.iter().position(|&width| width == most)?;
            widths[column] -= excess.min(most - next.max(KEPT)).max(1);
        }
    }

    /// What all cells of a column that are longer than `width` begin and end with.
    fn shared(&self, column: usize, width: usize) -> Shared {
        let mut cells =
            self.rows.iter().filter_map(|row| row.get(column)).filter(|cell| cell.width() > width);
        let Some(first) = cells.next() else { return Shared::default() };
        let (mut start, mut end, mut distinct) = (first.chars().count(), first.chars().count(), false);
        for cell in cells {
            distinct |= cell != first;
            start = start.min(first.chars().zip(cell.chars()).take_while(|(a, b)| a == b).count());
            let same = first.chars().rev().zip(cell.chars().rev()).take_while(|(a, b)| a == b);
            end = end.min(same.count());
        }
        if distinct { Shared { start, end } } else { Shared::default() }
    }

    /// Each row as a block: the first cell, then the others with their headers.
    fn stacked(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            writeln!(f, "{}", elided(row.first().map_or("", String::as_str), self.width))?;
            let mut line = String::new();
            for (header, cell) in self.header.iter().zip(row).skip(1).filter(|(_, cell)| !cell.is_empty()) {
                let item = elided(&format!("{header} {cell}"), self.width - GAP).into_owned();
                if !line.is_empty() && line.width() + 2 + item.width() > self.width - GAP {
                    writeln!(f, "  {line}")?;
                    line.clear();
                }
                if !line.is_empty() {
                    line.push_str(", ");
                }
                line.push_str(&item);
            }
            if !line.is_empty() {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let Some(widths) = self.widths() else { return self.stacked(f) };
        let shared: Vec<Shared> =
            (0..widths.len()).map(|column| self.shared(column, widths[column])).collect();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            let mut line = String::new();
            for (index, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let cell = shared[index].cut(cell, width);
                let fill = " ".repeat(width - cell.width());
                let gap = if index == 0 { "" } else { "  " };
                if index >= self.numbers {
                    write!(line, "{gap}{fill}{cell}")?;
                } else {
                    write!(line, "{gap}{cell}{fill}")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Characters that all long cells of a column have in common, at their starts and at their ends: what to leave out first.
#[derive(Debug, Clone, Copy, Default)]
struct Shared {
    start: usize,
    end: usize,
}

impl Shared {
    /// A cell of at most `width` columns: without the shared start, then without so much of the shared end, then without its
    /// middle.
    fn cut(self, cell: &str, width: usize) -> Cow<'_, str> {
        let count = cell.chars().count();
        if cell.width() <= width || self.start + self.end >= count || self.start + self.end < 2 {
            return elided(cell, width);
        }
        let own: String = cell.chars().skip(self.start).collect();
        let own = if self.start > 1 { format!("…{own}") } else { cell.to_owned() };
        let excess = own.width().saturating_sub(width);
        if excess > 0 && excess < self.end {
            let kept = own.chars().count() - excess - 1;
            let own: String = own.chars().take(kept).collect();
            return Cow::Owned(elided(&format!("{own}…"), width).into_owned());
        }
        Cow::Owned(elided(&own, width).into_owned())
    }
}

/// A text of at most `width` columns: its middle is left out where it is longer.
pub(crate) fn elided(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return Cow::Borrowed(text);
    }
    let fits = |chars: &mut dyn Iterator<Item = char>, limit: usize| -> String {
        let mut used = 0;
        let fits = |&c: &char| {
            used += c.width().unwrap_or(0);
            used <= limit
        };
        chars.take_while(fits).collect()
    };
    // Names differ at their ends more often than at their starts.
    let room = width.saturating_sub(1);
    let end: String = fits(&mut text.chars().rev(), room - room / 3).chars().rev().collect();
    let start = fits(&mut text.chars(), room - end.width());
    Cow::Owned(format!("{start}…{end}"))
}

/// The shortest ends of paths that tell them apart, in whole components.
pub(crate) fn short_names<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<String> {
    let paths: Vec<Vec<String>> = paths
        .into_iter()
        .map(|path| path.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect())
        .collect();
    let distinct: HashSet<_> = paths.iter().collect();
    let longest = paths.iter().map(Vec::len).max().unwrap_or(1);
    let name = |path: &Vec<String>, parts: usize| path[path.len().saturating_sub(parts)..].join("/");
    let apart = |parts: &usize| {
        distinct.iter().map(|path| name(path, *parts)).collect::<HashSet<_>>().len() == distinct.len()
    };
    let parts = (1..longest).find(apart).unwrap_or(longest);
    paths.iter().map(|path| name(path, parts)).collect()
}

/// Writes a line, or lines, to standard output; a closed pipe is an error like any other.
pub(crate) fn print(text: impl std::fmt::Display) -> Result<()> {
    let text = text.to_string();
    let mut out = std::io::stdout().lock();
    if text.is_empty() {
        writeln!(out)?;
    }
    for line in text.lines() {
        writeln!(out, "{}", escaped(line.trim_end()))?;
    }
    Ok(out.flush()?)
}

/// Control characters, which names in a stranger's file may hold, as escapes.
pub(crate) fn escaped(line: &str) -> Cow<'_, str> {
    if !line.contains(char::is_control) {
        return Cow::Borrowed(line);
    }
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    Cow::Owned(line.chars().map(escape).collect())
}

/// Writes one JSON document to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    print(serde_json::to_string_pretty(value)?)
}

/// `1536` as `1.5 KiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut size = count as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(size < 100.0) + usize::from(size < 10.0);
    format!("{size:.digits$} {}", UNITS[unit])
}

/// `1234567` as `1.23 M`.
pub(crate) fn count(count: u64) -> String {
    let (scale, unit) = match count {
        0..10_000 => return count.to_string(),
        10_000..1_000_000 => (1e3, "k"),
        1_000_000..1_000_000_000 => (1e6, "M"),
        _ => (1e9, "G"),
    };
    let size = count as f64 / scale;
    let digits = usize::from(size < 100.0) + usize::from(size < 10.0);
    format!("{size:.digits$} {unit}")
}

/// Milliseconds with three significant digits, down to the ten nanoseconds that a clock tells.
pub(crate) fn ms(ms: f64) -> String {
    match ms {
        _ if ms >= 100.0 => format!("{ms:.0}"),
        _ if ms >= 10.0 => format!("{ms:.1}"),
        _ if ms >= 1.0 => format!("{ms:.2}"),
        _ if ms >= 0.1 => format!("{ms:.3}"),
        _ if ms >= 0.01 => format!("{ms:.4}"),
        _ => format!("{ms:.5}"),
    }
}

/// A ratio with three significant digits, so that none reads 0.00.
pub(crate) fn ratio(ratio: f64) -> String {
    match ratio {
        _ if ratio >= 100.0 => format!("{ratio:.0}"),
        _ if ratio >= 10.0 => format!("{ratio:.1}"),
        _ if ratio >= 1.0 || ratio == 0.0 => format!("{ratio:.2}"),
        _ if ratio >= 0.1 => format!("{ratio:.3}"),
        _ => format!("{ratio:.2e}"),
    }
}

/// A fraction as `12.3 %`.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(width: usize, header: &[&str], rows: &[&[&str]]) -> String {
        let mut table = table(header, 1);
        table.width = width;
        rows.iter().for_each(|row| table.add_row(row.iter().map(|&cell| cell.to_owned())));
        table.to_string()
    }

    #[test]
    fn tables_fit_by_cutting_middles_and_then_by_stacking() {
        let name = "encoder.layer.0.attention.self.query.weight";
        let rows: &[&[&str]] = &[&[name, "12.5 MiB"], &["ß", "1 B"]];
        let whole = rendered(80, &["weight", "bytes"], rows);
        assert!(whole.contains(name) && whole.lines().all(|line| line.chars().count() == 53), "{whole}");
        let cut = rendered(40, &["weight", "bytes"], rows);
        assert!(cut.lines().all(|line| line.chars().count() == 40), "{cut}");
        assert!(cut.contains("encoder.l…") && cut.contains("query.weight  12.5 MiB"), "{cut}");
        let wide = ["1234567890"; 5];
        let row: Vec<&str> = std::iter::once(name).chain(wide).collect();
        let stacked = rendered(40, &["weight", "a", "b", "c", "d", "e"], &[&row]);
        assert!(stacked.lines().all(|line| line.chars().count() <= 40), "{stacked}");
        assert!(stacked.contains("\n  a 1234567890, b 1234567890\n  c 1234567890, "), "{stacked}");
        assert_eq!(rendered(40, &["weight"], &[]), "");
    }

    #[test]
    fn what_tells_rows_apart_stays() {
        let name = |layer: usize, part: &str| {
            format!("encoder.layer.{layer}.attention.self.{part}.weight_transposed")
        };
        let names = [name(0, "query"), name(0, "key"), name(1, "query"), name(1, "value")];
        let rows: Vec<Vec<&str>> = names.iter().map(|name| vec![name.as_str(), "1"]).collect();
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        let shown = rendered(40, &["weight", "n"], &rows);
        let lines: Vec<&str> = shown.lines().skip(1).collect();
        assert_eq!(lines.iter().collect::<HashSet<_>>().len(), 4, "{shown}");
        assert!(lines[0].starts_with("…0.attention.self.query.weight") && lines[0].contains('…'), "{shown}");
        assert!(lines.iter().all(|line| line.chars().count() == 40), "{shown}");
    }

    #[test]
    fn wide_letters_count_twice() {
        assert_eq!(elided("模型模型模型", 7), "模…模型");
        assert_eq!(elided("model", 5), "model");
    }

    #[test]
    fn paths_are_named_by_what_tells_them_apart() {
        let names = |paths: &[&str]| short_names(paths.iter().map(Path::new));
        assert_eq!(names(&["a/x.onnx", "b/y.onnx"]), ["x.onnx", "y.onnx"]);
        assert_eq!(names(&["q/a/x.onnx", "q/b/x.onnx"]), ["a/x.onnx", "b/x.onnx"]);
        assert_eq!(names(&["x.onnx", "x.onnx"]), ["x.onnx", "x.onnx"]);
    }

    #[test]
    fn sizes_have_three_digits_or_are_exact() {
        let shown = [0, 1023, 1024, 1536, 150 << 10, 5 << 20].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "150 KiB", "5.00 MiB"]);
        assert_eq!([9_999, 12_345, 421_642, 4_690_000].map(count), ["9999", "12.3 k", "422 k", "4.69 M"]);
        assert_eq!([0.0123, 0.5, 1.234, 12.34, 1234.0].map(ms), ["0.0123", "0.500", "1.23", "12.3", "1234"]);
    }
}
