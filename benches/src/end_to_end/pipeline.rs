//! The engine without a server, as busy as it can be kept.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use sluice_core::{
    Lane, ModelIndex, RequestId, UnitId,
    backend::{Backend, Ticket},
    batch::{PackedBatch, Sequence},
};
use sluice_inference::LoadedModel;

use crate::{
    encoder::{InProcess, Method, TokenLimits, tokenize},
    interleave::{Contender, Request},
};

/// Tokenized requests that wait for the device: enough that it never waits for them.
const READY_MAX: usize = 8;

pub(super) struct Pipeline {
    engine: InProcess,
    threads: usize,
    clock: fn() -> Duration,
}

impl Pipeline {
    pub(super) fn new(model: LoadedModel, threads: usize, clock: fn() -> Duration) -> Self {
        Self { engine: InProcess::of("in process", model, threads, clock), threads, clock }
    }

    /// What the model can do.
    pub(super) fn methods(&self) -> Vec<Method> {
        let info = &self.engine.model().info;
        let can = [
            (info.dense, Method::Dense),
            (info.late_interaction, Method::LateInteraction),
            (info.cross_encoder, Method::CrossEncoder),
        ];
        can.into_iter().filter(|(can, _)| *can).map(|(_, method)| method).collect()
    }

    pub(super) fn scores(&mut self, method: Method, request: &Request) -> anyhow::Result<Vec<f32>> {
        Ok(self.engine.contender(method).rerank(request)?.scores)
    }

    /// Of as many requests as are through when the time is over.
    pub(super) fn documents_per_second(
        &mut self,
        method: Method,
        requests: &[Request],
        time: Duration,
    ) -> anyhow::Result<f64> {
        let (text, limits) = self.engine.tokenizer();
        // Each thread takes a request for itself.
        let limits = TokenLimits { threads: 1, ..limits };
        let (clock, next) = (self.clock, AtomicUsize::new(0));
        let begin = clock();
        let end = begin + time;
        let (ready, tokenized) = sync_channel(READY_MAX);
        let documents = thread::scope(|scope| {
            for _ in 0..self.threads {
                let (ready, text, next) = (ready.clone(), &text, &next);
                scope.spawn(move || {
                    while clock() < end {
                        let request = &requests[next.fetch_add(1, Ordering::Relaxed) % requests.len()];
                        // Nobody listens once the device has failed, and that is said there.
                        if ready.send(tokenize(text, limits, method, request)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(ready);
            let lane = Lane { model: ModelIndex(0), operation: method.operation() };
            let queries = if method == Method::CrossEncoder { 0 } else { 1 };
            Computing { backend: self.engine.backend(), lane, in_flight: VecDeque::new() }.run(&tokenized, queries)
        })?;
        ensure!(documents > 0, "nothing was computed in {time:?}");
        Ok(documents as f64 / clock().saturating_sub(begin).as_secs_f64())
    }
}

struct Computing<'a> {
    backend: &'a mut dyn Backend,
    lane: Lane,
    in_flight: VecDeque<Ticket>,
}

impl Computing<'_> {
    /// Packs requests one behind another, a batch as full as may be. Returns how many documents were computed.
    fn run(&mut self, requests: &Receiver<anyhow::Result<Vec<Sequence>>>, queries: usize) -> anyhow::Result<usize> {
        let limits = self.backend.limits();
        let (tokens_max, sequences_max) = (limits.batch_tokens_max as usize, limits.batch_sequences_max as usize);
        let lane = self.lane;
        let empty = || PackedBatch::with_capacity(lane, sequences_max.min(tokens_max), tokens_max);
        let (mut batch, mut documents) = (empty(), 0);
        for (request, sequences) in requests.iter().enumerate() {
            let sequences = sequences?;
            for (index, sequence) in (0..).zip(&sequences) {
                let full = batch.len() == sequences_max || batch.total_tokens() + sequence.input_ids.len() > tokens_max;
                if full && !batch.is_empty() {
                    self.submit(std::mem::replace(&mut batch, empty()))?;
                }
                batch.push(UnitId { request: RequestId(request as u64), index }, sequence);
            }
            documents += sequences.len() - queries;
        }
        if !batch.is_empty() {
            self.submit(batch)?;
        }
        while !self.in_flight.is_empty() {
            self.collect()?;
        }
        Ok(documents)
    }

    fn submit(&mut self, batch: PackedBatch) -> anyhow::Result<()> {
        if self.in_flight.len() == self.backend.limits().in_flight_batches_max as usize {
            self.collect()?;
        }
        self.in_flight.push_back(self.backend.submit(Arc::new(batch))?);
        Ok(())
    }

    fn collect(&mut self) -> anyhow::Result<()> {
        let ticket = self.in_flight.pop_front().context("a batch is in flight")?;
        self.backend.collect(ticket)?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test reads the clock")]
mod tests {
    use sluice_inference::load_scripted;

    use super::*;
    use crate::texts::Texts;

    /// A device that takes 2 ms for a batch of 40 documents, which is what it can be kept busy with.
    #[test]
    fn it_keeps_the_device_busy_and_counts_what_it_computes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.toml");
        std::fs::write(
            &file,
            "batch_sequences_max = 40\nbatch_tokens_max = 1000000\nservice_time.per_batch = \"2ms\"\n",
        )
        .unwrap();
        let clock = || {
            static ORIGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
            ORIGIN.get_or_init(std::time::Instant::now).elapsed()
        };
        let mut pipeline = Pipeline::new(load_scripted(&file).unwrap(), 2, clock);
        let requests = Texts::Drawn.requests(3, 10).unwrap();
        assert_eq!(pipeline.methods().len(), 3);
        for method in pipeline.methods() {
            assert_eq!(pipeline.scores(method, &requests[0]).unwrap().len(), 10);
            let rate = pipeline.documents_per_second(method, &requests, Duration::from_millis(200)).unwrap();
            assert!(rate > 1_000.0 && rate < 20_500.0, "{method:?}: {rate}");
        }
    }
}
