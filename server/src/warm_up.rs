//! The first batches of every model: the first caller does not pay for what happens once, and the cost model is
//! fitted before anybody is promised anything.
//!
//! A scripted model runs its first batch alone: its faults are counted in batches, and its service times are learnt
//! from the first callers as well as from anybody.

use std::{sync::Arc, time::Duration};

use half::f16;
use sluice_core::{
    Lane, ModelIndex, Operation, Priority, TenantId, Worth,
    batch::{Comparison, QueryVectors, Role, Sequence, TokenMatrix, TokenVectors},
};

use crate::{
    engine::{
        Engine, EngineError, Progress, Submission,
        permit::{Permits, Terms},
    },
    models::{Model, Models},
    prepare::comparison_cost,
    vectors::{OwnedComponents, OwnedVectors},
};

/// Time for a model's first batch.
const FIRST_BATCH_TIMEOUT: Duration = Duration::from_secs(120);
/// Tokens of a sequence and sequences of a batch, as far as the model and its batches hold them: enough for what a batch,
/// a sequence, a token and a pair of tokens cost to be told apart.
const SHAPES: [(usize, usize); 7] = [(16, 1), (128, 4), (16, 24), (64, 8), (256, 2), (32, 2), (128, 1)];
/// Rows of a query, and rows and number of the documents compared with it.
const COMPARISONS: [(usize, usize, usize); 4] = [(12, 64, 16), (32, 180, 64), (32, 64, 1), (12, 180, 128)];

/// Runs each model's first batch on every device, then batches of several shapes until `time` is over for each model. Lanes that `known`
/// names are known well enough.
///
/// # Errors
/// What became of the first batch that failed, and whose it was.
pub async fn warm_up(
    engine: &Engine,
    permits: &Permits,
    models: &Models,
    time: Duration,
    known: impl Fn(Lane) -> bool,
) -> Result<(), (String, EngineError)> {
    for (index, model) in models.iter() {
        let failed = |error| (model.name.clone(), error);
        let lane = Lane { model: index, operation: model.default_method().operation() };
        // Idle devices take turns, so each of them gets one.
        let devices = *engine.devices_up().borrow();
        for _ in 0..devices {
            run(engine, permits, lane, sequences(model, lane.operation, 0, 1)).await.map_err(failed)?;
        }
        if model.info.backend == "scripted" {
            continue;
        }
        let end = engine.clock().now() + time;
        let lanes: Vec<Lane> = lanes(index, model).into_iter().filter(|lane| !known(*lane)).collect();
        while !lanes.is_empty() && engine.clock().now() < end {
            for lane in &lanes {
                for sequences in batches(model, lane.operation) {
                    if engine.clock().now() < end {
                        run(engine, permits, *lane, sequences).await.map_err(failed)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// What a model is asked for.
fn lanes(index: ModelIndex, model: &Model) -> Vec<Lane> {
    let offered = [
        (Operation::LateInteraction, model.info.late_interaction),
        (Operation::EncodeDense, model.info.dense || model.info.encode_dense),
        (Operation::CrossEncode, model.info.cross_encoder),
        (Operation::EncodeTokens, model.info.encode_tokens),
        (Operation::MaxSim, model.info.late_interaction),
    ];
    offered.into_iter().filter(|(_, has)| *has).map(|(operation, _)| Lane { model: index, operation }).collect()
}

/// One round of batches.
fn batches(model: &Model, operation: Operation) -> Vec<Vec<Sequence>> {
    if operation == Operation::MaxSim {
        let dim = model.info.embedding_dim as usize;
        return COMPARISONS.map(|(query, rows, documents)| comparisons(dim, query, rows, documents)).into();
    }
    let fitting = SHAPES.into_iter().filter(|(tokens, _)| *tokens <= model.tokens_max());
    fitting.map(|(tokens, count)| sequences(model, operation, tokens, count)).collect()
}

/// So many sequences of so many tokens, special ones included; fewer are of special tokens alone.
fn sequences(model: &Model, operation: Operation, tokens: usize, count: usize) -> Vec<Sequence> {
    let special = model.text.single(&[]);
    // Which tokens they are does not matter; these every vocabulary has.
    let filler = special.first().copied().unwrap_or_default();
    let ids = model.text.single(&vec![filler; tokens.saturating_sub(special.len())]);
    let vectors = Arc::new(QueryVectors::default());
    let document = |_| {
        let role = match operation {
            Operation::LateInteraction => Role::Document(Arc::clone(&vectors)),
            _ => Role::Plain,
        };
        Sequence::single(ids.clone(), role)
    };
    let query = (operation == Operation::LateInteraction)
        .then(|| Sequence::single(special.clone(), Role::Query(Arc::clone(&vectors))));
    query.into_iter().chain((0..count).map(document)).collect()
}

/// Documents that are there already, compared with a query that is.
fn comparisons(dim: usize, query_rows: usize, rows: usize, documents: usize) -> Vec<Sequence> {
    // Anything but zeros, which some kernels might make short work of.
    let component = |place: usize| ((place * 2_654_435_761) % 1_000) as f32 / 1_000.0 - 0.5;
    let query = TokenMatrix { data: (0..query_rows * dim).map(component).collect(), dim };
    let query = Arc::new(QueryVectors::known(query));
    let data = |document: usize| (0..rows * dim).map(move |place| f16::from_f32(component(place + document)));
    let compared = |document: usize| {
        let components = OwnedComponents::F16(data(document).collect());
        let vectors: Arc<dyn TokenVectors> = Arc::new(OwnedVectors { components, dim });
        let cost = comparison_cost(query_rows, &*vectors);
        Sequence::compared(Comparison { query: Arc::clone(&query), document: vectors, cost })
    };
    (0..documents).map(compared).collect()
}

async fn run(engine: &Engine, permits: &Permits, lane: Lane, sequences: Vec<Sequence>) -> Result<(), EngineError> {
    let terms = Terms {
        class: Priority::Interactive,
        tenant: TenantId(0),
        deadline: engine.clock().now() + FIRST_BATCH_TIMEOUT,
        worth: Worth::Parts,
    };
    let mut answer = engine.submit(Submission { lane, sequences, permit: permits.borrowed(terms) }).await?;
    while answer.next().await? != Progress::Done {}
    Ok(())
}
