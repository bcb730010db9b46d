//! Searches on the wire → jobs.

use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use sluice_core::fusion::{Cursor, FINGERPRINT_BYTES, Method, Normalization, RRF_K, WEIGHT_MAX};
use sluice_proto::retrieval::v1 as wire;
use sluice_service::status::Refusal;

use super::{Faults, at};
use crate::{
    config::Limits,
    identity::Lsn,
    payload::PayloadKind,
    schema::Schema,
    search::{
        ExplainJob, FacetJob, FieldBoost, LegJob, LegQuery, LexicalQuery, Projection, SearchJob, SnippetJob, Weights,
    },
    vector_index::Effort,
};

/// Legs of a search.
pub(crate) const LEGS_MAX: usize = 8;
/// Bytes of a leg's name.
const LEG_NAME_BYTES_MAX: usize = 128;
/// Candidates of a leg where none are asked for.
const CANDIDATES_DEFAULT: usize = 100;
/// Hits of a page where none are asked for.
const HITS_DEFAULT: usize = 10;
/// Payload fields whose values are counted.
const FACETS_MAX: usize = 16;
/// Values of a facet.
const FACET_VALUES_MAX: u32 = 1000;
/// Values of a facet where none are asked for.
const FACET_VALUES_DEFAULT: u32 = 10;
/// Characters of a snippet.
const SNIPPET_CHARACTERS_MAX: u32 = 1000;
/// Characters of a snippet where none are asked for.
const SNIPPET_CHARACTERS_DEFAULT: u32 = 160;
/// Moves of a phrase's words.
const SLOP_MAX: u32 = 100;
/// Characters in which a word may differ: what a Levenshtein automaton is built for.
const FUZZY_EDITS_MAX: u32 = 2;
/// Candidates that a graph is searched for: beyond, comparing everything is faster.
const EF_SEARCH_MAX: u32 = 10_000;
/// Documents of a request that asks for explanations: they are for people.
const EXPLAINED_MAX: usize = 100;

/// Turns a search into a job. `identity` tells its collection from every other.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn search(
    request: wire::SearchRequest,
    schema: &Schema,
    identity: &str,
    limits: &Limits,
) -> Result<SearchJob, Refusal> {
    let mut faults = Faults::default();
    let job = faults.search("", request, schema, (identity, limits));
    faults.finish()?;
    job.ok_or(Refusal::Internal)
}

/// Turns a request for explanations into a job.
///
/// # Errors
/// [`Refusal::InvalidArgument`] with every fault.
pub fn explain(
    request: wire::ExplainRequest,
    schema: &Schema,
    identity: &str,
    limits: &Limits,
) -> Result<ExplainJob, Refusal> {
    let mut faults = Faults::default();
    faults.count("ids", request.ids.len(), EXPLAINED_MAX);
    for (index, id) in request.ids.iter().enumerate() {
        faults.id(|| format!("ids[{index}]"), id);
    }
    // What an explanation does not have is not looked at.
    let search = request.search.unwrap_or_default();
    let search = wire::SearchRequest {
        limit: 0,
        cursor: Vec::new(),
        projection: None,
        snippets: None,
        facets: Vec::new(),
        count: false,
        ..search
    };
    let job = faults.search("search", search, schema, (identity, limits));
    faults.finish()?;
    job.map(|search| ExplainJob { search, ids: request.ids }).ok_or(Refusal::Internal)
}

/// Of everything in a search that decides about its list.
fn fingerprint(request: &wire::SearchRequest, identity: &str) -> [u8; FINGERPRINT_BYTES] {
    let deciding = wire::SearchRequest {
        collection: String::new(),
        limit: 0,
        cursor: Vec::new(),
        min_lsn: 0,
        projection: None,
        snippets: None,
        facets: Vec::new(),
        count: false,
        ..request.clone()
    };
    // The identity ends where the first 0 is: names have none.
    let digest = Sha256::new().chain_update(identity).chain_update([0]).chain_update(deciding.encode_to_vec());
    let digest: [u8; 32] = digest.finalize().into();
    let mut fingerprint = [0; FINGERPRINT_BYTES];
    fingerprint.copy_from_slice(&digest[..FINGERPRINT_BYTES]);
    fingerprint
}

impl Faults {
    /// `None` only with a fault.
    fn search(
        &mut self,
        path: &str,
        request: wire::SearchRequest,
        schema: &Schema,
        (identity, limits): (&str, &Limits),
    ) -> Option<SearchJob> {
        let fingerprint = fingerprint(&request, identity);
        let after = self.cursor(at(path, "cursor"), &request.cursor, fingerprint);
        let legs = self.legs(&at(path, "legs"), request.legs, schema, limits);
        let filter = request.filter.map(|filter| self.filter(&at(path, "filter"), filter, schema));
        let (method, weights) = self.fusion(&at(path, "fusion"), request.fusion.unwrap_or_default());
        let limit = self.within(at(path, "limit"), request.limit, HITS_DEFAULT, limits.hits_max);
        if request.min_score.is_some_and(f64::is_nan) {
            self.add(at(path, "min_score"), "must not be NaN");
        }
        let projection =
            request.projection.map_or_else(Projection::nothing, |projection| self.projection(projection, schema));
        let snippets = request.snippets.map(|snippets| self.snippets(&at(path, "snippets"), snippets, schema));
        if request.facets.len() > FACETS_MAX {
            self.add(at(path, "facets"), format!("must be at most {FACETS_MAX}, got {}", request.facets.len()));
        }
        let facets = request.facets.into_iter().enumerate();
        let facets = facets
            .map(|(index, facet)| self.facet(&format!("{}[{index}]", at(path, "facets")), facet, schema))
            .collect();
        Some(SearchJob {
            legs,
            filter: filter.map_or(Some(None), |filter| filter.map(Some))?,
            method,
            weights,
            limit,
            after,
            fingerprint,
            min_score: request.min_score,
            min_lsn: Lsn(request.min_lsn),
            projection,
            snippets,
            facets,
            count: request.count,
        })
    }

    fn cursor(&mut self, path: String, bytes: &[u8], fingerprint: [u8; FINGERPRINT_BYTES]) -> Option<Cursor> {
        if bytes.is_empty() {
            return None;
        }
        Cursor::decode(bytes, fingerprint).map_err(|error| self.add(path, error.to_string())).ok()
    }

    /// 0 is the default, or the largest possible if that is less.
    fn within(&mut self, path: String, value: u32, default: usize, max: usize) -> usize {
        let value = value as usize;
        if value > max {
            self.add(path, format!("must be at most {max}, got {value}"));
        }
        if value == 0 { default.min(max) } else { value }
    }

    fn legs(&mut self, path: &str, legs: Vec<wire::Leg>, schema: &Schema, limits: &Limits) -> Vec<LegJob> {
        self.count(path, legs.len(), LEGS_MAX);
        let mut jobs: Vec<LegJob> = Vec::new();
        for (index, leg) in legs.into_iter().enumerate().take(LEGS_MAX) {
            let path = format!("{path}[{index}]");
            let Some(job) = self.leg(&path, leg, schema, limits) else { continue };
            if jobs.iter().any(|before| before.name == job.name) {
                self.add(at(&path, "name"), format!("{:?} is the name of another leg", job.name));
            }
            jobs.push(job);
        }
        if self.is_empty() && jobs.iter().all(|leg| leg.weight == Some(0.0)) {
            self.add(path, "have weight 0, all of them");
        }
        jobs
    }

    fn leg(&mut self, path: &str, leg: wire::Leg, schema: &Schema, limits: &Limits) -> Option<LegJob> {
        let k = self.within(at(path, "k"), leg.k, CANDIDATES_DEFAULT, limits.candidates_max);
        if leg.weight.is_some_and(|weight| !(0.0..=WEIGHT_MAX).contains(&weight)) {
            self.add(at(path, "weight"), format!("must be a number from 0 to {WEIGHT_MAX}"));
        }
        let timeout = leg.timeout.and_then(|timeout| {
            let parsed = Duration::try_from(timeout).ok().filter(|timeout| !timeout.is_zero());
            if parsed.is_none() {
                self.add(at(path, "timeout"), "must be longer than 0");
            }
            parsed
        });
        if leg.name.len() > LEG_NAME_BYTES_MAX {
            self.add(at(path, "name"), format!("must be at most {LEG_NAME_BYTES_MAX} bytes"));
        }
        let (default_name, query) = match leg.query {
            Some(wire::leg::Query::Lexical(query)) => {
                let query = self.lexical(&at(path, "lexical"), query, schema, limits);
                ("lexical".to_owned(), LegQuery::Lexical(query))
            }
            Some(wire::leg::Query::Dense(query)) => {
                (query.vector.clone(), self.dense_query(&at(path, "dense"), query, schema)?)
            }
            Some(wire::leg::Query::Sparse(query)) => {
                (query.vector.clone(), self.sparse_query(&at(path, "sparse"), query, schema)?)
            }
            None => {
                self.add(path, "must have a query");
                return None;
            }
        };
        let name = if leg.name.is_empty() { default_name } else { leg.name };
        Some(LegJob { name, query, k, weight: leg.weight, timeout })
    }

    fn lexical(&mut self, path: &str, query: wire::LexicalQuery, schema: &Schema, limits: &Limits) -> LexicalQuery {
        let wire::LexicalQuery { text, fields, require_all, fuzzy_edits, prefix, phrase, proximity } = query;
        if text.trim().is_empty() {
            self.add(at(path, "text"), "must not be empty");
        } else if text.len() as u64 > limits.query_bytes_max {
            self.add(at(path, "text"), format!("must be at most {} bytes", limits.query_bytes_max));
        }
        if schema.texts.is_empty() {
            self.add(path, "looks for words, and the schema has no text field");
        }
        for (index, wire::FieldBoost { field, boost }) in fields.iter().enumerate() {
            let path = format!("{path}.fields[{index}]");
            if schema.text_field(field).is_none() {
                self.add(at(&path, "field"), format!("{field:?} is no text field of the schema"));
            } else if fields[..index].iter().any(|before| before.field == *field) {
                self.add(at(&path, "field"), "is there twice");
            }
            if boost.is_some_and(|boost| !(boost > 0.0 && boost <= Schema::BOOST_MAX)) {
                self.add(at(&path, "boost"), format!("must be above 0 and at most {}", Schema::BOOST_MAX));
            }
        }
        if fuzzy_edits > FUZZY_EDITS_MAX {
            self.add(at(path, "fuzzy_edits"), format!("must be at most {FUZZY_EDITS_MAX}"));
        }
        if phrase.is_some_and(|phrase| phrase.slop > SLOP_MAX) {
            self.add(at(path, "phrase.slop"), format!("must be at most {SLOP_MAX}"));
        }
        if phrase.is_some() && fuzzy_edits > 0 {
            self.add(at(path, "fuzzy_edits"), "must be 0 with a phrase");
        }
        if phrase.is_some() && prefix {
            self.add(at(path, "prefix"), "must not be set with a phrase");
        }
        let proximity = proximity.map(|wire::Proximity { slop, boost }| {
            if slop > SLOP_MAX {
                self.add(at(path, "proximity.slop"), format!("must be at most {SLOP_MAX}"));
            }
            let boost = boost.unwrap_or(1.0);
            if !(boost > 0.0 && boost <= Schema::BOOST_MAX) {
                self.add(at(path, "proximity.boost"), format!("must be above 0 and at most {}", Schema::BOOST_MAX));
            }
            (slop, boost)
        });
        let fields = fields.into_iter().map(|wire::FieldBoost { field, boost }| FieldBoost { field, boost }).collect();
        let (fuzzy_edits, phrase_slop) = (u8::try_from(fuzzy_edits).unwrap_or(0), phrase.map(|phrase| phrase.slop));
        LexicalQuery { text, fields, require_all, fuzzy_edits, prefix, phrase_slop, proximity }
    }

    fn dense_query(&mut self, path: &str, query: wire::DenseQuery, schema: &Schema) -> Option<LegQuery> {
        let wire::DenseQuery { vector, embedding, ef_search, exact } = query;
        let Some(field) = schema.dense_field(&vector) else {
            self.add(at(path, "vector"), format!("{vector:?} is no dense vector of the schema"));
            return None;
        };
        let Some(embedding) = embedding else {
            self.add(at(path, "embedding"), "is required");
            return None;
        };
        let effort = match (ef_search, exact) {
            (0, false) => Effort::Usual,
            (0, true) => Effort::Everything,
            (candidates, false) => Effort::Candidates(candidates as usize),
            (_, true) => {
                self.add(at(path, "ef_search"), "must be 0 where exact is set");
                Effort::Everything
            }
        };
        if ef_search > EF_SEARCH_MAX {
            self.add(at(path, "ef_search"), format!("must be at most {EF_SEARCH_MAX}, got {ef_search}"));
        }
        let query = self.dense(&at(path, "embedding"), &embedding, field)?;
        Some(LegQuery::Dense { vector, query, metric: field.metric, effort })
    }

    fn sparse_query(&mut self, path: &str, query: wire::SparseQuery, schema: &Schema) -> Option<LegQuery> {
        let wire::SparseQuery { vector, sparse } = query;
        if schema.sparse_field(&vector).is_none() {
            self.add(at(path, "vector"), format!("{vector:?} is no sparse vector of the schema"));
            return None;
        }
        let sparse = sparse.unwrap_or_default();
        if sparse.indices.is_empty() && sparse.values.is_empty() {
            self.add(at(path, "sparse"), "must not be empty");
            return None;
        }
        let query = self.sparse(&at(path, "sparse"), sparse)?;
        Some(LegQuery::Sparse { vector, query })
    }

    fn fusion(&mut self, path: &str, fusion: wire::Fusion) -> (Method, Weights) {
        use wire::{FusionMethod, WeightMode};

        let weights = match WeightMode::try_from(fusion.weight_mode) {
            Ok(WeightMode::Unspecified) => Weights::Default,
            Ok(WeightMode::Fixed) => Weights::Fixed,
            Ok(WeightMode::Adaptive) => Weights::Adaptive,
            Err(_) => self.unknown_value(at(path, "weight_mode"), fusion.weight_mode, Weights::Default),
        };
        let kind = FusionMethod::try_from(fusion.method)
            .unwrap_or_else(|_| self.unknown_value(at(path, "method"), fusion.method, FusionMethod::Unspecified));
        let is_rrf = matches!(kind, FusionMethod::Unspecified | FusionMethod::Rrf);
        if fusion.rrf_k.is_some() && !is_rrf {
            self.add(at(path, "rrf_k"), "is for RRF alone");
        }
        if fusion.rrf_k.is_some_and(|k| !k.is_finite() || k < 0.0) {
            self.add(at(path, "rrf_k"), "must be a finite number from 0");
        }
        let normalization = self.normalization(at(path, "normalization"), fusion.normalization);
        if normalization.is_some() && (is_rrf || kind == FusionMethod::Dbsf) {
            self.add(at(path, "normalization"), "is not for this method");
        }
        let or = |default: Normalization| normalization.unwrap_or(default);
        let method = match kind {
            FusionMethod::Unspecified | FusionMethod::Rrf => Method::Rrf { k: fusion.rrf_k.unwrap_or(RRF_K) },
            FusionMethod::Dbsf => Method::Dbsf,
            FusionMethod::CombSum => Method::CombSum(or(Normalization::MinMax)),
            FusionMethod::CombMnz => Method::CombMnz(or(Normalization::MinMax)),
            FusionMethod::Convex => Method::Convex(or(Normalization::TheoreticalMin)),
        };
        (method, weights)
    }

    fn normalization(&mut self, path: String, value: i32) -> Option<Normalization> {
        match wire::Normalization::try_from(value) {
            Ok(wire::Normalization::Unspecified) => None,
            Ok(wire::Normalization::MinMax) => Some(Normalization::MinMax),
            Ok(wire::Normalization::TheoreticalMin) => Some(Normalization::TheoreticalMin),
            Ok(wire::Normalization::None) => Some(Normalization::None),
            Err(_) => self.unknown_value(path, value, None),
        }
    }

    fn snippets(&mut self, path: &str, snippets: wire::Snippets, schema: &Schema) -> SnippetJob {
        let wire::Snippets { fields, characters_max } = snippets;
        self.count(at(path, "fields"), fields.len(), Schema::FIELDS_MAX);
        for (index, field) in fields.iter().enumerate().filter(|(_, field)| schema.text_field(field).is_none()) {
            self.add(format!("{path}.fields[{index}]"), format!("{field:?} is no text field of the schema"));
        }
        if characters_max > SNIPPET_CHARACTERS_MAX {
            self.add(at(path, "characters_max"), format!("must be at most {SNIPPET_CHARACTERS_MAX}"));
        }
        let characters_max = if characters_max == 0 { SNIPPET_CHARACTERS_DEFAULT } else { characters_max };
        SnippetJob { fields, characters_max: characters_max as usize }
    }

    fn facet(&mut self, path: &str, facet: wire::FacetRequest, schema: &Schema) -> FacetJob {
        let wire::FacetRequest { field, limit } = facet;
        match schema.payload_field(&field).map(|field| field.kind) {
            Some(PayloadKind::Text) => {
                self.add(at(path, "field"), format!("{field} is a text, whose values are not counted"));
            }
            Some(_) => {}
            None => self.add(at(path, "field"), format!("{field:?} is no payload field of the schema")),
        }
        if limit > FACET_VALUES_MAX {
            self.add(at(path, "limit"), format!("must be at most {FACET_VALUES_MAX}"));
        }
        FacetJob { field, limit: if limit == 0 { FACET_VALUES_DEFAULT } else { limit } as usize }
    }
}
