//! Late interaction within a batch: its queries' token vectors meet its documents', on the device.
//!
//! A query's vectors are taken from where they are: from this batch, from the one before it that is still under way, or
//! from the host, if a batch has brought them there. They are the same halves everywhere.

use std::{ops::Range, sync::Arc};

use sluice_core::batch::{PackedBatch, QueryVectors, Role, TokenMatrix};
use sluice_kernels::cuda::{
    encoder::Matrix,
    late_interaction::{CompareQuery, Comparison},
};

use super::{Asked, CudaEncodeError, CudaEncoder, Machine, halves};

/// A query that a batch under way computes.
#[derive(Clone, Debug)]
pub(crate) struct EarlierQuery {
    vectors: Arc<QueryVectors>,
    /// Of the batch.
    rows: Range<usize>,
}

/// What has to be known of a batch until it is collected.
#[derive(Debug)]
pub(crate) struct LateBatch {
    /// Queries that it computes, in order.
    pub(crate) queries: Vec<EarlierQuery>,
    /// Which sequences its scores are of, in order.
    documents: Vec<usize>,
    sequences: usize,
}

impl<M: Machine> CudaEncoder<M> {
    /// Has a batch of queries and documents computed and compared. `earlier` is what the batch before it, in the other
    /// slot, computes.
    pub(crate) fn start_late(
        &mut self,
        batch: &PackedBatch,
        slot: usize,
        earlier: &[EarlierQuery],
    ) -> Result<LateBatch, CudaEncodeError> {
        let late = LateBatch::of(batch)?;
        let mut places = Places { own: &late.queries, earlier, slot, foreign: Vec::new(), foreign_rows: 0 };
        let queries = self.place_queries(batch, &mut places)?;
        let documents: Result<Vec<Matrix>, _> = (late.documents.iter())
            .map(|&sequence| {
                let rows = &batch.cu_seqlens()[sequence..];
                self.regions.slots[slot].vectors.rows.rows(rows[0] as usize..rows[1] as usize)
            })
            .collect();
        let documents = documents?;
        let foreign = places.foreign;
        self.encode(batch, slot, Asked::Tokens, &foreign)?;
        let here = &self.regions.slots[slot];
        if !documents.is_empty() {
            let comparison = Comparison {
                queries: &queries,
                documents: &documents,
                scores: here.scores,
                program: here.program,
                partials: here.partials,
            };
            self.machine.compare(slot, &comparison)?;
            self.machine.copy_out(slot, 0, here.scores.slice(0..documents.len())?.cast()?)?;
        }
        let mut at = documents.len();
        for query in &late.queries {
            let words = here.vectors.words(query.rows.clone())?;
            self.machine.copy_out(slot, at, words)?;
            at += words.len();
        }
        self.machine.finish(slot)?;
        Ok(late)
    }

    /// Waits for a batch; fills the slots of its queries, and gives a score for each sequence.
    pub(crate) fn collect_late(&mut self, slot: usize, late: &LateBatch) -> Result<Vec<f32>, CudaEncodeError> {
        let dim = self.hidden_size();
        let words = self.collect(slot)?;
        let mut scores = vec![0.0; late.sequences];
        for (&sequence, word) in late.documents.iter().zip(words) {
            scores[sequence] = f32::from_bits(*word);
        }
        let mut at = late.documents.len();
        for query in &late.queries {
            let end = at + query.rows.len() * dim / 2;
            query.vectors.fill(TokenMatrix { data: halves(&words[at..end]).collect(), dim });
            at = end;
        }
        Ok(scores)
    }

    /// Where each run of documents finds its query.
    fn place_queries<'a>(
        &self,
        batch: &'a PackedBatch,
        places: &mut Places<'a>,
    ) -> Result<Vec<CompareQuery>, CudaEncodeError> {
        let mut queries: Vec<CompareQuery> = Vec::new();
        let mut last: Option<&Arc<QueryVectors>> = None;
        for role in batch.roles() {
            let Role::Document(vectors) = role else {
                last = None;
                continue;
            };
            match queries.last_mut().filter(|_| last.is_some_and(|last| Arc::ptr_eq(last, vectors))) {
                Some(query) => query.documents += 1,
                None => queries.push(CompareQuery { rows: self.place(vectors, places)?, documents: 1 }),
            }
            last = Some(vectors);
        }
        Ok(queries)
    }

    fn place<'a>(&self, vectors: &'a Arc<QueryVectors>, places: &mut Places<'a>) -> Result<Matrix, CudaEncodeError> {
        let of = |queries: &[EarlierQuery]| {
            queries.iter().find(|query| Arc::ptr_eq(&query.vectors, vectors)).map(|query| query.rows.clone())
        };
        let slots = &self.regions.slots;
        // What is known already is what a batch that is tried again would compute.
        if let Some(known) = vectors.get() {
            let dim = self.hidden_size();
            if known.dim != dim {
                let found = known.dim;
                return Err(CudaEncodeError::Roles(format!("a query of {found} components meets documents of {dim}")));
            }
            let queries = slots[places.slot].queries.rows;
            let rows = places.foreign(known);
            return queries.rows(rows).map_err(|_| CudaEncodeError::Queries { rows: places.foreign_rows });
        }
        if let Some(rows) = of(places.own) {
            return Ok(slots[places.slot].vectors.rows.rows(rows)?);
        }
        if let Some(rows) = of(places.earlier) {
            return Ok(slots[1 - places.slot].vectors.rows.rows(rows)?);
        }
        Err(CudaEncodeError::Roles("a document's query is not computed".to_owned()))
    }
}

/// Where queries may be, and those that have to be brought.
struct Places<'a> {
    own: &'a [EarlierQuery],
    earlier: &'a [EarlierQuery],
    slot: usize,
    foreign: Vec<&'a TokenMatrix>,
    foreign_rows: usize,
}

impl<'a> Places<'a> {
    /// The rows that a query will have among those that are brought.
    fn foreign(&mut self, known: &'a TokenMatrix) -> Range<usize> {
        let mut begin = 0;
        for matrix in &self.foreign {
            if std::ptr::eq(*matrix, known) {
                return begin..begin + known.rows();
            }
            begin += matrix.rows();
        }
        self.foreign.push(known);
        self.foreign_rows = begin + known.rows();
        begin..self.foreign_rows
    }
}

impl LateBatch {
    fn of(batch: &PackedBatch) -> Result<Self, CudaEncodeError> {
        let (mut queries, mut documents) = (Vec::new(), Vec::new());
        for (sequence, (rows, role)) in batch.ranges().zip(batch.roles()).enumerate() {
            match role {
                Role::Query(vectors) => queries.push(EarlierQuery { vectors: Arc::clone(vectors), rows }),
                Role::Document(_) => documents.push(sequence),
                Role::Plain | Role::Compared(_) => {
                    let fault = format!("sequence {sequence} is neither query nor document");
                    return Err(CudaEncodeError::Roles(fault));
                }
            }
        }
        Ok(Self { queries, documents, sequences: batch.len() })
    }
}
