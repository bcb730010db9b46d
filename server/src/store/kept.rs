//! Stored vectors as the engine reads them.

use sluice_core::batch::{Components, TokenVectors};
use sluice_tokenstore::{Stored, Tokens};

/// Vectors where they lie in a file, which stays mapped as long as this is there.
#[derive(Debug)]
pub(super) struct Kept(pub(super) Stored);

impl TokenVectors for Kept {
    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn key(&self) -> Option<u64> {
        Some(self.0.key())
    }

    fn components(&self) -> Components<'_> {
        match self.0.tokens() {
            Tokens::F32(x) => Components::F32(x),
            Tokens::F16(x) => Components::F16(x),
            Tokens::Int8 { codes, scales } => Components::Int8 { codes, scales },
            Tokens::Binary(bits) => Components::Binary(bits),
        }
    }
}
