//! What a request may still spend, in time and in pairs.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::job::{RerankJob, StageJob};

/// Shortest time before a deadline at which work for an answer at any price ends.
const MARGIN_MIN: Duration = Duration::from_millis(1);
/// Of the time between a request's arrival and its deadline, at most so much is kept for answering.
const MARGIN_SHARE_MAX: u32 = 4;

/// What is left of a request's own budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spending {
    /// From then on the best order known is the answer; `None` for no such time.
    pub(super) end: Option<Instant>,
    /// Documents that may still be scored; `None` for any number.
    pairs: Option<usize>,
}

impl Spending {
    /// All of a job's budget.
    pub(super) fn new(job: &RerankJob, (arrival, deadline): (Instant, Instant), margin: &AnswerMargin) -> Self {
        // A time beyond what a clock can say is no bound.
        let by_time = job.budget.time.and_then(|time| arrival.checked_add(time));
        let by_deadline = job.until_deadline.then(|| {
            let share = deadline.saturating_duration_since(arrival) / MARGIN_SHARE_MAX;
            deadline.checked_sub(margin.get().min(share)).unwrap_or(deadline)
        });
        Self { end: earlier(by_time, by_deadline), pairs: job.budget.pairs }
    }

    /// Whether the caller takes less than everything.
    pub(super) fn is_bounded(&self, job: &RerankJob) -> bool {
        let by_stage = |stage: &StageJob| stage.budget.time.is_some() || stage.budget.pairs.is_some();
        self.end.is_some() || self.pairs.is_some() || job.stages.iter().any(by_stage)
    }

    /// When a stage that begins now ends.
    pub(super) fn end_of(&self, stage: &StageJob, now: Instant) -> Option<Instant> {
        earlier(self.end, stage.budget.time.and_then(|time| now.checked_add(time)))
    }

    /// Takes pairs for a stage with so many documents; what it may score of them.
    pub(super) fn take(&mut self, stage: &StageJob, documents: usize) -> usize {
        let pairs = [self.pairs, stage.budget.pairs].into_iter().flatten().fold(documents, usize::min);
        self.pairs = self.pairs.map(|left| left - pairs);
        pairs
    }

    /// Whether nothing more can be scored.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.pairs == Some(0) || self.end.is_some_and(|end| end <= now)
    }
}

/// The earlier of what there is.
pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

/// How long an answer takes once there is nothing more to wait for, as measured: from the end of a budget until its answer
/// is handed to the network. Rises at once to what was seen, and forgets by a sixteenth with every shorter one.
#[derive(Debug, Default)]
pub(in crate::grpc) struct AnswerMargin(AtomicU64);

impl AnswerMargin {
    /// Twice what was measured, and no less than what a timer may be late.
    fn get(&self) -> Duration {
        MARGIN_MIN.max(2 * Duration::from_nanos(self.0.load(Ordering::Relaxed)))
    }

    /// Notes that an answer took so long.
    pub(super) fn measured(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let next = |old: u64| Some(if took >= old { took } else { old - (old - took) / 16 });
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::ModelIndex;

    use super::*;
    use crate::job::{Budget, Method};

    fn stage(budget: Budget) -> StageJob {
        StageJob { model: ModelIndex(0), method: Method::Dense, top_k: None, budget }
    }

    #[test]
    fn pairs_are_counted_over_the_stages() {
        let pairs = |pairs| stage(Budget { time: None, pairs });
        let now = Instant::now();
        let mut spending = Spending { end: None, pairs: Some(10) };
        let taken = [(pairs(None), 6), (pairs(Some(2)), 6), (pairs(Some(9)), 6), (pairs(None), 6)];
        assert!(!spending.is_over(now));
        let taken = taken.map(|(stage, documents)| spending.take(&stage, documents));
        assert_eq!(taken, [6, 2, 2, 0]);
        assert!(spending.is_over(now));
        let mut without = Spending { end: None, pairs: None };
        assert_eq!([without.take(&pairs(None), 6), without.take(&pairs(Some(4)), 6)], [6, 4]);
    }

    #[test]
    fn a_stage_ends_with_its_own_budget_or_the_requests() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let time = |time| stage(Budget { time, pairs: None });
        let cases = [
            (None, None, None),
            (Some(5), None, Some(5)),
            (None, Some(7), Some(7)),
            (Some(5), Some(7), Some(5)),
            (Some(9), Some(7), Some(7)),
        ];
        for (request, own, expected) in cases {
            let spending = Spending { end: request.map(|n| now + ms(n)), pairs: None };
            assert_eq!(spending.end_of(&time(own.map(ms)), now), expected.map(|n| now + ms(n)), "{request:?} {own:?}");
        }
        let forever = Spending { end: None, pairs: None }.end_of(&time(Some(Duration::MAX)), now);
        assert_eq!(forever, None, "beyond the clock");
    }

    #[test]
    fn the_margin_rises_at_once_and_falls_slowly() {
        let margin = AnswerMargin::default();
        assert_eq!(margin.get(), MARGIN_MIN);
        margin.measured(Duration::from_millis(16));
        assert_eq!(margin.get(), Duration::from_millis(32));
        margin.measured(Duration::ZERO);
        assert_eq!(margin.get(), Duration::from_millis(30));
        for _ in 0..200 {
            margin.measured(Duration::ZERO);
        }
        assert_eq!(margin.get(), MARGIN_MIN);
    }
}
