//! How many documents have which value.

use std::{cmp::Reverse, mem};

use roaring::RoaringBitmap;

use super::{Reader, StorageError, bitmaps, error::corrupt, key, key::CHUNK_BYTES};
use crate::{
    filter::FilterFault,
    payload::{Datetime, FACET_VALUES_MAX, PayloadKind, Scalar},
    vector_index::Stop,
};

/// Counts of a field's values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facet {
    /// The most frequent values, most documents first, equal counts in the order of values.
    pub values: Vec<FacetValue>,
    /// Values that at least one of the documents has, those left out included.
    pub distinct: u64,
}

/// One value and how many documents have it. A document with several values counts for each, once.
#[derive(Clone, Debug, PartialEq)]
pub struct FacetValue {
    /// The value.
    pub value: Scalar,
    /// Documents.
    pub documents: u64,
}

/// Why values cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum FacetError {
    /// The field is not declared, or is a text.
    #[error(transparent)]
    Field(#[from] FilterFault),
    /// The store could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The documents have more than [`FACET_VALUES_MAX`] values.
    #[error("there are more than {FACET_VALUES_MAX} values to count")]
    TooManyValues,
    /// [`Stop`] said so before all were counted.
    #[error("counting was stopped before it was done")]
    Stopped,
}

impl Reader {
    /// The `limit` most frequent values of a payload field among some documents.
    ///
    /// Costs a look at every distinct value of the field, and an intersection with each of its bitmaps; `stop` is asked at
    /// each.
    ///
    /// # Errors
    /// [`FacetError`].
    pub fn facet(
        &self,
        field: &str,
        among: &RoaringBitmap,
        limit: usize,
        stop: &dyn Stop,
    ) -> Result<Facet, FacetError> {
        let unknown = || FilterFault::Undeclared { field: field.chars().take(64).collect() };
        let place = self.schema().payload.iter().position(|declared| declared.name == field).ok_or_else(unknown)?;
        let kind = self.schema().payload[place].kind;
        if kind == PayloadKind::Text {
            let (field, kind) = (field.to_owned(), kind.name());
            return Err(FilterFault::Condition { field, kind, condition: "facet" }.into());
        }
        let number = key::field_number(place);
        let prefix = if kind.is_ordered() { key::numbers(number) } else { key::values(number) };
        let mut counts = self.count(&prefix, kind, among, stop)?;
        let distinct = counts.len() as u64;
        // Rows come in the order of values for numbers; a stable sort keeps it among equal counts.
        if !kind.is_ordered() {
            counts.sort_by(|(a, _), (b, _)| text(a).cmp(text(b)));
        }
        counts.sort_by_key(|(_, documents)| Reverse(*documents));
        counts.truncate(limit);
        let values = counts.into_iter().map(|(value, documents)| FacetValue { value, documents }).collect();
        Ok(Facet { values, distinct })
    }

    /// Every value that one of the documents has, in the order of keys.
    fn count(
        &self,
        prefix: &[u8],
        kind: PayloadKind,
        among: &RoaringBitmap,
        stop: &dyn Stop,
    ) -> Result<Vec<(Scalar, u64)>, FacetError> {
        let rows = self.truth().tables.payload.prefix_iter(self.txn(), prefix);
        let mut counts = Vec::new();
        let (mut current, mut documents) = (Vec::new(), 0);
        let mut enter = |key: &[u8], documents: u64| -> Result<(), FacetError> {
            if documents > 0 {
                if counts.len() == FACET_VALUES_MAX {
                    return Err(FacetError::TooManyValues);
                }
                counts.push((value_of(key, kind)?, documents));
            }
            Ok(())
        };
        for row in rows.map_err(|error| self.truth().fault(error))? {
            if stop.stop() {
                return Err(FacetError::Stopped);
            }
            let (key, bytes) = row.map_err(|error| self.truth().fault(error))?;
            // The parts of a value follow each other.
            let value = &key[..key.len().saturating_sub(CHUNK_BYTES)];
            if current.get(..current.len().saturating_sub(CHUNK_BYTES)) != Some(value) {
                enter(&current, mem::take(&mut documents))?;
            }
            documents += bitmaps::decode(bytes)?.intersection_len(among);
            current = key.to_vec();
        }
        enter(&current, documents)?;
        Ok(counts)
    }
}

fn value_of(key: &[u8], kind: PayloadKind) -> Result<Scalar, StorageError> {
    let number = || key::code_of(key).ok_or_else(|| corrupt("a number's key"));
    let text = || key::text_of(key).ok_or_else(|| corrupt("a value's key"));
    Ok(match kind {
        PayloadKind::Integer => Scalar::Integer(key::signed_of(number()?)),
        PayloadKind::Float => Scalar::Float(key::float_of(number()?)),
        PayloadKind::Datetime => Scalar::Datetime(Datetime(key::signed_of(number()?))),
        PayloadKind::Boolean => Scalar::Boolean(text()? == "1"),
        PayloadKind::Keyword | PayloadKind::Text => Scalar::Keyword(text()?.to_owned()),
    })
}

/// Keys of keywords are in the order of lengths first.
fn text(value: &Scalar) -> &str {
    match value {
        Scalar::Keyword(text) => text,
        Scalar::Boolean(true) => "1",
        _ => "",
    }
}
