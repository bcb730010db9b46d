//! What is written where: the collection, the models, and how files are read for them.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use anyhow::{Context, anyhow};
use sluice_client::{
    Capability, Client, ClientOptions, RetryPolicy, names,
    proto::{
        model::v1::Model,
        retrieval::v1::{Collection, DenseField, Schema, vector_field},
    },
};

use super::{
    document::Reading,
    embedding::{Encoder, Maker, Tokens},
    input::Reader,
    prepare::Preparer,
    schema::{self, VectorWish, Wishes},
    writer::Writer,
};
use crate::{
    args::{ServerArgs, index::IndexArgs},
    output::{Failure, note},
    server::{ServerDefault, connect_with},
};

/// Documents of a batch that is embedded: soon done, so that little is lost in the middle, and progress shows.
const BATCH_EMBEDDED: usize = 32;
/// Documents of a batch that is only written: the disk is waited for once for all of them.
const BATCH_PLAIN: usize = 256;

/// Everything that a run needs.
pub(super) struct Target {
    pub reader: Reader,
    pub preparer: Preparer,
    pub writer: Writer,
}

/// Models that a run asks for.
struct Models {
    client: Client,
    /// Of embeddings, if the model makes any.
    dense: Option<Model>,
    /// Of token vectors, if they are wanted.
    tokens: Option<Model>,
}

/// Asks for what there is, and creates the collection where that is wanted.
pub(super) async fn open(args: &IndexArgs, server_default: &ServerDefault) -> Result<Target, Failure> {
    let deadline = Duration::from_millis(args.deadline_ms);
    // The shard knows no tenants: it is not told who calls.
    let anybody = ClientOptions { retry: patient(), deadline, ..ClientOptions::default() };
    let shard = Client::connect(&args.shard, anybody).await?;
    let models = models(args, server_default, deadline).await?;
    let collection = collection(args, &shard, models.as_ref()).await?;
    let (name, schema) = (collection.name, collection.schema.unwrap_or_default());
    let encoder = models.map(|models| encoder(args, models, &name, &schema)).transpose()?;
    let batch_default = if encoder.is_some() { BATCH_EMBEDDED } else { BATCH_PLAIN };
    let writer = Writer::new(shard.clone(), name.clone(), patient(), deadline);
    let reader = Reader {
        files: args.files.clone(),
        format: args.format,
        reading: Reading::new(&schema, args.backfill),
        documents_max: args.batch.map_or(batch_default, usize::from),
        vector_bytes: vector_bytes(&schema),
        on_bad_line: args.on_bad_line,
    };
    let (backfill, again, pending) = (args.backfill, args.again, RefCell::new(HashMap::new()));
    let preparer = Preparer { shard, collection: name, schema, encoder, backfill, again, deadline, pending };
    Ok(Target { reader, preparer, writer })
}

/// A call is tried again for as long as it has time: whoever indexes waits for a server that is busy or starting.
fn patient() -> RetryPolicy {
    RetryPolicy { attempts_max: u32::MAX, budget_tokens_max: 1_000_000, ..RetryPolicy::default() }
}

async fn models(
    args: &IndexArgs,
    server_default: &ServerDefault,
    deadline: Duration,
) -> Result<Option<Models>, Failure> {
    let Some(url) = &args.encode else { return Ok(None) };
    let server = ServerArgs { url: Some(url.clone()), token: args.token.clone() };
    let options = ClientOptions { retry: patient(), deadline, ..ClientOptions::default() };
    let client = connect_with(&server, server_default, options).await?;
    let model = client.get_model(args.model.as_deref().unwrap_or_default()).await?;
    let tokens = match (args.tokens, &args.token_model) {
        (false, _) => None,
        (true, None) => Some(model.clone()),
        (true, Some(name)) => Some(client.get_model(name).await?),
    };
    if let Some(model) = &tokens {
        require(model, Capability::LateInteraction)?;
    }
    let dense = match require(&model, Capability::EncodeDense) {
        Ok(()) => Some(model),
        // A model of token vectors alone fills the token store.
        Err(_) if tokens.is_some() && args.vector.is_none() => None,
        Err(failure) => return Err(failure),
    };
    Ok(Some(Models { client, dense, tokens }))
}

fn require(model: &Model, capability: Capability) -> Result<(), Failure> {
    if model.capabilities.contains(&capability.into()) {
        return Ok(());
    }
    Err(Failure::Usage(format!("the model `{}` cannot {}", model.name, names::capability(capability.into()))))
}

/// The collection of that name or alias; a new one, where that is wanted.
async fn collection(args: &IndexArgs, shard: &Client, models: Option<&Models>) -> Result<Collection, Failure> {
    let collections = shard.list_collections().await.context("asking the shard for its collections")?;
    let is_asked = |found: &Collection| found.name == args.collection || found.aliases.contains(&args.collection);
    if let Some(found) = collections.into_iter().find(is_asked) {
        if args.schema.is_some() || !args.payload.is_empty() {
            note(&format!("the collection `{}` is there already, and stays as it was created", found.name));
        }
        return Ok(found);
    }
    if !args.create {
        let reason = format!("the shard at {} has no collection `{}`; --create makes it", args.shard, args.collection);
        return Err(Failure::Failed(anyhow!(reason)));
    }
    let dense = models.and_then(|models| models.dense.as_ref());
    let vector = dense.map(|model| VectorWish { name: args.vector.as_deref(), dim: model.embedding_dim });
    let schema =
        schema::schema(args.schema.as_deref(), &Wishes { payload: &args.payload, vector, tokens: args.tokens })
            .map_err(|error| Failure::Usage(format!("{error:#}")))?;
    if let Some(vector) = vector {
        schema::target(&schema, vector).map_err(Failure::Usage)?;
    }
    let created = shard.create_collection(&args.collection, schema).await;
    Ok(created.with_context(|| format!("creating the collection `{}`", args.collection))?)
}

fn encoder(args: &IndexArgs, models: Models, collection: &str, schema: &Schema) -> Result<Encoder, Failure> {
    let Models { client, dense, tokens } = models;
    let dense = match dense {
        None => None,
        Some(model) => {
            let wish = VectorWish { name: args.vector.as_deref(), dim: model.embedding_dim };
            match schema::target(schema, wish) {
                Ok(name) => Some((name, Maker::from(model))),
                Err(_) if tokens.is_some() && !schema::has_dense(schema) && args.vector.is_none() => None,
                Err(reason) => return Err(Failure::Usage(reason)),
            }
        }
    };
    let namespace = args.namespace.clone().unwrap_or_else(|| collection.to_owned());
    let tokens = tokens.map(|model| Tokens { namespace, maker: Maker::from(model) });
    Ok(Encoder { client, dense, tokens })
}

/// Bytes of a document's dense vectors.
fn vector_bytes(schema: &Schema) -> usize {
    let bytes = |kind: &vector_field::Kind| match kind {
        vector_field::Kind::Dense(DenseField { dim, .. }) => 4 * *dim as usize,
        vector_field::Kind::Sparse(_) => 0,
    };
    schema.vectors.iter().filter_map(|field| field.kind.as_ref()).map(bytes).sum()
}
