//! What makes up the BM25 of a document, word by word.
//!
//! The same figures that a search scores with, put together once more here: tantivy's own explanations are texts. A test
//! holds the sum against the score.

use roaring::RoaringBitmap;
use tantivy::{
    DocSet, Searcher, SegmentReader, TERMINATED, Term,
    postings::Postings,
    query::Bm25StatisticsProvider,
    schema::{Field, IndexRecordOption},
};

use super::{
    collect::View,
    layout::{Fields, LexicalField},
};
use crate::{
    identity::DocId,
    vector_index::{IndexError, Stop},
};

/// BM25's constants, as tantivy has them.
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// What one word contributes to a document's score:
/// boost · idf · (k1 + 1) · frequency / (frequency + k1 · (1 − b + b · field_length / field_length_mean)), k1 = 1.2,
/// b = 0.75.
#[derive(Clone, Debug, PartialEq)]
pub struct TermScore {
    /// The text field, or the name of a language's common field.
    pub field: String,
    /// The word as it is indexed.
    pub term: String,
    /// What the query multiplies it with.
    pub boost: f32,
    /// ln(1 + (N − n + ½) / (n + ½)) over the N documents of the index, of which n have the word.
    pub idf: f32,
    /// How often the document has it.
    pub frequency: u32,
    /// Documents that have it, those included that are gone and not merged away yet.
    pub documents: u64,
    /// Words of the field, rounded down as the index keeps it.
    pub field_length: u32,
    /// Mean over all documents.
    pub field_length_mean: f32,
    /// What it adds to the score.
    pub contribution: f32,
}

/// Of each document, the words that it has, most telling first; none of one that is not there.
pub(crate) fn breakdown(
    view: &View<'_>,
    (fields, weights): (&Fields, &[(Term, f32)]),
    documents: &[DocId],
    stop: &dyn Stop,
) -> Result<Vec<Vec<TermScore>>, IndexError> {
    let asked: RoaringBitmap = documents.iter().map(|number| number.0).collect();
    let mut scores = vec![Vec::new(); documents.len()];
    let failed = |cause| IndexError::storage("explaining words")(cause);
    for (term, boost) in weights {
        if stop.stop() {
            return Err(IndexError::Stopped);
        }
        let field = fields.texts.iter().chain(&fields.groups).find(|field| field.field == term.field());
        let Some(field) = field else { continue };
        let statistics = Statistics::of(view.searcher, term).map_err(failed)?;
        for (ordinal, reader) in view.searcher.segment_readers().iter().enumerate() {
            let numbers = view.numbers.segment(ordinal);
            let alive = reader.alive_bitset();
            let places = numbers.places(&asked).into_iter();
            for place in places.filter(|&place| alive.is_none_or(|alive| alive.is_alive(place))) {
                let Some(found) = occurrence(reader, term, place).map_err(failed)? else { continue };
                let score = statistics.score(field, term, *boost, found);
                let number = DocId(numbers.number(place));
                for (scores, _) in scores.iter_mut().zip(documents).filter(|(_, document)| **document == number) {
                    scores.push(score.clone());
                }
            }
        }
    }
    for scores in &mut scores {
        scores.sort_by(|a: &TermScore, b| b.contribution.total_cmp(&a.contribution));
    }
    Ok(scores)
}

/// How often the document at a place has a word, and how long its field is.
fn occurrence(reader: &SegmentReader, term: &Term, place: u32) -> tantivy::Result<Option<(u32, u32)>> {
    let field: Field = term.field();
    let Some(mut postings) = reader.inverted_index(field)?.read_postings(term, IndexRecordOption::WithFreqs)? else {
        return Ok(None);
    };
    if postings.doc() < place {
        postings.seek(place);
    }
    if postings.doc() == TERMINATED || postings.doc() != place {
        return Ok(None);
    }
    let length = reader.get_fieldnorms_reader(field)?.fieldnorm(place);
    Ok(Some((postings.term_freq(), length)))
}

/// Of a word in the whole index.
struct Statistics {
    documents: u64,
    idf: f32,
    field_length_mean: f32,
}

impl Statistics {
    fn of(searcher: &Searcher, term: &Term) -> tantivy::Result<Self> {
        let all = searcher.total_num_docs()?;
        let documents = searcher.doc_freq(term)?;
        let idf = (1.0 + (all.saturating_sub(documents) as f32 + 0.5) / (documents as f32 + 0.5)).ln();
        let field_length_mean = searcher.total_num_tokens(term.field())? as f32 / all as f32;
        Ok(Self { documents, idf, field_length_mean })
    }

    fn score(&self, field: &LexicalField, term: &Term, boost: f32, (frequency, field_length): (u32, u32)) -> TermScore {
        let &Self { documents, idf, field_length_mean } = self;
        let norm = K1 * (1.0 - B + B * field_length as f32 / field_length_mean);
        let saturated = (K1 + 1.0) * frequency as f32 / (frequency as f32 + norm);
        TermScore {
            field: field.name.clone(),
            term: term.value().as_str().unwrap_or_default().to_owned(),
            boost,
            idf,
            frequency,
            documents,
            field_length,
            field_length_mean,
            contribution: boost * idf * saturated,
        }
    }
}
