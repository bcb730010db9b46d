//! The units of a request, as the server makes them.

use crate::{
    Lane, ModelIndex, Operation, Priority, RequestId, TenantId, Time, Unit, UnitId, Worth,
    workload::{Content, Method, Request, Stream},
};

/// Every operation that a simulated request may ask for.
pub(super) const OPERATIONS: [Operation; 4] =
    [Operation::LateInteraction, Operation::EncodeDense, Operation::CrossEncode, Operation::MaxSim];

/// Special tokens of a text alone, and of a pair.
const SPECIAL: u32 = 2;
const SPECIAL_OF_PAIR: u32 = 3;
/// Components of a stored vector.
const DIM: u64 = 128;
/// Floating-point operations of a comparison that count as a token.
const OPERATIONS_PER_TOKEN: u64 = 4_000_000;

/// What a unit costs, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) lane: Lane,
    pub(super) tokens: u32,
    /// Whether the units behind it need its result.
    pub(super) leads: bool,
}

/// Models are one: which one a stream asks for changes who shares a batch, not what a batch takes.
pub(super) fn of(stream: &Stream, request: &Request) -> Vec<Cost> {
    let cost = |operation, tokens| Cost { lane: Lane { model: ModelIndex(0), operation }, tokens, leads: false };
    let pairs = stream.budget.and_then(|budget| budget.pairs).map_or(usize::MAX, |pairs| pairs as usize);
    let documents = request.documents.iter().take(pairs);
    let query = request.query_tokens.saturating_add(SPECIAL);
    let query_cost = |operation| Cost { leads: operation == Operation::LateInteraction, ..cost(operation, query) };
    let compared = |tokens: u32| {
        let operations = 2 * u64::from(query) * u64::from(tokens) * DIM;
        u32::try_from(operations.div_ceil(OPERATIONS_PER_TOKEN)).unwrap_or(u32::MAX)
    };
    let sequences = |operation| {
        let documents = documents.clone().map(move |document| cost(operation, document.tokens.saturating_add(SPECIAL)));
        std::iter::once(query_cost(operation)).chain(documents).collect()
    };
    match (&stream.content, stream.method) {
        (Content::Stored { .. }, _) => {
            let query = std::iter::once(query_cost(Operation::LateInteraction));
            query.chain(documents.map(|document| cost(Operation::MaxSim, compared(document.tokens)))).collect()
        }
        (Content::Vectors { .. }, _) => {
            documents.map(|document| cost(Operation::MaxSim, compared(document.tokens))).collect()
        }
        (Content::Text, Some(Method::LateInteraction)) => sequences(Operation::LateInteraction),
        (Content::Text, Some(Method::Dense)) => sequences(Operation::EncodeDense),
        (Content::Text, Some(Method::CrossEncoder) | None) => {
            let pair = |tokens: u32| tokens.saturating_add(request.query_tokens).saturating_add(SPECIAL_OF_PAIR);
            documents.map(|document| cost(Operation::CrossEncode, pair(document.tokens))).collect()
        }
    }
}

pub(super) fn unit(
    request: RequestId,
    index: u32,
    cost: Cost,
    class: Priority,
    tenant: TenantId,
    worth: Worth,
    deadline: Time,
) -> Unit {
    Unit {
        id: UnitId { request, index },
        lane: cost.lane,
        class,
        tenant,
        worth,
        tokens: cost.tokens,
        deadline,
        leads: cost.leads,
    }
}
