//! `--quickstart`: serve, then show a ranking of real text that came through the server's own port.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;
use sluice_client::{Client, ClientError, ClientOptions, Rerank, table};

/// A query and its candidates, from `example.json` beside this file.
#[derive(Deserialize)]
struct Example {
    query: String,
    documents: Vec<ExampleDocument>,
}

#[derive(Deserialize)]
struct ExampleDocument {
    id: String,
    text: String,
}

/// Why there is no ranking to show.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// The bundled example is broken.
    #[error("bundled example: {0}")]
    Example(#[from] serde_json::Error),
    /// The server did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Reranks the bundled example through the server at `address`, and returns what to print, `width` columns wide.
///
/// # Errors
/// If the server does not answer.
pub async fn ranking(address: SocketAddr, width: usize) -> Result<String, QuickstartError> {
    let Example { query, documents } = serde_json::from_str(include_str!("quickstart/example.json"))?;
    let options = ClientOptions { deadline: Duration::from_secs(60), ..ClientOptions::default() };
    let client = Client::connect(&format!("http://{address}"), options).await?;
    let request =
        documents.iter().fold(Rerank::new(&query), |request, document| request.document(&document.id, &document.text));
    let response = client.rerank(request).await?;
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    let table = table::ranking(&response, &texts, width);
    Ok(format!("{query:?} over {} documents, reranked by {} at {address}\n{table}", texts.len(), response.model))
}
