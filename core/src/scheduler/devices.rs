//! The devices: what each has in flight, when it will be free, and which requests are bound to it.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZero,
    time::Duration,
};

use super::{BatchId, RequestId, Scheduler, Time};
use crate::{
    DeviceIndex, Lane,
    cost::{BatchShape, duration},
};

impl Scheduler {
    /// Says whether a device computes. Nothing new is dispatched to one that does not; what is in flight there stays,
    /// until it is completed, abandoned or [moved](Self::reassign).
    pub fn set_up(&mut self, device: DeviceIndex, up: bool) {
        self.devices.set_up(device, up);
    }

    /// The device that is up and predicted to be free first, slot or not; `None` while all are down.
    #[must_use]
    pub fn first_free(&self, now: Time) -> Option<DeviceIndex> {
        self.devices.first_free(now)
    }

    /// Whether a device computes.
    #[must_use]
    pub fn is_up(&self, device: DeviceIndex) -> bool {
        self.devices.up().any(|up| up == device)
    }

    /// The device that a request is bound to, while a unit that others of it need is in flight there.
    #[must_use]
    pub fn bound_to(&self, request: RequestId) -> Option<DeviceIndex> {
        self.devices.bound_to(request)
    }

    /// Moves a batch in flight to another device, which takes it beyond its slots if it has none. What follows a unit
    /// in it follows there. What has been computed of it is lost. Returns whether it was in flight.
    pub fn reassign(&mut self, now: Time, batch: BatchId, to: DeviceIndex) -> bool {
        self.devices.reassign(now, batch, to)
    }
}

/// A batch that was dispatched and is not complete.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) device: DeviceIndex,
    pub(super) lane: Lane,
    pub(super) shape: BatchShape,
    pub(super) dispatched: Time,
    /// Seconds.
    pub(super) predicted: f64,
    /// Of the prediction, when it was made.
    pub(super) confidence: f64,
    /// Requests of which it computes units that others need; each at least once.
    pub(super) leading: Vec<RequestId>,
}

#[derive(Debug)]
pub(super) struct Devices {
    in_flight_batches_max: usize,
    /// By index; never empty.
    devices: Vec<Device>,
    in_flight: BTreeMap<BatchId, InFlight>,
    /// Requests that run on one device only; bounded by the units in flight.
    bound: HashMap<RequestId, Bound>,
    dispatches: u64,
}

#[derive(Clone, Debug)]
struct Device {
    up: bool,
    in_flight: usize,
    /// When it was last given a batch, counted in dispatches.
    served: u64,
}

/// Where a request runs while a unit that others of it need is in flight.
#[derive(Debug)]
struct Bound {
    device: DeviceIndex,
    /// Entries in [`InFlight::leading`].
    leading: usize,
}

impl Devices {
    pub(super) fn new(devices: NonZero<u16>, in_flight_batches_max: u32) -> Self {
        Self {
            in_flight_batches_max: in_flight_batches_max as usize,
            devices: vec![Device { up: true, in_flight: 0, served: 0 }; usize::from(devices.get())],
            in_flight: BTreeMap::new(),
            bound: HashMap::new(),
            dispatches: 0,
        }
    }

    pub(super) fn set_up(&mut self, device: DeviceIndex, up: bool) {
        if let Some(device) = self.devices.get_mut(usize::from(device.0)) {
            device.up = up;
        }
    }

    /// Batches on all devices.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether there is a choice.
    pub(super) fn several(&self) -> bool {
        self.devices.len() > 1
    }

    /// By how many devices so many units can be computed at a time; at least 1.
    pub(super) fn parallel(&self, units: usize) -> f64 {
        self.up().count().min(units).max(1) as f64
    }

    /// Devices that may take a batch now, the best first.
    pub(super) fn with_a_slot(&self, now: Time) -> Vec<DeviceIndex> {
        let has_slot = |device: &DeviceIndex| self.of(*device).in_flight < self.in_flight_batches_max;
        let mut devices: Vec<DeviceIndex> = self.up().filter(has_slot).collect();
        devices.sort_by_key(|device| self.preference(*device, now));
        devices
    }

    /// The best device that is up, slot or not.
    pub(super) fn first_free(&self, now: Time) -> Option<DeviceIndex> {
        self.up().min_by_key(|device| self.preference(*device, now))
    }

    pub(super) fn bound_to(&self, request: RequestId) -> Option<DeviceIndex> {
        self.bound.get(&request).map(|bound| bound.device)
    }

    /// Whether a request may run there.
    pub(super) fn may_take(&self, device: DeviceIndex, request: RequestId) -> bool {
        self.bound.get(&request).is_none_or(|bound| bound.device == device)
    }

    /// When the batches in flight on a device will be done, by as much of each prediction as `part` says.
    pub(super) fn free_at(&self, device: DeviceIndex, now: Time, part: impl Fn(&InFlight) -> f64) -> Time {
        let mut free = Time::ZERO;
        for batch in self.in_flight.values().filter(|batch| batch.device == device) {
            free = free.max(batch.dispatched) + duration(batch.predicted * part(batch));
        }
        free.max(now)
    }

    /// The same of the device on which a request could begin first. While all are down, as if they were not: who waits
    /// then is late by its deadline.
    pub(super) fn earliest_free(&self, now: Time, request: RequestId, part: impl Fn(&InFlight) -> f64) -> Time {
        if let Some(bound) = self.bound.get(&request) {
            return self.free_at(bound.device, now, part);
        }
        self.up().map(|device| self.free_at(device, now, &part)).min().unwrap_or(now)
    }

    /// How long each device that is up goes on with what is in flight there.
    pub(super) fn busy(&self, now: Time) -> Vec<Duration> {
        self.up().map(|device| self.free_at(device, now, |_| 1.0).since(now)).collect()
    }

    pub(super) fn dispatch(&mut self, batch: BatchId, in_flight: InFlight) {
        let device = in_flight.device;
        self.dispatches += 1;
        self.devices[usize::from(device.0)].served = self.dispatches;
        self.devices[usize::from(device.0)].in_flight += 1;
        for request in &in_flight.leading {
            self.bound.entry(*request).or_insert(Bound { device, leading: 0 }).leading += 1;
        }
        self.in_flight.insert(batch, in_flight);
    }

    /// Frees the slot of a batch.
    pub(super) fn finish(&mut self, batch: BatchId) -> Option<InFlight> {
        let done = self.in_flight.remove(&batch)?;
        self.devices[usize::from(done.device.0)].in_flight -= 1;
        for request in &done.leading {
            if let Some(bound) = self.bound.get_mut(request) {
                bound.leading -= 1;
                if bound.leading == 0 {
                    self.bound.remove(request);
                }
            }
        }
        Some(done)
    }

    /// Moves a batch, and the requests that it binds. Returns whether it was in flight.
    pub(super) fn reassign(&mut self, now: Time, batch: BatchId, to: DeviceIndex) -> bool {
        let Some(in_flight) = self.in_flight.get_mut(&batch) else { return false };
        in_flight.dispatched = now;
        let from = std::mem::replace(&mut in_flight.device, to);
        for request in &in_flight.leading {
            if let Some(bound) = self.bound.get_mut(request) {
                bound.device = to;
            }
        }
        self.devices[usize::from(from.0)].in_flight -= 1;
        self.devices[usize::from(to.0)].in_flight += 1;
        true
    }

    fn up(&self) -> impl Iterator<Item = DeviceIndex> + '_ {
        (0..).map(DeviceIndex).zip(&self.devices).filter(|(_, device)| device.up).map(|(index, _)| index)
    }

    fn of(&self, device: DeviceIndex) -> &Device {
        &self.devices[usize::from(device.0)]
    }

    /// The smaller the better. Devices that are equally free take turns, so that none goes cold.
    fn preference(&self, device: DeviceIndex, now: Time) -> (Time, u64, DeviceIndex) {
        (self.free_at(device, now, |_| 1.0), self.of(device).served, device)
    }
}
