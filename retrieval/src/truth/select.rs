//! A filter as the set of documents that it is true of.

use std::ops::Bound;

use heed::RoTxn;
use roaring::{MultiOps, RoaringBitmap};

use super::{Reader, StorageError, Truth, key};
use crate::{
    filter::Filter,
    payload::{Scalar, words},
};

impl Reader {
    /// The documents that a filter is true of: what every leg of a search is given.
    ///
    /// A filter that the schema does not allow ([`Filter::check`]) is true of what it happens to be true of.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn select(&self, filter: &Filter) -> Result<RoaringBitmap, StorageError> {
        self.truth().select(self.txn(), filter)
    }
}

impl Truth {
    pub(super) fn select(&self, txn: &RoTxn<'_>, filter: &Filter) -> Result<RoaringBitmap, StorageError> {
        let live = self.bitmap(txn, &key::live())?;
        Selection { truth: self, txn, live: &live }.select(filter)
    }
}

/// One evaluation. Bitmaps of values hold documents there are, and no others: `live` is needed for complements alone.
struct Selection<'a> {
    truth: &'a Truth,
    txn: &'a RoTxn<'a>,
    live: &'a RoaringBitmap,
}

impl Selection<'_> {
    fn select(&self, filter: &Filter) -> Result<RoaringBitmap, StorageError> {
        match filter {
            Filter::And(filters) => self.all(filters),
            Filter::Or(filters) => {
                let parts: Result<Vec<_>, _> = filters.iter().map(|filter| self.select(filter)).collect();
                Ok(parts?.union())
            }
            Filter::Not(filter) => Ok(self.live - self.select(filter)?),
            Filter::Match { field, value } => self.equal(field, std::slice::from_ref(value)),
            Filter::MatchAny { field, values } => self.equal(field, values),
            Filter::Range { field, lower, upper } => self.range(field, lower, upper),
            Filter::Words { field, text } => self.words(field, text),
            Filter::Exists { field } => match self.number(field) {
                Some(number) => self.truth.bitmap(self.txn, &key::exists(number)),
                None => Ok(RoaringBitmap::new()),
            },
            Filter::Ids(ids) => {
                let docs = ids.iter().filter_map(|id| self.truth.find(self.txn, id).transpose());
                docs.map(|doc| doc.map(|doc| doc.0)).collect()
            }
        }
    }

    fn all(&self, filters: &[Filter]) -> Result<RoaringBitmap, StorageError> {
        let mut found = self.live.clone();
        for filter in filters {
            // Nothing is left: what else is asked makes no difference.
            if found.is_empty() {
                break;
            }
            found &= self.select(filter)?;
        }
        Ok(found)
    }

    fn equal(&self, field: &str, values: &[Scalar]) -> Result<RoaringBitmap, StorageError> {
        let Some(number) = self.number(field) else { return Ok(RoaringBitmap::new()) };
        let part = |value| self.truth.bitmap(self.txn, &key::equal(number, value));
        Ok(values.iter().map(part).collect::<Result<Vec<_>, _>>()?.union())
    }

    fn range(&self, field: &str, lower: &Bound<Scalar>, upper: &Bound<Scalar>) -> Result<RoaringBitmap, StorageError> {
        let Some(number) = self.number(field) else { return Ok(RoaringBitmap::new()) };
        // Without bounds it is what has a value at all.
        if let (Bound::Unbounded, Bound::Unbounded) = (lower, upper) {
            return self.truth.bitmap(self.txn, &key::exists(number));
        }
        let part = |prefixes| self.truth.bitmap_between(self.txn, &prefixes);
        Ok(key::range(number, lower, upper).into_iter().map(part).collect::<Result<Vec<_>, _>>()?.union())
    }

    fn words(&self, field: &str, text: &str) -> Result<RoaringBitmap, StorageError> {
        let Some(number) = self.number(field) else { return Ok(RoaringBitmap::new()) };
        let mut found = self.live.clone();
        for word in words(text) {
            if found.is_empty() {
                break;
            }
            found &= self.truth.bitmap(self.txn, &key::word(number, &word))?;
        }
        Ok(found)
    }

    fn number(&self, field: &str) -> Option<u16> {
        let place = self.truth.schema.payload.iter().position(|declared| declared.name == field);
        place.map(key::field_number)
    }
}
