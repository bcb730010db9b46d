//! Any operation.

use super::{
    Activate, AddNorm, Attend, Embed, GatherFirst, Launch, Normalize, OpError, Pool, Product, Score, memory::Arena,
};

/// One step of an encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Embeddings.
    Embed(Embed),
    /// Residual and normalisation.
    AddNorm(AddNorm),
    /// Activation.
    Activate(Activate),
    /// Product with weights.
    Product(Product),
    /// Attention.
    Attend(Attend),
    /// First rows.
    GatherFirst(GatherFirst),
    /// A row for each sequence.
    Pool(Pool),
    /// A number for each row.
    Score(Score),
    /// Unit vectors.
    Normalize(Normalize),
}

impl Op {
    /// What a device starts for it, with everything in that arena.
    ///
    /// # Errors
    /// [`OpError`] if its arguments do not fit together, or do not lie in the arena.
    pub fn launch(&self, arena: Arena) -> Result<Launch, OpError> {
        match self {
            Self::Embed(op) => op.launch(arena),
            Self::AddNorm(op) => op.launch(arena),
            Self::Activate(op) => op.launch(arena),
            Self::Product(op) => op.launch(arena),
            Self::Attend(op) => op.launch(arena),
            Self::GatherFirst(op) => op.launch(arena),
            Self::Pool(op) => op.launch(arena),
            Self::Score(op) => op.launch(arena),
            Self::Normalize(op) => op.launch(arena),
        }
    }
}
