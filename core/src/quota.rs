//! Whether a tenant may send a request now.
//!
//! Rates are held by the generic cell rate algorithm: per tenant and rate one point in time, the *theoretical
//! arrival* of what comes next at exactly the rate. What comes `burst` or more before it is refused, and told
//! when it would not be. No counters are refilled and no clock ticks; a clock that jumps back refuses nothing
//! that it would not have refused before.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{TenantId, Time, cost::duration};

/// A rate and how much of it may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Per second, in the long run; more than 0.
    pub per_second: f64,
    /// What may come at once after a pause; at least 1.
    pub burst: u64,
}

/// What one tenant may do. `None` is no bound of its own; admission bounds all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Requests.
    pub requests: Option<Rate>,
    /// Tokens, special ones included.
    pub tokens: Option<Rate>,
    /// Requests admitted and not ended.
    pub in_flight_max: Option<u32>,
}

/// Which bound of a [`Quota`] was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaKind {
    /// [`Quota::requests`].
    Requests,
    /// [`Quota::tokens`].
    Tokens,
    /// [`Quota::in_flight_max`].
    InFlight,
}

impl QuotaKind {
    /// Name used in messages and as a metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InFlight => "in_flight",
        }
    }
}

/// A tenant that has reached a bound of its own; nothing was counted.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the tenant's quota of {} is used up", kind.name())]
pub struct OverQuota {
    /// Which.
    pub kind: QuotaKind,
    /// When the same would be let in, were nothing else to come.
    pub retry_after: Duration,
}

/// Quotas of all tenants, and how far they are used.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    default: Quota,
    /// Those that differ from the default.
    tenants: BTreeMap<TenantId, Quota>,
    /// Bounded by the number of tenants.
    used: BTreeMap<TenantId, Used>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    requests: Cell,
    tokens: Cell,
    in_flight: u32,
}

impl Quotas {
    /// `default` for every tenant that is not listed.
    #[must_use]
    pub fn new(default: Quota, tenants: BTreeMap<TenantId, Quota>) -> Self {
        Self { default, tenants, used: BTreeMap::new() }
    }

    /// Counts a request that comes in. `tokens` may be a guess; see [`spend`](Self::spend).
    ///
    /// # Errors
    /// [`OverQuota`] names the first bound that was reached; nothing is then counted.
    pub fn enter(&mut self, now: Time, tenant: TenantId, tokens: u64) -> Result<(), OverQuota> {
        let quota = self.of(tenant);
        let used = self.used.entry(tenant).or_default();
        if quota.in_flight_max.is_some_and(|max| used.in_flight >= max) {
            // One of its own must end first; when, nobody knows.
            return Err(OverQuota { kind: QuotaKind::InFlight, retry_after: IN_FLIGHT_RETRY });
        }
        let requests = used.requests.after(now, quota.requests, 1);
        let requests = requests.map_err(|retry_after| OverQuota { kind: QuotaKind::Requests, retry_after })?;
        let tokens = used.tokens.after(now, quota.tokens, tokens);
        let tokens = tokens.map_err(|retry_after| OverQuota { kind: QuotaKind::Tokens, retry_after })?;
        *used = Used { requests, tokens, in_flight: used.in_flight.saturating_add(1) };
        Ok(())
    }

    /// Counts tokens of a request that is inside, now that they are known; `tokens` beyond what it entered with.
    ///
    /// # Errors
    /// [`OverQuota`] if they come too soon; nothing is then counted.
    pub fn spend(&mut self, now: Time, tenant: TenantId, tokens: u64) -> Result<(), OverQuota> {
        let quota = self.of(tenant);
        let used = self.used.entry(tenant).or_default();
        let after = used.tokens.after(now, quota.tokens, tokens);
        used.tokens = after.map_err(|retry_after| OverQuota { kind: QuotaKind::Tokens, retry_after })?;
        Ok(())
    }

    /// Counts what a request goes on to compute after work that was charged. It is not refused: what was computed
    /// would be lost, and paid for again. What comes too soon is owed, and what comes next waits for it.
    pub fn owe(&mut self, now: Time, tenant: TenantId, tokens: u64) {
        let quota = self.of(tenant);
        let used = self.used.entry(tenant).or_default();
        used.tokens = used.tokens.owing(now, quota.tokens, tokens);
    }

    /// A request that had entered is gone.
    pub fn leave(&mut self, tenant: TenantId) {
        if let Some(used) = self.used.get_mut(&tenant) {
            used.in_flight = used.in_flight.saturating_sub(1);
        }
    }

    /// Requests of a tenant that are inside.
    #[must_use]
    pub fn in_flight(&self, tenant: TenantId) -> u32 {
        self.used.get(&tenant).map_or(0, |used| used.in_flight)
    }

    fn of(&self, tenant: TenantId) -> Quota {
        self.tenants.get(&tenant).copied().unwrap_or(self.default)
    }
}

/// What is said to a tenant with too many requests in flight.
const IN_FLIGHT_RETRY: Duration = Duration::from_millis(100);

/// The theoretical arrival of what comes next.
#[derive(Clone, Copy, Debug, Default)]
struct Cell(Time);

impl Cell {
    /// The cell after `amount` has come at `now`, or how long that is too soon. An amount larger than the burst
    /// comes in when nothing is owed, and is then owed for: otherwise it never would.
    fn after(self, now: Time, rate: Option<Rate>, amount: u64) -> Result<Self, Duration> {
        let Some(Rate { per_second, burst }) = rate else { return Ok(self) };
        let tolerance = duration(burst.saturating_sub(amount) as f64 / per_second);
        let too_soon = self.0.max(now).since(now + tolerance);
        if too_soon.is_zero() { Ok(self.owing(now, rate, amount)) } else { Err(too_soon) }
    }

    /// The cell after `amount` has come at `now`, too soon or not.
    fn owing(self, now: Time, rate: Option<Rate>, amount: u64) -> Self {
        let Some(Rate { per_second, .. }) = rate else { return self };
        Self(self.0.max(now) + duration(amount as f64 / per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_origin(Duration::from_millis(ms))
    }

    fn with(quota: Quota) -> Quotas {
        Quotas::new(quota, BTreeMap::new())
    }

    #[test]
    fn a_burst_then_the_rate() {
        let requests = Some(Rate { per_second: 10.0, burst: 3 });
        // (milliseconds, refused for so many milliseconds)
        let arrivals = [
            (0, 0),
            (0, 0),
            (0, 0),
            (0, 100),
            (50, 50),
            (100, 0),
            (100, 100),
            (1_000, 0),
            (1_000, 0),
            (1_000, 0),
            (1_000, 100),
        ];
        let mut quotas = with(Quota { requests, ..Quota::default() });
        for (turn, (ms, refused_ms)) in arrivals.into_iter().enumerate() {
            let answer = quotas.enter(at(ms), TenantId(1), 0).map_err(|over| (over.kind, over.retry_after));
            let expected =
                if refused_ms == 0 { Ok(()) } else { Err((QuotaKind::Requests, Duration::from_millis(refused_ms))) };
            assert_eq!(answer, expected, "arrival {turn} at {ms} ms");
        }
        quotas.enter(at(1_000), TenantId(2), 0).expect("another tenant has its own");
    }

    #[test]
    fn the_long_run_keeps_to_the_rate() {
        let tokens = Some(Rate { per_second: 1_000.0, burst: 500 });
        let mut quotas = with(Quota { tokens, ..Quota::default() });
        let granted: u64 = (0..60_000).map(|ms| u64::from(quotas.enter(at(ms), TenantId(0), 7).is_ok()) * 7).sum();
        assert!((60_000..=60_000 + 500).contains(&granted), "{granted} tokens in a minute");
    }

    #[test]
    fn what_is_larger_than_the_burst_waits_for_a_clean_slate_and_is_owed_for() {
        let tokens = Some(Rate { per_second: 100.0, burst: 10 });
        let mut quotas = with(Quota { tokens, ..Quota::default() });
        quotas.enter(at(0), TenantId(0), 200).expect("nothing is owed");
        let over = quotas.enter(at(500), TenantId(0), 200).expect_err("1.5 s are owed");
        assert_eq!((over.kind, over.retry_after), (QuotaKind::Tokens, Duration::from_millis(1_500)));
        quotas.enter(at(2_000), TenantId(0), 200).expect("nothing is owed again");
    }

    #[test]
    fn what_goes_on_is_owed_for() {
        let tokens = Some(Rate { per_second: 100.0, burst: 100 });
        let mut quotas = with(Quota { tokens, ..Quota::default() });
        quotas.spend(at(0), TenantId(0), 90).expect("within the burst");
        quotas.owe(at(0), TenantId(0), 60);
        let over = quotas.spend(at(500), TenantId(0), 100).expect_err("1 s is owed");
        assert_eq!(over.retry_after, Duration::from_millis(1_000));
        quotas.spend(at(1_500), TenantId(0), 100).expect("nothing is owed any more");
    }

    #[test]
    fn in_flight_is_counted_and_a_refusal_counts_nothing() {
        let requests = Some(Rate { per_second: 1.0, burst: 2 });
        let mut quotas = with(Quota { requests, in_flight_max: Some(1), ..Quota::default() });
        quotas.enter(at(0), TenantId(3), 0).expect("room");
        for _ in 0..5 {
            let over = quotas.enter(at(0), TenantId(3), 0).expect_err("one is in flight");
            assert_eq!(over.kind, QuotaKind::InFlight);
        }
        assert_eq!(quotas.in_flight(TenantId(3)), 1);
        quotas.leave(TenantId(3));
        quotas.enter(at(0), TenantId(3), 0).expect("the refused ones did not use up the rate");
    }

    #[test]
    fn a_clock_that_jumps_back_gives_nothing_away() {
        let requests = Some(Rate { per_second: 1.0, burst: 1 });
        let mut quotas = with(Quota { requests, ..Quota::default() });
        quotas.enter(at(10_000), TenantId(0), 0).expect("the first");
        assert!(quotas.enter(at(0), TenantId(0), 0).is_err());
        quotas.enter(at(11_000), TenantId(0), 0).expect("its time has come");
    }
}
