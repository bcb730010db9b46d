//! Searches: one query for each leg, in one batch call.

use std::sync::Arc;

use futures_util::FutureExt;
use qdrant_client::qdrant::{
    DenseVector, FacetCounts, FacetHit, Filter as QdrantFilter, Query, QueryBatchPoints, QueryPoints, SearchParams,
    SparseVector as QdrantSparse, VectorInput, facet_value, query, vector_input,
};
use tokio::time::Instant;

use super::{
    collection::{QdrantCollection, nothing},
    filter,
    link::{Fault, answer, request},
    name, point, words,
};
use crate::{
    document::SparseVector,
    filter::Filter,
    identity::Lsn,
    payload::{FACET_VALUES_MAX, PayloadKind, Scalar},
    search::{
        Answer, Cluster, ClusterHit, Facet, FacetJob, Lacking, LegJob, LegQuery, Projection, ReadDocument, SearchJob,
        SourceError,
    },
    vector_index::Effort,
};

impl QdrantCollection {
    /// What a leg is to the cluster; `None` if it can find nothing.
    fn query(&self, leg: &LegJob, filter: Option<&QdrantFilter>) -> Option<QueryPoints> {
        let link = &self.parts.link;
        let (using, nearest, params) = match &leg.query {
            LegQuery::Lexical(query) => (name::WORDS_VECTOR, sparse(&self.parts.words.query(query)?), None),
            LegQuery::Dense { vector, query, effort, .. } => {
                let nearest = vector_input::Variant::Dense(DenseVector { data: query.clone() });
                (vector.as_str(), nearest, Some(params(*effort, leg.k, link.config().graph_candidates)))
            }
            LegQuery::Sparse { vector, query } => (vector.as_str(), sparse(query), None),
        };
        let nearest = query::Variant::Nearest(VectorInput { variant: Some(nearest) });
        Some(QueryPoints {
            collection_name: self.parts.target.clone(),
            query: Some(Query { variant: Some(nearest) }),
            using: Some(using.to_owned()),
            filter: filter.cloned(),
            params,
            limit: Some(leg.k as u64),
            with_payload: Some(point::facts()),
            ..QueryPoints::default()
        })
    }

    fn translated(&self, filter: Option<&Filter>) -> Result<Option<QdrantFilter>, Lacking> {
        Ok(filter.map(|filter| filter::translate(filter, &self.parts.schema)).transpose()?.flatten())
    }

    async fn ask(
        &self,
        legs: &[&LegJob],
        filter: Option<&Filter>,
        until: Instant,
    ) -> Result<Vec<Vec<ClusterHit>>, Fault> {
        let filter = self.translated(filter)?;
        let queries: Vec<Option<QueryPoints>> = legs.iter().map(|leg| self.query(leg, filter.as_ref())).collect();
        let asked: Vec<usize> = (0..legs.len()).filter(|nth| queries[*nth].is_some()).collect();
        let mut lists = vec![Vec::new(); legs.len()];
        if asked.is_empty() {
            return Ok(lists);
        }
        let link = &self.parts.link;
        let batch = QueryBatchPoints {
            collection_name: self.parts.target.clone(),
            query_points: queries.into_iter().flatten().collect(),
            read_consistency: link.read_consistency(),
            ..QueryBatchPoints::default()
        };
        let mut client = link.points();
        let found = answer("searching", until, client.query_batch(request(batch, until))).await?;
        if found.result.len() != asked.len() {
            return Err(nothing("searching"));
        }
        for (nth, list) in asked.into_iter().zip(found.result) {
            let metric = match &legs[nth].query {
                LegQuery::Dense { metric, .. } => Some(*metric),
                LegQuery::Lexical(_) | LegQuery::Sparse { .. } => None,
            };
            let hits = list.result.into_iter().map(|found| point::hit(found, metric));
            lists[nth] = hits.collect::<Result<_, _>>().map_err(SourceError::of("reading a leg's hits"))?;
        }
        Ok(lists)
    }

    async fn facet_counts(&self, facet: &FacetJob, filter: Option<&Filter>, until: Instant) -> Result<Facet, Fault> {
        let link = &self.parts.link;
        let counts = FacetCounts {
            collection_name: self.parts.target.clone(),
            key: name::payload_key(&facet.field),
            filter: self.translated(filter)?,
            limit: Some(FACET_VALUES_MAX as u64 + 1),
            exact: Some(true),
            read_consistency: link.read_consistency(),
            ..FacetCounts::default()
        };
        let mut client = link.points();
        let counted = answer("counting values", until, client.facet(request(counts, until))).await?;
        if counted.hits.len() > FACET_VALUES_MAX {
            return Err(Lacking::facet(&facet.field).into());
        }
        let mut values: Vec<(Scalar, u64)> = counted.hits.into_iter().filter_map(facet_value).collect();
        // Most frequent first, equal counts by ascending value, as with us; a cluster promises no order of the latter.
        values.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| order(&a.0).cmp(&order(&b.0))));
        let distinct = values.len() as u64;
        values.truncate(facet.limit);
        Ok(Facet { field: facet.field.clone(), values, distinct })
    }
}

impl Cluster for QdrantCollection {
    fn check(&self, job: &SearchJob) -> Result<(), Lacking> {
        for (nth, leg) in job.legs.iter().enumerate() {
            if let LegQuery::Lexical(query) = &leg.query {
                words::check(&format!("legs[{nth}]"), query)?;
            }
        }
        if job.snippets.is_some() {
            return Err(Lacking::new("snippets", "snippets"));
        }
        for (nth, facet) in job.facets.iter().enumerate() {
            let kind = self.parts.schema.payload_field(&facet.field).map(|field| field.kind);
            if let Some(kind @ (PayloadKind::Float | PayloadKind::Datetime)) = kind {
                return Err(Lacking::new(format!("facets[{nth}].field"), format!("counts of {} fields", kind.name())));
            }
        }
        self.translated(job.filter.as_ref()).map(|_| ())
    }

    fn now(&self) -> Lsn {
        self.parts.versions.now()
    }

    fn lists<'a>(
        &'a self,
        legs: &'a [&'a LegJob],
        filter: Option<&'a Filter>,
        until: Instant,
    ) -> Answer<'a, Vec<Vec<ClusterHit>>> {
        self.ask(legs, filter, until).map(|asked| asked.map_err(|fault| fault.of_search(&self.parts.name))).boxed()
    }

    fn count<'a>(&'a self, filter: Option<&'a Filter>, until: Instant) -> Answer<'a, u64> {
        let counting = async move {
            let filter = self.translated(filter)?;
            self.counted(filter, until).await
        };
        counting.map(|counted| counted.map_err(|fault| fault.of_search(&self.parts.name))).boxed()
    }

    fn facet<'a>(&'a self, facet: &'a FacetJob, filter: Option<&'a Filter>, until: Instant) -> Answer<'a, Facet> {
        self.facet_counts(facet, filter, until)
            .map(|counted| counted.map_err(|fault| fault.of_search(&self.parts.name)))
            .boxed()
    }

    fn read<'a>(
        &'a self,
        ids: Vec<Arc<str>>,
        projection: &'a Projection,
        until: Instant,
    ) -> Answer<'a, Vec<Option<ReadDocument>>> {
        let reading = async move {
            let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
            self.documents(&ids, projection, until).await
        };
        reading.map(|read| read.map_err(|fault| fault.of_search(&self.parts.name))).boxed()
    }
}

/// How hard a cluster looks for `k` dense vectors; `usual` candidates where nothing is said.
fn params(effort: Effort, k: usize, usual: usize) -> SearchParams {
    let candidates = match effort {
        Effort::Everything => return SearchParams { exact: Some(true), ..SearchParams::default() },
        Effort::Candidates(candidates) => candidates.max(k),
        Effort::Usual => usual.max(k.saturating_add(k / 2)),
    };
    SearchParams { hnsw_ef: Some(candidates as u64), ..SearchParams::default() }
}

fn sparse(SparseVector { indices, values }: &SparseVector) -> vector_input::Variant {
    vector_input::Variant::Sparse(QdrantSparse { values: values.clone(), indices: indices.clone() })
}

fn facet_value(hit: FacetHit) -> Option<(Scalar, u64)> {
    let value = match hit.value?.variant? {
        facet_value::Variant::StringValue(text) => Scalar::Keyword(text),
        facet_value::Variant::IntegerValue(number) => Scalar::Integer(number),
        facet_value::Variant::BoolValue(truth) => Scalar::Boolean(truth),
    };
    Some((value, hit.count))
}

/// What equally frequent values of one field are ordered by.
fn order(value: &Scalar) -> (&str, i64) {
    match value {
        Scalar::Keyword(text) | Scalar::Text(text) => (text, 0),
        Scalar::Integer(number) => ("", *number),
        Scalar::Boolean(truth) => ("", i64::from(*truth)),
        Scalar::Float(_) | Scalar::Datetime(_) => ("", 0),
    }
}
