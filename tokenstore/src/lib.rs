//! Token embeddings by document, in append-only memory-mapped segments.
//!
//! A request names documents; [`TokenStore::lookup`] answers with their token vectors as slices of mapped files, which
//! the MaxSim kernel reads where they lie. The store is a cache of what a model can compute again, never the truth, but
//! it does not lie either: what was acknowledged is there after a crash, what is corrupt is missing rather than wrong,
//! and every document carries the [`ContentHash`] of the text its vectors were made from.
//!
//! | term | meaning |
//! |---|---|
//! | collection | the documents of a [`Namespace`] encoded by one model; of one [`Layout`] since its first put |
//! | segment | an append-only file of one collection; the last one grows, the others are sealed |
//! | batch | what one put or delete appends: all of it is there after a crash, or nothing |
//! | tombstone | the record that a document is gone |
//! | manifest | the list of segments that count, replaced atomically |
//! | sequence | the number of a record; of two records of an id the higher counts, wherever they lie |
//!
//! # What is on disk
//!
//! ```text
//! LOCK                          held by the one process that writes
//! MANIFEST                      generation, next ids, every segment and the length it was sealed at; checksum
//! segments/0000000000000001.seg
//!   header      256 bytes       format version, storage, dim, namespace, model digest; checksum
//!   batch…      64-aligned:     header 64 | directory | vectors, each document's 64-aligned | commit 64
//! ```
//!
//! A put writes everything but the commit, syncs, writes the commit (64 bytes, 64-aligned, so within one sector),
//! syncs, and returns. Opening reads headers, directories and commits and checks their checksums; vectors have a
//! checksum each, compared when they are first looked up in a process, and by [`TokenStore::verify`].
//!
//! # Memory
//!
//! The index holds about 90 bytes a document plus its id, times the slack of a hash table (8/7 to 16/7): 120 to 240
//! bytes for ids of 16. Vectors are the page cache's.
//!
//! # Threads
//!
//! One writer at a time; readers never wait for a writer's disk. A lookup holds a lock for its hash table probes alone,
//! and a writer holds that lock only to enter what is already durable.

#[cfg(target_endian = "big")]
compile_error!("segments are little-endian and read in place");

mod batch;
mod collection;
mod disk;
mod document;
mod error;
pub mod exchange;
mod identity;
mod layout;
mod manifest;
mod map;
mod segment;
mod store;
mod stored;

pub use document::PutDocument;
pub use error::{CompactError, CorruptFile, DeleteError, DiskError, DocumentFault, OpenError, PutError};
pub use exchange::{Exchanged, ExportError, ImportError, ImportTarget};
pub use identity::{ContentHash, ModelDigest, Namespace, NamespaceError};
pub use layout::{Layout, LayoutError};
pub use sluice_kernels::tokens::{Storage, Tokens};
pub use store::{CollectionStats, Compact, Compacted, CorruptRecord, Options, Put, Stats, TokenStore, VerifyReport};
pub use stored::Stored;
