//! Where a request stands by what is known now, and when it is too late for it.

use super::{
    BatchShape, DeviceIndex, RequestId, Scheduler, Time, Waiting, Worth, duration, order::Standing, shared::Virtual,
};

impl Scheduler {
    pub(super) fn rank_changed(&mut self, now: Time) {
        for id in std::mem::take(&mut self.changed) {
            self.rank(now, id);
        }
    }

    /// Puts a request where it belongs by what is known now.
    pub(super) fn rank(&mut self, now: Time, id: RequestId) {
        let Some(waiting) = self.waiting.get(&id) else { return };
        let (standing, latest_start) = (self.standing(waiting), self.latest_start(now, waiting));
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        if let Some(old) = waiting.standing.replace(standing) {
            self.order.withdraw(waiting.place, old);
            self.by_latest_start.remove(&(waiting.latest_start, waiting.arrival, id));
        }
        waiting.changed = false;
        waiting.latest_start = latest_start;
        self.order.offer(waiting.place, id, standing);
        self.by_latest_start.insert((latest_start, waiting.arrival, id));
    }

    fn standing(&self, waiting: &Waiting) -> Standing {
        let arrival = waiting.arrival;
        let Some(fair) = self.fair() else {
            return Standing { finish: Virtual(arrival as f64), remaining: 0.0, urgent_at: Time::MAX, arrival };
        };
        let remaining = waiting.remaining.seconds(&self.cost, |fixed| fair.batch_seconds(fixed));
        let (remaining, must_begin) = match waiting.worth {
            _ if waiting.deadline == Time::MAX => (remaining, Time::MAX),
            // Its whole work, served or not: one that became less urgent by being served would take turns with the
            // next, and both be late. Besides, a batch chosen at the last moment may be delayed by one in flight.
            Worth::Whole => {
                let work = (waiting.served + remaining) / self.devices.parallel(waiting.units.len());
                let reserve = duration(work).saturating_add(fair.batch_duration_max * 2);
                (remaining, waiting.deadline - reserve)
            }
            // Its deadline bounds its work. It is in time with whatever it has got.
            Worth::Parts => {
                let time = waiting.deadline.since(waiting.arrived).as_secs_f64();
                let most = time * self.devices.parallel(waiting.units.len()) - waiting.served;
                (remaining.min(most.max(0.0)), Time::MAX)
            }
        };
        let aged = waiting.arrived + fair.ageing_max[waiting.place.class.index()];
        let finish = Virtual(waiting.origin.0 + waiting.served + remaining);
        Standing { finish, remaining, urgent_at: must_begin.min(aged), arrival }
    }

    /// When it is too late to begin what is left of a request, by the part of the prediction that can be relied on.
    fn latest_start(&self, now: Time, waiting: &Waiting) -> Time {
        if self.fair().is_none() || waiting.deadline == Time::MAX {
            return waiting.deadline;
        }
        let sure = |lane, shape| self.cost.confidence(now, lane) * self.cost.coefficients(lane).seconds(shape);
        let needed = match waiting.worth {
            Worth::Whole => {
                let all: f64 = waiting.remaining.lanes().map(|(lane, shape)| sure(lane, shape)).sum();
                all / self.devices.parallel(waiting.units.len())
            }
            Worth::Parts => waiting.units.front().map_or(0.0, |unit| sure(unit.lane, BatchShape::of(unit.tokens))),
        };
        waiting.deadline - duration(needed)
    }

    /// Whether it is too late for a request wherever it might run.
    pub(super) fn is_late(&self, now: Time, id: RequestId, waiting: &Waiting) -> bool {
        self.devices.earliest_free(now, id, |batch| batch.confidence) >= self.latest_start(now, waiting)
    }

    /// Whether it is on one device.
    pub(super) fn is_late_on(&self, device: DeviceIndex, now: Time, waiting: &Waiting) -> bool {
        self.devices.free_at(device, now, |batch| batch.confidence) >= self.latest_start(now, waiting)
    }
}
