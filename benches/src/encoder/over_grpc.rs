//! Our server and client, on loopback.

use std::{path::Path, time::Duration};

use anyhow::Context;
use sluice_client::{Rerank, RerankResponse};
use sluice_server::{
    ServerConfig,
    config::{ModelConfig, SchedulerConfig},
};

use super::Method;
use crate::{
    interleave::{Answer, Contender, Request},
    machine::Machine,
    served::Served,
};

/// A server of this process with a client beside it. Stops when dropped.
pub struct OverGrpc {
    served: Served,
    clock: fn() -> Duration,
}

impl OverGrpc {
    /// Serves a model folder on a port that is free, with batches of that many tokens, and waits until it is warm.
    ///
    /// # Errors
    /// If the server does not start or is not reached.
    pub fn start(folder: &Path, batch_tokens_max: u32, threads: usize, machine: &Machine) -> anyhow::Result<Self> {
        let config = ServerConfig {
            model: vec![ModelConfig { name: "default".to_owned(), source: folder.display().to_string() }],
            scheduler: SchedulerConfig { batch_tokens_max, ..SchedulerConfig::default() },
            compute_threads: threads,
            ..ServerConfig::default()
        };
        Ok(Self { served: Served::start(config, threads, machine)?, clock: machine.clock })
    }

    /// As a contender for one method.
    pub fn contender(&self, method: Method) -> impl Contender + '_ {
        Calling { server: self, method }
    }
}

struct Calling<'a> {
    server: &'a OverGrpc,
    method: Method,
}

impl Contender for Calling<'_> {
    fn name(&self) -> String {
        "sluice over gRPC".to_owned()
    }

    fn rerank(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let OverGrpc { served: Served { runtime, client, .. }, clock } = self.server;
        let started = clock();
        let documents = request.documents.iter().map(|text| ("", text.as_str()));
        let message = Rerank::new(&request.query).documents(documents).method(self.method.on_the_wire());
        let response = runtime.block_on(client.rerank(message))?;
        let total = clock().saturating_sub(started);
        let tokens = response.usage.as_ref().map_or(0, |usage| usage.computed_tokens);
        Ok(Answer { scores: by_document(&response, request.documents.len())?, tokens, total, encode: None })
    }
}

/// The scores in the order of the request.
fn by_document(response: &RerankResponse, documents: usize) -> anyhow::Result<Vec<f32>> {
    let mut scores = vec![f32::NAN; documents];
    for result in &response.results {
        let place = scores.get_mut(result.index as usize).context("a result of no document")?;
        *place = result.score;
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use sluice_client::RerankResult;

    use super::*;

    #[test]
    fn scores_go_back_to_their_documents() {
        let result = |(index, score)| RerankResult { index, score, ..RerankResult::default() };
        let response = |results: &[(u32, f32)]| RerankResponse {
            results: results.iter().copied().map(result).collect(),
            ..RerankResponse::default()
        };
        assert_eq!(by_document(&response(&[(1, 0.9), (0, 0.1)]), 2).unwrap(), [0.1, 0.9]);
        assert!(by_document(&response(&[(1, 0.9)]), 2).unwrap()[0].is_nan(), "a missing score is seen");
        assert!(by_document(&response(&[(2, 0.9)]), 2).is_err());
    }
}
