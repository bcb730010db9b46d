//! A server of this process with a client beside it, on loopback.

use std::{net::SocketAddr, num::NonZero, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use sluice_client::{Client, ClientOptions};
use sluice_inference::SilentProgress;
use sluice_server::{Server, ServerConfig, config::ScoreCacheConfig, serve};
use sluice_service::drain::Drain;
use tokio::runtime::Runtime;

use crate::machine::Machine;

/// Time for one request: far more than any takes.
const DEADLINE: Duration = Duration::from_secs(600);

/// Stops when dropped.
pub struct Served {
    /// Where calls of the client are waited for.
    pub runtime: Runtime,
    /// The client.
    pub client: Client,
    drain: Drain,
}

impl Served {
    /// Serves `config` on a port that is free, with so many threads for the network, and waits until it is warm.
    ///
    /// # Errors
    /// If the server does not start or is not reached.
    pub fn start(config: ServerConfig, threads: usize, machine: &Machine) -> anyhow::Result<Self> {
        // What is asked again is computed again: the computation is what is measured.
        let score_cache = ScoreCacheConfig { bytes_max: 0 };
        let config = ServerConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), score_cache, ..config };
        let machine_of_server = serve::Machine {
            cache_dir: machine.cache.join("models"),
            hub: machine.hub.clone(),
            processors: NonZero::new(threads).context("no threads")?,
            progress: Arc::new(SilentProgress),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        let drain = Drain::new();
        let client = runtime.block_on(connect(config, machine_of_server, drain.clone()))?;
        Ok(Self { runtime, client, drain })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.drain.cut();
    }
}

async fn connect(config: ServerConfig, machine: serve::Machine, drain: Drain) -> anyhow::Result<Client> {
    let server = Server::bind(config, machine).await?;
    let address = server.local_addr()?;
    let mut serving = server.serving();
    let running = tokio::spawn(server.run(drain));
    if serving.wait_for(|serving| *serving).await.is_err() {
        running.await??;
        bail!("the server stopped before it served");
    }
    let options = ClientOptions { deadline: DEADLINE, max_message_size: MESSAGE_BYTES_MAX, ..ClientOptions::default() };
    Ok(Client::connect(&format!("http://{address}"), options).await?)
}

/// Vectors in requests, which stored documents are compared with, are large.
const MESSAGE_BYTES_MAX: usize = 1 << 30;
