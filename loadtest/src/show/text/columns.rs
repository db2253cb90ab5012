//! Columns of text: as wide as what is in them, the last one broken into lines where it is prose.

/// Rows under a head. The first `left` columns stand left, the others right.
pub(super) struct Columns {
    left: usize,
    rows: Vec<Vec<String>>,
}

impl Columns {
    pub(super) fn new(left: usize, head: &[&str]) -> Self {
        Self { left, rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, with cells of more than `most` characters broken into several.
    pub(super) fn broken(&self, most: usize) -> Vec<String> {
        let mut broken = Self { left: self.left, rows: Vec::new() };
        for row in &self.rows {
            let cells: Vec<_> = row.iter().map(|cell| wrapped(cell, most)).collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(0);
            let part = |line: usize| {
                let cells = cells.iter().map(|cell| cell.get(line).cloned().unwrap_or_default());
                cells.collect::<Vec<_>>()
            };
            broken.rows.extend((0..height).map(part));
        }
        broken.lines()
    }

    /// The lines, indented by two.
    pub(super) fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column < self.left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

/// `text` in lines of at most `width` characters, broken between words; a longer word stays whole.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
