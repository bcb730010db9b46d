//! What a request says of how it is worked on: stages, priority, budgets, the score cache.

use std::time::Duration;

use sluice_core::{ModelIndex, Priority, batch::TokenMatrix};
use sluice_proto::rerank::v1 as wire;
use sluice_service::status::Refusal;

use super::{Faults, find};
use crate::{
    job::{Budget, CachePolicy, Content, Document, Method, Query, ScoreKind, StageJob},
    models::{Model, Models},
};

/// Passes of one request: each is a ranking that a caller can still make sense of.
const STAGES_MAX: usize = 4;
const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// A stage as far as it is known without its model.
pub(super) struct WantedStage {
    /// Before the names of its fields: nothing where the request names no stages.
    prefix: String,
    model: String,
    method: Option<Method>,
    top_k: Option<usize>,
    budget: Budget,
}

/// Components of the vectors that a request may bring: those of its first late-interaction stage's model. `None` if
/// that model is not known.
pub(super) fn dim_of_vectors(wanted: &[WantedStage], models: &Models) -> Option<usize> {
    let found = |stage: &WantedStage| models.find(&stage.model).map(|(_, model)| (stage.method, model));
    let is_late = |stage: &&WantedStage| {
        found(stage).is_none_or(|(method, model)| method_of(method, model) == Method::LateInteraction)
    };
    let stage = wanted.iter().find(is_late).or(wanted.first())?;
    found(stage).map(|(_, model)| model.info.embedding_dim as usize)
}

fn method_of(said: Option<Method>, model: &Model) -> Method {
    said.unwrap_or_else(|| model.default_method())
}

impl Faults {
    /// The stages that a request asks for, at least one: without a word of stages, it is one itself.
    pub(super) fn wanted_stages(&mut self, request: &wire::RerankRequest) -> Vec<WantedStage> {
        if request.stages.is_empty() {
            let method = self.method("method", request.method);
            let model = request.model.clone();
            return vec![WantedStage { prefix: String::new(), model, method, top_k: None, budget: Budget::default() }];
        }
        if request.method != 0 {
            self.add("method", "is not for a request with stages: each has its own");
        }
        if request.stages.len() > STAGES_MAX {
            self.add("stages", format!("must be at most {STAGES_MAX}, got {}", request.stages.len()));
        }
        let last = request.stages.len() - 1;
        let stages = request.stages.iter().take(STAGES_MAX).enumerate();
        stages.map(|(index, stage)| self.wanted_stage(index, index == last, stage, &request.model)).collect()
    }

    fn wanted_stage(&mut self, index: usize, last: bool, stage: &wire::Stage, model: &str) -> WantedStage {
        let prefix = format!("stages[{index}].");
        self.model_name(&format!("{prefix}model"), &stage.model);
        let method = self.method(&format!("{prefix}method"), stage.method);
        if last && stage.top_k > 0 {
            self.add(format!("{prefix}top_k"), "nothing comes after the last stage; top_n bounds the answer");
        }
        let field = format!("{prefix}budget");
        if stage.budget.as_ref().is_some_and(|budget| budget.until_deadline) {
            self.add(format!("{field}.until_deadline"), "is for the request as a whole: set budget.until_deadline");
        }
        WantedStage {
            model: if stage.model.is_empty() { model.to_owned() } else { stage.model.clone() },
            method,
            top_k: (stage.top_k > 0).then_some(stage.top_k as usize),
            budget: self.budget(&field, stage.budget.as_ref()),
            prefix,
        }
    }

    pub(super) fn budget(&mut self, field: &str, budget: Option<&wire::Budget>) -> Budget {
        let Some(budget) = budget else { return Budget::default() };
        let time = budget.time.as_ref().and_then(|time| {
            let time = duration(time).filter(|time| !time.is_zero());
            if time.is_none() {
                self.add(format!("{field}.time"), "must be a positive duration");
            }
            time
        });
        Budget { time, pairs: (budget.pairs > 0).then_some(budget.pairs as usize) }
    }

    pub(super) fn priority(&mut self, value: i32) -> Priority {
        match wire::Priority::try_from(value) {
            Ok(wire::Priority::Interactive) => Priority::Interactive,
            Ok(wire::Priority::Unspecified | wire::Priority::Standard) => Priority::Standard,
            Ok(wire::Priority::Bulk) => Priority::Bulk,
            Err(_) => self.unknown_value("priority", value, Priority::Standard),
        }
    }

    pub(super) fn cache(&mut self, value: i32) -> CachePolicy {
        match wire::CachePolicy::try_from(value) {
            Ok(wire::CachePolicy::Unspecified | wire::CachePolicy::Use) => CachePolicy::Use,
            Ok(wire::CachePolicy::Bypass) => CachePolicy::Bypass,
            Err(_) => self.unknown_value("cache", value, CachePolicy::Use),
        }
    }

    /// The stages with their models, which can do what is asked of them.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for the first model that is not known, if nothing else is wrong so far.
    pub(super) fn stages(
        &mut self,
        wanted: Vec<WantedStage>,
        models: &Models,
        score_kind: ScoreKind,
    ) -> Result<Vec<StageJob>, Refusal> {
        let mut stages = Vec::with_capacity(wanted.len());
        for WantedStage { prefix, model, method, top_k, budget } in wanted {
            let (model, entry) = find(models, &model, self)?;
            let method = method_of(method, entry);
            if !entry.supports(method) {
                let said =
                    format!("model {:?} does not offer it; ModelService/GetModel lists what it offers", entry.name);
                self.add(format!("{prefix}method"), said);
            }
            stages.push(StageJob { model, method, top_k, budget });
        }
        let last = stages.last().map(|stage| stage.method);
        if score_kind == ScoreKind::Sigmoid && last != Some(Method::CrossEncoder) {
            self.add("score_kind", "SIGMOID is for cross_encoder: other scores are no logits");
        }
        Ok(stages)
    }

    /// Only late interaction compares vectors that are there already; everything else reads texts.
    pub(super) fn vectors_fit(&mut self, stages: &[StageJob], models: &Models, query: &Query, documents: &[Document]) {
        // With a fault, what is left of the documents does not say where they stood.
        if !self.0.is_empty() {
            return;
        }
        if let Some(reader) = stages.iter().position(|stage| stage.method != Method::LateInteraction) {
            let late = stages.iter().any(|stage| stage.method == Method::LateInteraction);
            if matches!(query, Query::Vectors(_)) {
                self.add("query.embedding", "is for late_interaction; set method, or send a text");
            }
            let unread = |document: &Document| match &document.content {
                Content::Text(_) => false,
                // Stored for one stage, and read by another.
                Content::Stored(reference) => !late || reference.text.is_none(),
                Content::Vectors(_) => true,
            };
            if let Some(index) = documents.iter().position(unread) {
                let said = if late {
                    format!("stages[{reader}] reads texts; send one")
                } else {
                    "vectors are for late_interaction; set method, or send a text".to_owned()
                };
                self.add(format!("documents[{index}]"), said);
            }
        }
        let dim = |model: ModelIndex| models.get(model).info.embedding_dim as usize;
        if let Some(given) = dim_given(query, documents)
            && let Some(index) =
                stages.iter().position(|stage| stage.method == Method::LateInteraction && dim(stage.model) != given)
        {
            let own = dim(stages[index].model);
            let said = format!("compares vectors of {own} components, those of the request have {given}");
            self.add(format!("stages[{index}].model"), said);
        }
    }
}

/// Components of the vectors that the request brings along, if it brings any.
fn dim_given(query: &Query, documents: &[Document]) -> Option<usize> {
    let of_query = match query {
        Query::Vectors(vectors) => vectors.get().map(|TokenMatrix { dim, .. }| *dim),
        Query::Text(_) => None,
    };
    of_query.or_else(|| {
        documents.iter().find_map(|document| match &document.content {
            Content::Vectors(vectors) => Some(vectors.dim()),
            Content::Text(_) | Content::Stored(_) => None,
        })
    })
}

/// A duration that is not negative and in range. Not prost's own conversion: that negates what is negative, and
/// overflows at the least of it.
pub(crate) fn duration(duration: &prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < NANOS_PER_SECOND)?;
    Some(Duration::new(u64::try_from(duration.seconds).ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_protobuf_says() {
        let most = Duration::new(i64::MAX as u64, 999_999_999);
        let cases = [
            (0, 0, Some(Duration::ZERO)),
            (1, 999_999_999, Some(Duration::new(1, 999_999_999))),
            (i64::MAX, 999_999_999, Some(most)),
            (0, 1_000_000_000, None),
            (0, -1, None),
            (1, -1, None),
            (-1, 0, None),
            (i64::MIN, 0, None),
            (i64::MIN, i32::MIN, None),
        ];
        for (seconds, nanos, expected) in cases {
            assert_eq!(duration(&prost_types::Duration { seconds, nanos }), expected, "{seconds} s {nanos} ns");
        }
    }
}
