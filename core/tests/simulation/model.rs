//! What the scheduler should hold, kept the plain way: by counting, and by looking at everything.
//!
//! Every method asserts what the scheduler's module promises about the step it records.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use sluice_core::{
    DeviceIndex, RequestId, Time, Unit, UnitId, Worth,
    admission::Work,
    cost::{BatchShape, CostModel},
    scheduler::{BatchId, EnqueueError, Expired, Plan, Policy, Scheduler, SchedulerConfig},
};

/// How a unit left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Dispatched,
    Cancelled,
    Expired,
}

/// A request between its admission and the end of the last of its work.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// What it holds of the admission.
    pub(crate) admitted: Work,
    /// Parts that the tokenizer still owes.
    pub(crate) parts_due: usize,
    /// When it began to wait, counted in such beginnings.
    place: u64,
    waiting: VecDeque<Unit>,
    in_flight_units: usize,
}

#[derive(Debug)]
struct InFlight {
    device: DeviceIndex,
    units: Vec<UnitId>,
    dispatched: Time,
    predicted: Duration,
    confidence: f64,
}

/// How late a request is, by the part of the prediction that can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lateness {
    InTime,
    /// Within what two ways of adding up may differ.
    Close,
    Late,
}

#[derive(Debug)]
pub(crate) struct Model {
    config: SchedulerConfig,
    open: BTreeMap<RequestId, Open>,
    places: u64,
    entered_units: usize,
    left: HashMap<UnitId, Fate>,
    /// Of every request that had units.
    deadlines: HashMap<RequestId, Time>,
    /// Of every unit.
    tokens: HashMap<UnitId, u32>,
    /// Units that others of their request need.
    leads: HashSet<UnitId>,
    /// By device.
    up: Vec<bool>,
    in_flight: BTreeMap<BatchId, InFlight>,
    batches: HashSet<BatchId>,
}

impl Open {
    fn deadline(&self) -> Option<Time> {
        self.waiting.front().map(|unit| unit.deadline)
    }

    fn worth(&self) -> Worth {
        self.waiting.front().map(|unit| unit.worth).unwrap_or_default()
    }
}

impl Model {
    pub(crate) fn new(config: SchedulerConfig) -> Self {
        Self {
            up: vec![true; usize::from(config.devices.get())],
            leads: HashSet::new(),
            config,
            open: BTreeMap::new(),
            places: 0,
            entered_units: 0,
            left: HashMap::new(),
            deadlines: HashMap::new(),
            tokens: HashMap::new(),
            in_flight: BTreeMap::new(),
            batches: HashSet::new(),
        }
    }

    pub(crate) fn open(&mut self, request: RequestId, admitted: Work, parts_due: usize) {
        let open = Open { admitted, parts_due, ..Open::default() };
        assert!(self.open.insert(request, open).is_none(), "{request:?} arrives once");
    }

    pub(crate) fn get(&mut self, request: RequestId) -> Option<&mut Open> {
        self.open.get_mut(&request)
    }

    /// Ends a request with nothing left to do; what it had admitted is to be released.
    pub(crate) fn close_if_done(&mut self, request: RequestId) -> Option<Work> {
        let open = self.open.get(&request)?;
        let done = open.parts_due == 0 && open.waiting.is_empty() && open.in_flight_units == 0;
        if done { self.open.remove(&request).map(|open| open.admitted) } else { None }
    }

    pub(crate) fn held(&self) -> Work {
        let total = |of: fn(&Work) -> u64| self.open.values().map(|open| of(&open.admitted)).sum();
        Work {
            documents: total(|work| work.documents),
            tokens: total(|work| work.tokens),
            bytes: total(|work| work.bytes),
        }
    }

    /// What [`Scheduler::enqueue`] should answer.
    pub(crate) fn enqueue(&mut self, unit: Unit) -> Result<(), EnqueueError> {
        let (queued, budget) = (self.queued_units(), self.config.batch_tokens_max);
        if unit.tokens > budget {
            return Err(EnqueueError::ExceedsBudget { tokens: unit.tokens, budget });
        }
        if queued >= self.config.queued_units_max {
            return Err(EnqueueError::QueueFull { queued });
        }
        let open = self.open.get_mut(&unit.id.request).expect("an open request");
        if open.waiting.is_empty() {
            open.place = self.places;
            self.places += 1;
        }
        open.waiting.push_back(unit);
        self.deadlines.insert(unit.id.request, unit.deadline);
        self.tokens.insert(unit.id, unit.tokens);
        if unit.leads {
            self.leads.insert(unit.id);
        }
        self.entered_units += 1;
        Ok(())
    }

    /// Takes what waits of a request. What [`Scheduler::cancel`] should answer.
    pub(crate) fn take(&mut self, request: RequestId, fate: Fate) -> usize {
        let Some(open) = self.open.get_mut(&request) else { return 0 };
        open.parts_due = 0;
        let units = std::mem::take(&mut open.waiting);
        for unit in &units {
            self.leave(unit.id, fate);
        }
        units.len()
    }

    /// Takes what [`Scheduler::take_expired`] has found, in ascending order of ids, which must be what is late.
    pub(crate) fn expire(&mut self, now: Time, expired: &[Expired], scheduler: &Scheduler) {
        let waiting: Vec<RequestId> =
            self.open.iter().filter(|(_, open)| !open.waiting.is_empty()).map(|(id, _)| *id).collect();
        let mut found = expired.iter().peekable();
        for request in waiting {
            let start = self.earliest_free(now, request);
            let lateness = self.lateness(now, start, &self.open[&request], scheduler);
            if let Some(expired) = found.next_if(|expired| expired.request == request) {
                assert_ne!(lateness, Lateness::InTime, "{request:?} expires at {now:?} though it may be in time");
                let unreachable = self.open[&request].deadline().is_some_and(|deadline| deadline > now);
                assert_eq!(expired.unreachable, unreachable, "{expired:?}");
                assert_eq!(expired.units, self.take(request, Fate::Expired), "units of {request:?} that expired");
            } else {
                // One that has become late by another's dispatch is found then, or at its latest start.
                let passed = self.open[&request].deadline().is_some_and(|deadline| deadline <= now);
                assert!(!passed, "{request:?} waits on after its deadline");
            }
        }
        assert_eq!(found.next(), None, "what expires waits, and once");
    }

    /// Returns whether a request in the batch is in time only if the batch is faster than predicted.
    pub(crate) fn dispatch(&mut self, now: Time, plan: &Plan, scheduler: &Scheduler) -> bool {
        let device = plan.device;
        assert!(self.up[usize::from(device.0)], "dispatched to {device:?}, which is down");
        assert!(self.on(device).count() < self.config.in_flight_batches_max as usize, "dispatched without a free slot");
        assert!(self.batches.insert(plan.batch), "{:?} is given twice", plan.batch);
        assert!(!plan.units.is_empty(), "a batch has units");
        let packed: HashSet<RequestId> = plan.units.iter().map(|id| id.request).collect();
        for request in &packed {
            let open = self.open.get(request).expect("only open requests have units that have not left");
            let start = self.free_at(device, now, |batch| batch.confidence);
            let lateness = self.lateness(now, start, open, scheduler);
            assert!(self.may_take(device, *request), "{request:?} is not where the unit is that it needs");
            assert_ne!(lateness, Lateness::Late, "{request:?} is dispatched at {now:?} and cannot be in time");
        }
        let order = self.live(now, device);
        let (mut tokens, mut shape) = (0, BatchShape::default());
        let mut places = Vec::with_capacity(plan.units.len());
        for id in &plan.units {
            let fate = self.left.get(id);
            assert_eq!(fate, None, "{id:?} is dispatched after it left");
            let open = self.open.get_mut(&id.request).expect("only open requests have units that have not left");
            let unit = open.waiting.pop_front().expect("what has not left waits");
            assert!(unit.deadline > now, "{unit:?} is dispatched at {now:?}, not before its deadline");
            assert_eq!(unit.id, *id, "units of a request leave in order of index");
            assert_eq!(unit.lane, plan.lane, "a batch has one lane");
            tokens += unit.tokens;
            shape += BatchShape::of(unit.tokens);
            places.push(open.place);
            open.in_flight_units += 1;
            self.leave(*id, Fate::Dispatched);
        }
        assert_eq!((plan.tokens, plan.shape), (tokens, shape), "the plan's sums are those of its units");
        assert!(tokens <= self.config.batch_tokens_max, "{tokens} tokens exceed the budget");
        assert!(plan.units.len() <= self.config.batch_sequences_max as usize, "{} sequences", plan.units.len());
        let beyond = match &self.config.policy {
            Policy::Fifo => {
                assert_eq!(plan.units[0].request, order[0], "who came first is first");
                assert!(places.is_sorted(), "requests are packed in order of arrival");
                self.assert_no_room(now, plan);
                self.assert_look_ahead(&order, plan);
                false
            }
            Policy::Fair(fair) => {
                let longest = fair.batch_duration_max.max(fair.batch_duration_min);
                let within = plan.units.len() == 1 || plan.predicted <= longest + Duration::from_micros(1);
                assert!(within, "{:?} is longer than {longest:?}", plan.predicted);
                self.assert_deadlines_kept(now, plan, scheduler.cost())
            }
        };
        let fair = self.config.policy != Policy::Fifo;
        let in_flight = InFlight {
            device,
            units: plan.units.clone(),
            dispatched: now,
            predicted: plan.predicted,
            confidence: if fair { scheduler.cost().confidence(now, plan.lane) } else { 0.0 },
        };
        self.in_flight.insert(plan.batch, in_flight);
        beyond
    }

    /// The requests whose units were in the batch, or `None` if it is not in flight.
    pub(crate) fn complete(&mut self, batch: BatchId) -> Option<Vec<RequestId>> {
        let units = self.in_flight.remove(&batch)?.units;
        let mut requests: Vec<RequestId> = units.iter().map(|id| id.request).collect();
        for request in &requests {
            self.open.get_mut(request).expect("open while a unit is in flight").in_flight_units -= 1;
        }
        requests.dedup();
        Some(requests)
    }

    /// Nothing to dispatch, and `wake` is when the scheduler wants to be asked again.
    pub(crate) fn wait(&self, now: Time, wake: Option<Time>, scheduler: &Scheduler) {
        // Of several devices one may have a slot that is free, and be late for what another is in time for.
        let slots = if self.up.len() == 1 { self.config.in_flight_batches_max as usize } else { 1 };
        for device in self.devices_up().filter(|device| self.on(*device).count() < slots) {
            let start = self.free_at(device, now, |batch| batch.confidence);
            let waiting = self.open.iter().filter(|(_, open)| !open.waiting.is_empty());
            let mut may_run = waiting.filter(|(id, _)| self.may_take(device, **id));
            let live = may_run.find(|(_, open)| self.lateness(now, start, open, scheduler) == Lateness::InTime);
            assert_eq!(live.map(|(id, _)| id), None, "{device:?} has a slot free while a live unit waits");
        }
        let earliest = self.open.values().filter_map(Open::deadline).min();
        assert_eq!(wake.is_some(), earliest.is_some(), "idle exactly while nothing waits: {wake:?}, {earliest:?}");
        assert!(wake <= earliest, "{wake:?} is later than the earliest deadline {earliest:?}");
    }

    /// Whether something waits that cannot be in time.
    pub(crate) fn holds_late(&self, now: Time, scheduler: &Scheduler) -> bool {
        let mut waiting = self.open.iter().filter(|(_, open)| !open.waiting.is_empty());
        waiting.any(|(id, open)| self.lateness(now, self.earliest_free(now, *id), open, scheduler) == Lateness::Late)
    }

    /// Whether something waits for a device while another has a slot.
    pub(crate) fn holds_bound(&self) -> bool {
        let slots = self.config.in_flight_batches_max as usize;
        let free: Vec<DeviceIndex> = self.devices_up().filter(|device| self.on(*device).count() < slots).collect();
        let mut waiting = self.open.iter().filter(|(_, open)| !open.waiting.is_empty());
        waiting.any(|(id, _)| free.iter().any(|device| !self.may_take(*device, *id)))
    }

    pub(crate) fn set_up(&mut self, device: DeviceIndex, up: bool) {
        self.up[usize::from(device.0)] = up;
    }

    /// What [`Scheduler::first_free`] has chosen must be up, and free as soon as any other.
    pub(crate) fn check_first_free(&self, now: Time, first: Option<DeviceIndex>) {
        let free_at = |device| self.free_at(device, now, |_| 1.0);
        let earliest = self.devices_up().map(free_at).min();
        assert_eq!(first.is_some(), earliest.is_some(), "some device is up or none is");
        let Some((first, earliest)) = first.zip(earliest) else { return };
        assert!(self.up[usize::from(first.0)], "{first:?} is down");
        assert!(free_at(first) <= earliest + Duration::from_micros(1), "{first:?} is not free first");
    }

    /// Batches in flight on a device.
    pub(crate) fn on(&self, device: DeviceIndex) -> impl Iterator<Item = BatchId> + '_ {
        self.in_flight.iter().filter(move |(_, batch)| batch.device == device).map(|(id, _)| *id)
    }

    pub(crate) fn device_of(&self, batch: BatchId) -> DeviceIndex {
        self.in_flight[&batch].device
    }

    /// It begins anew there.
    pub(crate) fn reassign(&mut self, now: Time, batch: BatchId, to: DeviceIndex) {
        let in_flight = self.in_flight.get_mut(&batch).expect("it is in flight");
        (in_flight.device, in_flight.dispatched) = (to, now);
    }

    pub(crate) fn assert_counts(&self, scheduler: &Scheduler) {
        assert_eq!(scheduler.queued_units(), self.queued_units(), "units that wait");
        let tokens: u64 = self.open.values().flat_map(|open| &open.waiting).map(|unit| u64::from(unit.tokens)).sum();
        assert_eq!(scheduler.queued_tokens(), tokens, "tokens that wait");
        assert_eq!(scheduler.in_flight(), self.in_flight.len(), "batches in flight");
    }

    pub(crate) fn assert_ended(&self) {
        assert!(self.open.is_empty(), "requests stay open: {:?}", self.open);
        assert!(self.in_flight.is_empty(), "batches stay in flight: {:?}", self.in_flight);
        assert_eq!(self.left.len(), self.entered_units, "every unit leaves");
    }

    /// A batch ends only where the next unit in line does not fit, or is of another lane.
    fn assert_no_room(&self, now: Time, plan: &Plan) {
        let next = self.live(now, plan.device).first().copied().and_then(|request| self.open[&request].waiting.front());
        let fits = |unit: &Unit| {
            unit.lane == plan.lane
                && plan.units.len() < self.config.batch_sequences_max as usize
                && plan.tokens + unit.tokens <= self.config.batch_tokens_max
        };
        assert!(!next.is_some_and(fits), "{next:?} would have fit beside {} tokens", plan.tokens);
    }

    /// Requests that come before the last one of the batch and have nothing in it were passed over.
    fn assert_look_ahead(&self, order: &[RequestId], plan: &Plan) {
        let packed: HashSet<RequestId> = plan.units.iter().map(|id| id.request).collect();
        let last = order.iter().rposition(|request| packed.contains(request)).unwrap_or(0);
        let passed_over = order[..last].iter().filter(|request| !packed.contains(request)).count();
        assert!(passed_over <= self.config.look_ahead_requests_max, "{passed_over} requests are passed over");
    }

    /// What is in a batch is in time by its prediction, but for one request that would not be by itself either: that
    /// one is tried because predictions err. Returns whether there is such a one.
    fn assert_deadlines_kept(&self, now: Time, plan: &Plan, cost: &CostModel) -> bool {
        let start = self.free_at(plan.device, now, |_| 1.0);
        let end = start + plan.predicted.saturating_sub(Duration::from_micros(1));
        let requests: HashSet<RequestId> = plan.units.iter().map(|id| id.request).collect();
        let late = requests.into_iter().filter(|id| end > self.deadlines[id]);
        let late: Vec<RequestId> = late.collect();
        assert!(late.len() <= 1, "{late:?} are late in a batch until {end:?}");
        if let Some(id) = late.first() {
            assert_eq!(plan.units[0].request, *id, "only the first of a batch is tried");
            let unit = self.tokens[&plan.units[0]];
            let alone = start + cost.predict(plan.lane, BatchShape::of(unit)) + Duration::from_micros(1);
            assert!(alone > self.deadlines[id], "others have made {id:?} late");
        }
        !late.is_empty()
    }

    fn lateness(&self, now: Time, start: Time, open: &Open, scheduler: &Scheduler) -> Lateness {
        let Some(deadline) = open.deadline() else { return Lateness::InTime };
        if deadline <= now {
            return Lateness::Late;
        }
        if self.config.policy == Policy::Fifo || deadline == Time::MAX {
            return Lateness::InTime;
        }
        let cost = scheduler.cost();
        let units = if open.worth() == Worth::Whole { open.waiting.len() } else { 1 };
        let mut lanes: BTreeMap<_, BatchShape> = BTreeMap::new();
        for unit in open.waiting.iter().take(units) {
            *lanes.entry(unit.lane).or_default() += BatchShape::of(unit.tokens);
        }
        let sure =
            lanes.iter().map(|(lane, shape)| cost.confidence(now, *lane) * cost.coefficients(*lane).seconds(*shape));
        // What it needs may be done by several devices at a time, but for a unit.
        let parallel = self.devices_up().count().min(units).max(1) as f64;
        let needed = Duration::from_secs_f64(sure.sum::<f64>() / parallel);
        let close = Duration::from_micros(1);
        if start + needed + close < deadline {
            Lateness::InTime
        } else if start + needed > deadline + close {
            Lateness::Late
        } else {
            Lateness::Close
        }
    }

    fn free_at(&self, device: DeviceIndex, now: Time, part: impl Fn(&InFlight) -> f64) -> Time {
        let after = |free: Time, batch: &InFlight| free.max(batch.dispatched) + batch.predicted.mul_f64(part(batch));
        self.in_flight.values().filter(|batch| batch.device == device).fold(Time::ZERO, after).max(now)
    }

    /// When a request could begin, by the part of the prediction that can be relied on.
    fn earliest_free(&self, now: Time, request: RequestId) -> Time {
        let may_run = self.devices_up().chain(self.bound(request)).filter(|device| self.may_take(*device, request));
        may_run.map(|device| self.free_at(device, now, |batch| batch.confidence)).min().unwrap_or(now)
    }

    /// Where the units are in flight that others of a request need.
    fn bound(&self, request: RequestId) -> Option<DeviceIndex> {
        let leads = |id: &&UnitId| id.request == request && self.leads.contains(id);
        self.in_flight.values().find(|batch| batch.units.iter().any(|id| leads(&id))).map(|batch| batch.device)
    }

    fn may_take(&self, device: DeviceIndex, request: RequestId) -> bool {
        self.bound(request).is_none_or(|bound| bound == device)
    }

    fn devices_up(&self) -> impl Iterator<Item = DeviceIndex> + '_ {
        (0..).map(DeviceIndex).zip(&self.up).filter(|(_, up)| **up).map(|(device, _)| device)
    }

    /// Requests that wait before their deadline and may run on a device, in order of arrival.
    fn live(&self, now: Time, device: DeviceIndex) -> Vec<RequestId> {
        let waiting = self.open.iter().filter(|(_, open)| open.deadline().is_some_and(|deadline| deadline > now));
        let waiting = waiting.filter(|(id, _)| self.may_take(device, **id));
        let mut live: Vec<_> = waiting.map(|(id, open)| (open.place, *id)).collect();
        live.sort_unstable();
        live.into_iter().map(|(_, id)| id).collect()
    }

    fn queued_units(&self) -> usize {
        self.open.values().map(|open| open.waiting.len()).sum()
    }

    fn leave(&mut self, id: UnitId, fate: Fate) {
        let earlier = self.left.insert(id, fate);
        assert_eq!(earlier, None, "{id:?} leaves a second time");
    }
}
