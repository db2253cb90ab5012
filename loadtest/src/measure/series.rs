//! Values over time in a bounded number of cells: when a run goes on for longer than they cover, neighbours are merged
//! and each cell covers twice the time. So a run of unknown length gets cells that fit it, and the result does not
//! depend on the order in which moments come.

/// What can be added up over time.
pub(super) trait Merge: Default {
    /// Adds what came later.
    fn merge(&mut self, later: Self);
}

/// Cells of equal width, from moment 0 on.
pub(super) struct Series<T> {
    width: u64,
    most: usize,
    cells: Vec<T>,
}

impl<T: Merge> Series<T> {
    /// Of `most` cells at most, which is an even number; each `width` microseconds wide at first.
    pub(super) fn new(width: u64, most: usize) -> Self {
        Self { width, most, cells: Vec::new() }
    }

    /// The cell of a moment in microseconds.
    pub(super) fn at(&mut self, moment: u64) -> &mut T {
        while moment / self.width >= self.most as u64 {
            self.double();
        }
        let index = (moment / self.width) as usize;
        if index >= self.cells.len() {
            self.cells.resize_with(index + 1, T::default);
        }
        &mut self.cells[index]
    }

    /// Calls `each` with every cell that the time from `begin` to `end` touches, and its microseconds in that cell.
    pub(super) fn spread(&mut self, begin: u64, end: u64, mut each: impl FnMut(&mut T, u64)) {
        if begin >= end {
            return;
        }
        // First of all wide enough: cells must not change their width on the way.
        self.at(end - 1);
        let mut from = begin;
        while from < end {
            let until = end.min((from / self.width + 1) * self.width);
            each(self.at(from), until - from);
            from = until;
        }
    }

    fn double(&mut self) {
        self.width *= 2;
        let mut cells = std::mem::take(&mut self.cells).into_iter();
        while let Some(mut cell) = cells.next() {
            if let Some(later) = cells.next() {
                cell.merge(later);
            }
            self.cells.push(cell);
        }
    }

    /// Microseconds of a cell.
    pub(super) fn width(&self) -> u64 {
        self.width
    }

    /// All cells up to the last that was touched.
    pub(super) fn cells(&self) -> &[T] {
        &self.cells
    }
}
