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
    let url = server.url.as_deref().unwrap_or(&default.url);
    let token = server.token.as_ref().or(default.token.as_ref());
    let token = token.map(|token| BearerToken::new(token)).transpose()?;
    let mut options = ClientOptions { deadline, token, ..ClientOptions::default() };
    options.connect_timeout = options.connect_timeout.min(deadline);
    let start = Instant::now();
    let client = Client::connect(url, options).await?;
    Ok(client.with_deadline(deadline.saturating_sub(start.elapsed())))
}
