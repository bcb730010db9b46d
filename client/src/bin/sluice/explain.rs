//! `sluice explain`: which words a late-interaction score comes from.

mod heat;
mod matches;
mod page;

use std::io::{self, IsTerminal};

use serde::Serialize;
use sluice_client::{DocumentSource, Explain, ExplainResponse, ExplainedDocument, Token, names, table};

use self::{heat::Located, page::Page};
use crate::{
    args::explain::{ColorArg, ExplainArgs},
    documents::{Documents, Form},
    output::{Failure, note, print, print_json, width},
    server::{ServerDefault, connect},
};

/// `colours_welcome`: the environment does not speak against them.
pub(crate) async fn run(
    args: &ExplainArgs,
    server_default: &ServerDefault,
    colours_welcome: bool,
) -> Result<(), Failure> {
    let documents = match (&args.stored, args.ids.is_empty()) {
        (_, false) => Documents::stored(args.ids.clone()),
        (Some(_), true) => Documents::read(args.file.as_deref(), Form::Stored)?,
        (None, true) => Documents::read(args.file.as_deref(), Form::Texts)?,
    };
    let client = connect(&args.server, server_default, args.deadline_ms).await?;
    let response = client.explain(request(args, &documents)).await?;
    let unscored = response.documents.iter().filter(|document| document.matches.is_empty()).count();
    if unscored > 0 {
        note(&format!("documents without a score to explain: {unscored}"));
    }
    let shown = best(&response, args.top_n as usize);
    if args.json {
        return print_json(&Output::new(args, &documents, &response, &shown));
    }
    let colour = match args.color {
        ColorArg::Always => true,
        ColorArg::Never => false,
        ColorArg::Auto => colours_welcome && io::stdout().is_terminal(),
    };
    let hottest = heat::hottest(shown.iter().map(|index| &response.documents[*index]));
    let page = Page { width: width(), colour, full: args.full, hottest };
    print(&report(&documents, &response, &shown, &page))
}

fn request(args: &ExplainArgs, documents: &Documents) -> Explain {
    let mut request = Explain::new(&args.query).model(args.model.clone().unwrap_or_default());
    for (id, text) in documents.ids.iter().zip(&documents.texts) {
        request = match (&args.stored, text) {
            (Some(namespace), Some(text)) => request.stored_or(id, namespace, text),
            (Some(namespace), None) => request.stored(id, namespace),
            (None, text) => request.document(id, text.as_deref().unwrap_or_default()),
        };
    }
    request
}

/// Places of the documents with the best scores, best first; all for 0. Equal scores keep the request's order.
fn best(response: &ExplainResponse, top_n: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..response.documents.len()).collect();
    places.sort_by(|a, b| response.documents[*b].score.total_cmp(&response.documents[*a].score));
    if top_n > 0 {
        places.truncate(top_n);
    }
    places
}

fn report(documents: &Documents, response: &ExplainResponse, shown: &[usize], page: &Page) -> String {
    let mut parts = Vec::new();
    for (rank, place) in (1..).zip(shown) {
        let document = &response.documents[*place];
        parts.push(heading(rank, document, page));
        if document.matches.is_empty() {
            parts.push(String::new());
            continue;
        }
        let located = Located::new(document, documents.text(*place));
        parts.extend(page.lines(&located.stretches(document)));
        parts.push(matches::overview(&response.query_tokens, document, &located, page.width, page.colour));
        parts.push(String::new());
    }
    if page.hottest > 0.0 {
        parts.push(page.legend());
    }
    let model = table::one_line(&response.model, page.width);
    parts.push(format!("{} of {} documents, {model}", shown.len(), response.documents.len()));
    parts.join("\n")
}

/// Rank, score and id, and what there is to know of how it was scored.
fn heading(rank: usize, document: &ExplainedDocument, page: &Page) -> String {
    let score = if document.matches.is_empty() { "unscored".to_owned() } else { format!("{:.4}", document.score) };
    let mut heading = format!("{rank}. {score}");
    if !document.id.is_empty() {
        heading += &format!("  {}", page::beginning(&table::one_line(&document.id, page.width), page.width / 2));
    }
    let other_source = !matches!(document.source(), DocumentSource::Text | DocumentSource::Unspecified);
    let source = other_source.then(|| names::document_source(document.source));
    let facts: Vec<_> =
        source.into_iter().chain(document.truncated.then(|| "longer than what was read".into())).collect();
    if !facts.is_empty() {
        heading += &format!("  ({})", facts.join(", "));
    }
    if page.colour { format!("\u{1b}[1m{heading}\u{1b}[0m") } else { heading }
}

/// What `--json` prints; `sluice explain --help` documents it.
#[derive(Serialize)]
struct Output<'a> {
    query: &'a str,
    model: &'a str,
    model_digest: &'a str,
    documents: usize,
    query_tokens: Vec<JsonToken<'a>>,
    results: Vec<JsonDocument<'a>>,
}

#[derive(Serialize)]
struct JsonToken<'a> {
    text: Option<&'a str>,
    byte_start: u32,
    byte_end: u32,
}

#[derive(Serialize)]
struct JsonDocument<'a> {
    rank: usize,
    index: usize,
    id: &'a str,
    score: f32,
    unscored: bool,
    source: String,
    truncated: bool,
    text: Option<&'a str>,
    tokens: Vec<JsonToken<'a>>,
    matches: Vec<JsonMatch>,
}

#[derive(Serialize)]
struct JsonMatch {
    query_token: usize,
    document_token: u32,
    similarity: f32,
}

impl<'a> Output<'a> {
    fn new(args: &'a ExplainArgs, documents: &'a Documents, response: &'a ExplainResponse, shown: &[usize]) -> Self {
        let result = |(rank, index): (usize, &usize)| {
            let document = &response.documents[*index];
            let matches = document.matches.iter().enumerate().map(|(query_token, found)| JsonMatch {
                query_token,
                document_token: found.document_token,
                similarity: found.similarity,
            });
            JsonDocument {
                rank,
                index: *index,
                id: &document.id,
                score: document.score,
                unscored: document.matches.is_empty(),
                source: names::document_source(document.source),
                truncated: document.truncated,
                text: documents.text(*index),
                tokens: document.tokens.iter().map(JsonToken::new).collect(),
                matches: matches.collect(),
            }
        };
        Self {
            query: &args.query,
            model: &response.model,
            model_digest: &response.model_digest,
            documents: response.documents.len(),
            query_tokens: response.query_tokens.iter().map(JsonToken::new).collect(),
            results: (1..).zip(shown).map(result).collect(),
        }
    }
}

impl<'a> JsonToken<'a> {
    fn new(token: &'a Token) -> Self {
        let text = Some(token.text.as_str()).filter(|text| !text.is_empty());
        Self { text, byte_start: token.byte_start, byte_end: token.byte_end }
    }
}
