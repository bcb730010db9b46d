//! Bitmaps of documents by value: read in parts of 65,536 numbers, written once a batch.

use std::{
    collections::HashMap,
    ops::{Bound, RangeInclusive},
};

use heed::{RoTxn, RwTxn};
use roaring::{MultiOps, RoaringBitmap};

use super::{
    StorageError, Truth,
    error::corrupt,
    key::{self, CHUNK_BYTES, Prefix},
};
use crate::{identity::DocId, payload::Payload, schema::Schema};

/// Changes that a batch has made and not yet written. A document begins once and ends once, so that what is added and
/// removed is added first, also where it is written in between.
#[derive(Debug, Default)]
pub(super) struct Pending {
    changes: HashMap<Vec<u8>, Change>,
}

#[derive(Debug, Default)]
struct Change {
    added: RoaringBitmap,
    removed: RoaringBitmap,
}

impl Pending {
    /// Keys beyond which what is pending is written in the middle of a batch: some 300 bytes each, two bitmaps among them.
    /// A batch's bytes do not bound them, since a number has up to eight keys.
    pub(super) const KEYS_MAX: usize = 100_000;

    /// Writes what is pending if it is much.
    pub(super) fn flush_if_large(&mut self, truth: &Truth, txn: &mut RwTxn<'_>) -> Result<(), StorageError> {
        if self.changes.len() > Self::KEYS_MAX { self.flush(truth, txn) } else { Ok(()) }
    }

    /// A document begins.
    pub(super) fn add(&mut self, schema: &Schema, doc: DocId, payload: &Payload) {
        self.enter(schema, doc, payload, |change| &mut change.added);
    }

    /// A document ends.
    pub(super) fn remove(&mut self, schema: &Schema, doc: DocId, payload: &Payload) {
        self.enter(schema, doc, payload, |change| &mut change.removed);
    }

    fn enter(&mut self, schema: &Schema, doc: DocId, payload: &Payload, of: fn(&mut Change) -> &mut RoaringBitmap) {
        let mut at = |prefix: Prefix| {
            of(self.changes.entry(with_chunk(prefix, doc)).or_default()).insert(doc.0);
        };
        at(key::live());
        for (place, field) in schema.payload.iter().enumerate() {
            let number = key::field_number(place);
            let values = payload.get(&field.name).map_or(&[][..], |value| value.scalars());
            if !values.is_empty() {
                at(key::exists(number));
            }
            values.iter().for_each(|value| key::entries(number, value, &mut at));
        }
    }

    /// Writes what is pending; then nothing is.
    pub(super) fn flush(&mut self, truth: &Truth, txn: &mut RwTxn<'_>) -> Result<(), StorageError> {
        let table = truth.tables.payload;
        let mut bytes = Vec::new();
        for (key, change) in self.changes.drain() {
            let stored = table.get(txn, &key).map_err(|error| truth.fault(error))?;
            let mut bitmap = stored.map_or_else(|| Ok(RoaringBitmap::new()), decode)?;
            bitmap |= change.added;
            bitmap -= change.removed;
            let written = if bitmap.is_empty() {
                table.delete(txn, &key).map(drop)
            } else {
                bytes.clear();
                bitmap.serialize_into(&mut bytes).map_err(|_| corrupt("memory to write a bitmap to"))?;
                table.put(txn, &key, &bytes)
            };
            written.map_err(|error| truth.fault(error))?;
        }
        Ok(())
    }
}

impl Truth {
    /// The documents under one prefix.
    pub(super) fn bitmap(&self, txn: &RoTxn<'_>, prefix: &Prefix) -> Result<RoaringBitmap, StorageError> {
        self.bitmap_between(txn, &(prefix.clone()..=prefix.clone()))
    }

    /// The documents under all prefixes of a range; prefixes of one length.
    pub(super) fn bitmap_between(
        &self,
        txn: &RoTxn<'_>,
        prefixes: &RangeInclusive<Prefix>,
    ) -> Result<RoaringBitmap, StorageError> {
        let (mut first, mut last) = (prefixes.start().clone(), prefixes.end().clone());
        first.extend([0; CHUNK_BYTES]);
        last.extend([0xff; CHUNK_BYTES]);
        let range = (Bound::Included(first.as_slice()), Bound::Included(last.as_slice()));
        let rows = self.tables.payload.range(txn, &range);
        let mut bitmaps = Vec::new();
        for row in rows.map_err(|error| self.fault(error))? {
            let (_, bytes) = row.map_err(|error| self.fault(error))?;
            bitmaps.push(decode(bytes)?);
        }
        Ok(bitmaps.union())
    }
}

/// A stored bitmap.
pub(super) fn decode(bytes: &[u8]) -> Result<RoaringBitmap, StorageError> {
    RoaringBitmap::deserialize_from(bytes).map_err(|_| corrupt("a bitmap of documents"))
}

fn with_chunk(mut prefix: Prefix, doc: DocId) -> Vec<u8> {
    let [high, low, ..] = doc.0.to_be_bytes();
    prefix.extend([high, low]);
    prefix
}
