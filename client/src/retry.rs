//! When a failed call is tried again: a decision, with neither clock nor channel in it.
//!
//! Two failures are: `UNAVAILABLE`, which a broken connection counts as, because every call of ours
//! may be repeated without harm (writes to the token store too: what a repeated put stores, and what a repeated delete
//! removes, is the same); and `RESOURCE_EXHAUSTED` where the server says when to come back,
//! as Sluice does. Without that word it may as well mean a message above its size limit, which the
//! next attempt would be too.
//!
//! Three things bound retries: attempts per call, the call's deadline, and a budget that all calls of
//! a client share, so that clients of a server in trouble add at most a small fraction to its load.
//!
//! The budget is a bucket of tokens: a retry takes one, a success puts back a tenth. With
//! success rate `s`, retries settle at `s × tokens_per_success` of all calls.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_core::Time;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How a server says, in the call's metadata, when to come back: milliseconds, negative for never.
const PUSHBACK_HEADER: &str = "grpc-retry-pushback-ms";
/// A retry that the server has timed comes this much later at most, as a fraction of the wait: all
/// clients were told the same time, and should not come back as one.
const PUSHBACK_SPREAD: f64 = 0.1;

/// When failed calls are tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts of one call, the first included; 1 never retries. Default: 4.
    pub attempts_max: u32,
    /// Wait before the first retry, before jitter. Default: 100 ms.
    pub backoff_initial: Duration,
    /// Longest wait that we choose ourselves. Default: 5 s.
    pub backoff_max: Duration,
    /// Growth of the wait from one retry to the next. Default: 2.
    pub backoff_multiplier: f64,
    /// Retries that may be made without a success between them, over all calls of a client. Default: 10.
    pub budget_tokens_max: u32,
    /// Retries that one success pays for. Default: 0.1.
    pub budget_tokens_per_success: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 4,
            backoff_initial: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            backoff_multiplier: 2.0,
            budget_tokens_max: 10,
            budget_tokens_per_success: 0.1,
        }
    }
}

impl RetryPolicy {
    /// Every call is made once.
    #[must_use]
    pub fn never() -> Self {
        Self { attempts_max: 1, ..Self::default() }
    }

    /// The wait after `retries` retries, before jitter.
    fn backoff(&self, retries: u32) -> Duration {
        let growth = self.backoff_multiplier.max(1.0).powi(i32::try_from(retries).unwrap_or(i32::MAX));
        let wait = self.backoff_initial.as_secs_f64() * growth;
        Duration::try_from_secs_f64(wait).map_or(self.backoff_max, |wait| wait.min(self.backoff_max))
    }
}

/// What a decision needs to know of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The status it ended with.
    pub code: Code,
    /// What the server said about coming back.
    pub pushback: Option<Pushback>,
}

/// A server's word on retrying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Not before this time has passed.
    After(Duration),
    /// Not at all.
    Never,
}

impl Failure {
    /// Reads the server's word from `grpc-retry-pushback-ms`, or else from `google.rpc.RetryInfo`.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let header = status.metadata().get(PUSHBACK_HEADER).map(|value| {
            // What is not a number of milliseconds means never, as gRPC's own clients read it.
            let milliseconds = value.to_str().ok().and_then(|text| text.parse().ok());
            milliseconds.map_or(Pushback::Never, |wait| Pushback::After(Duration::from_millis(wait)))
        });
        let detail = || status.get_details_retry_info()?.retry_delay.map(Pushback::After);
        Self { code: status.code(), pushback: header.or_else(detail) }
    }
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again at this time, which is before the deadline.
    Retry {
        /// When.
        at: Time,
    },
    /// Hand the failure to the caller.
    GiveUp(GiveUp),
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// The failure is the answer.
    NotRetryable,
    /// The server asked not to be asked again.
    Forbidden,
    /// The call has had all its attempts.
    AttemptsSpent,
    /// The next attempt would begin at or after the deadline.
    TooLate,
    /// The client has had all its retries for now.
    BudgetSpent,
}

/// The retries that a client has left, shared by all its calls.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    millitokens: u32,
    millitokens_max: u32,
    millitokens_per_success: u32,
}

const MILLITOKENS: u32 = 1000;

impl RetryBudget {
    /// A full budget.
    #[must_use]
    pub fn new(policy: &RetryPolicy) -> Self {
        let max = policy.budget_tokens_max.saturating_mul(MILLITOKENS);
        // A float turned into an integer saturates, and NaN becomes 0.
        let per_success = (policy.budget_tokens_per_success * f64::from(MILLITOKENS)).round() as u32;
        Self { millitokens: max, millitokens_max: max, millitokens_per_success: per_success }
    }

    /// Notes that a call has succeeded.
    pub fn succeeded(&mut self) {
        self.millitokens = self.millitokens.saturating_add(self.millitokens_per_success).min(self.millitokens_max);
    }

    fn take(&mut self) -> bool {
        let left = self.millitokens.checked_sub(MILLITOKENS);
        self.millitokens = left.unwrap_or(self.millitokens);
        left.is_some()
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub struct RetryState {
    policy: RetryPolicy,
    deadline: Time,
    attempts: u32,
    backoffs: u32,
    jitter: SmallRng,
}

impl RetryState {
    /// Before the first attempt of a call that ends at `deadline`. Equal seeds give equal waits.
    #[must_use]
    pub fn new(policy: RetryPolicy, deadline: Time, seed: u64) -> Self {
        Self { policy, deadline, attempts: 0, backoffs: 0, jitter: SmallRng::seed_from_u64(seed) }
    }

    /// Attempts that have failed so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Decides after an attempt has failed at `now`. A retry is paid for from `budget` here.
    pub fn next(&mut self, now: Time, failure: &Failure, budget: &mut RetryBudget) -> RetryDecision {
        self.attempts += 1;
        let may_pass = match failure.code {
            Code::Unavailable => true,
            Code::ResourceExhausted => failure.pushback.is_some(),
            _ => false,
        };
        if !may_pass {
            return RetryDecision::GiveUp(GiveUp::NotRetryable);
        }
        if failure.pushback == Some(Pushback::Never) {
            return RetryDecision::GiveUp(GiveUp::Forbidden);
        }
        if self.attempts >= self.policy.attempts_max {
            return RetryDecision::GiveUp(GiveUp::AttemptsSpent);
        }
        let at = now + self.wait(failure.pushback);
        if at >= self.deadline {
            return RetryDecision::GiveUp(GiveUp::TooLate);
        }
        if !budget.take() {
            return RetryDecision::GiveUp(GiveUp::BudgetSpent);
        }
        RetryDecision::Retry { at }
    }

    fn wait(&mut self, pushback: Option<Pushback>) -> Duration {
        if let Some(Pushback::After(wait)) = pushback {
            // The server knows its load better than our own series did, which starts over.
            self.backoffs = 0;
            let spread = wait.as_secs_f64() * self.jitter.random_range(0.0..PUSHBACK_SPREAD);
            return wait.saturating_add(Duration::try_from_secs_f64(spread).unwrap_or_default());
        }
        let backoff = self.policy.backoff(self.backoffs);
        self.backoffs += 1;
        // Between half and all of it: clients that failed together come back apart, yet none at once.
        backoff.mul_f64(self.jitter.random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;
    use tonic_types::ErrorDetails;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn failure(code: Code, pushback: Option<Pushback>) -> Failure {
        Failure { code, pushback }
    }

    fn at(since_start: Duration) -> Time {
        Time::from_origin(since_start)
    }

    /// What is decided at 10 ms of a call of 1 s whose `failed` earlier attempts ended UNAVAILABLE.
    fn decide(failed: u32, failure: Failure) -> RetryDecision {
        let policy = RetryPolicy::default();
        let mut budget = RetryBudget::new(&policy);
        let mut state = RetryState::new(policy, at(1000 * MS), 7);
        for _ in 0..failed {
            state.next(Time::ZERO, &Failure { code: Code::Unavailable, pushback: None }, &mut budget);
        }
        state.next(at(10 * MS), &failure, &mut budget)
    }

    #[test]
    fn decisions() {
        use Code::{Cancelled, DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted, Unavailable, Unknown};
        use Pushback::{After, Never};
        // Failed before, failure, and either why it ends or the range of the wait in milliseconds.
        type Case = (u32, Failure, Result<(u32, u32), GiveUp>);
        let cases: [Case; 20] = [
            (0, failure(Unavailable, None), Ok((50, 100))),
            (1, failure(Unavailable, None), Ok((100, 200))),
            (2, failure(Unavailable, None), Ok((200, 400))),
            (3, failure(Unavailable, None), Err(GiveUp::AttemptsSpent)),
            (0, failure(ResourceExhausted, None), Err(GiveUp::NotRetryable)),
            (0, failure(ResourceExhausted, Some(After(300 * MS))), Ok((300, 330))),
            (0, failure(ResourceExhausted, Some(After(Duration::ZERO))), Ok((0, 0))),
            (0, failure(Unavailable, Some(After(980 * MS))), Ok((980, 990))),
            (0, failure(Unavailable, Some(After(990 * MS))), Err(GiveUp::TooLate)),
            (0, failure(Unavailable, Some(After(Duration::MAX))), Err(GiveUp::TooLate)),
            (0, failure(Unavailable, Some(Never)), Err(GiveUp::Forbidden)),
            (0, failure(ResourceExhausted, Some(Never)), Err(GiveUp::Forbidden)),
            (0, failure(InvalidArgument, None), Err(GiveUp::NotRetryable)),
            (0, failure(InvalidArgument, Some(After(MS))), Err(GiveUp::NotRetryable)),
            (0, failure(DeadlineExceeded, None), Err(GiveUp::NotRetryable)),
            (0, failure(Internal, None), Err(GiveUp::NotRetryable)),
            (0, failure(Unknown, None), Err(GiveUp::NotRetryable)),
            (0, failure(Cancelled, None), Err(GiveUp::NotRetryable)),
            (3, failure(ResourceExhausted, Some(After(MS))), Err(GiveUp::AttemptsSpent)),
            (3, failure(Internal, None), Err(GiveUp::NotRetryable)),
        ];
        for (failed, failure, expected) in cases {
            let decision = decide(failed, failure);
            match (decision, expected) {
                (RetryDecision::Retry { at }, Ok((least, most))) => {
                    let wait = at.since(Time::from_origin(10 * MS));
                    assert!(least * MS <= wait && wait <= most * MS, "{failed} {failure:?}: {wait:?}");
                }
                (RetryDecision::GiveUp(why), Err(expected)) => assert_eq!(why, expected, "{failed} {failure:?}"),
                _ => panic!("{failed} {failure:?}: {decision:?}"),
            }
        }
    }

    #[test]
    fn pushback_starts_the_backoff_over() {
        let policy = RetryPolicy { attempts_max: 9, ..RetryPolicy::default() };
        let mut budget = RetryBudget::new(&policy);
        let mut state = RetryState::new(policy, Time::MAX, 1);
        let mut wait = |pushback| match state.next(Time::ZERO, &failure(Code::Unavailable, pushback), &mut budget) {
            RetryDecision::Retry { at } => at.since_origin(),
            RetryDecision::GiveUp(why) => panic!("{why:?}"),
        };
        wait(None);
        assert!(wait(None) >= 100 * MS);
        wait(Some(Pushback::After(MS)));
        assert!(wait(None) < 100 * MS);
    }

    #[test]
    fn backoff_grows_to_its_limit_and_no_further() {
        let policy = RetryPolicy::default();
        let waits: Vec<_> = (0..8).map(|retries| policy.backoff(retries).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(policy.backoff(u32::MAX), policy.backoff_max);
        let shrinking = RetryPolicy { backoff_multiplier: f64::NAN, ..policy };
        assert_eq!(shrinking.backoff(5), shrinking.backoff_initial);
    }

    #[test]
    fn budget_bounds_retries_over_all_calls() {
        let policy = RetryPolicy { budget_tokens_max: 2, ..RetryPolicy::default() };
        let mut budget = RetryBudget::new(&policy);
        let once = |budget: &mut RetryBudget| {
            let mut state = RetryState::new(policy.clone(), Time::MAX, 3);
            matches!(state.next(Time::ZERO, &failure(Code::Unavailable, None), budget), RetryDecision::Retry { .. })
        };
        assert_eq!([once(&mut budget), once(&mut budget), once(&mut budget)], [true, true, false]);
        for _ in 0..9 {
            budget.succeeded();
        }
        assert!(!once(&mut budget), "nine successes pay for no retry");
        budget.succeeded();
        assert_eq!([once(&mut budget), once(&mut budget)], [true, false]);
        for _ in 0..1000 {
            budget.succeeded();
        }
        let granted = (0..10).filter(|_| once(&mut budget)).count();
        assert_eq!(granted, 2, "successes do not save up more than the bucket holds");
    }

    #[test]
    fn waits_follow_from_the_seed() {
        let first = |seed| {
            let policy = RetryPolicy::default();
            let mut budget = RetryBudget::new(&policy);
            RetryState::new(policy, Time::MAX, seed).next(Time::ZERO, &failure(Code::Unavailable, None), &mut budget)
        };
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn servers_word_is_read_from_header_and_details() {
        let detail = |wait| ErrorDetails::with_retry_info(Some(wait));
        let header = |value: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(PUSHBACK_HEADER, value.parse().unwrap());
            metadata
        };
        let cases = [
            (ErrorDetails::new(), MetadataMap::new(), None),
            (detail(70 * MS), MetadataMap::new(), Some(Pushback::After(70 * MS))),
            (ErrorDetails::new(), header("250"), Some(Pushback::After(250 * MS))),
            (ErrorDetails::new(), header("0"), Some(Pushback::After(Duration::ZERO))),
            (ErrorDetails::new(), header("-1"), Some(Pushback::Never)),
            (ErrorDetails::new(), header("soon"), Some(Pushback::Never)),
            (detail(70 * MS), header("250"), Some(Pushback::After(250 * MS))),
            (detail(70 * MS), header("-1"), Some(Pushback::Never)),
        ];
        for (details, metadata, expected) in cases {
            let status = Status::with_error_details_and_metadata(Code::Unavailable, "busy", details, metadata);
            assert_eq!(Failure::of(&status), failure(Code::Unavailable, expected), "{status:?}");
        }
    }
}
