//! `sluice rerank`.

use serde::Serialize;
use sluice_client::{Rerank, RerankResponse, names, table};

use crate::{
    args::RerankArgs,
    documents::{Documents, Form},
    output::{Failure, note, print, print_json, width},
    server::{ServerDefault, connect},
    unscored::Unscored,
};

pub(crate) async fn run(args: &RerankArgs, server_default: &ServerDefault) -> Result<(), Failure> {
    let form = if args.stored.is_some() { Form::Stored } else { Form::Texts };
    let documents = Documents::read(args.file.as_deref(), form)?;
    let client = connect(&args.server, server_default, args.deadline_ms).await?;
    let response = client.rerank(request(args, &documents)).await?;
    if response.partial {
        note(&partial(&response));
    }
    if args.json {
        return print_json(&Output::new(args, &documents, &response));
    }
    let texts: Vec<&str> = documents.texts.iter().map(|text| text.as_deref().unwrap_or_default()).collect();
    print(&table::ranking(&response, &texts, width()))?;
    print(&summary(&documents, &response))
}

fn request(args: &RerankArgs, documents: &Documents) -> Rerank {
    let mut request = Rerank::new(&args.query).model(args.model.clone().unwrap_or_default()).top_n(args.top_n);
    for (id, text) in documents.ids.iter().zip(&documents.texts) {
        request = match (&args.stored, text) {
            (Some(namespace), Some(text)) => request.stored_or(id, namespace, text),
            (Some(namespace), None) => request.stored(id, namespace),
            (None, text) => request.document(id, text.as_deref().unwrap_or_default()),
        };
    }
    if let Some(method) = args.method {
        request = request.method(method.into());
    }
    request = args.spending.within(args.spending.apply(request), args.budget_ms);
    if let Some(score) = args.min_score {
        request = request.min_score(score);
    }
    if let Some(kind) = args.score_kind {
        request = request.score_kind(kind.into());
    }
    if let Some(tokens) = args.max_tokens_per_document {
        request = request.max_tokens_per_document(tokens);
    }
    if let Some(policy) = args.long_document {
        request = request.long_document(policy.into());
    }
    request
}

/// Why the answer is less than was asked for. Documents without a score are last, so not all of them may be shown.
fn partial(response: &RerankResponse) -> String {
    let reasons: Vec<_> = response.partial_reasons.iter().map(|reason| names::partial_reason(*reason)).collect();
    let reasons = reasons.join(", ");
    let unscored = Unscored::among(&response.results);
    match unscored.total() {
        0 => format!("the answer is partial: {reasons}"),
        _ => format!("the answer is partial: {reasons}; unscored documents: {unscored}"),
    }
}

/// One line under the table: how much was read, by what, and how long it took.
fn summary(documents: &Documents, response: &RerankResponse) -> String {
    let shown = response.results.len();
    let truncated = response.results.iter().filter(|result| result.truncated).count();
    let mut parts = vec![
        format!("{shown} of {} documents", documents.texts.len()),
        names::method(response.method),
        table::one_line(&response.model, width()),
    ];
    if let Some(total) = response.timing.and_then(|timing| timing.total) {
        let milliseconds = total.seconds as f64 * 1e3 + f64::from(total.nanos) * 1e-6;
        parts.push(format!("{milliseconds:.1} ms"));
    }
    if truncated > 0 {
        parts.push(format!("{truncated} longer than what was read"));
    }
    let unscored = Unscored::among(&response.results).total();
    if unscored > 0 {
        parts.push(format!("{unscored} unscored"));
    }
    parts.join(", ")
}

/// What `--json` prints; `sluice rerank --help` documents it.
#[derive(Serialize)]
struct Output<'a> {
    query: &'a str,
    model: &'a str,
    model_digest: &'a str,
    method: String,
    score_kind: String,
    documents: usize,
    partial: bool,
    partial_reasons: Vec<String>,
    results: Vec<Row<'a>>,
    usage: Option<Usage>,
    timing: Option<Timing>,
}

#[derive(Serialize)]
struct Row<'a> {
    rank: usize,
    index: u32,
    id: &'a str,
    score: f32,
    stage: u32,
    unscored: bool,
    source: String,
    tokens: u32,
    truncated: bool,
    best_chunk: Option<Chunk>,
    text: Option<&'a str>,
}

#[derive(Serialize)]
struct Chunk {
    index: u32,
    byte_start: u32,
    byte_end: u32,
}

#[derive(Serialize)]
struct Usage {
    query_tokens: u64,
    document_tokens: u64,
    computed_tokens: u64,
    cached_tokens: u64,
}

#[derive(Serialize)]
struct Timing {
    queue_seconds: Option<f64>,
    tokenize_seconds: Option<f64>,
    compute_seconds: Option<f64>,
    total_seconds: Option<f64>,
}

impl<'a> Output<'a> {
    fn new(args: &'a RerankArgs, documents: &'a Documents, response: &'a RerankResponse) -> Self {
        let results = (1..).zip(&response.results).map(|(rank, result)| Row {
            rank,
            index: result.index,
            id: &result.id,
            score: result.score,
            stage: result.stage,
            unscored: result.unscored,
            source: names::document_source(result.source),
            tokens: result.tokens,
            truncated: result.truncated,
            best_chunk: result.best_chunk.map(|chunk| Chunk {
                index: chunk.index,
                byte_start: chunk.byte_start,
                byte_end: chunk.byte_end,
            }),
            text: documents.text(result.index as usize),
        });
        // Not said means raw, on the wire as here.
        let kind = args.score_kind.map_or(sluice_client::ScoreKind::Raw, Into::into);
        Self {
            query: &args.query,
            model: &response.model,
            model_digest: &response.model_digest,
            method: names::method(response.method),
            score_kind: names::score_kind(kind as i32),
            documents: documents.texts.len(),
            partial: response.partial,
            partial_reasons: response.partial_reasons.iter().map(|reason| names::partial_reason(*reason)).collect(),
            results: results.collect(),
            usage: response.usage.map(|usage| Usage {
                query_tokens: usage.query_tokens,
                document_tokens: usage.document_tokens,
                computed_tokens: usage.computed_tokens,
                cached_tokens: usage.cached_tokens,
            }),
            timing: response.timing.map(|timing| Timing {
                queue_seconds: timing.queue.map(|time| seconds(time.seconds, time.nanos)),
                tokenize_seconds: timing.tokenize.map(|time| seconds(time.seconds, time.nanos)),
                compute_seconds: timing.compute.map(|time| seconds(time.seconds, time.nanos)),
                total_seconds: timing.total.map(|time| seconds(time.seconds, time.nanos)),
            }),
        }
    }
}

fn seconds(seconds: i64, nanoseconds: i32) -> f64 {
    seconds as f64 + f64::from(nanoseconds) * 1e-9
}
