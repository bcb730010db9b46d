//! How to read an embedding.

use half::f16;
use sluice_proto::model::v1::{DataType, Embedding};

/// A decoded embedding: one row per token, or a single row for a dense embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Components, row after row: `rows × dim`.
    pub data: Vec<f32>,
    /// Components of a row; at least 1.
    pub dim: usize,
}

/// An embedding whose bytes are not what its shape says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// No rows, or rows of no components.
    #[error("an embedding of {rows} rows of {dim} components")]
    Empty {
        /// As sent.
        rows: u32,
        /// As sent.
        dim: u32,
    },
    /// A storage that this client cannot read.
    #[error("components of unknown type {dtype}")]
    DataType {
        /// As sent.
        dtype: i32,
    },
    /// More or fewer bytes than the shape needs.
    #[error("{found} bytes where {rows} rows of {dim} components need {expected}")]
    Length {
        /// As sent.
        rows: u32,
        /// As sent.
        dim: u32,
        /// `rows × dim × size of a component`.
        expected: u64,
        /// Bytes that there are.
        found: usize,
    },
}

impl Matrix {
    /// The rows, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.dim)
    }
}

impl TryFrom<&Embedding> for Matrix {
    type Error = MatrixError;

    fn try_from(embedding: &Embedding) -> Result<Self, MatrixError> {
        let Embedding { ref data, dtype, rows, dim } = *embedding;
        if rows == 0 || dim == 0 {
            return Err(MatrixError::Empty { rows, dim });
        }
        let (bytes, decode): (u64, Decode) = match DataType::try_from(dtype) {
            Ok(DataType::F32) => (4, from_f32),
            Ok(DataType::F16) => (2, from_f16),
            Ok(DataType::Unspecified) | Err(_) => return Err(MatrixError::DataType { dtype }),
        };
        // 2³² × 2³² components do not count in 64 bits once multiplied by their size.
        let expected = (u64::from(rows) * u64::from(dim)).saturating_mul(bytes);
        if data.len() as u64 != expected {
            return Err(MatrixError::Length { rows, dim, expected, found: data.len() });
        }
        Ok(Self { data: decode(data), dim: dim as usize })
    }
}

type Decode = fn(&[u8]) -> Vec<f32>;

fn from_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|component| f32::from_le_bytes(*component)).collect()
}

fn from_f16(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|component| f16::from_le_bytes(*component).to_f32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(data: &[u8], dtype: DataType, rows: u32, dim: u32) -> Embedding {
        Embedding { data: data.to_vec().into(), dtype: dtype.into(), rows, dim }
    }

    #[test]
    fn little_endian_rows() {
        let components = [1.5_f32, -2.0, 0.25, 65504.0, f32::MIN_POSITIVE, -0.0];
        let f32_bytes: Vec<u8> = components.iter().flat_map(|x| x.to_le_bytes()).collect();
        let f16_bytes: Vec<u8> = components.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();

        let matrix = Matrix::try_from(&embedding(&f32_bytes, DataType::F32, 2, 3)).unwrap();
        assert_eq!(matrix.rows().collect::<Vec<_>>(), [&components[..3], &components[3..]]);

        let matrix = Matrix::try_from(&embedding(&f16_bytes, DataType::F16, 3, 2)).unwrap();
        let rounded = [1.5, -2.0, 0.25, 65504.0, 0.0, -0.0];
        assert_eq!(matrix.rows().collect::<Vec<_>>(), [&rounded[..2], &rounded[2..4], &rounded[4..]]);
        // 1.0 is 0x3c00: the low byte comes first.
        let one = Matrix::try_from(&embedding(&[0x00, 0x3c], DataType::F16, 1, 1)).unwrap();
        assert_eq!(one.data, [1.0]);
    }

    #[test]
    fn refuses_what_its_shape_does_not_say() {
        let length = |rows, dim, expected, found| MatrixError::Length { rows, dim, expected, found };
        let cases = [
            (embedding(&[], DataType::F32, 0, 3), MatrixError::Empty { rows: 0, dim: 3 }),
            (embedding(&[], DataType::F32, 3, 0), MatrixError::Empty { rows: 3, dim: 0 }),
            (embedding(&[0; 4], DataType::Unspecified, 1, 1), MatrixError::DataType { dtype: 0 }),
            (Embedding { dtype: 7, ..embedding(&[0; 4], DataType::F32, 1, 1) }, MatrixError::DataType { dtype: 7 }),
            (embedding(&[0; 7], DataType::F32, 1, 2), length(1, 2, 8, 7)),
            (embedding(&[0; 8], DataType::F16, 1, 2), length(1, 2, 4, 8)),
            (embedding(&[], DataType::F32, u32::MAX, u32::MAX), length(u32::MAX, u32::MAX, u64::MAX, 0)),
        ];
        for (embedding, expected) in cases {
            assert_eq!(Matrix::try_from(&embedding), Err(expected), "{embedding:?}");
        }
    }
}
