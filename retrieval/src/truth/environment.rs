//! The LMDB environment: the one place of this crate where a file is mapped into memory.
//!
//! heed marks opening as unsafe, because what Rust borrows from the map could change under it. It does not, since:
//!
//! 1. Pages that a reader can see are not written again: LMDB copies on write, and its lock file tells it who reads.
//!    No flag that takes this away is set (`NO_LOCK`, `WRITE_MAP`).
//! 2. Nothing here cuts or rewrites the file; it is written by LMDB alone. The folder of a shard is locked by its
//!    process, and a folder of a collection is removed only after its environment was closed or while its map, which
//!    outlives the name, is still held.
//! 3. heed hands one environment to everyone in a process who opens the same folder.
//!
//! Who writes into the folder by other means, or puts it on a network file system, breaks this, as with every database.
#![allow(unsafe_code, reason = "a mapped file has no owner that the compiler knows")]

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use heed::{CommitOrAbort, CompactionOption, Env, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls, types::Bytes};

use super::{
    StorageError, Table,
    error::{DiskError, disk},
};

/// Readers at a time, of one collection. Each is a slot of 64 bytes in the lock file.
pub(super) const READERS_MAX: u32 = 512;
/// Bytes that a collection's truth may grow to, unless configured. Address space alone: a file is as long as what is in
/// it.
pub const MAP_BYTES_DEFAULT: u64 = 64 << 30;
/// LMDB's bookkeeping takes some pages; less than this holds nothing.
const MAP_BYTES_MIN: u64 = 1 << 20;
const TABLES_MAX: u32 = 8;
/// A slot of 64 bytes for each reader, and a page for the rest.
const LOCK_BYTES: usize = 64 * READERS_MAX as usize + 4_096;

/// An open environment.
#[derive(Debug)]
pub(super) struct Environment {
    env: Env<WithoutTls>,
    folder: PathBuf,
    map_bytes: u64,
}

impl Environment {
    pub(super) fn open(folder: &Path, map_bytes: u64) -> Result<Self, StorageError> {
        allocate_lock(folder)?;
        // A whole number of pages, whatever their size is here.
        let map_bytes = map_bytes.max(MAP_BYTES_MIN).next_multiple_of(1 << 16);
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        let size = usize::try_from(map_bytes).unwrap_or(usize::MAX);
        options.map_size(size).max_readers(READERS_MAX).max_dbs(TABLES_MAX);
        // SAFETY: the three points of the module's documentation.
        let opened = unsafe { options.open(folder) };
        match opened {
            Ok(env) => {
                let environment = Self { env, folder: folder.to_owned(), map_bytes };
                // Slots of processes that were killed would keep their pages from being used again.
                environment.env.clear_stale_readers().map_err(|error| environment.fault(error))?;
                Ok(environment)
            }
            Err(error) => Err(fault(error, folder, map_bytes)),
        }
    }

    /// Tables of these names, created where they are missing.
    pub(super) fn tables<const N: usize>(&self, names: [&str; N]) -> Result<[Table; N], StorageError> {
        let txn = self.write()?;
        let opened = self.env.create_databases_and_commit(txn, |opener, txn| {
            let tables = names.map(|name| opener.create_database::<Bytes, Bytes>(txn, Some(name)));
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(tables))
        });
        let mut tables = Vec::with_capacity(N);
        for table in opened.map_err(|error| self.fault(error))?.unwrap_commit() {
            tables.push(table.map_err(|error| self.fault(error))?);
        }
        Ok(tables.try_into().expect("one for each name"))
    }

    pub(super) fn read(&self) -> Result<RoTxn<'_, WithoutTls>, StorageError> {
        self.env.read_txn().map_err(|error| self.fault(error))
    }

    /// A transaction that keeps the environment open by itself.
    pub(super) fn read_owned(&self) -> Result<RoTxn<'static, WithoutTls>, StorageError> {
        self.env.clone().static_read_txn().map_err(|error| self.fault(error))
    }

    pub(super) fn write(&self) -> Result<RwTxn<'_>, StorageError> {
        self.env.write_txn().map_err(|error| self.fault(error))
    }

    /// Writes, syncs, and makes it the current state: in this order, so that a crash leaves the old or the new.
    pub(super) fn commit(&self, txn: RwTxn<'_>) -> Result<(), StorageError> {
        txn.commit().map_err(|error| match self.fault(error) {
            StorageError::Disk(error) if is_short_write(&error) => self.room().err().unwrap_or(error.into()),
            fault => fault,
        })
    }

    /// Bytes of the file.
    pub(super) fn file_bytes(&self) -> Result<u64, StorageError> {
        self.env.real_disk_size().map_err(|error| self.fault(error))
    }

    pub(super) fn map_bytes(&self) -> u64 {
        self.map_bytes
    }

    pub(super) fn copy_to(&self, file: &Path) -> Result<(), StorageError> {
        let copied = self.env.copy_to_path(file, CompactionOption::Enabled);
        let copied = copied.map_err(|error| fault(error, file, self.map_bytes))?;
        Ok(copied.sync_all().map_err(disk("sync", file))?)
    }

    pub(super) fn fault(&self, error: heed::Error) -> StorageError {
        fault(error, &self.folder, self.map_bytes)
    }

    /// LMDB says EIO where a write was cut short, which is what a full disk does first. A file beside it, written as far
    /// out (and as sparse), tells whether there is room, against the disk's bound and against the process's.
    fn room(&self) -> Result<(), StorageError> {
        const BLOCK_BYTES: u64 = 1 << 16;
        let path = self.folder.join("room.probe");
        let probe = || {
            let end = fs::metadata(self.folder.join("data.mdb"))?.len();
            let (file, block) = (File::create(&path)?, [0x5a; BLOCK_BYTES as usize]);
            // A short write is tried on until the system says why.
            (0..16).try_for_each(|number| file.write_all_at(&block, end + number * BLOCK_BYTES))
        };
        let written = probe();
        let removed = fs::remove_file(&path);
        match written {
            Err(error) if is_full(&error) => Err(StorageError::NoRoom { folder: self.folder.clone() }),
            Err(error) => Err(disk("write", &path)(error).into()),
            Ok(()) => removed.map_err(|error| disk("remove", &path)(error).into()),
        }
    }
}

/// LMDB maps its lock file and writes to the map. Where the file has holes and the disk is full, that is a SIGBUS instead
/// of an error: so the file is written in full before, and LMDB takes it at that length.
fn allocate_lock(folder: &Path) -> Result<(), StorageError> {
    let path = folder.join("lock.mdb");
    if fs::metadata(&path).is_ok_and(|file| file.len() >= LOCK_BYTES as u64) {
        return Ok(());
    }
    fs::write(&path, [0; LOCK_BYTES]).map_err(|source| match is_full(&source) {
        true => StorageError::NoRoom { folder: folder.to_owned() },
        false => disk("write", &path)(source).into(),
    })
}

fn fault(error: heed::Error, path: &Path, map_bytes: u64) -> StorageError {
    match error {
        heed::Error::Mdb(MdbError::MapFull) => StorageError::MapFull { bytes: map_bytes },
        heed::Error::Mdb(MdbError::ReadersFull) => StorageError::Readers { max: READERS_MAX },
        heed::Error::Mdb(MdbError::Panic) => StorageError::Broken,
        heed::Error::Io(error) if is_full(&error) => StorageError::NoRoom { folder: path.to_owned() },
        heed::Error::Io(source) => StorageError::Disk(disk("write", path)(source)),
        other => StorageError::Lmdb(other.to_string()),
    }
}

/// No room on the disk, or for this user, or in a file of this process.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

fn is_short_write(error: &DiskError) -> bool {
    const EIO: i32 = 5;
    error.source.raw_os_error() == Some(EIO)
}
