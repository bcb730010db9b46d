//! A leg of a search: what is asked, and the index that answers it.

use roaring::RoaringBitmap;
use sluice_core::fusion::rarity;

use crate::{
    collection::{self as kept, Collection as Kept, Index, LegFault, Progress},
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
    fn progress(&self) -> Progress {
        let found = self.kept.progress().into_iter().find(|(leg, _)| *leg == self.leg);
        found.map(|(_, progress)| progress).unwrap_or_default()
    }

    fn index(&self) -> Result<Index, IndexError> {
        self.kept.index(&self.leg).map_err(|fault: LegFault| IndexError::Unusable(fault.to_string()))
    }
}

impl Leg for DurableLeg<'_> {
    fn applied(&self) -> Lsn {
        self.progress().lsn
    }

    fn search(&self, k: usize, among: Option<&RoaringBitmap>, stop: &dyn Stop) -> Result<Vec<Hit>, IndexError> {
        let before = self.progress();
        let hits = match (self.index()?, &self.query) {
            (Index::Lexical(index), LegQuery::Lexical(query)) => {
                index.search(&words(query, self.kept.schema()), k, among, stop)
            }
            (Index::Dense(index), LegQuery::Dense { query, effort, .. }) => {
                index.search_with(query, k, among, *effort, stop)
            }
            (Index::Sparse(index), LegQuery::Sparse { query, .. }) => index.search(query, k, among, stop),
            _ => Err(IndexError::Unusable(format!("{} is of another kind", self.leg))),
        }?;
        let after = self.progress();
        if before.filled && after.filled && before.fills == after.fills { Ok(hits) } else { Err(IndexError::Filling) }
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

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{
        collection::CollectionOptions,
        document::Document,
        indexes::{IndexOptions, followers},
        schema::{DenseField, Language, Metric},
        truth::Operation,
        vector_index::{Effort, Never},
    };

    #[test]
    fn what_an_index_finds_while_it_is_emptied_is_no_answer() {
        let folder = TempDir::new().unwrap();
        let mut schema = Schema::title_and_text(Language::English);
        schema.dense.push(DenseField { name: "dense".into(), dim: 2, metric: Metric::Dot });
        let open = followers(IndexOptions::default());
        let kept = Kept::create(&folder.path().join("docs"), &schema, CollectionOptions::default(), &open).unwrap();
        let document =
            Document { id: "one".into(), dense: [("dense".into(), vec![1.0, 2.0])].into(), ..Document::default() };
        let lsn = kept.try_submit(vec![Operation::Upsert(document)]).unwrap().wait().unwrap().lsn;
        let leg = kept::Leg::Dense("dense".into());
        let query = LegQuery::Dense {
            vector: "dense".into(),
            query: vec![1.0, 1.0],
            metric: Metric::Dot,
            effort: Effort::Usual,
        };
        let asked = DurableLeg { kept: &kept, leg: leg.clone(), query };
        let reached = || wait(kept.reached(&leg, lsn)).unwrap();
        reached();
        assert_eq!(asked.search(1, None, &Never).unwrap()[0].score, 3.0);
        // It is asked whether to stop in the middle of its search.
        let emptied = asked.search(1, None, &|| kept.rebuild(&leg).is_err());
        assert!(matches!(emptied, Err(IndexError::Filling)), "{emptied:?}");
        reached();
        assert_eq!(asked.search(1, None, &Never).unwrap()[0].score, 3.0);
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Runtime::new().unwrap().block_on(future)
    }
}
