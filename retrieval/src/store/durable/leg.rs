//! A leg of a search: what is asked, and the index that answers it.

use std::time::Duration;

use roaring::RoaringBitmap;
use sluice_core::fusion::rarity;
use tokio::runtime::Handle;

use crate::{
    collection::{self as kept, Collection as Kept, Index, LegFault},
    document::StoredDocument,
    identity::{DocId, Lsn},
    lexical::{
        Fuzzy, LexicalQuery as WordQuery, Operator, Phrase, Proximity, Snippet as Piece, SnippetOptions, TermScore,
    },
    schema::Schema,
    search::{FieldBoost, Leg, LegQuery, LexicalQuery, Snippet, SnippetJob},
    vector_index::{Hit, IndexError, Stop},
};

/// One leg of a search over a collection that is kept here.
pub(super) struct DurableLeg<'a> {
    pub(super) kept: &'a Kept,
    pub(super) leg: kept::Leg,
    pub(super) query: LegQuery,
}

impl DurableLeg<'_> {
    fn index(&self) -> Result<Index, IndexError> {
        self.kept.index(&self.leg).map_err(|fault: LegFault| IndexError::Unusable(fault.to_string()))
    }
}

impl Leg for DurableLeg<'_> {
    fn applied(&self) -> Lsn {
        let found = self.kept.progress().into_iter().find(|(leg, _)| *leg == self.leg);
        found.map(|(_, progress)| progress.lsn).unwrap_or_default()
    }

    /// Also for an index that is being filled: what it has is not all that there is.
    fn wait_for(&self, lsn: Lsn, time: Duration) -> bool {
        let reached = tokio::time::timeout(time, self.kept.reached(&self.leg, lsn));
        match Handle::current().block_on(reached) {
            Ok(Ok(())) => true,
            Ok(Err(fault)) => {
                tracing::warn!(leg = %self.leg, %fault, "a leg does not follow");
                false
            }
            Err(_) => false,
        }
    }

    fn search(&self, k: usize, among: Option<&RoaringBitmap>, stop: &dyn Stop) -> Result<Vec<Hit>, IndexError> {
        match (self.index()?, &self.query) {
            (Index::Lexical(index), LegQuery::Lexical(query)) => {
                index.search(&words(query, self.kept.schema()), k, among, stop)
            }
            (Index::Dense(index), LegQuery::Dense { query, effort, .. }) => {
                index.search_with(query, k, among, *effort, stop)
            }
            (Index::Sparse(index), LegQuery::Sparse { query, .. }) => index.search(query, k, among, stop),
            _ => Err(IndexError::Unusable(format!("{} is of another kind", self.leg))),
        }
    }

    fn rarity(&self) -> Option<f64> {
        let (Ok(Index::Lexical(index)), LegQuery::Lexical(query)) = (self.index(), &self.query) else { return None };
        let (frequencies, documents) = index.frequencies(&query.text).ok()?;
        rarity(&frequencies, documents)
    }

    fn terms(&self, documents: &[DocId], stop: &dyn Stop) -> Result<Vec<Vec<TermScore>>, IndexError> {
        let (Index::Lexical(index), LegQuery::Lexical(query)) = (self.index()?, &self.query) else {
            return Ok(vec![Vec::new(); documents.len()]);
        };
        index.breakdown(&words(query, self.kept.schema()), documents, stop)
    }

    fn snippets(
        &self,
        job: &SnippetJob,
        documents: &[&StoredDocument],
        stop: &dyn Stop,
    ) -> Result<Vec<Vec<Snippet>>, IndexError> {
        let (Index::Lexical(index), LegQuery::Lexical(query)) = (self.index()?, &self.query) else {
            return Ok(vec![Vec::new(); documents.len()]);
        };
        let texts: Vec<_> = documents.iter().map(|document| &document.texts).collect();
        let options = SnippetOptions { chars_max: job.characters_max };
        let pieces = index.snippets(&words(query, self.kept.schema()), &texts, options, stop)?;
        let wanted = |piece: &Piece| job.fields.contains(&piece.field);
        let piece = |piece: Piece| Snippet { field: piece.field, text: piece.text, highlights: piece.highlights };
        Ok(pieces.into_iter().map(|of| of.into_iter().filter(wanted).map(piece).collect()).collect())
    }
}

/// The index's words for it.
fn words(query: &LexicalQuery, schema: &Schema) -> WordQuery {
    let of_schema = |field: &str| schema.text_field(field).map_or(1.0, |field| field.boost);
    let boost = |field: &FieldBoost| field.boost.unwrap_or_else(|| of_schema(&field.field));
    WordQuery {
        text: query.text.clone(),
        fields: query.fields.iter().map(|field| (field.field.clone(), boost(field))).collect(),
        operator: if query.require_all { Operator::All } else { Operator::Any },
        phrases: query.phrase_slop.map(|slop| Phrase { text: query.text.clone(), slop }).into_iter().collect(),
        proximity: query.proximity.map(|(slop, boost)| Proximity { slop, boost }),
        fuzzy: (query.fuzzy_edits > 0).then(|| Fuzzy { edits: query.fuzzy_edits, ..Fuzzy::default() }),
        prefix: query.prefix,
    }
}
