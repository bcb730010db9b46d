//! Who may call, and how much.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluice_core::{
    TenantId,
    quota::{Quota, Rate},
};
use sluice_service::config::{ConfigFault, Secret};

/// Tenants in the configuration, at most: each has its own place in metrics.
const TENANTS_MAX: usize = 1000;

/// Somebody who calls. What is over a quota is `RESOURCE_EXHAUSTED`; 0 = no quota.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantConfig {
    /// Its name, in logs and metrics; 1 to 64 bytes.
    pub name: String,
    /// What its calls bring as `authorization: Bearer TOKEN`; empty = this is the tenant of calls that bring none.
    pub token: Secret,
    /// Its share of the device while others want it too, relative to theirs.
    pub weight: u32,
    /// Requests a second, over the long run; as many may come at once.
    pub requests_per_second: u64,
    /// Tokens a second that it may have computed.
    pub tokens_per_second: u64,
    /// Requests being worked on at once.
    pub requests_in_flight_max: u64,
}

impl Default for TenantConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            token: Secret::default(),
            weight: 1,
            requests_per_second: 0,
            tokens_per_second: 0,
            requests_in_flight_max: 0,
        }
    }
}

/// What is wrong with them.
pub(super) fn faults(tenants: &[TenantConfig]) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    if tenants.len() > TENANTS_MAX {
        faults.push(ConfigFault::new("tenant", format!("at most {TENANTS_MAX} tenants")));
    }
    for (index, tenant) in tenants.iter().enumerate() {
        let earlier = &tenants[..index];
        let rules = [
            ("name", (1..=64).contains(&tenant.name.len()), "must be 1 to 64 bytes"),
            ("name", earlier.iter().all(|other| other.name != tenant.name), "is used twice"),
            ("token", earlier.iter().all(|other| other.token != tenant.token), "is used twice"),
            ("weight", (1..=1000).contains(&tenant.weight), "must be 1 to 1000"),
        ];
        let broken = rules.into_iter().filter(|(_, holds, _)| !holds);
        faults.extend(broken.map(|(key, _, message)| ConfigFault::new(format!("tenant[{index}].{key}"), message)));
    }
    faults
}

/// The quotas of all of them.
pub(super) fn quotas(tenants: &[TenantConfig]) -> BTreeMap<TenantId, Quota> {
    let rate = |per_second: u64| Rate { per_second: per_second as f64, burst: per_second };
    let quota = |tenant: &TenantConfig| Quota {
        requests: (tenant.requests_per_second > 0).then(|| rate(tenant.requests_per_second)),
        tokens: (tenant.tokens_per_second > 0).then(|| rate(tenant.tokens_per_second)),
        in_flight_max: u32::try_from(tenant.requests_in_flight_max).ok().filter(|max| *max > 0),
    };
    (0_u16..).map(TenantId).zip(tenants.iter().map(quota)).collect()
}
