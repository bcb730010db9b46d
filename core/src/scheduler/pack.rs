//! One batch, filled in the order of the policy.

use super::{
    BatchId, BatchShape, DeviceIndex, InFlight, Plan, RequestId, Scheduler, Time, UnitId, Waiting, Worth, duration,
};
use crate::{Lane, cost::Coefficients, scheduler::policy::BatchBudget};

/// A request's turn ends after this part of a batch's duration, so that classes share batches too.
const TURNS_PER_BATCH: f64 = 8.0;
/// A batch with less than this part of its duration left is not searched for a unit that is small enough.
const ROOM_WORTH_FILLING: f64 = 0.2;
/// Time to spare, as a part of its work, with which a request is begun while others have more.
const RESERVE: f64 = 0.1;

/// A batch while it is filled.
struct Draft {
    device: DeviceIndex,
    lane: Lane,
    coefficients: Coefficients,
    budget: BatchBudget,
    /// Seconds that it may take.
    seconds_max: f64,
    /// The same for requests that go on after it, once another ends with it.
    shared_seconds_max: f64,
    /// A request ends with it.
    ends_one: bool,
    /// When the device will take it up.
    start: Time,
    /// The earliest deadline of a request in it that it is to meet.
    deadline: Time,
    shape: BatchShape,
    tokens: u32,
    units: Vec<UnitId>,
    /// Requests of which a unit leads the others, once for each.
    leading: Vec<RequestId>,
}

impl Draft {
    fn seconds_with(&self, tokens: u32) -> f64 {
        let mut shape = self.shape;
        shape += BatchShape::of(tokens);
        self.coefficients.seconds(shape)
    }

    /// Seconds that it may take for a request of which so much waits.
    fn seconds_max_for(&self, waiting: BatchShape) -> f64 {
        let mut shape = self.shape;
        shape += waiting;
        let goes_on = shape.sequences > u64::from(self.budget.sequences)
            || shape.tokens > u64::from(self.budget.tokens)
            || self.coefficients.seconds(shape) > self.seconds_max;
        if self.ends_one && goes_on { self.shared_seconds_max } else { self.seconds_max }
    }

    /// Whether a unit of its lane may join, its own deadline being `deadline`, if the batch may take so many seconds.
    fn has_room(&self, tokens: u32, deadline: Time, seconds_max: f64) -> bool {
        let within_budget =
            tokens <= self.budget.tokens - self.tokens && self.units.len() < self.budget.sequences as usize;
        if self.units.is_empty() || !within_budget {
            return within_budget;
        }
        let seconds = self.seconds_with(tokens);
        seconds <= seconds_max && self.start + duration(seconds) <= self.deadline.min(deadline)
    }

    /// Whether there is no use in looking for more.
    fn is_full(&self) -> bool {
        let full = self.tokens == self.budget.tokens || self.units.len() == self.budget.sequences as usize;
        let left = self.seconds_max - self.coefficients.seconds(self.shape);
        full || !self.units.is_empty() && left < ROOM_WORTH_FILLING * self.seconds_max
    }

    /// Adds a unit and returns the seconds that it adds.
    fn push(&mut self, id: UnitId, tokens: u32) -> f64 {
        let unit = BatchShape::of(tokens);
        let fixed = if self.units.is_empty() { self.coefficients.batch } else { 0.0 };
        self.shape += unit;
        self.tokens += tokens;
        self.units.push(id);
        fixed + self.coefficients.marginal_seconds(unit)
    }
}

impl Scheduler {
    pub(super) fn pack(&mut self, now: Time, device: DeviceIndex) -> Option<Plan> {
        let mut draft = None;
        // What has to run on another device: no more than units are in flight there, so the look-ahead need not count it.
        let mut bound_elsewhere = Vec::new();
        // What was looked at and gave nothing; set aside so that the next in order is seen.
        let mut aside = Vec::new();
        // Of those, the first that is in time only if predictions err. Under overload such requests are always at hand,
        // and a device that works on them is late for all.
        let mut doubtful = None;
        while aside.len() <= self.config.look_ahead_requests_max
            && draft.as_ref().is_none_or(|draft: &Draft| !draft.is_full())
        {
            let Some(id) = self.order.first(now) else { break };
            if self.is_late(now, id, &self.waiting[&id]) {
                self.mark_late(id);
                continue;
            }
            if !self.devices.may_take(device, id) {
                self.set_aside(id);
                bound_elsewhere.push(id);
                continue;
            }
            // Another device may be in time, once it has a slot.
            let late_here = self.devices.several() && self.is_late_on(device, now, &self.waiting[&id]);
            if late_here || self.is_doubtful(device, now, &self.waiting[&id]) {
                self.set_aside(id);
                aside.push(id);
                if !late_here {
                    doubtful.get_or_insert(id);
                }
                continue;
            }
            let draft = draft.get_or_insert_with(|| self.draft(device, now, id));
            let packed = self.take_turn(draft, id);
            if packed == 0 {
                self.set_aside(id);
                aside.push(id);
            } else {
                self.rank(now, id);
            }
        }
        if draft.is_none()
            && let Some(id) = doubtful
        {
            let mut last = self.draft(device, now, id);
            let whole = self.waiting[&id].worth == Worth::Whole;
            while self.take_turn(&mut last, id) > 0 && whole && self.waiting.contains_key(&id) {}
            self.rank(now, id);
            aside.retain(|other| *other != id);
            draft = Some(last);
        }
        for id in aside.into_iter().chain(bound_elsewhere) {
            let waiting = &self.waiting[&id];
            if let Some(standing) = waiting.standing {
                self.order.offer(waiting.place, id, standing);
            }
        }
        draft.map(|draft| self.launch(now, draft))
    }

    /// Whether a request would be late by the full prediction. One that has not begun needs a reserve.
    fn is_doubtful(&self, device: DeviceIndex, now: Time, waiting: &Waiting) -> bool {
        let Some(standing) = waiting.standing.filter(|_| self.fair().is_some() && waiting.deadline != Time::MAX) else {
            return false;
        };
        let needed = match (waiting.worth, waiting.units.front()) {
            (Worth::Parts, Some(unit)) => self.cost.coefficients(unit.lane).seconds(BatchShape::of(unit.tokens)),
            _ => standing.remaining / self.devices.parallel(waiting.units.len()),
        };
        let reserve = if waiting.served > 0.0 { 0.0 } else { RESERVE * needed };
        self.devices.free_at(device, now, |_| 1.0) + duration(needed + reserve) > waiting.deadline
    }

    /// An empty batch of the lane of a request's first unit.
    fn draft(&self, device: DeviceIndex, now: Time, id: RequestId) -> Draft {
        let lane = self.waiting[&id].units[0].lane;
        let coefficients = self.cost.coefficients(lane);
        let fixed = coefficients.batch;
        Draft {
            device,
            lane,
            coefficients,
            budget: self.budget(lane),
            seconds_max: self.fair().map_or(f64::INFINITY, |fair| fair.batch_seconds(fixed)),
            shared_seconds_max: self.fair().map_or(f64::INFINITY, |fair| fair.shared_seconds(fixed)),
            ends_one: false,
            start: self.devices.free_at(device, now, |_| 1.0),
            deadline: Time::MAX,
            shape: BatchShape::default(),
            tokens: 0,
            units: Vec::new(),
            leading: Vec::new(),
        }
    }

    /// Moves units of a request into the batch, as many as there is room for or as a turn lasts. Returns their number.
    fn take_turn(&mut self, draft: &mut Draft, id: RequestId) -> usize {
        let turn_seconds = draft.seconds_max / TURNS_PER_BATCH;
        let fair = self.fair().is_some();
        let waiting = self.waiting.get_mut(&id).expect("what is offered waits");
        // One that would be late in any batch by the full prediction is a try: it holds nobody back.
        let hopeful = fair && draft.start + duration(draft.seconds_with(waiting.units[0].tokens)) <= waiting.deadline;
        let deadline = if hopeful || fair && !draft.units.is_empty() { waiting.deadline } else { Time::MAX };
        let seconds_max = draft.seconds_max_for(waiting.remaining.of(draft.lane));
        let (mut packed, mut seconds, mut shape, mut tokens) = (0, 0.0, BatchShape::default(), 0_u64);
        while let Some(unit) = waiting.units.front().copied() {
            if unit.lane != draft.lane || !draft.has_room(unit.tokens, deadline, seconds_max) || seconds > turn_seconds
            {
                break;
            }
            waiting.units.pop_front();
            seconds += draft.push(UnitId { request: id, index: unit.index }, unit.tokens);
            if unit.leads && draft.leading.last() != Some(&id) {
                draft.leading.push(id);
            }
            shape += BatchShape::of(unit.tokens);
            tokens += u64::from(unit.tokens);
            packed += 1;
        }
        if packed == 0 {
            return 0;
        }
        if hopeful {
            draft.deadline = draft.deadline.min(waiting.deadline);
        }
        waiting.remaining.subtract(draft.lane, shape);
        waiting.served += seconds;
        let place = waiting.place;
        self.order.backlog_mut(place).subtract(draft.lane, shape);
        self.queued_units -= packed;
        self.queued_tokens -= tokens;
        let class_weight = self.fair().map_or(1.0, |fair| fair.class_weight(place.class));
        self.order.charge(place, seconds, class_weight);
        if self.waiting[&id].units.is_empty() {
            draft.ends_one = true;
            self.cancel(id);
        }
        packed
    }

    /// Takes a request out of the order until the batch is full.
    fn set_aside(&mut self, id: RequestId) {
        let waiting = &self.waiting[&id];
        if let Some(standing) = waiting.standing {
            self.order.withdraw(waiting.place, standing);
        }
    }

    /// Takes a request out of the order for good: it expires as soon as it is asked what has.
    fn mark_late(&mut self, id: RequestId) {
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        if let Some(standing) = waiting.standing {
            self.order.withdraw(waiting.place, standing);
            self.by_latest_start.remove(&(waiting.latest_start, waiting.arrival, id));
            waiting.latest_start = Time::ZERO;
            self.by_latest_start.insert((Time::ZERO, waiting.arrival, id));
        }
    }

    fn launch(&mut self, now: Time, draft: Draft) -> Plan {
        let Draft { device, lane, coefficients, shape, tokens, units, leading, .. } = draft;
        let batch = BatchId(self.batches);
        self.batches += 1;
        let predicted = coefficients.seconds(shape);
        // First come, first served predicts nothing.
        let confidence = self.fair().map_or(0.0, |_| self.cost.confidence(now, lane));
        self.devices.dispatch(batch, InFlight { device, lane, shape, dispatched: now, predicted, confidence, leading });
        Plan { batch, device, lane, units, tokens, shape, predicted: duration(predicted) }
    }
}
