//! What `sluice rerank` and `sluice eval` say of how a request is worked on.

use clap::{Args, ValueEnum};
use sluice_client::{CachePolicy, Priority, Rerank, Stage};

use super::MethodArg;

#[derive(Debug, Args)]
pub(crate) struct SpendingArgs {
    /// Score in stages, one for each time this is given: TOP_K documents, the best of a stage, go on to the next one
    #[arg(long = "stage", value_name = "METHOD[:MODEL][:TOP_K]", value_parser = stage)]
    pub stages: Vec<StageArg>,
    /// Who goes first when there is more work than can be done at once [default: standard]
    #[arg(long)]
    pub priority: Option<PriorityArg>,
    /// Documents to score, counted over all stages; the others keep their order
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub budget_pairs: Option<u32>,
    /// Shortly before the deadline, take the best order known for the answer
    #[arg(long)]
    pub until_deadline: bool,
    /// Compute everything, also what was computed before
    #[arg(long)]
    pub no_cache: bool,
}

/// `METHOD[:MODEL][:TOP_K]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageArg {
    pub method: MethodArg,
    /// Empty for the request's own.
    pub model: String,
    /// 0 for all.
    pub top_k: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PriorityArg {
    /// Somebody waits for the answer
    Interactive,
    /// The usual
    Standard,
    /// Whatever is left
    Bulk,
}

impl SpendingArgs {
    /// The request with all of it but its budget.
    pub(crate) fn apply(&self, mut request: Rerank) -> Rerank {
        request = request.stages(self.stages.iter().map(StageArg::stage));
        if let Some(priority) = self.priority {
            request = request.priority(priority.into());
        }
        if self.no_cache { request.cache(CachePolicy::Bypass) } else { request }
    }

    /// The request with that budget of time, and the others.
    pub(crate) fn within(&self, request: Rerank, milliseconds: Option<u64>) -> Rerank {
        let mut budget = sluice_client::Budget::default();
        if let Some(milliseconds) = milliseconds {
            budget = budget.time(std::time::Duration::from_millis(milliseconds));
        }
        if let Some(pairs) = self.budget_pairs {
            budget = budget.pairs(pairs);
        }
        if self.until_deadline {
            budget = budget.until_deadline();
        }
        if budget == sluice_client::Budget::default() { request } else { request.budget(budget) }
    }

    /// Whether an answer may be partial because of a budget.
    pub(crate) fn is_bounded(&self) -> bool {
        self.budget_pairs.is_some() || self.until_deadline
    }

    /// The stages as they were given.
    pub(crate) fn stage_names(&self) -> String {
        let names: Vec<String> = self.stages.iter().map(StageArg::name).collect();
        names.join(",")
    }
}

impl StageArg {
    fn stage(&self) -> Stage {
        Stage::new(self.method.into()).model(&self.model).top_k(self.top_k)
    }

    fn name(&self) -> String {
        let method = self.method.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let model = if self.model.is_empty() { String::new() } else { format!(":{}", self.model) };
        let top_k = if self.top_k == 0 { String::new() } else { format!(":{}", self.top_k) };
        method + &model + &top_k
    }
}

impl From<PriorityArg> for Priority {
    fn from(priority: PriorityArg) -> Self {
        match priority {
            PriorityArg::Interactive => Self::Interactive,
            PriorityArg::Standard => Self::Standard,
            PriorityArg::Bulk => Self::Bulk,
        }
    }
}

/// The last part is TOP_K if it is a number; a model that is called by a number has a TOP_K behind it, and be it 0.
fn stage(text: &str) -> Result<StageArg, String> {
    let (method, rest) = text.split_once(':').unwrap_or((text, ""));
    let method = MethodArg::from_str(method, false).map_err(|_| {
        let methods: Vec<_> = MethodArg::value_variants().iter().filter_map(MethodArg::to_possible_value).collect();
        let names: Vec<&str> = methods.iter().map(clap::builder::PossibleValue::get_name).collect();
        format!("begins with a method, one of {}", names.join(", "))
    })?;
    let (model, last) = rest.rsplit_once(':').unwrap_or(("", rest));
    Ok(match last.parse() {
        Ok(top_k) => StageArg { method, model: model.to_owned(), top_k },
        Err(_) => StageArg { method, model: rest.to_owned(), top_k: 0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_and_named() {
        let cases = [
            ("dense", Some((MethodArg::Dense, "", 0)), "dense"),
            ("late_interaction:50", Some((MethodArg::LateInteraction, "", 50)), "late_interaction:50"),
            ("late_interaction::50", Some((MethodArg::LateInteraction, "", 50)), "late_interaction:50"),
            ("cross_encoder:big", Some((MethodArg::CrossEncoder, "big", 0)), "cross_encoder:big"),
            ("cross_encoder:big:20", Some((MethodArg::CrossEncoder, "big", 20)), "cross_encoder:big:20"),
            ("dense:a:b:7", Some((MethodArg::Dense, "a:b", 7)), "dense:a:b:7"),
            ("dense:7:0", Some((MethodArg::Dense, "7", 0)), "dense:7"),
            ("bm25:50", None, ""),
            ("", None, ""),
        ];
        for (text, expected, name) in cases {
            let found = stage(text).ok();
            let expected = expected.map(|(method, model, top_k)| StageArg { method, model: model.to_owned(), top_k });
            assert_eq!(found, expected, "{text}");
            assert_eq!(found.map(|stage| stage.name()).unwrap_or_default(), name, "{text}");
        }
    }
}
