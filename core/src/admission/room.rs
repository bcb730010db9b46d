//! Room for work: documents, tokens and bytes inside.
//!
//! A refusal carries a time after which trying again makes sense, from the rate at which work has been leaving.

use std::time::Duration;

use crate::Time;

/// An amount of work, or of room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Documents (or texts).
    pub documents: u64,
    /// Tokens, special ones included. Known after tokenizing, admitted then.
    pub tokens: u64,
    /// Bytes of text.
    pub bytes: u64,
}

impl Work {
    /// Both together; what overflows stays at the largest.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            documents: self.documents.saturating_add(more.documents),
            tokens: self.tokens.saturating_add(more.tokens),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    /// What is left without `less`.
    #[must_use]
    pub fn minus(self, less: Self) -> Self {
        Self {
            documents: self.documents.saturating_sub(less.documents),
            tokens: self.tokens.saturating_sub(less.tokens),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }

    /// That part of it.
    #[must_use]
    pub fn percent(self, percent: u32) -> Self {
        let part = |amount: u64| (u128::from(amount) * u128::from(percent) / 100) as u64;
        Self { documents: part(self.documents), tokens: part(self.tokens), bytes: part(self.bytes) }
    }
}

/// One dimension of [`Work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// [`Work::documents`].
    Documents,
    /// [`Work::tokens`].
    Tokens,
    /// [`Work::bytes`].
    Bytes,
}

impl Resource {
    const ALL: [Self; 3] = [Self::Documents, Self::Tokens, Self::Bytes];

    /// Name used in messages and metric labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Tokens => "tokens",
            Self::Bytes => "bytes",
        }
    }

    fn of(self, work: &Work) -> u64 {
        match self {
            Self::Documents => work.documents,
            Self::Tokens => work.tokens,
            Self::Bytes => work.bytes,
        }
    }
}

/// A request that was refused; nothing was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} in flight would exceed {limit}", resource.name())]
pub struct Rejected {
    /// What ran out.
    pub resource: Resource,
    /// Its limit.
    pub limit: u64,
    /// When enough will have left, at the measured rate.
    pub retry_after: Duration,
}

/// Room for work of several kinds, and who may still come in.
#[derive(Debug)]
pub struct Room {
    limits: Work,
    held: Work,
    drain: [DrainRate; 3],
}

impl Room {
    /// Nothing inside, room for `limits`.
    #[must_use]
    pub fn new(limits: Work) -> Self {
        Self { limits, held: Work::default(), drain: [DrainRate::default(); 3] }
    }

    /// Admits `work`, all of it or none. While nothing of a resource is held, any amount of it comes in:
    /// otherwise a valid request larger than the limit would be refused for ever, on an idle server too.
    ///
    /// # Errors
    /// [`Rejected`] names the first resource that ran out.
    pub fn try_admit(&mut self, now: Time, work: Work) -> Result<(), Rejected> {
        self.try_grow(now, work, Work::default())
    }

    /// Admits more of what already holds `own`: what only it holds does not keep it out.
    ///
    /// # Errors
    /// [`Rejected`] names the first resource that ran out.
    pub fn try_grow(&mut self, now: Time, work: Work, own: Work) -> Result<(), Rejected> {
        for (resource, drain) in Resource::ALL.into_iter().zip(&self.drain) {
            let (held, limit) = (resource.of(&self.held), resource.of(&self.limits));
            let after = held.saturating_add(resource.of(&work));
            if held > resource.of(&own) && resource.of(&work) > 0 && after > limit {
                return Err(Rejected { resource, limit, retry_after: drain.time_for(now, after - limit) });
            }
        }
        self.held = self.held.plus(work);
        Ok(())
    }

    /// Gives back what was admitted.
    pub fn release(&mut self, now: Time, work: Work) {
        for (resource, drain) in Resource::ALL.into_iter().zip(&mut self.drain) {
            drain.record(now, resource.of(&work));
        }
        self.held = self.held.minus(work);
    }

    /// Takes an admission back: nothing came in, so nothing leaves.
    pub(super) fn undo(&mut self, work: Work) {
        self.held = self.held.minus(work);
    }

    /// What is inside now.
    #[must_use]
    pub fn held(&self) -> Work {
        self.held
    }
}

/// Sooner is not worth a round trip.
pub(super) const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);
/// Later is no prediction any more; also the answer while nothing is known to leave.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// How fast a resource leaves: an exponentially weighted mean over [`DrainRate::WINDOW`].
#[derive(Clone, Copy, Debug, Default)]
struct DrainRate {
    /// Σ amount · e^(−age / WINDOW), as of `updated`; divided by the window it is the rate.
    weighted: f64,
    updated: Time,
}

impl DrainRate {
    const WINDOW: Duration = Duration::from_secs(5);

    fn record(&mut self, now: Time, amount: u64) {
        self.weighted = self.decayed(now) + amount as f64;
        self.updated = self.updated.max(now);
    }

    fn time_for(&self, now: Time, amount: u64) -> Duration {
        let per_second = self.decayed(now) / Self::WINDOW.as_secs_f64();
        let seconds = amount as f64 / per_second;
        if seconds.is_finite() && seconds < RETRY_AFTER_MAX.as_secs_f64() {
            Duration::from_secs_f64(seconds).max(RETRY_AFTER_MIN)
        } else {
            RETRY_AFTER_MAX
        }
    }

    fn decayed(&self, now: Time) -> f64 {
        self.weighted * (-now.since(self.updated).as_secs_f64() / Self::WINDOW.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Work = Work { documents: 10, tokens: 1_000, bytes: 100_000 };

    fn work(documents: u64, tokens: u64, bytes: u64) -> Work {
        Work { documents, tokens, bytes }
    }

    fn at(seconds: f64) -> Time {
        Time::from_origin(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn each_resource_has_its_limit() {
        let cases = [
            (work(9, 0, 0), None),
            (work(10, 0, 0), Some(Resource::Documents)),
            (work(1, 999, 0), None),
            (work(1, 1_000, 0), Some(Resource::Tokens)),
            (work(1, 1, 99_999), None),
            (work(1, 1, 100_000), Some(Resource::Bytes)),
        ];
        for (second, refused) in cases {
            let mut room = Room::new(LIMITS);
            room.try_admit(Time::ZERO, work(1, 1, 1)).expect("nothing is held");
            let answer = room.try_admit(Time::ZERO, second);
            assert_eq!(answer.err().map(|rejected| rejected.resource), refused, "{second:?}");
            let held = if refused.is_some() {
                work(1, 1, 1)
            } else {
                work(1 + second.documents, 1 + second.tokens, 1 + second.bytes)
            };
            assert_eq!(room.held(), held, "all or nothing for {second:?}");
        }
    }

    #[test]
    fn nobody_is_kept_out_by_what_it_holds_itself() {
        let mut room = Room::new(work(10, 100, 1_000));
        room.try_admit(Time::ZERO, work(5, 90, 10)).expect("nothing is held");
        room.try_grow(Time::ZERO, work(0, 50, 0), work(5, 90, 10)).expect("there is nobody else");
        room.try_admit(Time::ZERO, work(1, 0, 1)).expect("room");
        assert!(room.try_grow(Time::ZERO, work(6, 0, 0), work(5, 140, 10)).is_err(), "now there is");
    }

    #[test]
    fn an_idle_server_takes_any_valid_request() {
        let mut room = Room::new(LIMITS);
        room.try_admit(Time::ZERO, work(50, 50_000, 1)).expect("nothing is held");
        assert!(room.try_admit(Time::ZERO, work(1, 0, 0)).is_err());
        room.release(Time::ZERO, work(50, 50_000, 1));
        assert_eq!(room.held(), Work::default());
        room.try_admit(Time::ZERO, work(1, 0, 0)).expect("room again");
    }

    #[test]
    fn retry_follows_the_measured_drain_rate() {
        let mut room = Room::new(LIMITS);
        room.try_admit(Time::ZERO, work(10, 0, 0)).expect("nothing is held");
        let unknown = room.try_admit(Time::ZERO, work(1, 0, 0)).expect_err("full").retry_after;
        assert_eq!(unknown, RETRY_AFTER_MAX, "nothing has left yet");

        // Ten documents a second for a minute.
        for tenth in 1..=600 {
            room.release(at(f64::from(tenth) / 10.0), work(1, 0, 0));
            room.try_admit(at(f64::from(tenth) / 10.0), work(1, 0, 0)).expect("one has left");
        }
        let one = room.try_admit(at(60.0), work(1, 0, 0)).expect_err("full").retry_after;
        assert!((0.09..0.11).contains(&one.as_secs_f64()), "one document at ten a second: {one:?}");
        let five = room.try_admit(at(60.0), work(5, 0, 0)).expect_err("full").retry_after;
        assert!((0.45..0.55).contains(&five.as_secs_f64()), "five documents: {five:?}");
    }
}
