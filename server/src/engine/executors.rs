//! The driver's end of the executors: what each has been given, and what it reports.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Sender, bounded};
use sluice_core::DeviceIndex;
use tokio::sync::{mpsc, watch};

use super::{
    Backends, Clock,
    executor::{self, BatchJob, ExecutorParts, Order, Report},
};
use crate::metrics::DeviceCaches;

/// How often, at the end, it is looked whether the threads have ended, and how many times: 2 s.
const END_LOOK_INTERVAL: Duration = Duration::from_millis(1);
const END_LOOKS_MAX: u32 = 2_000;

pub(super) struct Executors {
    devices: Vec<Device>,
    in_flight_max: usize,
    pub(super) reports: mpsc::Receiver<Report>,
}

struct Device {
    orders: Sender<Order>,
    /// Batches given and not reported back; at most those in flight.
    given: usize,
    /// Batches of a lost device that wait for a slot of this one; no more than that had in flight.
    moved: VecDeque<BatchJob>,
    thread: JoinHandle<()>,
}

impl Drop for Executors {
    /// Waits for the threads, which end with their orders: a process that ends while they give a device's memory back
    /// may crash in the driver. One that is busy for longer is left to itself.
    fn drop(&mut self) {
        self.reports.close();
        let threads: Vec<_> = self.devices.drain(..).map(|device| device.thread).collect();
        for _ in 0..END_LOOKS_MAX {
            if threads.iter().all(JoinHandle::is_finished) {
                break;
            }
            thread::sleep(END_LOOK_INTERVAL);
        }
    }
}

impl Executors {
    /// Starts a thread for each device.
    pub(super) fn start(
        devices: Vec<Backends>,
        in_flight_max: usize,
        clock: &Clock,
        devices_up: watch::Sender<usize>,
    ) -> std::io::Result<Self> {
        let count = devices.len();
        let (outbox, reports) = mpsc::channel(count * in_flight_max);
        let (devices_up, caches) = (Arc::new(devices_up), Arc::new(DeviceCaches::new(count)));
        let mut started = Vec::with_capacity(count);
        for (device, backends) in (0..).map(DeviceIndex).zip(devices) {
            // One more than batches, so that what answers a loss always fits.
            let (orders, inbox) = bounded(in_flight_max + 1);
            let parts = ExecutorParts {
                device,
                has_peers: count > 1,
                in_flight_max,
                inbox,
                outbox: outbox.clone(),
                clock: clock.clone(),
                devices_up: Arc::clone(&devices_up),
                caches: Arc::clone(&caches),
            };
            let thread = executor::start(backends, parts)?;
            started.push(Device { orders, given: 0, moved: VecDeque::new(), thread });
        }
        Ok(Self { devices: started, in_flight_max, reports })
    }

    /// Hands over a batch, or keeps it until there is a slot: only one that was moved there finds none. Never waits.
    /// Returns what could not be handed over, which is only so once a thread could not be kept alive.
    pub(super) fn give(&mut self, device: DeviceIndex, job: BatchJob) -> Vec<BatchJob> {
        self.of(device).moved.push_back(job);
        self.fill(device)
    }

    /// A batch has been reported back; the next takes its slot. Returns as [`give`](Self::give) does.
    pub(super) fn took_back(&mut self, device: DeviceIndex) -> Vec<BatchJob> {
        let of = self.of(device);
        of.given = of.given.saturating_sub(1);
        self.fill(device)
    }

    /// A device is lost, and has given back so many batches. Returns those that waited for a slot there.
    pub(super) fn lost(&mut self, device: DeviceIndex, given_back: usize) -> VecDeque<BatchJob> {
        let of = self.of(device);
        of.given = of.given.saturating_sub(given_back);
        // A thread that has ended needs no answer.
        let _ = of.orders.try_send(Order::LossKnown);
        std::mem::take(&mut of.moved)
    }

    fn fill(&mut self, device: DeviceIndex) -> Vec<BatchJob> {
        let in_flight_max = self.in_flight_max;
        let of = self.of(device);
        let mut failed = Vec::new();
        while of.given < in_flight_max
            && let Some(job) = of.moved.pop_front()
        {
            match of.orders.try_send(Order::Compute(job)).map_err(crossbeam_channel::TrySendError::into_inner) {
                Ok(()) => of.given += 1,
                Err(Order::Compute(job)) => failed.push(job),
                Err(Order::LossKnown) => {}
            }
        }
        failed
    }

    fn of(&mut self, device: DeviceIndex) -> &mut Device {
        &mut self.devices[usize::from(device.0)]
    }
}
