//! Where a query's documents are cut.

use std::ops::Range;

use super::PlannedPiece;

/// Rows that a matrix instruction takes at a time.
pub(super) const UNIT_ROWS: u32 = 8;

/// Units of a document; one without rows is one too, since somebody must write its score.
pub(super) fn units(rows: u32) -> u64 {
    u64::from(rows.div_ceil(UNIT_ROWS)).max(1)
}

/// A range of a query's units, to be divided evenly.
pub(super) struct Edges<'a> {
    /// Where each document begins, and the end.
    pub starts: &'a [u64],
    /// What is divided.
    pub range: Range<u64>,
    /// Into how many.
    pub parts: u64,
}

/// No slack at all.
pub(super) const EXACT: u64 = u64::MAX;

impl Edges<'_> {
    /// The `nth` edge; the end of a document instead, where one lies within `1 / slack` of a part.
    pub fn edge(&self, nth: u64, slack: u64) -> u64 {
        match nth {
            0 => self.range.start,
            nth if nth == self.parts => self.range.end,
            _ => self.snapped(nth, slack).unwrap_or_else(|| self.even(nth)),
        }
    }

    /// The end of a document that is near enough to the `nth` edge, inside the range.
    pub fn snapped(&self, nth: u64, slack: u64) -> Option<u64> {
        let even = self.even(nth);
        let after = self.starts.partition_point(|&start| start < even);
        let near = self.starts[after.saturating_sub(1)..self.starts.len().min(after + 1)].iter().copied();
        let nearest = near.min_by_key(|start| start.abs_diff(even))?;
        let part = (self.range.end - self.range.start) / self.parts;
        let close = nearest.abs_diff(even) <= part / slack;
        (close && nearest > self.range.start && nearest < self.range.end).then_some(nearest)
    }

    fn even(&self, nth: u64) -> u64 {
        let size = u128::from(self.range.end - self.range.start);
        self.range.start + (size * u128::from(nth) / u128::from(self.parts)) as u64
    }
}

/// The pieces of one query's documents that lie in a range of its units.
pub(super) fn push_pieces(
    pieces: &mut Vec<PlannedPiece>,
    starts: &[u64],
    lengths: &[u32],
    first: u32,
    range: Range<u64>,
) {
    if range.is_empty() {
        return;
    }
    let mut index = starts.partition_point(|&start| start <= range.start) - 1;
    while index < lengths.len() && starts[index] < range.end {
        let row = |unit: u64| (((unit - starts[index]) * u64::from(UNIT_ROWS)) as u32).min(lengths[index]);
        let begin = row(range.start.max(starts[index]));
        let end = if range.end >= starts[index + 1] { lengths[index] } else { row(range.end) };
        pieces.push(PlannedPiece { document: first + index as u32, rows: begin..end, output: 0, cut: false });
        index += 1;
    }
}
