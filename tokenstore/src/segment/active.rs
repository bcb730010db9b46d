//! The segment that a collection's batches are appended to.

use std::{fs::File, sync::Arc};

use crate::{
    DiskError,
    batch::{Batch, COMMIT_BYTES, PlacedBatch},
    disk::{Disk, StoreFile},
    map::Map,
    segment::{HEADER_BYTES, SegmentHeader, capacity},
};

/// A segment that grows.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) header: SegmentHeader,
    file: StoreFile,
    /// Covers all that is committed; grows by being replaced. Its readable mark is the end of the last batch.
    map: Arc<Map>,
    /// Length of the file and of the mapping.
    capacity: u64,
    bytes_max: u64,
}

/// An append did not happen.
#[derive(Debug)]
pub(crate) struct AppendError {
    pub(crate) error: DiskError,
    /// Whether the file may hold what it should not: nothing can be appended to it any more, and it has to be sealed
    /// where its last good batch ends.
    pub(crate) wounded: bool,
}

impl ActiveSegment {
    /// Writes the header of a new segment into its file. Durable when it returns, the file's name excepted.
    pub(crate) fn create(
        disk: &Disk,
        file: StoreFile,
        header: SegmentHeader,
        bytes_max: u64,
    ) -> Result<Self, DiskError> {
        let capacity = capacity(HEADER_BYTES, bytes_max);
        disk.resize(&file, capacity)?;
        disk.write(&file, &header.encode(), 0)?;
        disk.sync(&file)?;
        let map = map(&file, capacity, HEADER_BYTES)?;
        Ok(Self { header, file, map, capacity, bytes_max })
    }

    /// Goes on with a segment that was scanned. What is torn behind its last batch is cut off, so that nothing of it
    /// can ever be taken for a batch.
    pub(crate) fn resume(
        disk: &Disk,
        file: StoreFile,
        header: SegmentHeader,
        committed: u64,
        torn: bool,
        bytes_max: u64,
    ) -> Result<Self, DiskError> {
        let capacity = capacity(committed, bytes_max);
        if torn {
            disk.resize(&file, committed)?;
        }
        if file.length()? != capacity {
            disk.resize(&file, capacity)?;
        }
        // The process that wrote it may have died between a batch's commit and its sync.
        disk.sync(&file)?;
        let map = map(&file, capacity, committed)?;
        Ok(Self { header, file, map, capacity, bytes_max })
    }

    /// The mapping that covers all that is committed.
    pub(crate) fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// Where the last committed batch ends.
    pub(crate) fn committed(&self) -> u64 {
        self.map.readable()
    }

    /// Whether no batch was ever committed.
    pub(crate) fn is_empty(&self) -> bool {
        self.committed() == HEADER_BYTES
    }

    /// Whether a batch of so many bytes has room.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.committed() + bytes <= self.bytes_max
    }

    /// Cuts what was reserved and never written.
    pub(crate) fn trim(&self, disk: &Disk) -> Result<(), DiskError> {
        disk.resize(&self.file, self.committed())
    }

    /// Appends a batch. When it returns, the batch is durable, and [`map`](Self::map) covers it.
    pub(crate) fn append<'a>(
        &mut self,
        disk: &Disk,
        batch: &'a Batch,
        next_sequence: u64,
    ) -> Result<PlacedBatch<'a>, AppendError> {
        let at = self.committed();
        let end = at + batch.bytes();
        let placed = batch.place(at, next_sequence);
        let grown = self.grow(disk, end).map_err(|error| AppendError { error, wounded: false })?;
        self.write_uncommitted(disk, &placed, at)?;
        self.commit(disk, &placed, end - COMMIT_BYTES)?;
        if let Some((map, capacity)) = grown {
            self.map = map;
            self.capacity = capacity;
        }
        self.map.publish(end);
        Ok(placed)
    }

    /// A mapping for a longer file, if this one is too short.
    fn grow(&self, disk: &Disk, end: u64) -> Result<Option<(Arc<Map>, u64)>, DiskError> {
        if end <= self.capacity {
            return Ok(None);
        }
        let capacity = capacity(end, self.bytes_max);
        disk.resize(&self.file, capacity)?;
        Ok(Some((map(&self.file, capacity, self.committed())?, capacity)))
    }

    /// Makes everything durable but the commit, for which it reserves room. A failure is undone by cutting: no reader
    /// takes note of a batch without a commit.
    fn write_uncommitted(&self, disk: &Disk, placed: &PlacedBatch<'_>, at: u64) -> Result<(), AppendError> {
        let vectors_at = at + placed.head.len() as u64;
        let commit_at = vectors_at + placed.vectors.len() as u64;
        let written = disk
            .write(&self.file, &placed.head, at)
            .and_then(|()| disk.write(&self.file, placed.vectors, vectors_at))
            .and_then(|()| disk.write(&self.file, &[0; COMMIT_BYTES as usize], commit_at));
        let (synced, error) = match written.map(|()| disk.sync(&self.file)) {
            Ok(Ok(())) => return Ok(()),
            // A system that failed to write a page once may report the next sync as good without having written it.
            Ok(Err(error)) => (false, error),
            Err(error) => (true, error),
        };
        let undone = disk.resize(&self.file, at).and_then(|()| disk.resize(&self.file, self.capacity));
        Err(AppendError { error, wounded: !synced || undone.is_err() })
    }

    /// Writes the commit. From the moment it may be there another process may read the batch, so a failure cuts nothing
    /// but takes the commit back, and the file is not appended to any more.
    fn commit(&self, disk: &Disk, placed: &PlacedBatch<'_>, at: u64) -> Result<(), AppendError> {
        let written = disk.write(&self.file, &placed.commit, at).and_then(|()| disk.sync(&self.file));
        written.map_err(|error| {
            // Sealing the segment is what counts; this helps if the process dies before it can.
            let _ = disk.write(&self.file, &[0; COMMIT_BYTES as usize], at).and_then(|()| disk.sync(&self.file));
            AppendError { error, wounded: true }
        })
    }
}

fn map(file: &StoreFile, bytes: u64, readable: u64) -> Result<Arc<Map>, DiskError> {
    map_file(&file.file, bytes, readable).map_err(|source| file.error("map", source))
}

fn map_file(file: &File, bytes: u64, readable: u64) -> std::io::Result<Arc<Map>> {
    Map::new(file, bytes, readable).map(Arc::new)
}
