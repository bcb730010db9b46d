//! Token vectors that a request brings along.

use half::f16;
use sluice_core::batch::{Components, TokenMatrix, TokenVectors};

/// Row-major token vectors in memory of their own.
#[derive(Debug)]
pub struct OwnedVectors {
    /// The components.
    pub components: OwnedComponents,
    /// Components of a row; at least 1.
    pub dim: usize,
}

/// See [`Components`].
#[derive(Debug)]
pub enum OwnedComponents {
    /// As they are.
    F32(Vec<f32>),
    /// Rounded.
    F16(Vec<f16>),
    /// Codes offset by 128, and a scale per row.
    Int8 {
        /// `rows × dim`.
        codes: Vec<u8>,
        /// `rows`.
        scales: Vec<f32>,
    },
}

impl From<TokenMatrix> for OwnedVectors {
    fn from(matrix: TokenMatrix) -> Self {
        Self { components: OwnedComponents::F32(matrix.data), dim: matrix.dim }
    }
}

impl OwnedVectors {
    /// The same as plain numbers.
    #[must_use]
    pub fn into_matrix(self) -> TokenMatrix {
        let dim = self.dim;
        let data = match self.components {
            OwnedComponents::F32(data) => data,
            OwnedComponents::F16(data) => data.into_iter().map(f16::to_f32).collect(),
            OwnedComponents::Int8 { codes, scales } => codes
                .chunks_exact(dim)
                .zip(scales)
                .flat_map(|(row, scale)| row.iter().map(move |&code| (f32::from(code) - 128.0) * scale))
                .collect(),
        };
        TokenMatrix { data, dim }
    }
}

impl TokenVectors for OwnedVectors {
    fn dim(&self) -> usize {
        self.dim
    }

    fn rows(&self) -> usize {
        let components = match &self.components {
            OwnedComponents::F32(data) => data.len(),
            OwnedComponents::F16(data) => data.len(),
            OwnedComponents::Int8 { codes, .. } => codes.len(),
        };
        components / self.dim
    }

    fn components(&self) -> Components<'_> {
        match &self.components {
            OwnedComponents::F32(data) => Components::F32(data),
            OwnedComponents::F16(data) => Components::F16(data),
            OwnedComponents::Int8 { codes, scales } => Components::Int8 { codes, scales },
        }
    }
}
