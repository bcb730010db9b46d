//! How requests share the device.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use sluice_core::{
    Priority, TenantId,
    scheduler::{FairPolicy, Policy},
};
use sluice_service::config::{self, ConfigFault};

use super::TenantConfig;

/// The batcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// In which order requests are served.
    pub policy: PolicyName,
    /// Tokens of a batch; 0 = the backend's own limit. Smaller batches answer newcomers sooner.
    pub batch_tokens_max: u32,
    /// A batch is predicted to take no longer: how long a newcomer waits for the device.
    #[serde(with = "config::duration")]
    pub batch_duration_max: Duration,
    /// Shares of the device while several classes want it.
    pub class_weights: ClassWeights,
    /// A request that has waited for so long comes before the younger ones of its tenant and class.
    pub ageing: Ageing,
    /// Time in which each model's batches are measured at the start, so that predictions hold from the first request on;
    /// 0 = they are learnt from requests.
    #[serde(with = "config::duration")]
    pub calibration_max: Duration,
    /// Where what was learnt of costs is kept from one start to the next; absent = measured anew at every start.
    pub cost_file: Option<PathBuf>,
}

/// In which order requests are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// Shares by class, tenant and request; what cannot be in time is refused at once.
    #[default]
    Fair,
    /// In order of arrival, refusing only what there is no room for: to compare with.
    Fifo,
}

/// A share for each class, relative to the others'; 1 to 1000. Far apart, they are priorities that starve nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassWeights {
    /// Of interactive requests.
    pub interactive: u32,
    /// Of standard ones.
    pub standard: u32,
    /// Of bulk ones.
    pub bulk: u32,
}

/// A time for each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ageing {
    /// Of interactive requests.
    #[serde(with = "config::duration")]
    pub interactive: Duration,
    /// Of standard ones.
    #[serde(with = "config::duration")]
    pub standard: Duration,
    /// Of bulk ones.
    #[serde(with = "config::duration")]
    pub bulk: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        let FairPolicy { batch_duration_max, .. } = FairPolicy::default();
        Self {
            policy: PolicyName::default(),
            batch_tokens_max: 0,
            batch_duration_max,
            class_weights: ClassWeights::default(),
            ageing: Ageing::default(),
            calibration_max: Duration::from_secs(1),
            cost_file: None,
        }
    }
}

impl Default for ClassWeights {
    fn default() -> Self {
        let [interactive, standard, bulk] = FairPolicy::default().class_weights;
        Self { interactive, standard, bulk }
    }
}

impl Default for Ageing {
    fn default() -> Self {
        let [interactive, standard, bulk] = FairPolicy::default().ageing_max;
        Self { interactive, standard, bulk }
    }
}

impl SchedulerConfig {
    /// The policy that is meant, with the tenants' shares.
    #[must_use]
    pub fn policy(&self, tenants: &[TenantConfig]) -> Policy {
        let ClassWeights { interactive, standard, bulk } = self.class_weights;
        let mut class_weights = [0; Priority::ALL.len()];
        class_weights[Priority::Interactive.index()] = interactive;
        class_weights[Priority::Standard.index()] = standard;
        class_weights[Priority::Bulk.index()] = bulk;
        let mut ageing_max = [Duration::ZERO; Priority::ALL.len()];
        ageing_max[Priority::Interactive.index()] = self.ageing.interactive;
        ageing_max[Priority::Standard.index()] = self.ageing.standard;
        ageing_max[Priority::Bulk.index()] = self.ageing.bulk;
        let tenant_weights: BTreeMap<TenantId, u32> =
            (0_u16..).map(TenantId).zip(tenants.iter().map(|tenant| tenant.weight)).collect();
        match self.policy {
            PolicyName::Fifo => Policy::Fifo,
            PolicyName::Fair => Policy::Fair(FairPolicy {
                class_weights,
                tenant_weights,
                ageing_max,
                batch_duration_max: self.batch_duration_max,
                ..FairPolicy::default()
            }),
        }
    }

    /// What is wrong with it.
    pub(super) fn faults(&self) -> Vec<ConfigFault> {
        let ClassWeights { interactive, standard, bulk } = self.class_weights;
        let weights = [("interactive", interactive), ("standard", standard), ("bulk", bulk)];
        let outside = weights.into_iter().filter(|(_, weight)| !(1..=1000).contains(weight));
        let mut faults: Vec<ConfigFault> = outside
            .map(|(class, _)| ConfigFault::new(format!("scheduler.class_weights.{class}"), "must be 1 to 1000"))
            .collect();
        if self.batch_duration_max < FairPolicy::default().batch_duration_min {
            let least = FairPolicy::default().batch_duration_min.as_millis();
            faults.push(ConfigFault::new("scheduler.batch_duration_max", format!("must be at least {least} ms")));
        }
        faults
    }
}
