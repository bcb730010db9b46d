//! Files mapped into memory: the one place of this crate where memory is read that Rust did not allocate.
//!
//! What makes it sound:
//!
//! 1. A mapping is read-only, and its file was at least as long when it was made.
//! 2. Only the first [`Map::readable`] bytes are ever borrowed. That mark is raised once bytes are final: segments are
//!    append-only, so no byte below it is written again, and a file is never cut below it.
//! 3. A mapping lives as long as any [`Stored`](crate::Stored) that reads it. Unlinking a file does not end it.
//!
//! Beyond this process the folder is the store's own: who cuts a segment by other means makes the kernel answer a read
//! with SIGBUS, as with every mapped file. The store's lock keeps its own writers apart, and a writer never cuts or
//! rewrites what a reader in another process may have mapped.
#![allow(unsafe_code, reason = "memory that the kernel fills from a file has no owner that the compiler knows")]

use std::{
    fs::File,
    io, slice,
    sync::atomic::{AtomicU64, Ordering},
};

use half::f16;
use memmap2::{MmapOptions, MmapRaw};

/// The beginning of a file, mapped.
#[derive(Debug)]
pub(crate) struct Map {
    raw: MmapRaw,
    readable: AtomicU64,
}

impl Map {
    /// Maps the first `bytes` bytes of a file, of which the first `readable` are final.
    ///
    /// # Errors
    /// What the system says, or that the file is shorter.
    pub(crate) fn new(file: &File, bytes: u64, readable: u64) -> io::Result<Self> {
        let length = usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        if file.metadata()?.len() < bytes || readable > bytes {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than what is to be mapped"));
        }
        let raw = MmapOptions::new().len(length).map_raw_read_only(file)?;
        Ok(Self { raw, readable: AtomicU64::new(readable) })
    }

    /// How many of its bytes are final.
    pub(crate) fn readable(&self) -> u64 {
        self.readable.load(Ordering::Acquire)
    }

    /// Says that the first `bytes` bytes are final: written, and never to be written again. Never lowers the mark.
    pub(crate) fn publish(&self, bytes: u64) {
        assert!(bytes <= self.raw.len() as u64, "{bytes} of {} mapped bytes published", self.raw.len());
        self.readable.fetch_max(bytes, Ordering::AcqRel);
    }

    /// `bytes` bytes at `at`.
    ///
    /// # Panics
    /// If they are not all final: what is stored was checked against the file when it was entered.
    pub(crate) fn bytes(&self, at: u64, bytes: u64) -> &[u8] {
        let readable = self.readable();
        let inside = at.checked_add(bytes).is_some_and(|end| end <= readable);
        assert!(inside, "{bytes} bytes at {at} of {readable} readable ones");
        // SAFETY: `at + bytes ≤ readable ≤ mapped length` was just checked, so the range lies in this mapping, which
        // lives as long as `self`; bytes below `readable` do not change (2. above). u8 has no alignment and no invalid
        // values.
        unsafe { slice::from_raw_parts(self.raw.as_ptr().add(at as usize), bytes as usize) }
    }

    /// Components of two bytes.
    ///
    /// # Panics
    /// As [`bytes`](Self::bytes), and if `at` is odd.
    pub(crate) fn halves(&self, at: u64, count: u64) -> &[f16] {
        let bytes = self.bytes(at, 2 * count);
        // SAFETY: every pattern of 16 bits is a value of f16, which is `repr(transparent)` over u16; `align_to` keeps
        // the alignment, and what does not fit it ends up in `before` and `after`.
        let (before, halves, after) = unsafe { bytes.align_to::<f16>() };
        assert!(before.is_empty() && after.is_empty(), "f16 at {at}");
        halves
    }

    /// Components of four bytes.
    ///
    /// # Panics
    /// As [`bytes`](Self::bytes), and if `at` is no multiple of 4.
    pub(crate) fn floats(&self, at: u64, count: u64) -> &[f32] {
        let bytes = self.bytes(at, 4 * count);
        // SAFETY: every pattern of 32 bits is a value of f32; for alignment see `halves`.
        let (before, floats, after) = unsafe { bytes.align_to::<f32>() };
        assert!(before.is_empty() && after.is_empty(), "f32 at {at}");
        floats
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn only_final_bytes_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mapped");
        let content: Vec<u8> = (0..128).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        assert!(Map::new(&file, 129, 0).is_err() && Map::new(&file, 64, 65).is_err());

        let map = Map::new(&file, 128, 64).unwrap();
        assert_eq!(map.bytes(60, 4), &content[60..64]);
        assert_eq!(map.bytes(64, 0), &[] as &[u8]);
        assert_eq!(map.halves(2, 1), [f16::from_bits(0x0302)]);
        assert_eq!(map.floats(4, 1)[0].to_bits(), 0x0706_0504);
        let refused: [&dyn Fn(); 6] = [
            &|| drop(map.bytes(60, 5).to_vec()),
            &|| drop(map.bytes(u64::MAX, 2).to_vec()),
            &|| drop(map.bytes(2, u64::MAX).to_vec()),
            &|| drop(map.halves(1, 1).to_vec()),
            &|| drop(map.floats(2, 1).to_vec()),
            &|| map.publish(129),
        ];
        for (index, read) in refused.iter().enumerate() {
            assert!(catch_unwind(AssertUnwindSafe(read)).is_err(), "case {index}");
        }
        map.publish(128);
        map.publish(1);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(map.bytes(60, 68), &content[60..]);
    }
}
