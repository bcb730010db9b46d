//! The documents of a namespace and model: their index, and what is looked up in it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{Layout, ModelDigest, Namespace, Stored, collection::index::Index};

pub(crate) mod index;

/// What a collection is named by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CollectionKey {
    pub(crate) namespace: Namespace,
    pub(crate) model: ModelDigest,
}

/// A collection.
#[derive(Debug)]
pub(crate) struct Collection {
    pub(crate) key: CollectionKey,
    pub(crate) layout: Layout,
    index: RwLock<Index>,
}

/// A document whose vectors were found damaged.
#[derive(Debug)]
pub(crate) struct Damage {
    pub(crate) id: String,
    /// Where they lie.
    pub(crate) segment: u64,
}

impl Collection {
    pub(crate) fn new(key: CollectionKey, layout: Layout, index: Index) -> Self {
        Self { key, layout, index: RwLock::new(index) }
    }

    /// The index, to read. Held for probes of a table, never while a disk is waited for.
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index, to enter what is durable.
    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One answer per id. Vectors that no lookup of this process has read before are compared with their checksum,
    /// outside the lock; a damaged document is pushed to `damaged` once, and missing from then on.
    pub(crate) fn lookup(&self, ids: &[&str], damaged: &mut Vec<Damage>) -> Vec<Option<Stored>> {
        let mut unread = Vec::new();
        let mut answers: Vec<Option<Stored>> = {
            let index = self.index();
            let find = |(position, id): (usize, &&str)| {
                let (stored, read) = index.find(id)?;
                if !read {
                    unread.push(position);
                }
                Some(stored)
            };
            ids.iter().enumerate().map(find).collect()
        };
        if unread.is_empty() {
            return answers;
        }
        let mut broken = Vec::new();
        for &position in &unread {
            let id = ids[position];
            answers[position].take_if(|stored| {
                let intact = stored.is_intact(id);
                if !intact {
                    broken.push((id, stored.key()));
                }
                !intact
            });
        }
        let index = self.index();
        for position in unread {
            if let Some(stored) = &answers[position] {
                index.mark_intact(ids[position], stored.key());
            }
        }
        drop(index);
        self.condemn(&broken, damaged);
        answers
    }

    /// Takes note that documents, of these keys, are damaged.
    pub(crate) fn condemn(&self, broken: &[(&str, u64)], damaged: &mut Vec<Damage>) {
        if broken.is_empty() {
            return;
        }
        let mut index = self.index_mut();
        for &(id, key) in broken {
            if let Some(segment) = index.condemn(id, key) {
                damaged.push(Damage { id: id.to_owned(), segment });
            }
        }
    }

    /// Compares every document with its checksum, a few at a time.
    pub(crate) fn verify(&self, damaged: &mut Vec<Damage>) -> u64 {
        let stored = self.documents();
        for (id, stored) in &stored {
            if stored.is_intact(id) {
                self.index().mark_intact(id, stored.key());
            } else {
                self.condemn(&[(id, stored.key())], damaged);
            }
        }
        stored.len() as u64
    }

    /// All documents as they are at this moment, by ascending id. Takes about 150 bytes for each.
    pub(crate) fn documents(&self) -> Vec<(Arc<str>, Stored)> {
        let mut all: Vec<_> = self.index().iter().collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}
