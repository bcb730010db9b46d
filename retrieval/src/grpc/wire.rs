//! Jobs' answers → wire messages.

use std::{sync::Arc, time::Duration};

use sluice_core::fusion::{FusedHit, Method, Normalization};
use sluice_proto::{
    model::v1::{DataType, Embedding},
    retrieval::v1 as wire,
};

use crate::{
    document::SparseVector,
    lexical::TermScore,
    payload::{Datetime, PayloadKind, PayloadValue, Scalar},
    schema::{Metric, Schema},
    search::{
        ExplainAnswer, Facet, Found, FusionReport, LegHits, LegReport, LegState, Projection, ReadDocument,
        SearchAnswer, SearchHit, SearchJob, Snippet, degraded,
    },
    validate::LANGUAGES,
};

pub(super) fn schema(schema: &Schema) -> wire::Schema {
    let texts = schema.texts.iter().map(|field| wire::TextField {
        name: field.name.clone(),
        boost: Some(field.boost),
        language: LANGUAGES
            .into_iter()
            .find(|(_, language)| *language == field.language)
            .map_or("", |(name, _)| name)
            .to_owned(),
    });
    let metric = |metric| match metric {
        Metric::Cosine => wire::Metric::Cosine,
        Metric::Dot => wire::Metric::Dot,
        Metric::Euclidean => wire::Metric::Euclidean,
    };
    let dense = schema.dense.iter().map(|field| {
        let kind = wire::DenseField { dim: field.dim, metric: metric(field.metric).into() };
        wire::VectorField { name: field.name.clone(), kind: Some(wire::vector_field::Kind::Dense(kind)) }
    });
    let sparse = schema.sparse.iter().map(|field| {
        let kind = wire::SparseField { idf: field.idf };
        wire::VectorField { name: field.name.clone(), kind: Some(wire::vector_field::Kind::Sparse(kind)) }
    });
    let payload = schema
        .payload
        .iter()
        .map(|field| wire::PayloadField { name: field.name.clone(), r#type: payload_type(field.kind).into() });
    wire::Schema {
        texts: texts.collect(),
        vectors: dense.chain(sparse).collect(),
        payload: payload.collect(),
        content: Some(wire::Content {
            fields: schema.content.fields.clone(),
            separator: Some(schema.content.separator.clone()),
        }),
    }
}

fn payload_type(kind: PayloadKind) -> wire::PayloadType {
    match kind {
        PayloadKind::Keyword => wire::PayloadType::Keyword,
        PayloadKind::Integer => wire::PayloadType::Integer,
        PayloadKind::Float => wire::PayloadType::Float,
        PayloadKind::Boolean => wire::PayloadType::Boolean,
        PayloadKind::Datetime => wire::PayloadType::Datetime,
        PayloadKind::Text => wire::PayloadType::Text,
    }
}

pub(super) fn stored_document(document: ReadDocument, projection: &Projection) -> wire::StoredDocument {
    let (content_hash, version) = (document.stored.content_hash.0.to_vec(), document.stored.version.0);
    wire::StoredDocument { document: Some(self::document(document, projection)), content_hash, version }
}

/// As far as the projection asks for it.
fn document(read: ReadDocument, projection: &Projection) -> wire::Document {
    let ReadDocument { stored, dense, sparse } = read;
    let dense = dense.into_iter().map(|(name, vector)| (name, wire::vector::Kind::Dense(embedding(&vector))));
    let sparse = sparse.into_iter().map(|(name, SparseVector { indices, values })| {
        (name, wire::vector::Kind::Sparse(wire::SparseVector { indices, values }))
    });
    let vectors = dense.chain(sparse).filter(|(name, _)| projection.vectors.has(name));
    let payload = stored.payload.into_iter().filter(|(name, _)| projection.payload.has(name));
    wire::Document {
        id: stored.id,
        texts: stored.texts.into_iter().filter(|(name, _)| projection.texts.has(name)).collect(),
        payload: payload.map(|(name, value)| (name, payload_value(value))).collect(),
        vectors: vectors.map(|(name, kind)| (name, wire::Vector { kind: Some(kind) })).collect(),
    }
}

fn embedding(vector: &[f32]) -> Embedding {
    let data: Vec<u8> = vector.iter().flat_map(|component| component.to_le_bytes()).collect();
    let dim = u32::try_from(vector.len()).unwrap_or(u32::MAX);
    Embedding { data: data.into(), dtype: DataType::F32.into(), rows: 1, dim, scales: Vec::new().into() }
}

fn payload_value(value: PayloadValue) -> wire::PayloadValue {
    match value {
        PayloadValue::One(value) => scalar(value),
        PayloadValue::Many(values) => {
            let list = wire::PayloadList { values: values.into_iter().map(scalar).collect() };
            wire::PayloadValue { kind: Some(wire::payload_value::Kind::ListValue(list)) }
        }
    }
}

fn scalar(value: Scalar) -> wire::PayloadValue {
    use wire::payload_value::Kind;

    let kind = match value {
        Scalar::Keyword(text) | Scalar::Text(text) => Kind::StringValue(text),
        Scalar::Integer(number) => Kind::IntegerValue(number),
        Scalar::Float(number) => Kind::FloatValue(number),
        Scalar::Boolean(truth) => Kind::BooleanValue(truth),
        Scalar::Datetime(Datetime(micros)) => Kind::DatetimeValue(prost_types::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            // Less than 10^9.
            nanos: (micros.rem_euclid(1_000_000) * 1000) as i32,
        }),
    };
    wire::PayloadValue { kind: Some(kind) }
}

pub(super) fn search_answer(answer: SearchAnswer, job: &SearchJob, total: Duration) -> wire::SearchResponse {
    let SearchAnswer { hits, next_cursor, lsn, legs, fusion, count, facets, timing } = answer;
    wire::SearchResponse {
        hits: hits.into_iter().map(|hit| self::hit(hit, job)).collect(),
        next_cursor: next_cursor.map(|cursor| cursor.encode()).unwrap_or_default(),
        lsn: lsn.0,
        degraded: degraded(&legs),
        legs: legs.iter().map(leg_report).collect(),
        fusion: Some(fusion_report(&fusion)),
        count,
        facets: facets.into_iter().map(facet).collect(),
        timing: Some(wire::SearchTiming {
            filter: duration(timing.filter),
            legs: duration(timing.legs),
            fuse: duration(timing.fuse),
            total: duration(total),
        }),
    }
}

fn hit(hit: SearchHit, job: &SearchJob) -> wire::Hit {
    let SearchHit { rank, fused, document, snippets } = hit;
    let FusedHit { id, score, legs } = fused;
    let legs = legs.into_iter().map(|place| wire::LegScore {
        leg: job.legs[place.leg].name.clone(),
        rank: place.rank,
        score: place.score,
        contribution: place.contribution,
    });
    wire::Hit {
        id: id.id.to_string(),
        score,
        rank: count_u32(rank),
        legs: legs.collect(),
        content_hash: document.stored.content_hash.0.to_vec(),
        version: document.stored.version.0,
        document: (!job.projection.is_nothing()).then(|| self::document(document, &job.projection)),
        snippets: snippets.into_iter().map(snippet).collect(),
    }
}

fn snippet(snippet: Snippet) -> wire::Snippet {
    let highlights = snippet
        .highlights
        .into_iter()
        .map(|range| wire::Highlight { byte_start: count_u32(range.start), byte_end: count_u32(range.end) });
    wire::Snippet { field: snippet.field, text: snippet.text, highlights: highlights.collect() }
}

fn facet(facet: Facet) -> wire::Facet {
    let values = facet.values.into_iter();
    let values = values.map(|(value, count)| wire::FacetValue { value: Some(scalar(value)), count });
    wire::Facet { field: facet.field, values: values.collect(), distinct: facet.distinct }
}

pub(super) fn leg_hits(hits: LegHits) -> wire::LegHits {
    let documents = hits.list.hits().iter().zip(1..);
    let documents = documents.map(|((Found { id, .. }, score), rank)| wire::RankedDocument {
        id: Arc::as_ref(id).to_owned(),
        rank,
        score: *score,
    });
    wire::LegHits { report: Some(leg_report(&hits.report)), documents: documents.collect() }
}

fn leg_report(report: &LegReport) -> wire::LegReport {
    let status = match report.state {
        LegState::Ok => wire::LegStatus::Ok,
        LegState::Failed => wire::LegStatus::Failed,
        LegState::TimedOut => wire::LegStatus::TimedOut,
        LegState::Behind => wire::LegStatus::Behind,
        LegState::Overloaded => wire::LegStatus::Overloaded,
    };
    wire::LegReport {
        leg: report.name.clone(),
        status: status.into(),
        message: report.state.message().to_owned(),
        hits: count_u32(report.hits),
        duration: duration(report.duration),
        weight: report.weight,
        applied_lsn: report.applied.0,
    }
}

fn fusion_report(report: &FusionReport) -> wire::FusionReport {
    let normalized = |normalization| match normalization {
        Normalization::MinMax => wire::Normalization::MinMax,
        Normalization::TheoreticalMin => wire::Normalization::TheoreticalMin,
        Normalization::None => wire::Normalization::None,
    };
    let none = wire::Normalization::Unspecified;
    let (method, normalization) = match report.method {
        Method::Rrf { .. } => (wire::FusionMethod::Rrf, none),
        Method::Dbsf => (wire::FusionMethod::Dbsf, none),
        Method::CombSum(normalization) => (wire::FusionMethod::CombSum, normalized(normalization)),
        Method::CombMnz(normalization) => (wire::FusionMethod::CombMnz, normalized(normalization)),
        Method::Convex(normalization) => (wire::FusionMethod::Convex, normalized(normalization)),
    };
    wire::FusionReport {
        method: method.into(),
        normalization: normalization.into(),
        adaptive: report.features.is_some(),
        features: report.features.map(|features| wire::QueryFeatures {
            words: count_u32(features.words),
            question: features.question,
            identifier_share: features.identifier_share,
            rarity: features.rarity,
            agreement: features.agreement,
        }),
    }
}

pub(super) fn explain_answer(answer: ExplainAnswer, names: &[String]) -> wire::ExplainResponse {
    let ExplainAnswer { documents, legs, fusion, lsn } = answer;
    let documents = documents.into_iter().map(|document| wire::ExplainedDocument {
        id: document.id,
        found: document.found,
        matches_filter: document.matches_filter,
        rank: document.rank.map(count_u32),
        score: document.score,
        legs: names
            .iter()
            .zip(document.legs)
            .map(|(name, leg)| wire::ExplainedLeg {
                leg: name.clone(),
                rank: leg.rank,
                score: leg.score,
                contribution: leg.contribution,
                terms: leg.terms.into_iter().map(term_score).collect(),
            })
            .collect(),
    });
    wire::ExplainResponse {
        documents: documents.collect(),
        degraded: degraded(&legs),
        legs: legs.iter().map(leg_report).collect(),
        fusion: Some(fusion_report(&fusion)),
        lsn: lsn.0,
    }
}

fn term_score(score: TermScore) -> wire::TermScore {
    let TermScore { field, term, boost, idf, frequency, documents, field_length, field_length_mean, contribution } =
        score;
    wire::TermScore { field, term, boost, idf, frequency, documents, field_length, field_length_mean, contribution }
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

pub(super) fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
