//! The fake server's explanations: a token is a word of at most five letters, longer words are cut into pieces. Equal
//! tokens have similarity 1, those that begin alike 0.5, others 0.125; special tokens are alike among themselves.

use sluice_client::proto::rerank::v1::{
    Document, ExplainRequest, ExplainResponse, ExplainedDocument, Token, TokenMatch,
};
use tonic::Status;

use super::{model_name, query_text, text_of, tokens::Stored};

/// Letters of a token.
const PIECE: usize = 5;

pub(crate) fn explain(request: &ExplainRequest, stored: &Stored) -> Result<ExplainResponse, Status> {
    let query = tokens(query_text(request.query.as_ref())?);
    let documents = request.documents.iter().map(|document| explained(document, &query, stored)).collect();
    let (model, model_digest) = (model_name(&request.model), "c0ffee".into());
    Ok(ExplainResponse { query_tokens: query, documents, model, model_digest })
}

fn explained(document: &Document, query: &[Token], stored: &Stored) -> ExplainedDocument {
    let (text, source) = stored.read(document);
    let mut answer = ExplainedDocument {
        id: document.id.clone(),
        score: f32::NEG_INFINITY,
        source: source.into(),
        ..ExplainedDocument::default()
    };
    if let Some(text) = text {
        let scored = tokens(&text);
        answer.matches = query.iter().map(|token| best(token, &scored)).collect();
        answer.score = answer.matches.iter().map(|found| found.similarity).sum();
        answer.tokens = vec![Token::default(); scored.len()];
    }
    if let Some(text) = text_of(document) {
        answer.tokens = tokens(text);
    }
    answer
}

fn best(token: &Token, document: &[Token]) -> TokenMatch {
    let mut best = TokenMatch { document_token: 0, similarity: f32::NEG_INFINITY };
    for (position, candidate) in (0..).zip(document) {
        let similarity = similarity(&token.text, &candidate.text);
        if similarity > best.similarity {
            best = TokenMatch { document_token: position, similarity };
        }
    }
    best
}

fn similarity(a: &str, b: &str) -> f32 {
    if a == b {
        1.0
    } else if a.chars().next() == b.chars().next() {
        0.5
    } else {
        0.125
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let special = |text: &str| Token { text: text.into(), byte_start: 0, byte_end: 0 };
    let mut tokens = vec![special("[CLS]")];
    let mut start = 0;
    for word in text.split(char::is_whitespace) {
        let mut at = start;
        let mut letters = word.chars();
        loop {
            let piece: String = letters.by_ref().take(PIECE).collect();
            if piece.is_empty() {
                break;
            }
            let continued = if at > start { "##" } else { "" };
            let end = at + piece.len();
            let text = format!("{continued}{}", piece.to_lowercase());
            tokens.push(Token { text, byte_start: at as u32, byte_end: end as u32 });
            at = end;
        }
        start += word.len();
        start += text[start..].chars().next().map_or(0, char::len_utf8);
    }
    tokens.push(special("[SEP]"));
    tokens
}
