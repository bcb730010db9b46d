//! The server that is simulated.

use std::{collections::BTreeMap, num::NonZero, time::Duration};

use super::units::OPERATIONS;
use crate::{
    Lane, ModelIndex, Operation, TenantId, Time,
    admission::{AdmissionConfig, Work},
    cost::{BatchShape, Coefficients, CostModel, duration},
    scheduler::{Policy, SchedulerConfig},
};

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Bounds and policy.
    pub scheduler: SchedulerConfig,
    /// Who is refused; `None`: nobody, but for a full queue.
    pub admission: Option<AdmissionConfig>,
    /// How long batches take, on each device.
    pub device: Device,
    /// From a request's arrival until its units are queued.
    pub preparation: Duration,
    /// Tenants by their names in the workload; the others are tenant 0.
    pub tenants: BTreeMap<String, TenantId>,
}

/// How long batches take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    /// Of batches that go through a model.
    pub model: Coefficients,
    /// Of batches of comparisons.
    pub comparison: Coefficients,
    /// A batch takes up to this part more or less, each as likely; from 0 to 1, exclusive.
    pub noise: f64,
}

impl Device {
    /// A cost model that has measured this device, as a server has after its warm-up.
    #[must_use]
    pub fn measured(&self) -> CostModel {
        let mut cost = CostModel::default();
        for operation in OPERATIONS {
            let lane = Lane { model: ModelIndex(0), operation };
            for length in [8, 32, 128, 512] {
                for sequences in [1, 4, 16] {
                    let shape = BatchShape::of_all((0..sequences).map(|_| length));
                    cost.observe(Time::ZERO, lane, shape, duration(self.seconds(lane, shape)));
                }
            }
        }
        cost
    }

    pub(super) fn seconds(&self, lane: Lane, shape: BatchShape) -> f64 {
        match lane.operation {
            Operation::MaxSim | Operation::Align => self.comparison.seconds(shape),
            Operation::EncodeTokens | Operation::EncodeDense | Operation::LateInteraction | Operation::CrossEncode => {
                self.model.seconds(shape)
            }
        }
    }
}

impl Default for Setup {
    /// A server of defaults on two cores.
    fn default() -> Self {
        Self {
            scheduler: SchedulerConfig {
                batch_tokens_max: 16_384,
                batch_sequences_max: 256,
                devices: NonZero::<u16>::MIN,
                in_flight_batches_max: 1,
                queued_units_max: 1_000_000,
                look_ahead_requests_max: 32,
                policy: Policy::default(),
            },
            admission: Some(AdmissionConfig {
                room: Work { documents: 50_000, tokens: 8_000_000, bytes: 512 << 20 },
                tenant_room_percent: 100,
                ..AdmissionConfig::default()
            }),
            device: Device {
                model: Coefficients { batch: 5e-4, sequence: 2e-5, token: 3e-5, token_squared: 1e-8 },
                comparison: Coefficients { batch: 5e-5, sequence: 5e-6, token: 1e-5, token_squared: 0.0 },
                noise: 0.05,
            },
            preparation: Duration::ZERO,
            tenants: BTreeMap::new(),
        }
    }
}
