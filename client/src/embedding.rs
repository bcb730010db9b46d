//! How to read an embedding, and how to write one.

use half::f16;
use sluice_proto::model::v1::{DataType, Embedding};

/// A decoded embedding: one row per token, or a single row for a dense embedding.
///
/// ```
/// use sluice_client::{DataType, Matrix, Rerank};
///
/// let query = Matrix::from_rows([[0.6, 0.8], [1.0, 0.0]])?;
/// let document = Matrix::from_rows([[0.0, 1.0]])?;
/// let request = Rerank::default()
///     .query_embedding(query.to_embedding(DataType::F32)?)
///     .embedding("a", document.to_embedding(DataType::I8)?);
/// # Ok::<(), sluice_client::MatrixError>(())
/// ```
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
    /// Rows of different lengths, or components that do not fill their last row.
    #[error("row {row} has {found} components instead of {dim}")]
    Ragged {
        /// From 0.
        row: usize,
        /// Components that there are.
        found: usize,
        /// Components of the first row, or of every row.
        dim: usize,
    },
    /// A component that is not a finite number, or too large to be one as it is stored.
    #[error("component {component} of row {row} is no finite number in this storage")]
    NotFinite {
        /// From 0.
        row: usize,
        /// From 0.
        component: usize,
    },
    /// Another number of scales than rows.
    #[error("{found} bytes of scales for {rows} rows")]
    Scales {
        /// As sent.
        rows: u32,
        /// Bytes that there are.
        found: usize,
    },
}

impl Matrix {
    /// A matrix of these rows.
    ///
    /// # Errors
    ///
    /// [`MatrixError::Empty`] without rows or components, [`MatrixError::Ragged`] if rows differ in length.
    pub fn from_rows<R: AsRef<[f32]>>(rows: impl IntoIterator<Item = R>) -> Result<Self, MatrixError> {
        let (mut data, mut dim, mut count) = (Vec::new(), 0, 0);
        for (row, components) in rows.into_iter().enumerate() {
            let components = components.as_ref();
            if row == 0 {
                dim = components.len();
            }
            if components.len() != dim {
                return Err(MatrixError::Ragged { row, found: components.len(), dim });
            }
            data.extend_from_slice(components);
            count = row + 1;
        }
        let matrix = Self { data, dim };
        matrix.shape(count)?;
        Ok(matrix)
    }

    /// The rows as they are sent.
    ///
    /// | `dtype` | bytes of a component | what is lost |
    /// |---|---|---|
    /// | F32 | 4 | nothing |
    /// | F16 | 2 | rounded to 11 significant bits, to nearest even |
    /// | I8 | 1, and 4 of a row | rounded to a multiple of the row's largest component / 127, to nearest even |
    ///
    /// # Errors
    ///
    /// [`MatrixError::DataType`] for the unspecified one, [`MatrixError::Empty`] and [`MatrixError::Ragged`] for what is
    /// no matrix, and [`MatrixError::NotFinite`] for what no server takes: NaN, an infinity, and in F16 what is too
    /// large to round to ±65504.
    pub fn to_embedding(&self, dtype: DataType) -> Result<Embedding, MatrixError> {
        let (rows, dim) = self.shape(self.data.len().checked_div(self.dim).unwrap_or_default())?;
        let fits = |x: &f32| if dtype == DataType::F16 { f16::from_f32(*x).is_finite() } else { x.is_finite() };
        if let Some(place) = self.data.iter().position(|x| !fits(x)) {
            return Err(MatrixError::NotFinite { row: place / self.dim, component: place % self.dim });
        }
        let (data, scales) = match dtype {
            DataType::F32 => (self.data.iter().flat_map(|x| x.to_le_bytes()).collect(), Vec::new()),
            DataType::F16 => (self.data.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(), Vec::new()),
            DataType::I8 => self.to_i8(),
            DataType::Unspecified => return Err(MatrixError::DataType { dtype: dtype.into() }),
        };
        Ok(Embedding { data: data.into(), dtype: dtype.into(), rows, dim, scales: scales.into() })
    }

    /// Components as multiples of their row's scale, and the scales: `scale = max |x| / 127`, 0 for a row of zeros.
    fn to_i8(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut data, mut scales) = (Vec::with_capacity(self.data.len()), Vec::new());
        for row in self.rows() {
            let scale = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            // The inverse of a denormal scale is infinite, and its product with 0 is no number: that becomes 0 here.
            let code = |x: &f32| ((x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8).cast_unsigned();
            data.extend(row.iter().map(code));
            scales.extend(scale.to_le_bytes());
        }
        (data, scales)
    }

    /// Rows and components as the wire counts them, if `rows` rows are what this is.
    fn shape(&self, rows: usize) -> Result<(u32, u32), MatrixError> {
        let wire = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        if rows == 0 || self.dim == 0 {
            return Err(MatrixError::Empty { rows: wire(rows), dim: wire(self.dim) });
        }
        match self.data.len() % self.dim {
            0 => Ok((wire(rows), wire(self.dim))),
            found => Err(MatrixError::Ragged { row: rows, found, dim: self.dim }),
        }
    }

    /// The rows, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.dim)
    }
}

impl TryFrom<&Embedding> for Matrix {
    type Error = MatrixError;

    fn try_from(embedding: &Embedding) -> Result<Self, MatrixError> {
        let Embedding { ref data, ref scales, dtype, rows, dim } = *embedding;
        if rows == 0 || dim == 0 {
            return Err(MatrixError::Empty { rows, dim });
        }
        let (bytes, decode): (u64, Decode) = match DataType::try_from(dtype) {
            Ok(DataType::F32) => (4, from_f32),
            Ok(DataType::F16) => (2, from_f16),
            Ok(DataType::I8) => (1, from_i8),
            Ok(DataType::Unspecified) | Err(_) => return Err(MatrixError::DataType { dtype }),
        };
        // 2³² × 2³² components do not count in 64 bits once multiplied by their size.
        let expected = (u64::from(rows) * u64::from(dim)).saturating_mul(bytes);
        if data.len() as u64 != expected {
            return Err(MatrixError::Length { rows, dim, expected, found: data.len() });
        }
        let mut matrix = Self { data: decode(data), dim: dim as usize };
        if bytes == 1 {
            if scales.len() as u64 != 4 * u64::from(rows) {
                return Err(MatrixError::Scales { rows, found: scales.len() });
            }
            for (row, scale) in matrix.data.chunks_exact_mut(dim as usize).zip(from_f32(scales)) {
                row.iter_mut().for_each(|component| *component *= scale);
            }
        }
        Ok(matrix)
    }
}

type Decode = fn(&[u8]) -> Vec<f32>;

fn from_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|component| f32::from_le_bytes(*component)).collect()
}

fn from_f16(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|component| f16::from_le_bytes(*component).to_f32()).collect()
}

fn from_i8(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(data: &[u8], dtype: DataType, rows: u32, dim: u32) -> Embedding {
        Embedding { data: data.to_vec().into(), dtype: dtype.into(), rows, dim, scales: Vec::new().into() }
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
    fn int8_rows_have_scales() {
        let scales: Vec<u8> = [0.5_f32, 2.0].iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let rows = Embedding { scales: scales.into(), ..embedding(&[1, 0x80, 0xff, 127], DataType::I8, 2, 2) };
        assert_eq!(Matrix::try_from(&rows).unwrap().data, [0.5, -64.0, -2.0, 254.0]);
        let unscaled = embedding(&[1, 2], DataType::I8, 1, 2);
        assert_eq!(Matrix::try_from(&unscaled), Err(MatrixError::Scales { rows: 1, found: 0 }));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let rows = [[1.0_f32, -0.5, 0.25], [0.0, 0.0, -0.0], [1e-3, 2e-3, -3e-3]];
        let matrix = Matrix::from_rows(rows).unwrap();
        // Half a step of each storage, relative to the row's largest component.
        for (dtype, bytes, scales, tolerance) in [
            (DataType::F32, 36, 0, 0.0),
            (DataType::F16, 18, 0, 1.0 / 2048.0),
            (DataType::I8, 9, 12, 0.500_001 / 127.0),
        ] {
            let embedding = matrix.to_embedding(dtype).unwrap();
            assert_eq!((embedding.rows, embedding.dim, embedding.dtype()), (3, 3, dtype));
            assert_eq!((embedding.data.len(), embedding.scales.len()), (bytes, scales), "{dtype:?}");
            let found = Matrix::try_from(&embedding).unwrap();
            for (found, expected) in found.rows().zip(rows) {
                let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() <= tolerance * largest, "{dtype:?}: {found} {expected}");
                }
            }
        }
        let tiny = Matrix::from_rows([[f32::from_bits(1), 0.0]]).unwrap().to_embedding(DataType::I8).unwrap();
        assert_eq!(tiny.data.last(), Some(&0), "a scale whose inverse is infinite");
    }

    #[test]
    fn refuses_to_write_what_no_server_takes() {
        let none: [[f32; 2]; 0] = [];
        assert_eq!(Matrix::from_rows(none), Err(MatrixError::Empty { rows: 0, dim: 0 }));
        assert_eq!(Matrix::from_rows([[]; 2]), Err(MatrixError::Empty { rows: 2, dim: 0 }));
        let uneven = [vec![1.0, 2.0], vec![1.0]];
        assert_eq!(Matrix::from_rows(uneven), Err(MatrixError::Ragged { row: 1, found: 1, dim: 2 }));
        let matrix = |data: &[f32], dim| Matrix { data: data.to_vec(), dim };
        let cases = [
            (matrix(&[], 2), DataType::F32, MatrixError::Empty { rows: 0, dim: 2 }),
            (matrix(&[1.0], 0), DataType::F32, MatrixError::Empty { rows: 0, dim: 0 }),
            (matrix(&[1.0; 5], 2), DataType::F16, MatrixError::Ragged { row: 2, found: 1, dim: 2 }),
            (matrix(&[1.0], 1), DataType::Unspecified, MatrixError::DataType { dtype: 0 }),
            (matrix(&[1.0, 1.0, 1.0, f32::NAN], 2), DataType::I8, MatrixError::NotFinite { row: 1, component: 1 }),
            (matrix(&[f32::INFINITY, 1.0], 2), DataType::F32, MatrixError::NotFinite { row: 0, component: 0 }),
            (matrix(&[1.0, -65520.0], 2), DataType::F16, MatrixError::NotFinite { row: 0, component: 1 }),
        ];
        for (matrix, dtype, expected) in cases {
            assert_eq!(matrix.to_embedding(dtype), Err(expected), "{matrix:?}");
        }
        assert!(matrix(&[65519.0], 1).to_embedding(DataType::F16).is_ok(), "it rounds to the largest one");
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
