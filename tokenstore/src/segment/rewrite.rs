//! A segment that is written at once, sealed before anybody reads it: what compaction makes.

use std::sync::Arc;

use crate::{
    DiskError,
    batch::{Batch, Body, Record, Version},
    disk::{Disk, StoreFile},
    map::Map,
    segment::{HEADER_BYTES, SegmentHeader},
};

/// Bytes of vectors gathered into a batch before it is written: what a rewrite holds in memory, beside its records.
const BATCH_BYTES: u64 = 4 << 20;

/// A segment that is being written.
#[derive(Debug)]
pub(crate) struct Rewrite {
    header: SegmentHeader,
    file: StoreFile,
    /// Where the next batch goes.
    end: u64,
    batch: Batch,
    records: Vec<OwnRecord>,
}

/// A segment that is written. Durable, the file's name excepted.
#[derive(Debug)]
pub(crate) struct Rewritten {
    pub(crate) id: u64,
    pub(crate) length: u64,
    pub(crate) map: Arc<Map>,
    pub(crate) records: Vec<OwnRecord>,
}

/// A record that owns its id.
#[derive(Debug)]
pub(crate) struct OwnRecord {
    id: Box<str>,
    sequence: u64,
    body: Body,
}

impl OwnRecord {
    pub(crate) fn borrowed(&self) -> Record<'_> {
        Record { id: &self.id, sequence: self.sequence, body: self.body }
    }
}

impl Rewrite {
    pub(crate) fn create(disk: &Disk, file: StoreFile, header: SegmentHeader) -> Result<Self, DiskError> {
        disk.write(&file, &header.encode(), 0)?;
        let batch = Batch::new(header.layout);
        Ok(Self { header, file, end: HEADER_BYTES, batch, records: Vec::new() })
    }

    /// Whether a record of so many bytes, vectors included, still has room in a segment of at most `bytes_max`.
    pub(crate) fn fits(&self, bytes: u64, bytes_max: u64) -> bool {
        // A batch of its own, at worst.
        let overhead = Batch::bytes_of_one(self.header.layout, "", 0);
        self.end + self.batch.bytes() + bytes + overhead <= bytes_max
    }

    /// Adds a document with its vectors.
    pub(crate) fn copy(
        &mut self,
        disk: &Disk,
        record: &Record<'_>,
        version: Version,
        vectors: &[u8],
    ) -> Result<(), DiskError> {
        self.batch.copy(record, version, vectors);
        self.flush_above(disk, BATCH_BYTES)
    }

    /// Adds a tombstone.
    pub(crate) fn bury(&mut self, disk: &Disk, record: &Record<'_>) -> Result<(), DiskError> {
        self.batch.bury(record.id, Some(record.sequence));
        self.flush_above(disk, BATCH_BYTES)
    }

    /// Writes what is left, and makes all of it durable.
    pub(crate) fn finish(mut self, disk: &Disk) -> Result<Rewritten, DiskError> {
        self.flush_above(disk, 0)?;
        disk.sync(&self.file)?;
        let map = Map::new(&self.file.file, self.end, self.end).map_err(|source| self.file.error("map", source))?;
        Ok(Rewritten { id: self.header.id, length: self.end, map: Arc::new(map), records: self.records })
    }

    fn flush_above(&mut self, disk: &Disk, bytes: u64) -> Result<(), DiskError> {
        if self.batch.is_empty() || self.batch.bytes() < bytes {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.batch, Batch::new(self.header.layout));
        // Every record has a sequence: it is a copy.
        let placed = batch.place(self.end, 0);
        let vectors_at = self.end + placed.head.len() as u64;
        disk.write(&self.file, &placed.head, self.end)?;
        disk.write(&self.file, placed.vectors, vectors_at)?;
        disk.write(&self.file, &placed.commit, vectors_at + placed.vectors.len() as u64)?;
        let own = |record: &Record<'_>| {
            let Record { id, sequence, body } = *record;
            OwnRecord { id: id.into(), sequence, body }
        };
        self.records.extend(placed.records.iter().map(own));
        self.end += batch.bytes();
        Ok(())
    }
}
