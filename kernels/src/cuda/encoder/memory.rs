//! One arena of device memory, and typed ranges of it.

use std::{marker::PhantomData, ops::Range};

use half::f16;

use super::launch::OpError;

/// Regions of a layout begin at multiples of so many bytes.
const REGION_ALIGNMENT: usize = 256;
/// Kernels read 16 bytes at a time: 8 halves.
pub(super) const CELL_BYTES: usize = 16;
/// Halves of a cell.
pub(super) const CELL: usize = 8;

/// What regions hold: numbers of which every pattern of bits is a value.
pub trait Element: Copy + sealed::Sealed {
    /// Bytes of one.
    const BYTES: usize;
}

mod sealed {
    use crate::cuda::maxsim::arguments::Record;

    /// Closed: the device's side knows these three.
    #[allow(private_bounds, reason = "nobody else implements it")]
    pub trait Sealed: Record {}
}

macro_rules! elements {
    ($($element:ty),*) => { $(
        impl sealed::Sealed for $element {}
        impl Element for $element {
            const BYTES: usize = size_of::<$element>();
        }
    )* };
}
elements!(f16, f32, u32);

/// Elements of an arena, end to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region<T> {
    /// Bytes from the arena's beginning.
    offset: usize,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Element> Region<T> {
    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len * T::BYTES
    }

    /// Where it begins, in bytes from the arena's beginning.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The same bytes as other elements.
    ///
    /// # Errors
    /// [`OpError::Shape`] if they are not whole elements, [`OpError::Arena`] if they are not aligned to them.
    pub fn cast<U: Element>(&self) -> Result<Region<U>, OpError> {
        if !self.bytes().is_multiple_of(U::BYTES) {
            return Err(OpError::Shape { argument: "bytes", expected: U::BYTES, found: self.bytes() });
        }
        if !self.offset.is_multiple_of(U::BYTES) {
            return Err(OpError::Arena { argument: "bytes" });
        }
        Ok(Region { offset: self.offset, len: self.bytes() / U::BYTES, of: PhantomData })
    }

    /// Some of its elements.
    ///
    /// # Errors
    /// [`OpError::Shape`] if it has no such elements.
    pub fn slice(&self, elements: Range<usize>) -> Result<Self, OpError> {
        if elements.start > elements.end || elements.end > self.len {
            return Err(OpError::Shape { argument: "elements", expected: self.len, found: elements.end });
        }
        Ok(Self { offset: self.offset + elements.start * T::BYTES, len: elements.len(), of: PhantomData })
    }
}

/// Gives out regions of an arena that is yet to be allocated.
#[derive(Clone, Debug, Default)]
pub struct ArenaLayout {
    at: usize,
    bytes: usize,
}

/// A point of a layout to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl ArenaLayout {
    /// Room for so many elements, behind everything given out since the last [`rewind`](Self::rewind).
    pub fn region<T: Element>(&mut self, len: usize) -> Region<T> {
        let offset = self.at;
        self.at = (offset + len * T::BYTES).next_multiple_of(REGION_ALIGNMENT);
        self.bytes = self.bytes.max(self.at);
        Region { offset, len, of: PhantomData }
    }

    /// Bytes that the arena needs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the next region begins.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.at)
    }

    /// Gives out anew what was given out since the mark: for regions that are used in turn.
    pub fn rewind(&mut self, Mark(at): Mark) {
        self.at = at;
    }
}

/// Where an arena lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Address of its first byte on the device, a multiple of 256.
    pub base: u64,
    /// Its size.
    pub bytes: usize,
}

impl Arena {
    /// Address of a region, if it lies inside.
    pub(crate) fn address<T: Element>(self, argument: &'static str, region: &Region<T>) -> Result<u64, OpError> {
        self.range(argument, region.offset..region.offset + region.bytes(), T::BYTES)
    }

    /// The same of one that is read in whole cells.
    pub(super) fn cells<T: Element>(self, argument: &'static str, region: &Region<T>) -> Result<u64, OpError> {
        self.range(argument, region.offset..region.offset + region.bytes(), CELL_BYTES)
    }

    /// Address of a matrix, if it lies inside.
    pub(crate) fn matrix(self, argument: &'static str, matrix: &Matrix) -> Result<u64, OpError> {
        self.range(argument, matrix.range(), CELL_BYTES)
    }

    fn range(self, argument: &'static str, range: Range<usize>, alignment: usize) -> Result<u64, OpError> {
        if range.end > self.bytes || !range.start.is_multiple_of(alignment) {
            return Err(OpError::Arena { argument });
        }
        Ok(self.base + range.start as u64)
    }
}

/// A row-major matrix of halves, or some rows and columns of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    offset: usize,
    rows: usize,
    columns: usize,
    /// From one row to the next, in elements.
    pitch: usize,
}

impl Matrix {
    /// All of a region, in rows of `columns`.
    ///
    /// # Errors
    /// [`OpError`] if `columns` is not a multiple of 8, or the region is not whole rows, at least one.
    pub fn new(region: Region<f16>, columns: usize) -> Result<Self, OpError> {
        check_width("columns", columns, usize::MAX)?;
        let rows = region.len / columns;
        if rows == 0 || !region.len.is_multiple_of(columns) {
            return Err(OpError::Shape { argument: "region", expected: columns, found: region.len });
        }
        Ok(Self { offset: region.offset, rows, columns, pitch: columns })
    }

    /// Some of its columns: multiples of 8.
    ///
    /// # Errors
    /// [`OpError`] if it has no such columns.
    pub fn columns(&self, range: Range<usize>) -> Result<Self, OpError> {
        if range.end > self.columns || !range.start.is_multiple_of(CELL) {
            return Err(OpError::Shape { argument: "columns", expected: self.columns, found: range.end });
        }
        check_width("columns", range.len(), usize::MAX)?;
        let offset = self.offset + range.start * f16::BYTES;
        Ok(Self { offset, columns: range.len(), ..*self })
    }

    /// Some of its rows, at least one.
    ///
    /// # Errors
    /// [`OpError`] if it has no such rows.
    pub fn rows(&self, range: Range<usize>) -> Result<Self, OpError> {
        if range.is_empty() || range.end > self.rows {
            return Err(OpError::Shape { argument: "rows", expected: self.rows, found: range.end });
        }
        Ok(Self { offset: self.offset + range.start * self.pitch * f16::BYTES, rows: range.len(), ..*self })
    }

    /// Rows.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// Columns.
    #[must_use]
    pub fn column_count(&self) -> usize {
        self.columns
    }

    /// From one row to the next, in elements.
    #[must_use]
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// Where it begins, in bytes from the arena's beginning.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes from its first element to behind its last.
    pub(super) fn range(&self) -> Range<usize> {
        self.offset..self.offset + ((self.rows - 1) * self.pitch + self.columns) * f16::BYTES
    }
}

/// Rows are whole cells.
pub(super) fn check_width(argument: &'static str, found: usize, most: usize) -> Result<(), OpError> {
    if found == 0 || !found.is_multiple_of(CELL) || found > most {
        return Err(OpError::Width { argument, found, most });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_overlap_until_the_layout_is_rewound() {
        let mut layout = ArenaLayout::default();
        let first = layout.region::<f16>(3);
        let mark = layout.mark();
        let second = layout.region::<u32>(100);
        assert_eq!((first.offset(), first.bytes(), second.offset(), layout.bytes()), (0, 6, 256, 768));
        layout.rewind(mark);
        assert_eq!((layout.region::<f32>(1).offset(), layout.bytes()), (256, 768));
        assert_eq!(second.slice(10..20).map(|part| (part.offset(), part.len())), Ok((296, 10)));
        assert_eq!(first.cast::<f16>(), Ok(first));
        assert!(first.cast::<u32>().is_err() && second.slice(0..1).unwrap().cast::<f16>().is_ok());
        assert_eq!(second.slice(90..101), Err(OpError::Shape { argument: "elements", expected: 100, found: 101 }));
    }

    #[test]
    fn parts_of_a_matrix_keep_its_pitch() {
        let mut layout = ArenaLayout::default();
        let whole = Matrix::new(layout.region(4 * 24), 24).unwrap();
        let part = whole.columns(8..16).unwrap().rows(1..3).unwrap();
        assert_eq!((part.offset(), part.row_count(), part.column_count(), part.pitch()), (64, 2, 8, 24));
        assert_eq!(part.range(), 64..128);
        for refused in
            [whole.columns(4..12), whole.columns(16..32), whole.columns(8..8), whole.rows(2..5), whole.rows(1..1)]
        {
            assert!(refused.is_err(), "{refused:?}");
        }
        for (len, columns) in [(24, 12), (20, 8), (0, 8), (8, 0)] {
            assert!(Matrix::new(layout.region(len), columns).is_err(), "{len}, {columns}");
        }
    }

    #[test]
    fn what_lies_outside_the_arena_has_no_address() {
        let mut layout = ArenaLayout::default();
        let region = layout.region::<f32>(64);
        let arena = |bytes| Arena { base: 1024, bytes };
        assert_eq!(arena(256).address("x", &region), Ok(1024));
        assert_eq!(arena(255).address("x", &region), Err(OpError::Arena { argument: "x" }));
        let odd = region.slice(1..5).unwrap();
        assert_eq!(arena(256).address("x", &odd), Ok(1028));
        assert_eq!(arena(256).cells("x", &odd), Err(OpError::Arena { argument: "x" }));
    }
}
