//! Who is served next: classes, tenants in a class, requests of a tenant.
//!
//! Classes share by start-time fair queueing (Goyal, Vin and Cheng 1996): each has a tag, the service that it has had
//! divided by its weight, the smallest is next, and a class that comes back after a pause begins at the present and
//! not where it left.
//!
//! Inside a class and inside a tenant, shares are not taken bit by bit: requests are served one after the other in the
//! order in which they would end if tenants shared by weight, and the requests of a tenant equally. So a small request
//! overtakes a large one at once, its own tenant's or another's, equal ones keep their order of arrival, and none ends
//! later than with its share taken bit by bit, but for the batch in the way. For tenants that is packetised general
//! processor sharing (Demers, Keshav and Shenker 1989; Parekh and Gallager 1993), for requests the fair sojourn protocol
//! (Friedman and Henderson 2003). Virtual time (`shared`) goes on by the service given, divided among those who would not
//! have had theirs yet.
//!
//! Urgent requests come first in their own tenant, at no other's expense.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    backlog::Backlog,
    shared::{NEVER_SEEN, SharedTime, Virtual},
};
use crate::{Priority, RequestId, TenantId, Time};

/// Whose queue a request stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) class: Priority,
    pub(super) tenant: TenantId,
}

/// Where a request stands in its queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Standing {
    /// When it would end under equal shares.
    pub(super) finish: Virtual,
    /// Seconds of service that it still needs.
    pub(super) remaining: f64,
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
    shared: SharedTime,
    /// Bounded by the number of tenants.
    tenants: BTreeMap<TenantId, TenantQueue>,
    /// Tenants with a request to offer, by when it would end.
    offering: BTreeSet<(Virtual, TenantId)>,
    /// Requests that wait, offered or set aside.
    waiting: usize,
}

#[derive(Debug, Default)]
struct TenantQueue {
    /// The service that it has had, divided by its weight.
    tag: Virtual,
    weight: f64,
    /// Under which it is listed as offering.
    listed: Option<Virtual>,
    shared: SharedTime,
    by_finish: BTreeMap<(Virtual, u64), (RequestId, f64)>,
    by_urgency: BTreeMap<(Time, u64), RequestId>,
    /// Requests that wait, offered or set aside.
    waiting: usize,
    backlog: Backlog,
}

impl Order {
    /// A request begins to wait. Returns the virtual time of its queue, from which its finish is counted.
    pub(super) fn enter(&mut self, place: Place, tenant_weight: f64) -> Virtual {
        let class = &mut self.classes[place.class.index()];
        if class.waiting == 0 {
            class.tag = class.tag.max(self.now);
        }
        class.waiting += 1;
        let tenant = class.tenants.entry(place.tenant).or_default();
        if tenant.waiting == 0 {
            tenant.weight = tenant_weight;
            class.shared.join(tenant_weight, (tenant.tag, u64::from(place.tenant.0)));
            tenant.tag = tenant.tag.max(class.shared.now);
        }
        tenant.waiting += 1;
        tenant.shared.join(1.0, NEVER_SEEN);
        tenant.shared.now
    }

    /// A request that had entered waits no more, and is not offered any more either. One that was served is told apart
    /// by where it stood.
    pub(super) fn leave(&mut self, place: Place, served: Option<(Virtual, u64)>) {
        let class = &mut self.classes[place.class.index()];
        class.waiting -= 1;
        let Some(tenant) = class.tenants.get_mut(&place.tenant) else { return };
        tenant.waiting -= 1;
        tenant.shared.part(1.0, served.unwrap_or(NEVER_SEEN));
        if tenant.waiting == 0 {
            class.shared.part(tenant.weight, (tenant.tag, u64::from(place.tenant.0)));
        }
    }

    pub(super) fn offer(&mut self, place: Place, id: RequestId, standing: Standing) {
        let class = &mut self.classes[place.class.index()];
        let tenant = class.tenants.entry(place.tenant).or_default();
        tenant.by_finish.insert((standing.finish, standing.arrival), (id, standing.remaining));
        tenant.by_urgency.insert((standing.urgent_at, standing.arrival), id);
        tenant.list(place.tenant, &mut class.offering);
    }

    pub(super) fn withdraw(&mut self, place: Place, standing: Standing) {
        let class = &mut self.classes[place.class.index()];
        let Some(tenant) = class.tenants.get_mut(&place.tenant) else { return };
        tenant.by_finish.remove(&(standing.finish, standing.arrival));
        tenant.by_urgency.remove(&(standing.urgent_at, standing.arrival));
        tenant.list(place.tenant, &mut class.offering);
    }

    /// Whose turn it is; `None` if nothing is offered.
    pub(super) fn first(&mut self, now: Time) -> Option<RequestId> {
        let offering = self.classes.iter().filter(|class| !class.offering.is_empty());
        let class = offering.min_by_key(|class| class.tag)?;
        self.now = self.now.max(class.tag);
        let tenant = class.tenants.get(&class.offering.first()?.1)?;
        let urgent = tenant.by_urgency.first_key_value().filter(|((urgent_at, _), _)| *urgent_at <= now);
        urgent.map(|(_, id)| *id).or_else(|| tenant.by_finish.first_key_value().map(|(_, (id, _))| *id))
    }

    /// Notes that a queue was served for so long.
    pub(super) fn charge(&mut self, place: Place, seconds: f64, class_weight: f64) {
        let class = &mut self.classes[place.class.index()];
        class.tag.0 += seconds / class_weight;
        let Some(tenant) = class.tenants.get_mut(&place.tenant) else { return };
        tenant.tag.0 += seconds / tenant.weight;
        tenant.shared.advance(seconds);
        class.shared.advance(seconds);
        tenant.list(place.tenant, &mut class.offering);
    }

    pub(super) fn backlog_mut(&mut self, place: Place) -> &mut Backlog {
        &mut self.classes[place.class.index()].tenants.entry(place.tenant).or_default().backlog
    }

    /// Queues with something in them, or that have had more than their share.
    pub(super) fn queues(&self) -> impl Iterator<Item = Queue<'_>> {
        Priority::ALL.into_iter().zip(&self.classes).flat_map(|(class, queue)| {
            let tenants =
                queue.tenants.iter().filter(|(_, tenant)| tenant.waiting > 0 || tenant.tag > queue.shared.now);
            tenants.map(move |(&tenant, of)| Queue {
                place: Place { class, tenant },
                requests: of.waiting,
                backlog: &of.backlog,
                lead: of.tag.0 - queue.shared.now.0,
                head: of.by_finish.first_key_value().map_or(0.0, |(_, (_, remaining))| *remaining),
            })
        })
    }
}

impl TenantQueue {
    /// Lists it under the end of the request that it offers; not at all if it offers none.
    fn list(&mut self, id: TenantId, offering: &mut BTreeSet<(Virtual, TenantId)>) {
        let first = self.by_finish.first_key_value();
        let end = first.map(|(_, (_, remaining))| Virtual(self.tag.0 + remaining / self.weight));
        if end == self.listed {
            return;
        }
        if let Some(old) = std::mem::replace(&mut self.listed, end) {
            offering.remove(&(old, id));
        }
        if let Some(end) = end {
            offering.insert((end, id));
        }
    }
}

/// A summary of a queue.
pub(super) struct Queue<'a> {
    pub(super) place: Place,
    pub(super) requests: usize,
    pub(super) backlog: &'a Backlog,
    /// By how much it is ahead of its share, in seconds divided by its weight; behind if negative.
    pub(super) lead: f64,
    /// Seconds of the request that it offers.
    pub(super) head: f64,
}
