//! Virtual time of a queue whose members share its service by weight.

use std::{cmp::Ordering, collections::BTreeMap};

/// Seconds of service, divided by a weight. Ordered; never NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Virtual(pub(super) f64);

impl Eq for Virtual {}

impl Ord for Virtual {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Virtual {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The key of a member that is not ahead of its share.
pub(super) const NEVER_SEEN: (Virtual, u64) = (Virtual(f64::NEG_INFINITY), 0);

/// Members ahead of their share that are remembered. Beyond that the one that has least to go is forgotten.
const AHEAD_MAX: usize = 4096;

/// What each member would have been served since the beginning, divided by its weight, if all shared bit by bit.
///
/// A member that was served before the others, and has left, would still be sharing: it counts until virtual time has
/// come to its end. Without that, time would run ahead of those who made room for it.
#[derive(Debug, Default)]
pub(super) struct SharedTime {
    pub(super) now: Virtual,
    /// Of the members that wait or are ahead of their share.
    weights: f64,
    /// Who has left ahead of its share: its end and its name, and its weight.
    ahead: BTreeMap<(Virtual, u64), f64>,
    waiting: usize,
}

impl SharedTime {
    /// A member waits. It had left with that end and name, if ever.
    pub(super) fn join(&mut self, weight: f64, left: (Virtual, u64)) {
        if self.waiting == 0 && self.ahead.is_empty() {
            // What rounding has left.
            self.weights = 0.0;
        }
        self.waiting += 1;
        self.weights += weight;
        if let Some(old) = self.ahead.remove(&left) {
            self.weights -= old;
        }
    }

    /// A member waits no more; its share of what it was served ends there.
    pub(super) fn part(&mut self, weight: f64, end: (Virtual, u64)) {
        self.waiting -= 1;
        if end.0 <= self.now {
            self.weights -= weight;
            return;
        }
        self.ahead.insert(end, weight);
        if self.ahead.len() > AHEAD_MAX {
            self.forget_first();
        }
    }

    /// So many seconds of service were given, to whomever.
    pub(super) fn advance(&mut self, seconds: f64) {
        let mut seconds = seconds;
        while let Some((&(end, _), _)) = self.ahead.first_key_value() {
            let until = (end.0 - self.now.0).max(0.0) * self.weights;
            if until > seconds {
                break;
            }
            seconds -= until;
            self.now = self.now.max(end);
            self.forget_first();
        }
        if self.waiting > 0 || !self.ahead.is_empty() {
            self.now.0 += seconds / self.weights.max(f64::MIN_POSITIVE);
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, weight)) = self.ahead.pop_first() {
            self.weights -= weight;
        }
        if self.waiting == 0 && self.ahead.is_empty() {
            self.weights = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_member_has_all_two_have_half() {
        let mut time = SharedTime::default();
        time.join(1.0, NEVER_SEEN);
        time.advance(10.0);
        assert_eq!(time.now, Virtual(10.0));
        time.join(1.0, NEVER_SEEN);
        time.advance(4.0);
        assert_eq!(time.now, Virtual(12.0));
        time.part(1.0, NEVER_SEEN);
        time.advance(1.0);
        assert_eq!(time.now, Virtual(13.0));
    }

    #[test]
    fn who_was_served_first_counts_until_its_share_would_have_ended() {
        let mut time = SharedTime::default();
        time.join(1.0, NEVER_SEEN);
        time.join(1.0, NEVER_SEEN);
        // The second is served its 4 seconds at once, and leaves.
        time.advance(4.0);
        assert_eq!(time.now, Virtual(2.0));
        time.part(1.0, (Virtual(4.0), 2));
        // The first makes up for it: after 4 seconds both have had 4.
        time.advance(4.0);
        assert_eq!(time.now, Virtual(4.0));
        time.advance(3.0);
        assert_eq!(time.now, Virtual(7.0), "and then it is alone");
    }

    #[test]
    fn weights_are_shares() {
        let mut time = SharedTime::default();
        time.join(3.0, NEVER_SEEN);
        time.join(1.0, NEVER_SEEN);
        time.advance(8.0);
        assert_eq!(time.now, Virtual(2.0), "six seconds for the one, two for the other");
    }

    #[test]
    fn a_member_that_comes_back_counts_once() {
        let mut time = SharedTime::default();
        time.join(1.0, NEVER_SEEN);
        time.join(1.0, NEVER_SEEN);
        time.part(1.0, (Virtual(5.0), 7));
        time.join(1.0, (Virtual(5.0), 7));
        time.advance(4.0);
        assert_eq!(time.now, Virtual(2.0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut time = SharedTime::default();
        for member in 0..10 * AHEAD_MAX as u64 {
            time.join(1.0, NEVER_SEEN);
            time.part(1.0, (Virtual(1e9 + member as f64), member));
        }
        assert_eq!(time.ahead.len(), AHEAD_MAX);
        assert_eq!(time.weights, AHEAD_MAX as f64);
    }
}
