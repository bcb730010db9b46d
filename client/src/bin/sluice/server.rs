//! The server that a command talks to.

use std::time::Duration;

use sluice_client::{BearerToken, Client, ClientError, ClientOptions};
use tokio::time::Instant;

use crate::args::ServerArgs;

/// What the environment says, for where the command line does not.
#[derive(Debug)]
pub(crate) struct ServerDefault {
    pub url: String,
    pub token: Option<String>,
}

/// Connects, at once or not at all, and leaves calls what is left of `deadline_ms`.
pub(crate) async fn connect(
    server: &ServerArgs,
    default: &ServerDefault,
    deadline_ms: u64,
) -> Result<Client, ClientError> {
    let deadline = Duration::from_millis(deadline_ms);
    let start = Instant::now();
    let client = connect_with(server, default, ClientOptions { deadline, ..ClientOptions::default() }).await?;
    Ok(client.with_deadline(deadline.saturating_sub(start.elapsed())))
}

/// Connects, at once or not at all, with these options; who calls is added.
pub(crate) async fn connect_with(
    server: &ServerArgs,
    default: &ServerDefault,
    options: ClientOptions,
) -> Result<Client, ClientError> {
    let url = server.url.as_deref().unwrap_or(&default.url);
    let token = server.token.as_ref().or(default.token.as_ref());
    let token = token.map(|token| BearerToken::new(token)).transpose()?;
    let connect_timeout = options.connect_timeout.min(options.deadline);
    Client::connect(url, ClientOptions { token, connect_timeout, ..options }).await
}
