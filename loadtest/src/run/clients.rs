//! The connections of a run: some for each tenant.

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use sluice_client::{BearerToken, Client, ClientOptions, RetryPolicy};
use sluice_core::workload::{Stream, Workload};

use super::{RunError, Target};

/// Time for one put: the server may have to encode what is put.
const PUT_DEADLINE: Duration = Duration::from_secs(600);
/// Requests of many documents as vectors are large.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

pub(super) struct Clients {
    /// Those of each stream, with its deadline.
    streams: Vec<Vec<Client>>,
    turn: AtomicUsize,
    /// One for each stream, which tries again.
    putting: Vec<Client>,
}

impl Clients {
    /// Connects all of them, so that no request of the run has to.
    pub(super) async fn connect(
        workload: &Workload,
        target: &Target,
        connections: NonZero<usize>,
    ) -> Result<Self, RunError> {
        let mut by_tenant: BTreeMap<Option<&str>, Vec<Client>> = BTreeMap::new();
        for stream in &workload.streams {
            let tenant = stream.tenant.as_deref();
            if by_tenant.contains_key(&tenant) {
                continue;
            }
            let options = once(token(stream, target)?);
            let mut clients = Vec::new();
            for _ in 0..connections.get() {
                clients.push(Client::connect(&target.url, options.clone()).await?);
            }
            by_tenant.insert(tenant, clients);
        }
        let of = |stream: &Stream| {
            let clients = by_tenant.get(&stream.tenant.as_deref()).map_or(&[][..], Vec::as_slice);
            clients.iter().map(|client| client.with_deadline(stream.deadline)).collect()
        };
        let mut putting = Vec::new();
        for stream in &workload.streams {
            let options = ClientOptions { retry: RetryPolicy::default(), ..once(token(stream, target)?) };
            putting.push(Client::connect_lazy(&target.url, options)?.with_deadline(PUT_DEADLINE));
        }
        Ok(Self { streams: workload.streams.iter().map(of).collect(), turn: AtomicUsize::new(0), putting })
    }

    /// The next one in turn for a stream's requests.
    pub(super) fn sending(&self, stream: usize) -> &Client {
        let clients = &self.streams[stream];
        &clients[self.turn.fetch_add(1, Ordering::Relaxed) % clients.len()]
    }

    /// The one that puts a stream's documents.
    pub(super) fn putting(&self, stream: usize) -> &Client {
        &self.putting[stream]
    }
}

fn token(stream: &Stream, target: &Target) -> Result<Option<BearerToken>, RunError> {
    let Some(tenant) = &stream.tenant else { return Ok(target.token.clone()) };
    let known = target.tenants.get(tenant).cloned();
    known.map(Some).ok_or_else(|| RunError::NoToken { stream: stream.name.clone(), tenant: tenant.clone() })
}

/// One attempt a call: a retry would be load that the workload does not have.
fn once(token: Option<BearerToken>) -> ClientOptions {
    ClientOptions {
        retry: RetryPolicy { attempts_max: 1, ..RetryPolicy::default() },
        max_message_size: MESSAGE_BYTES_MAX,
        user_agent: concat!("sluice-load/", env!("CARGO_PKG_VERSION")).to_owned(),
        token,
        ..ClientOptions::default()
    }
}
