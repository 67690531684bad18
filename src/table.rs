//! Tables for people, and JSON for programs.

use std::borrow::Cow;
use std::io::Write;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// A plain table: a header, then rows. Columns from `numbers` on are right-aligned.
pub(crate) fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Writes a line, or lines, to standard output; a closed pipe is an error like any other.
pub(crate) fn print(text: impl std::fmt::Display) -> Result<()> {
    let text = text.to_string();
    let mut out = std::io::stdout().lock();
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

/// Milliseconds with three significant digits.
pub(crate) fn ms(ms: f64) -> String {
    match ms {
        _ if ms >= 100.0 => format!("{ms:.0}"),
        _ if ms >= 10.0 => format!("{ms:.1}"),
        _ if ms >= 1.0 => format!("{ms:.2}"),
        _ if ms >= 0.1 => format!("{ms:.3}"),
        _ => format!("{ms:.4}"),
    }
}

/// A fraction as `12.3 %`.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_or_are_exact() {
        let shown = [0, 1023, 1024, 1536, 150 << 10, 5 << 20].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "150 KiB", "5.00 MiB"]);
        assert_eq!([9_999, 12_345, 421_642, 4_690_000].map(count), ["9999", "12.3 k", "422 k", "4.69 M"]);
        assert_eq!([0.0123, 0.5, 1.234, 12.34, 1234.0].map(ms), ["0.0123", "0.500", "1.23", "12.3", "1234"]);
    }
}
