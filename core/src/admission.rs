//! Whether a request may come in.
//!
//! Nothing waits to be admitted: a request is let in or refused at once, twice. On arrival by what is known then
//! (its documents and bytes, and an estimate of its tokens), and again when it has been tokenized. In that order:
//!
//! | question | refusal |
//! |---|---|
//! | could an idle device be in time? | [`Refused::Unreachable`] |
//! | will this one be, after what is ahead of it? | [`Refused::Overloaded`] |
//! | is there room for its documents, tokens and bytes? | [`Refused::Room`] |
//! | has its tenant any of its quota left? | [`Refused::Quota`] |
//!
//! What is ahead comes from the scheduler's [`Forecast`], which knows classes and tenants: bulk work that waits
//! refuses bulk requests, and hardly an interactive one. Two figures per class adapt to what is observed
//! ([`concurrency`]): by how much completions are later than predicted, and how long a predicted wait is let in.
//!
//! Whoever admits a request releases what it got, when the last of its work is gone, and says how it ended.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Lane, Priority, TenantId, Time, Worth,
    cost::BatchShape,
    quota::{OverQuota, Quota, Quotas},
    scheduler::{Ask, Forecast, Prediction, QueueAhead},
};

pub mod concurrency;
mod estimate;
mod room;

use concurrency::{Concurrency, ConcurrencyConfig};
pub use estimate::TokenEstimates;
pub use room::{Rejected, Resource, Room, Work};

/// Bounds of an admission.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdmissionConfig {
    /// What may be inside together.
    pub room: Work,
    /// The part of the room that one tenant may hold: 100 where there is one tenant.
    pub tenant_room_percent: u32,
    /// Bounds of what adapts.
    pub concurrency: ConcurrencyConfig,
    /// Of each tenant that is not listed.
    pub quota: Quota,
    /// Of those that are.
    pub tenant_quotas: BTreeMap<TenantId, Quota>,
}

/// A request that asks to come in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// How urgent.
    pub class: Priority,
    /// On whose account.
    pub tenant: TenantId,
    /// From then on nobody wants the result.
    pub deadline: Time,
    /// Of what use a part of it is.
    pub worth: Worth,
    /// The room that it takes.
    pub work: Work,
    /// The device's work, by lane.
    pub units: &'a [(Lane, BatchShape)],
    /// The work is a guess ([`TokenEstimates`]), before tokenizing: nobody is refused because of it, but because of what
    /// is ahead.
    pub guess: bool,
}

/// What has become known of a request that is inside, for [`Admission::grow`].
#[derive(Clone, Copy, Debug)]
pub struct Growth<'a> {
    /// Room that it takes beyond what it holds.
    pub more: Work,
    /// Tokens that its tenant's quota is charged: all that will be computed, whatever room they share with others.
    pub charged: u64,
    /// It goes on after work that was charged: what comes too soon is owed, and not refused.
    pub goes_on: bool,
    /// The device's work, by lane.
    pub units: &'a [(Lane, BatchShape)],
}

/// A request that is inside. To be given back by [`Admission::release`].
#[derive(Debug, PartialEq)]
#[must_use = "what is admitted must be released"]
pub struct Admitted {
    class: Priority,
    tenant: TenantId,
    deadline: Time,
    worth: Worth,
    work: Work,
    at: Time,
    prediction: Prediction,
    /// Whether the scheduler does not know of it yet.
    pending: bool,
}

impl Admitted {
    /// The room that it holds.
    #[must_use]
    pub fn work(&self) -> Work {
        self.work
    }

    /// What was predicted of it, from the time when it was last admitted.
    #[must_use]
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was computed in time.
    Answered,
    /// Its deadline passed, or came too near.
    Late,
    /// Its caller left, or something failed: that says nothing about admission.
    Gone,
}

/// A request that was refused; nothing was admitted.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Too much is inside.
    #[error(transparent)]
    Room(#[from] Rejected),
    /// The tenant has sent too much.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// It would be late because of what is ahead of it.
    #[error("{predicted:?} of work and waiting do not fit the deadline, or the wait is too long")]
    Overloaded {
        /// Until it would be complete.
        predicted: Duration,
        /// When it would be in time, as things are.
        retry_after: Duration,
    },
    /// It would be late on an idle device.
    #[error("{service:?} of work do not fit the deadline")]
    Unreachable {
        /// What it takes by itself.
        service: Duration,
    },
}

impl Refused {
    /// Name used as a metric label.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Room(rejected) => rejected.resource.name(),
            Self::Quota(_) => "quota",
            Self::Overloaded { .. } => "overloaded",
            Self::Unreachable { .. } => "unreachable",
        }
    }

    /// When trying again makes sense; `None` if it does not.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Room(rejected) => Some(rejected.retry_after),
            Self::Quota(over) => Some(over.retry_after),
            Self::Overloaded { retry_after, .. } => Some(*retry_after),
            Self::Unreachable { .. } => None,
        }
    }
}

/// A request that is of use in parts is let in if it will have this part of the time that it has left: a tenth.
const PARTS: u32 = 10;

/// See the [module](self).
#[derive(Debug)]
pub struct Admission {
    room: Room,
    tenant_limits: Work,
    /// Bounded by the number of tenants.
    tenant_rooms: BTreeMap<TenantId, Room>,
    quotas: Quotas,
    concurrency: [Concurrency; Priority::ALL.len()],
    /// Work on its way to the scheduler; bounded by the number of tenants and classes.
    pending: Vec<QueueAhead>,
}

impl Admission {
    /// Sooner is not worth a round trip.
    pub const RETRY_AFTER_MIN: Duration = room::RETRY_AFTER_MIN;
    /// Later is no prediction any more.
    pub const RETRY_AFTER_MAX: Duration = room::RETRY_AFTER_MAX;

    /// Nothing inside.
    #[must_use]
    pub fn new(config: AdmissionConfig) -> Self {
        let AdmissionConfig { room, tenant_room_percent, concurrency, quota, tenant_quotas } = config;
        Self {
            room: Room::new(room),
            tenant_limits: room.percent(tenant_room_percent.clamp(1, 100)),
            tenant_rooms: BTreeMap::new(),
            quotas: Quotas::new(quota, tenant_quotas),
            concurrency: Priority::ALL.map(|_| Concurrency::new(concurrency)),
            pending: Vec::new(),
        }
    }

    /// Admits a request, all of it or none. While nothing of a resource is held, any amount of it comes in:
    /// otherwise a valid request larger than the limit would be refused for ever, on an idle server too.
    ///
    /// # Errors
    /// [`Refused`] says why not.
    pub fn try_admit(&mut self, now: Time, arrival: &Arrival<'_>, forecast: &Forecast) -> Result<Admitted, Refused> {
        let Arrival { class, tenant, deadline, worth, work, .. } = *arrival;
        let prediction = self.in_time(now, arrival, forecast)?;
        self.take_room(now, tenant, work, Work::default())?;
        if let Err(over) = self.quotas.enter(now, tenant, work.tokens) {
            self.give_room_back(tenant, work);
            return Err(over.into());
        }
        let admitted = Admitted { class, tenant, deadline, worth, work, at: now, prediction, pending: true };
        self.note_pending(&admitted, 1.0);
        Ok(admitted)
    }

    /// Admits what has become known of a request that is inside: its units in place of the guess, and what they need.
    ///
    /// # Errors
    /// [`Refused`]; it then holds what it held, and is to be released.
    pub fn grow(
        &mut self,
        now: Time,
        admitted: &mut Admitted,
        growth: Growth<'_>,
        forecast: &Forecast,
    ) -> Result<(), Refused> {
        let Growth { more, charged, goes_on, units } = growth;
        let Admitted { class, tenant, deadline, worth, .. } = *admitted;
        // Of what is ahead it is not a part itself.
        if admitted.pending {
            self.note_pending(admitted, -1.0);
            admitted.pending = false;
        }
        let arrival = Arrival { class, tenant, deadline, worth, work: more, units, guess: false };
        let prediction = self.in_time(now, &arrival, forecast)?;
        self.take_room(now, tenant, more, admitted.work)?;
        if goes_on {
            self.quotas.owe(now, tenant, charged);
        } else if let Err(over) = self.quotas.spend(now, tenant, charged) {
            self.give_room_back(tenant, more);
            return Err(over.into());
        }
        admitted.work = admitted.work.plus(more);
        (admitted.prediction, admitted.at, admitted.pending) = (prediction, now, true);
        self.note_pending(admitted, 1.0);
        Ok(())
    }

    /// From now on the scheduler's forecast counts it.
    pub fn queued(&mut self, admitted: &mut Admitted) {
        if std::mem::take(&mut admitted.pending) {
            self.note_pending(admitted, -1.0);
        }
    }

    /// Gives back what was admitted. Its work `ended` at a time, which is earlier where somebody was slow to read it.
    pub fn release(&mut self, now: Time, mut admitted: Admitted, outcome: Outcome, ended: Time) {
        self.queued(&mut admitted);
        self.quotas.leave(admitted.tenant);
        self.room.release(now, admitted.work);
        if let Some(room) = self.tenant_rooms.get_mut(&admitted.tenant) {
            room.release(now, admitted.work);
        }
        // One that is of use in parts takes what time it has, whatever was predicted.
        if admitted.worth == Worth::Whole {
            let took = ended.since(admitted.at);
            self.concurrency[admitted.class.index()].observe(now, took, &admitted.prediction, outcome);
        }
    }

    /// What is inside now.
    #[must_use]
    pub fn held(&self) -> Work {
        self.room.held()
    }

    /// What a tenant holds of it.
    #[must_use]
    pub fn held_by(&self, tenant: TenantId) -> Work {
        self.tenant_rooms.get(&tenant).map(Room::held).unwrap_or_default()
    }

    /// What has adapted for a class.
    #[must_use]
    pub fn concurrency(&self, class: Priority) -> &Concurrency {
        &self.concurrency[class.index()]
    }

    fn in_time(&self, now: Time, arrival: &Arrival<'_>, forecast: &Forecast) -> Result<Prediction, Refused> {
        let Arrival { class, tenant, deadline, worth, units, guess, .. } = *arrival;
        let left = deadline.since(now);
        if units.is_empty() && !left.is_zero() {
            // The device has no part in it, or no longer one.
            return Ok(Prediction::default());
        }
        let service_max = match worth {
            Worth::Whole => None,
            Worth::Parts => Some(left / PARTS),
        };
        let ask = Ask { class, tenant, work: units.to_vec(), service_max };
        let prediction = forecast.predict_beside(now, &ask, &self.pending);
        let service = prediction.service;
        if left.is_zero() || !guess && worth == Worth::Whole && prediction.service_sure >= left {
            return Err(Refused::Unreachable { service });
        }
        let concurrency = &self.concurrency[class.index()];
        let wait = concurrency.stretched(prediction.wait());
        let needed = if guess { wait } else { wait.saturating_add(service) };
        // Nothing ahead: whatever was predicted, no queue is the reason to refuse.
        let too_long = match prediction.wait() <= concurrency.wait_min() {
            true => Duration::ZERO,
            false => wait.saturating_sub(concurrency.wait_max()),
        };
        let excess = needed.saturating_sub(left).max(too_long).min(wait);
        if excess.is_zero() {
            return Ok(prediction);
        }
        let retry_after = excess.clamp(Self::RETRY_AFTER_MIN, Self::RETRY_AFTER_MAX);
        Err(Refused::Overloaded { predicted: prediction.completion, retry_after })
    }

    fn take_room(&mut self, now: Time, tenant: TenantId, work: Work, own: Work) -> Result<(), Rejected> {
        self.room.try_grow(now, work, own)?;
        let limits = self.tenant_limits;
        let answer = self.tenant_rooms.entry(tenant).or_insert_with(|| Room::new(limits)).try_grow(now, work, own);
        if answer.is_err() {
            self.room.undo(work);
        }
        answer
    }

    /// Takes back what a refused request had taken.
    fn give_room_back(&mut self, tenant: TenantId, work: Work) {
        self.room.undo(work);
        if let Some(room) = self.tenant_rooms.get_mut(&tenant) {
            room.undo(work);
        }
    }

    fn note_pending(&mut self, admitted: &Admitted, sign: f64) {
        let Admitted { class, tenant, prediction, .. } = admitted;
        let seconds = sign * prediction.device.as_secs_f64();
        let of = |queue: &QueueAhead| queue.class == *class && queue.tenant == *tenant;
        match self.pending.iter().position(of) {
            Some(place) if sign < 0.0 && self.pending[place].requests <= 1 => {
                // What rounding leaves goes with the last.
                self.pending.swap_remove(place);
            }
            Some(place) => {
                let queue = &mut self.pending[place];
                queue.seconds = (queue.seconds + seconds).max(0.0);
                queue.requests = if sign < 0.0 { queue.requests - 1 } else { queue.requests + 1 };
            }
            None if sign > 0.0 => self.pending.push(QueueAhead {
                class: *class,
                tenant: *tenant,
                requests: 1,
                seconds,
                lead: 0.0,
                head: 0.0,
            }),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
