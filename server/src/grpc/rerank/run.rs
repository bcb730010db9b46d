//! One rerank request, stage after stage.

use std::sync::Arc;

use sluice_core::{Lane, Time, Worth, cost::BatchShape};
use sluice_proto::rerank::v1::{RerankRequest, RerankResponse, ScoreUpdate, StageOrder};
use sluice_service::status::Refusal;
use tokio::time::{Instant, timeout_at};

use super::{
    App,
    answer::{Facts, Shortfall, result},
    running::{Heard, Running, count},
    spending::Spending,
};
use crate::{
    cached::Tokens,
    cascade::Standings,
    engine::permit::{Permit, Terms, Texts},
    grpc::{
        call::{Admitted, Caller},
        refusal,
    },
    job::{LongDocument, Method, RerankJob, StageJob},
    models::Model,
    prepare::{Given, Prepared},
    scoring::Scoring,
    subject::{Source, Subject},
    validate,
};

/// A request under way.
pub(in crate::grpc) struct Run {
    app: App,
    job: Arc<RerankJob>,
    deadline: Instant,
    spending: Spending,
    /// What the first stage's work was guessed from.
    texts: Texts,
    standings: Standings,
    /// The stage that runs, or is to begin, from 0; as many as there are when all are over.
    stage: usize,
    /// How many of the first documents it is given.
    given: usize,
    running: Option<Running>,
    room: Room,
    facts: Facts,
    shortfall: Shortfall,
    /// The stage's own budget, or what was left of the request's, did not do.
    stage_is_partial: bool,
    /// The stage that is being settled ran out of time.
    stage_is_cut: bool,
}

/// What a request holds of the server's room.
struct Room {
    /// Its documents, bytes and tokens; gone with the last stage's work.
    permit: Option<Permit>,
    /// Tokens that were admitted: a stage takes the room that the one before it has left.
    tokens: u64,
    /// From the first admission of tokens on.
    admitted: Option<Admitted>,
}

/// What a request has come to.
pub(in crate::grpc) enum Step {
    /// Documents that have just been scored; at least one.
    Scores(ScoreUpdate),
    /// The order after a stage that is not the last.
    Stage(StageOrder),
    /// The complete answer.
    Final(Box<RerankResponse>),
}

impl App {
    /// Validates and admits. Work begins with the first [`Run::next`].
    pub(super) async fn start_rerank(&self, request: RerankRequest, caller: Caller) -> Result<Run, Refusal> {
        let warm = self.warm()?;
        let job = Arc::new(validate::rerank(request, &warm.models, &self.0.limits)?);
        let spending = Spending::new(&job, (caller.arrival, caller.deadline), &self.0.answer_margin);
        let texts = first_texts(&job, warm.models.get(job.stages[0].model));
        let cut = spending.end.is_some() || job.stages.iter().any(|stage| stage.budget.time.is_some());
        let terms = self.terms(caller, job.priority, if cut { Worth::Parts } else { Worth::Whole });
        // What the queue leaves no time for within its budget is refused now, not answered without a score.
        let end = spending.end.filter(|end| *end > Instant::now());
        let until = Terms { deadline: terms.deadline.min(end.map_or(Time::MAX, |end| self.time(end))), ..terms };
        let permit = self.admit(until, texts, job.documents.len(), job.bytes())?.under(terms);
        // A query that a later stage would refuse is refused before anything is computed.
        for stage in &job.stages[1..] {
            let model = warm.models.get(stage.model);
            self.0.preparer.check_query(&job, stage.method, &model.text, model.tokens_max()).await?;
        }
        let last = &job.stages[job.stages.len() - 1];
        Ok(Run {
            app: self.clone(),
            deadline: caller.deadline,
            spending,
            texts,
            standings: Standings::new(job.documents.len()),
            stage: 0,
            given: job.documents.len(),
            running: None,
            room: Room { permit: Some(permit), tokens: 0, admitted: None },
            facts: Facts::new(caller.arrival, warm.models.get(last.model), last.method),
            shortfall: Shortfall::default(),
            stage_is_partial: false,
            stage_is_cut: false,
            job,
        })
    }
}

impl Run {
    /// Waits for the next scores, for the end of a stage, or for the end.
    pub(super) async fn next(&mut self) -> Result<Step, Refusal> {
        let asked = Instant::now();
        loop {
            let Some(running) = &mut self.running else {
                let Some(stage) = self.job.stages.get(self.stage).copied() else {
                    return Ok(Step::Final(Box::new(self.response(asked))));
                };
                self.begin(&stage).await?;
                // Its time was over before it had anything to wait for.
                if self.running.is_none() && self.stage < self.job.stages.len() {
                    return Ok(Step::Stage(self.stage_order()));
                }
                continue;
            };
            match running.hear().await {
                Ok(Heard::Scores(scores)) => {
                    let given = self.given;
                    return Ok(Step::Scores(running.update(scores, self.stage, given)));
                }
                Ok(Heard::Done) => self.settle(),
                Ok(Heard::Expired) => {
                    (self.stage_is_partial, self.stage_is_cut) = (true, true);
                    self.settle();
                    self.stage_is_cut = false;
                }
                // The queue had no room or no time for it.
                Err(refusal) if running.scoring.scored() == 0 => {
                    let end = running.end;
                    self.running = None;
                    self.do_without(refusal, end)?;
                    continue;
                }
                Err(refusal) => return Err(refusal),
            }
            if self.stage < self.job.stages.len() {
                return Ok(Step::Stage(self.stage_order()));
            }
        }
    }

    /// Counts the end, if this is it.
    pub(super) fn note(&mut self, step: &Result<Step, Refusal>) {
        let Some(admitted) = &mut self.room.admitted else { return };
        match step {
            Ok(Step::Scores(_) | Step::Stage(_)) => {}
            Ok(Step::Final(_)) => admitted.end(None),
            Err(refusal) => admitted.end(Some(refusal)),
        }
    }

    /// Prepares a stage and queues it; passes it over if there is nothing to spend on it.
    async fn begin(&mut self, stage: &StageJob) -> Result<(), Refusal> {
        let now = Instant::now();
        if self.spending.is_over(now) {
            self.shortfall.budget = true;
            self.stage = self.job.stages.len();
            return Ok(());
        }
        let end = self.spending.end_of(stage, now);
        let documents = self.standings.order()[..self.spending.take(stage, self.given)].to_vec();
        self.stage_is_partial = documents.len() < self.given;
        let prepare = self.prepare(stage, documents.clone());
        let prepared = match end {
            None => prepare.await?,
            Some(end) => match timeout_at(end, prepare).await {
                Ok(prepared) => prepared?,
                Err(_expired) => {
                    self.stage_is_partial = true;
                    self.end_stage();
                    return Ok(());
                }
            },
        };
        self.submit(stage, documents, prepared, end).await
    }

    async fn prepare(&self, stage: &StageJob, documents: Vec<usize>) -> Result<Prepared, Refusal> {
        let model = self.app.warm()?.models.get(stage.model);
        let subjects = match stage.method {
            Method::LateInteraction => {
                self.app.subjects(&self.job, |job| &job.documents, documents.clone(), model.digest).await?
            }
            // They read texts, whatever is stored.
            Method::Dense | Method::CrossEncoder => vec![Subject::Text(Source::Text); documents.len()],
        };
        let given = Given { method: stage.method, documents, subjects };
        self.app.0.preparer.rerank(&self.job, given, &model.text, model.tokens_max()).await
    }

    async fn submit(
        &mut self,
        stage: &StageJob,
        documents: Vec<usize>,
        prepared: Prepared,
        end: Option<Instant>,
    ) -> Result<(), Refusal> {
        self.facts.prepared(&prepared);
        if self.stage == 0 {
            self.app.0.permits.learn(self.texts, prepared.computed_tokens());
        }
        let deadline = end.map_or(self.deadline, |end| end.min(self.deadline));
        let Prepared { sequences, documents: units, .. } = prepared;
        self.shortfall.stored |= units.iter().any(|units| !units.is_scored());
        let tokens = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let unit_tokens = sequences.iter().map(|sequence| tokens(sequence.input_ids.len())).collect();
        let lane = Lane { model: stage.model, operation: stage.method.operation() };
        let scoring = Scoring::new(&self.job, stage.method, &units);
        let looked_up = self.app.warm()?.cached.look_up(lane, sequences, self.job.cache).await;
        let permit = match self.admit(looked_up.tokens_left(), &looked_up.work_left()) {
            Ok(permit) => permit,
            Err(refusal) => return self.do_without(refusal, end),
        };
        let worth = if end.is_some_and(|end| end <= self.deadline) { Worth::Parts } else { Worth::Whole };
        let terms = Terms { deadline: self.app.time(deadline), worth, ..permit.terms() };
        let answer = match looked_up.submit(permit.under(terms)).await {
            Ok(answer) => answer,
            Err(error) => return self.do_without(refusal(error), end),
        };
        self.running = Some(Running { documents, units, unit_tokens, tokens: 0, scoring, answer, end, deadline });
        Ok(())
    }

    /// Ends with the order so far, because the stage that was to run until `end` was refused: where there is such an
    /// order, and less than everything was asked for; or where the stage's time is over anyway.
    fn do_without(&mut self, refusal: Refusal, end: Option<Instant>) -> Result<(), Refusal> {
        let no_room = matches!(
            refusal,
            Refusal::ResourceExhausted { .. }
                | Refusal::QueueTooLong { .. }
                | Refusal::QuotaExceeded { .. }
                | Refusal::DeadlineExceeded { .. }
        );
        let over = end.is_some_and(|end| end <= Instant::now());
        if !no_room || !over && (self.stage == 0 || !self.spending.is_bounded(&self.job)) {
            return Err(refusal);
        }
        self.shortfall.budget |= over;
        self.shortfall.overloaded |= !over;
        self.stage = self.job.stages.len();
        Ok(())
    }

    /// Room for a stage's tokens. The last stage's work takes the request's room with it; while an earlier one runs, the
    /// request holds on to its room for the next.
    fn admit(&mut self, tokens: u64, work: &[(Lane, BatchShape)]) -> Result<Permit, Refusal> {
        let held = self.room.permit.take().ok_or(Refusal::Internal)?;
        let more = tokens.saturating_sub(self.room.tokens);
        let held = if self.room.admitted.is_some() {
            self.app.admit_more_tokens(held, more, tokens, work)?
        } else {
            let (held, admitted) = self.app.admit_tokens(held, more, work)?;
            self.room.admitted = Some(admitted);
            held
        };
        self.room.tokens += more;
        if self.stage + 1 < self.job.stages.len() {
            self.room.permit = Some(held.clone());
        }
        Ok(held)
    }

    /// Takes what the stage has come to; what it has queued is cancelled.
    fn settle(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.standings.take(count(self.stage + 1), &running.documents, &running.units, &running.scoring);
        // A stage that was cut short is charged what came back of it.
        let Tokens { computed, cached } = running.answer.tokens();
        let (computed, cached) = if self.stage_is_cut {
            let cached = cached.min(running.tokens);
            (running.tokens - cached, cached)
        } else {
            (computed, cached)
        };
        self.facts.computed(&running.answer, computed, cached);
        self.end_stage();
    }

    /// The next stage's turn, if there is anything left to spend on it.
    fn end_stage(&mut self) {
        self.shortfall.budget |= self.stage_is_partial;
        let top_k = self.job.stages[self.stage].top_k;
        self.given = top_k.map_or(self.given, |top_k| top_k.min(self.given));
        self.stage += 1;
        if self.stage < self.job.stages.len() && self.spending.is_over(Instant::now()) {
            self.shortfall.budget = true;
            self.stage = self.job.stages.len();
        }
    }

    /// The order after the stage that has just ended.
    fn stage_order(&self) -> StageOrder {
        let first = self.standings.first(&self.job);
        StageOrder {
            stage: count(self.stage),
            results: first.map(|document| result(&self.job, &self.standings, document)).collect(),
            survivors: count(self.given),
            partial: self.stage_is_partial,
        }
    }

    /// The answer, for a reader that waits for it since `asked`.
    fn response(&self, asked: Instant) -> RerankResponse {
        let response = self.facts.response(&self.job, &self.standings, self.shortfall);
        let now = Instant::now();
        // Before that, it was the reader who was late.
        if let Some(end) = self.spending.end.filter(|end| (asked..=now).contains(end)) {
            self.app.0.answer_margin.measured(now - end);
        }
        response
    }
}

/// The texts that the first stage reads, as far as its budget lets it.
fn first_texts(job: &RerankJob, model: &Model) -> Texts {
    let stage = &job.stages[0];
    let pairs = [job.budget.pairs, stage.budget.pairs].into_iter().flatten().min().unwrap_or(usize::MAX);
    let bytes = || job.texts().take(pairs).map(|text| text.len() as u64);
    let lane = Lane { model: stage.model, operation: stage.method.operation() };
    let tokens_max = match job.long_document {
        LongDocument::Cut => model.tokens_max() as u64,
        LongDocument::ChunkMax | LongDocument::ChunkMean => u64::MAX,
    };
    Texts { lane, count: bytes().count() as u64, bytes: bytes().sum(), tokens_max }
}
