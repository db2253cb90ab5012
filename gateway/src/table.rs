//! Tables for people at a terminal.

use std::io::{self, Write};

/// Writes a header and rows with aligned columns; columns from `first_number` on are flush right.
///
/// # Errors
/// What `out` says.
pub(crate) fn write_aligned<'a>(
    out: &mut dyn Write,
    header: impl AsRef<[&'a str]>,
    rows: &[impl AsRef<[String]>],
    first_number: usize,
) -> io::Result<()> {
    let header: Vec<_> = header.as_ref().iter().map(|name| (*name).to_owned()).collect();
    let lines = || std::iter::once(&*header).chain(rows.iter().map(AsRef::as_ref));
    let mut widths = vec![0; header.len()];
    for row in lines() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in lines() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            if column > 0 {
                line.push_str("  ");
            }
            if column < first_number {
                line.push_str(cell);
                line.push_str(&padding);
            } else {
                line.push_str(&padding);
                line.push_str(cell);
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_are_flush_right() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), "12345".to_owned()]];
        let mut out = Vec::new();
        write_aligned(&mut out, ["who", "n"], &rows, 1).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "who       n\na         1\nlong  12345\n");
    }
}
