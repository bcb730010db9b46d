//! `sluice models`.

use serde::Serialize;
use sluice_client::{Model, names, table};

use crate::{
    args::ModelsArgs,
    output::{Failure, print, print_json, width},
    server::{ServerDefault, connect},
};

/// Characters of a digest that a person compares.
const DIGEST_SHOWN: usize = 12;

pub(crate) async fn run(args: &ModelsArgs, server_default: &ServerDefault) -> Result<(), Failure> {
    let client = connect(&args.server, server_default, args.deadline_ms).await?;
    let models = client.list_models().await?;
    if args.json {
        return print_json(&Output { models: models.iter().map(Row::new).collect() });
    }
    print(&overview(&models))
}

fn overview(models: &[Model]) -> String {
    let width = width();
    let mut overview = table::plain(width);
    overview.set_header(["model", "can", "tokens", "dim", "backend", "source", "digest"]);
    for model in models {
        let name = table::one_line(&model.name, width);
        let digest: String = table::one_line(&model.digest, width).chars().take(DIGEST_SHOWN).collect();
        overview.add_row([
            (if model.is_default { format!("{name} (default)") } else { name }).into(),
            capabilities(model).join(" ").into(),
            table::right(model.max_tokens.to_string()),
            table::right(model.embedding_dim.to_string()),
            table::one_line(&model.backend, width).into(),
            table::one_line(&model.source, width).into(),
            digest.into(),
        ]);
    }
    overview.to_string()
}

/// What `--json` prints; `sluice models --help` documents it.
#[derive(Serialize)]
struct Output<'a> {
    models: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    is_default: bool,
    digest: &'a str,
    source: &'a str,
    architecture: &'a str,
    backend: &'a str,
    capabilities: Vec<String>,
    max_tokens: u32,
    embedding_dim: u32,
    parameters: u64,
}

impl<'a> Row<'a> {
    fn new(model: &'a Model) -> Self {
        Self {
            name: &model.name,
            is_default: model.is_default,
            digest: &model.digest,
            source: &model.source,
            architecture: &model.architecture,
            backend: &model.backend,
            capabilities: capabilities(model),
            max_tokens: model.max_tokens,
            embedding_dim: model.embedding_dim,
            parameters: model.parameters,
        }
    }
}

fn capabilities(model: &Model) -> Vec<String> {
    model.capabilities.iter().map(|capability| names::capability(*capability)).collect()
}
