//! What the scheduler should hold, kept the plain way: by counting, and by looking at everything.
//!
//! Every method asserts what the scheduler's module promises about the step it records.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use sluice_core::{
    RequestId, Time, Unit, UnitId,
    admission::Work,
    scheduler::{BatchId, EnqueueError, Plan, Scheduler, SchedulerConfig},
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
pub(crate) struct Model {
    config: SchedulerConfig,
    open: BTreeMap<RequestId, Open>,
    places: u64,
    entered_units: usize,
    left: HashMap<UnitId, Fate>,
    in_flight: BTreeMap<BatchId, Vec<UnitId>>,
    batches: HashSet<BatchId>,
}

impl Open {
    fn deadline(&self) -> Option<Time> {
        self.waiting.front().map(|unit| unit.deadline)
    }
}

impl Model {
    pub(crate) fn new(config: SchedulerConfig) -> Self {
        Self {
            config,
            open: BTreeMap::new(),
            places: 0,
            entered_units: 0,
            left: HashMap::new(),
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

    /// What [`Scheduler::take_expired`] should answer, in ascending order of ids.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<(RequestId, usize)> {
        let expired = |open: &Open| open.deadline().is_some_and(|deadline| deadline <= now);
        let requests: Vec<RequestId> = self.open.iter().filter(|(_, open)| expired(open)).map(|(id, _)| *id).collect();
        requests.into_iter().map(|request| (request, self.take(request, Fate::Expired))).collect()
    }

    pub(crate) fn dispatch(&mut self, now: Time, plan: &Plan) {
        assert!(self.in_flight.len() < self.config.in_flight_batches_max as usize, "dispatched without a free slot");
        assert!(self.batches.insert(plan.batch), "{:?} is given twice", plan.batch);
        let order = self.live(now);
        let mut tokens = 0;
        let mut ranks = Vec::with_capacity(plan.units.len());
        for (position, id) in plan.units.iter().enumerate() {
            let fate = self.left.get(id);
            assert_eq!(fate, None, "{id:?} is dispatched after it left");
            let open = self.open.get_mut(&id.request).expect("only open requests have units that have not left");
            let unit = open.waiting.pop_front().expect("what has not left waits");
            assert!(unit.deadline > now, "{unit:?} is dispatched at {now:?}, not before its deadline");
            assert_eq!(unit.id, *id, "units of a request leave in order of index");
            assert_eq!(unit.lane, plan.lane, "a batch has one lane");
            assert!(position > 0 || id.request == order[0], "{:?} comes before {id:?}", order[0]);
            tokens += unit.tokens;
            ranks.push((unit.deadline, open.place));
            open.in_flight_units += 1;
            self.leave(*id, Fate::Dispatched);
        }
        assert!(!plan.units.is_empty(), "a batch has units");
        assert!(ranks.is_sorted(), "requests are packed in their order");
        assert_eq!(plan.tokens, tokens, "the plan's tokens are those of its units");
        assert!(tokens <= self.config.batch_tokens_max, "{tokens} tokens exceed the budget");
        assert!(plan.units.len() <= self.config.batch_sequences_max as usize, "{} sequences", plan.units.len());
        self.assert_no_room(now, plan);
        self.assert_look_ahead(&order, plan);
        self.in_flight.insert(plan.batch, plan.units.clone());
    }

    /// The requests whose units were in the batch, or `None` if it is not in flight.
    pub(crate) fn complete(&mut self, batch: BatchId) -> Option<Vec<RequestId>> {
        let units = self.in_flight.remove(&batch)?;
        let mut requests: Vec<RequestId> = units.iter().map(|id| id.request).collect();
        for request in &requests {
            self.open.get_mut(request).expect("open while a unit is in flight").in_flight_units -= 1;
        }
        requests.dedup();
        Some(requests)
    }

    /// Nothing to dispatch, and `wake` is when the scheduler wants to be asked again.
    pub(crate) fn wait(&self, now: Time, wake: Option<Time>) {
        if self.in_flight.len() < self.config.in_flight_batches_max as usize {
            assert_eq!(self.first_live(now), None, "a slot stays free while a live unit waits");
        }
        let earliest = self.open.values().filter_map(Open::deadline).min();
        assert_eq!(wake.is_some(), earliest.is_some(), "idle exactly while nothing waits: {wake:?}, {earliest:?}");
        assert!(wake <= earliest, "{wake:?} is later than the earliest deadline {earliest:?}");
    }

    /// Whether something waits whose deadline has passed.
    pub(crate) fn holds_expired(&self, now: Time) -> bool {
        self.open.values().filter_map(Open::deadline).any(|deadline| deadline <= now)
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
        let next = self.first_live(now).and_then(|request| self.open[&request].waiting.front());
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

    fn first_live(&self, now: Time) -> Option<RequestId> {
        self.live(now).first().copied()
    }

    /// Requests that wait and can still be in time, in the order of the policy: deadline, then arrival.
    fn live(&self, now: Time) -> Vec<RequestId> {
        let waiting = self.open.iter().filter_map(|(id, open)| Some((open.deadline()?, open.place, *id)));
        let mut live: Vec<_> = waiting.filter(|(deadline, ..)| *deadline > now).collect();
        live.sort_unstable();
        live.into_iter().map(|(.., id)| id).collect()
    }

    fn queued_units(&self) -> usize {
        self.open.values().map(|open| open.waiting.len()).sum()
    }

    fn leave(&mut self, id: UnitId, fate: Fate) {
        let earlier = self.left.insert(id, fate);
        assert_eq!(earlier, None, "{id:?} leaves a second time");
    }
}
