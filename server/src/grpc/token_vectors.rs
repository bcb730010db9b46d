//! Token vectors of sequences, through the same batcher as everything else.

use sluice_core::{
    Lane, ModelIndex, Operation,
    batch::{Role, Sequence, TokenMatrix},
};
use sluice_service::status::Refusal;

use super::{App, Warm, refusal};
use crate::engine::{Progress, SlotValue, Submission, permit::Permit};

impl App {
    /// The token vectors of each sequence of ids, in order. No sequences, no work.
    pub(super) async fn token_matrices(
        &self,
        warm: &Warm,
        model: ModelIndex,
        sequences: Vec<Vec<u32>>,
        permit: Permit,
    ) -> Result<Vec<TokenMatrix>, Refusal> {
        let mut matrices: Vec<Option<TokenMatrix>> = sequences.iter().map(|_| None).collect();
        let sequences = sequences.into_iter().map(|ids| Sequence::single(ids, Role::Plain)).collect();
        let lane = Lane { model, operation: Operation::EncodeTokens };
        let submission = Submission { lane, sequences, permit };
        let mut answer = warm.engine.submit(submission).await.map_err(refusal)?;
        while let Progress::Ready(values) = answer.next().await.map_err(refusal)? {
            for (unit, value) in values {
                if let SlotValue::Tokens(matrix) = value {
                    matrices[unit as usize] = Some(matrix);
                }
            }
        }
        matrices.into_iter().collect::<Option<_>>().ok_or_else(|| {
            tracing::error!("a backend answered an encoding with something else");
            Refusal::Internal
        })
    }
}
