//! What stopping late interaction early could save at most.
//!
//! A document need not be finished once its upper bound, the score so far and 1 for each query token that is left, is below
//! the k-th best score known. Counted are the dot products that remain when a bound is looked at after every so many query
//! tokens, on the token vectors that the default model makes of TREC DL 2019: in the first stage's order, and with the best
//! documents first, which no order can beat. ADR 0019 draws the conclusion.

use anyhow::{Context, anyhow};
use sluice_client::{
    Client, ClientOptions, Matrix,
    proto::model::v1::{EmbeddingKind, EncodeRequest},
};

use super::{Findings, Options, anytime, process::ServerProcess};
use crate::machine::Machine;

/// Results that are wanted.
const TOP_K: [usize; 3] = [5, 10, 20];
/// Query tokens between two looks at the bound: our kernels hold 16 or 32 of them side by side.
const STEPS: [usize; 4] = [1, 4, 16, 32];

/// For every document the largest dot product with a document token, query token by query token.
type Maxima = Vec<Vec<f32>>;

pub(super) fn run(options: &Options, machine: &Machine) -> anyhow::Result<Findings> {
    let mut found = Findings::default();
    let candidates = anytime::dl19(machine).join("candidates.jsonl");
    if options.anytime_queries == 0 || !candidates.is_file() {
        found.notes.push("early stop: left out, without queries or without the candidates of DL19".to_owned());
        return Ok(found);
    }
    let queries = anytime::read(&candidates, options.anytime_queries)?;
    let server = ServerProcess::default_model(&options.server)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = ClientOptions { deadline: anytime::DEADLINE, ..ClientOptions::default() };
    let client = runtime.block_on(Client::connect(server.url(), client))?;
    let (mut short, mut long) = (Vec::new(), Vec::new());
    for query in &queries {
        (machine.progress)(&format!("early stop: query {}", query.qid));
        let texts = query.documents.iter().map(|document| document.text.clone());
        let vectors = runtime.block_on(encode(&client, [query.query.clone()].into_iter().chain(texts).collect()))?;
        let (query, documents) = vectors.split_first().context("the query is one of them")?;
        short.push(maxima(query, documents));
        // A document for a query: many more query tokens than anybody types.
        if let Some((first, others)) = documents.split_first() {
            long.push(maxima(first, others));
        }
    }
    for (name, sets) in [("queries of DL19", &short), ("documents as queries", &long)] {
        let tokens: usize = sets.iter().map(|set| set.first().map_or(0, Vec::len)).sum();
        for k in TOP_K {
            let shares = STEPS.map(|step| {
                let given = share(sets, k, step, false);
                format!("{step}: {given:.2} ({:.2})", share(sets, k, step, true))
            });
            found.notes.push(format!(
                "early stop: {name}, {:.0} tokens on average, k = {k}: products that remain, by query tokens between two looks, in \
                 the first stage's order (best documents first): {}",
                tokens as f64 / sets.len().max(1) as f64,
                shares.join(", ")
            ));
        }
    }
    Ok(found)
}

async fn encode(client: &Client, texts: Vec<String>) -> anyhow::Result<Vec<Matrix>> {
    let request = EncodeRequest { texts, kind: EmbeddingKind::Token.into(), ..EncodeRequest::default() };
    let embeddings = client.encode(request).await?.results.into_iter().map(|result| result.embedding);
    embeddings.map(|embedding| Ok(Matrix::try_from(&embedding.ok_or_else(|| anyhow!("an embedding each"))?)?)).collect()
}

fn maxima(query: &Matrix, documents: &[Matrix]) -> Maxima {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let of_token = |row: &[f32], document: &Matrix| document.rows().map(|other| dot(row, other)).fold(-1.0, f32::max);
    documents.iter().map(|document| query.rows().map(|row| of_token(row, document)).collect()).collect()
}

/// The part of all products that is computed when documents that cannot be among the best `k` are left.
fn share(sets: &[Maxima], k: usize, step: usize, best_first: bool) -> f64 {
    let (mut computed, mut all) = (0, 0);
    for set in sets {
        let mut documents: Vec<&Vec<f32>> = set.iter().collect();
        if best_first {
            documents.sort_by(|a, b| b.iter().sum::<f32>().total_cmp(&a.iter().sum()));
        }
        let mut best: Vec<f32> = Vec::new();
        for maxima in documents {
            let floor = if best.len() == k { best[k - 1] } else { f32::NEG_INFINITY };
            let done = tokens_computed(maxima, step, floor);
            (computed, all) = (computed + done, all + maxima.len());
            if done == maxima.len() {
                let score = maxima.iter().sum();
                best.insert(best.partition_point(|other| *other >= score), score);
                best.truncate(k);
            }
        }
    }
    f64::from(u32::try_from(computed).unwrap_or(u32::MAX)) / (all as f64)
}

/// Query tokens after which a document is given up, or all of them.
fn tokens_computed(maxima: &[f32], step: usize, floor: f32) -> usize {
    let mut score = 0.0;
    let mut done = 0;
    for part in maxima.chunks(step) {
        score += part.iter().sum::<f32>();
        done += part.len();
        if score + ((maxima.len() - done) as f32) < floor {
            break;
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_left_when_it_cannot_get_there() {
        let cases = [
            (&[0.5_f32, 0.5, 0.5, 0.5][..], 1, 3.4, 2),
            (&[0.5, 0.5, 0.5, 0.5], 2, 3.4, 2),
            (&[0.5, 0.5, 0.5, 0.5], 3, 3.4, 3),
            (&[0.5, 0.5, 0.5, 0.5], 1, f32::NEG_INFINITY, 4),
            (&[1.0, 1.0, 0.0, 1.0], 1, 3.0, 4),
        ];
        for (maxima, step, floor, expected) in cases {
            assert_eq!(tokens_computed(maxima, step, floor), expected, "{maxima:?} {step} {floor}");
        }
        // The second of two is left after one token of two; the other way round nothing is.
        let sets = [vec![vec![0.0, 0.1], vec![1.0, 0.9]]];
        assert_eq!([share(&sets, 1, 1, false), share(&sets, 1, 1, true)], [1.0, 0.75]);
    }
}
