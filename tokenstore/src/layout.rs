//! How the vectors of a collection lie.

use sluice_kernels::tokens::Storage;

/// Documents begin at multiples of this, and so do the scales of int8: one cache line, the widest vector register.
pub(crate) const ALIGNMENT: u64 = 64;

/// The next multiple of [`ALIGNMENT`].
pub(crate) fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// What a collection stores for a token: fixed by its first put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    storage: Storage,
    dim: u32,
}

/// Why vectors cannot be stored so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The store keeps f16, int8 and binary.
    #[error("{} is not stored: f16, int8 and binary are", .0.name())]
    Storage(Storage),
    /// No components, or too many.
    #[error("a vector has 1 to {} components, not {found}", Layout::DIM_MAX)]
    Dim {
        /// Components asked for.
        found: usize,
    },
}

impl Layout {
    /// Components of a vector: far beyond any model's, and small enough that a row's bytes never overflow.
    pub const DIM_MAX: usize = 65_536;

    /// Checks a layout.
    ///
    /// # Errors
    /// [`LayoutError`] if vectors are not stored so.
    pub fn new(storage: Storage, dim: usize) -> Result<Self, LayoutError> {
        if storage == Storage::F32 {
            return Err(LayoutError::Storage(storage));
        }
        match u32::try_from(dim) {
            Ok(dim) if (1..=Self::DIM_MAX as u32).contains(&dim) => Ok(Self { storage, dim }),
            _ => Err(LayoutError::Dim { found: dim }),
        }
    }

    /// How a component is stored.
    #[must_use]
    pub fn storage(self) -> Storage {
        self.storage
    }

    /// Components of a vector.
    #[must_use]
    pub fn dim(self) -> usize {
        self.dim as usize
    }

    /// Bytes of the components of `rows` rows.
    pub(crate) fn component_bytes(self, rows: u32) -> u64 {
        u64::from(rows) * self.storage.row_bytes(self.dim()) as u64
    }

    /// Where the scales begin, from the beginning of the components; `None` where there are none.
    pub(crate) fn scales_at(self, rows: u32) -> Option<u64> {
        (self.storage == Storage::Int8).then(|| aligned(self.component_bytes(rows)))
    }

    /// Bytes from the first component to the last byte of the vectors, scales included.
    pub(crate) fn vector_bytes(self, rows: u32) -> u64 {
        self.scales_at(rows).map_or(self.component_bytes(rows), |at| at + 4 * u64::from(rows))
    }

    /// Its number in a segment's header.
    pub(crate) fn storage_code(self) -> u8 {
        match self.storage {
            Storage::F32 => 0,
            Storage::F16 => 1,
            Storage::Int8 => 2,
            Storage::Binary => 3,
        }
    }

    /// The layout of a header's numbers.
    pub(crate) fn from_codes(storage: u8, dim: u32) -> Option<Self> {
        let storage = match storage {
            1 => Storage::F16,
            2 => Storage::Int8,
            3 => Storage::Binary,
            _ => return None,
        };
        Self::new(storage, dim as usize).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_vectors() {
        let cases = [
            (Storage::F16, 128, 180, 46_080, None, 46_080),
            (Storage::F16, 1, 1, 2, None, 2),
            (Storage::Int8, 128, 180, 23_040, Some(23_040), 23_760),
            (Storage::Int8, 3, 5, 15, Some(64), 84),
            (Storage::Binary, 128, 180, 2_880, None, 2_880),
            (Storage::Binary, 9, 3, 6, None, 6),
        ];
        for (storage, dim, rows, components, scales_at, all) in cases {
            let layout = Layout::new(storage, dim).unwrap();
            let found = (layout.component_bytes(rows), layout.scales_at(rows), layout.vector_bytes(rows));
            assert_eq!(found, (components, scales_at, all), "{storage:?} {dim} × {rows}");
            assert_eq!(Layout::from_codes(layout.storage_code(), dim as u32), Some(layout));
        }
    }

    #[test]
    fn what_is_not_stored_is_refused() {
        assert_eq!(Layout::new(Storage::F32, 8), Err(LayoutError::Storage(Storage::F32)));
        for found in [0, Layout::DIM_MAX + 1, usize::MAX] {
            assert_eq!(Layout::new(Storage::F16, found), Err(LayoutError::Dim { found }));
        }
        assert!(Layout::from_codes(0, 8).is_none() && Layout::from_codes(4, 8).is_none());
    }
}
