//! Who is served next: classes, tenants in a class, requests of a tenant.
//!
//! Classes, and tenants inside each, share by start-time fair queueing (Goyal, Vin and Cheng 1996): each has a tag,
//! the service that it has had divided by its weight, the smallest is next, and one that comes back after a pause
//! begins at the present and not where it left. Requests of a tenant are served in the order in which they would
//! end if they shared the tenant's service equally (the fair sojourn protocol, Friedman and Henderson 2003): a
//! small one overtakes a large one, none ends later than with equal shares, and equal ones keep their order of
//! arrival. Urgent requests come before that order.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use super::backlog::Backlog;
use crate::{Priority, RequestId, TenantId, Time};

/// Seconds of service, divided by a weight or a number of requests. Ordered; never NaN.
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

/// Whose queue a request stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) class: Priority,
    pub(super) tenant: TenantId,
}

/// Where a request stands in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// When it would end under equal shares.
    pub(super) finish: Virtual,
    /// From then on it comes before all that are not urgent.
    pub(super) urgent_at: Time,
    /// Breaks ties.
    pub(super) arrival: u64,
}

#[derive(Debug, Default)]
pub(super) struct Order {
    classes: [ClassQueue; Priority::ALL.len()],
    /// The tag of the class served last.
    now: Virtual,
}

#[derive(Debug, Default)]
struct ClassQueue {
    tag: Virtual,
    /// The tag of the tenant served last.
    now: Virtual,
    /// Bounded by the number of tenants.
    tenants: BTreeMap<TenantId, TenantQueue>,
    /// Tenants with a request to offer, by tag.
    offering: BTreeSet<(Virtual, TenantId)>,
    /// Requests that wait, offered or set aside.
    waiting: usize,
}

#[derive(Debug, Default)]
pub(super) struct TenantQueue {
    tag: Virtual,
    /// What each request would have been served under equal shares since the beginning.
    now: Virtual,
    by_finish: BTreeSet<(Virtual, u64, RequestId)>,
    by_urgency: BTreeSet<(Time, u64, RequestId)>,
    /// Requests that wait, offered or set aside.
    waiting: usize,
    backlog: Backlog,
}

impl Order {
    /// A request begins to wait. Returns the virtual time of its queue, from which its finish is counted.
    pub(super) fn enter(&mut self, place: Place) -> Virtual {
        let class = &mut self.classes[place.class.index()];
        if class.waiting == 0 {
            class.tag = class.tag.max(self.now);
        }
        class.waiting += 1;
        let tenant = class.tenants.entry(place.tenant).or_default();
        if tenant.waiting == 0 {
            tenant.tag = tenant.tag.max(class.now);
        }
        tenant.waiting += 1;
        tenant.now
    }

    /// A request that had entered waits no more; it is not offered any more either.
    pub(super) fn leave(&mut self, place: Place) {
        let class = &mut self.classes[place.class.index()];
        class.waiting -= 1;
        if let Some(tenant) = class.tenants.get_mut(&place.tenant) {
            tenant.waiting -= 1;
        }
    }

    pub(super) fn offer(&mut self, place: Place, id: RequestId, standing: Standing) {
        let class = &mut self.classes[place.class.index()];
        let tenant = class.tenants.entry(place.tenant).or_default();
        if tenant.by_finish.is_empty() {
            class.offering.insert((tenant.tag, place.tenant));
        }
        tenant.by_finish.insert((standing.finish, standing.arrival, id));
        tenant.by_urgency.insert((standing.urgent_at, standing.arrival, id));
    }

    pub(super) fn withdraw(&mut self, place: Place, id: RequestId, standing: Standing) {
        let class = &mut self.classes[place.class.index()];
        let Some(tenant) = class.tenants.get_mut(&place.tenant) else { return };
        tenant.by_finish.remove(&(standing.finish, standing.arrival, id));
        tenant.by_urgency.remove(&(standing.urgent_at, standing.arrival, id));
        if tenant.by_finish.is_empty() {
            class.offering.remove(&(tenant.tag, place.tenant));
        }
    }

    /// Whose turn it is; `None` if nothing is offered.
    pub(super) fn first(&mut self, now: Time) -> Option<RequestId> {
        let offering = self.classes.iter().filter(|class| !class.offering.is_empty());
        let tag = offering.map(|class| class.tag).min()?;
        let class = self.classes.iter_mut().find(|class| class.tag == tag && !class.offering.is_empty())?;
        self.now = self.now.max(tag);
        let (tag, tenant) = *class.offering.first()?;
        class.now = class.now.max(tag);
        let tenant = class.tenants.get(&tenant)?;
        let urgent = tenant.by_urgency.first().filter(|(urgent_at, ..)| *urgent_at <= now);
        urgent.map(|(.., id)| *id).or_else(|| tenant.by_finish.first().map(|(.., id)| *id))
    }

    /// Notes that a queue was served for so long. The weights are the class's and the tenant's.
    pub(super) fn charge(&mut self, place: Place, seconds: f64, (class_weight, tenant_weight): (f64, f64)) {
        let class = &mut self.classes[place.class.index()];
        class.tag.0 += seconds / class_weight;
        let Some(tenant) = class.tenants.get_mut(&place.tenant) else { return };
        let offering = class.offering.remove(&(tenant.tag, place.tenant));
        tenant.tag.0 += seconds / tenant_weight;
        tenant.now.0 += seconds / tenant.waiting.max(1) as f64;
        if offering {
            class.offering.insert((tenant.tag, place.tenant));
        }
    }

    pub(super) fn backlog_mut(&mut self, place: Place) -> &mut Backlog {
        &mut self.classes[place.class.index()].tenants.entry(place.tenant).or_default().backlog
    }

    /// Queues with something in them: whose, how many requests, what work.
    pub(super) fn queues(&self) -> impl Iterator<Item = (Place, usize, &Backlog)> {
        Priority::ALL.into_iter().zip(&self.classes).flat_map(|(class, queue)| {
            let waiting = queue.tenants.iter().filter(|(_, tenant)| tenant.waiting > 0);
            waiting.map(move |(&tenant, queue)| (Place { class, tenant }, queue.waiting, &queue.backlog))
        })
    }
}
