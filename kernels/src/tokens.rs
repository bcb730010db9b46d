//! Token vectors as they are stored, and how vectors become them.
//!
//! | storage | bytes of a row | a component is |
//! |---|---|---|
//! | f32 | 4·dim | itself |
//! | f16 | 2·dim | itself, rounded to nearest even |
//! | int8 | dim + 4 | `(code − 128) · scale`, one scale per row: `max |x| / 127` |
//! | binary | ⌈dim / 8⌉ | `+1` if its bit is set, else `−1`: the sign of x, 0 counting as positive |
//!
//! int8 codes are stored offset by 128 (0 stands for −128, which quantising never makes), because the instructions
//! that multiply bytes want one unsigned side and the document is the one that is read as it lies. Bit `k % 8`, from
//! the least, of byte `k / 8` is component `k`; bits beyond `dim` are 0.

use std::ops::Range;

use half::{f16, slice::HalfFloatSliceExt};

use crate::{ShapeError, shape};

/// How a component is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// 8 bits with a scale per row.
    Int8,
    /// 1 bit, the sign.
    Binary,
}

impl Storage {
    /// Bytes of the components of a row, scales not counted.
    #[must_use]
    pub fn row_bytes(self, dim: usize) -> usize {
        match self {
            Self::F32 => 4 * dim,
            Self::F16 => 2 * dim,
            Self::Int8 => dim,
            Self::Binary => dim.div_ceil(8),
        }
    }

    /// Its name in configuration and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Binary => "binary",
        }
    }
}

/// Row-major token vectors, `[rows, dim]`, in one of the ways of storing them.
#[derive(Clone, Copy, Debug)]
pub enum Tokens<'a> {
    /// `rows × dim` components.
    F32(&'a [f32]),
    /// `rows × dim` components.
    F16(&'a [f16]),
    /// `rows × dim` codes offset by 128, and a scale per row.
    Int8 {
        /// `[rows, dim]`.
        codes: &'a [u8],
        /// `[rows]`, not negative.
        scales: &'a [f32],
    },
    /// `rows × ⌈dim / 8⌉` bytes.
    Binary(&'a [u8]),
}

impl<'a> Tokens<'a> {
    /// How they are stored.
    #[must_use]
    pub fn storage(&self) -> Storage {
        match self {
            Self::F32(_) => Storage::F32,
            Self::F16(_) => Storage::F16,
            Self::Int8 { .. } => Storage::Int8,
            Self::Binary(_) => Storage::Binary,
        }
    }

    /// Number of rows.
    ///
    /// # Errors
    /// [`ShapeError`] if `dim` is 0, the components are not whole rows, or the scales are not one per row.
    pub fn rows(&self, dim: usize) -> Result<usize, ShapeError> {
        shape::not_zero("dim", dim)?;
        match self {
            Self::F32(x) => shape::rows("documents", x.len(), dim),
            Self::F16(x) => shape::rows("documents", x.len(), dim),
            Self::Int8 { codes, scales } => {
                let rows = shape::rows("documents", codes.len(), dim)?;
                shape::length("scales", rows, scales.len())?;
                Ok(rows)
            }
            Self::Binary(bits) => shape::rows("documents", bits.len(), dim.div_ceil(8)),
        }
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If there are no such rows.
    #[must_use]
    pub fn slice(&self, dim: usize, rows: Range<usize>) -> Tokens<'a> {
        let of = |width: usize| rows.start * width..rows.end * width;
        match *self {
            Self::F32(x) => Tokens::F32(&x[of(dim)]),
            Self::F16(x) => Tokens::F16(&x[of(dim)]),
            Self::Int8 { codes, scales } => Tokens::Int8 { codes: &codes[of(dim)], scales: &scales[of(1)] },
            Self::Binary(bits) => Tokens::Binary(&bits[of(dim.div_ceil(8))]),
        }
    }

    /// Component `k` of row `row`, as a number: for references and explanations, not for loops that matter.
    ///
    /// # Panics
    /// If there is no such component.
    #[must_use]
    pub fn component(&self, dim: usize, row: usize, k: usize) -> f32 {
        assert!(k < dim, "component {k} of {dim}");
        match self {
            Self::F32(x) => x[row * dim + k],
            Self::F16(x) => x[row * dim + k].to_f32(),
            Self::Int8 { codes, scales } => (f32::from(codes[row * dim + k]) - 128.0) * scales[row],
            Self::Binary(bits) => {
                if bits[row * dim.div_ceil(8) + k / 8] >> (k % 8) & 1 == 1 {
                    1.0
                } else {
                    -1.0
                }
            }
        }
    }
}

/// Rounds each component to f16, to nearest even; what is too large becomes infinite.
#[must_use]
pub fn to_f16(x: &[f32]) -> Vec<f16> {
    let mut rounded = vec![f16::ZERO; x.len()];
    rounded.convert_from_f32_slice(x);
    rounded
}

/// Codes offset by 128 and the scale of each row of `dim`.
///
/// A row of zeros has scale 0, and so has one whose components are all below 3.7e-37. A row with a component that is not
/// finite has scale NaN: whatever it is compared with is NaN.
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows of `dim`.
pub fn to_int8(x: &[f32], dim: usize) -> Result<(Vec<u8>, Vec<f32>), ShapeError> {
    shape::not_zero("dim", dim)?;
    let rows = shape::rows("x", x.len(), dim)?;
    let mut codes = Vec::with_capacity(x.len());
    let mut scales = Vec::with_capacity(rows);
    let mut row_codes = vec![0_i8; dim];
    for row in x.chunks_exact(dim) {
        scales.push(quantize(row, 127, &mut row_codes));
        codes.extend(row_codes.iter().map(|code| code.cast_unsigned() ^ 0x80));
    }
    Ok((codes, scales))
}

/// Writes `x / scale`, rounded to nearest even, for the scale at which the largest component has code `code_max`, and
/// returns that scale: 0 if all codes are, NaN if a component is not finite.
pub(crate) fn quantize(x: &[f32], code_max: u8, codes: &mut [i8]) -> f32 {
    /// Adding it to a number below 2²² leaves that number, rounded, in the last bits.
    const ROUND: f32 = 12_582_912.0;
    // Magnitudes are ordered as their bits are, what is not finite above the rest.
    let largest = f32::from_bits(x.iter().fold(0, |max, x| max.max(x.abs().to_bits())));
    let limit = f32::from(code_max);
    let scale = largest / limit;
    let inverse = 1.0 / scale;
    if !largest.is_finite() || !inverse.is_finite() {
        codes.fill(0);
        return if largest.is_finite() { 0.0 } else { f32::NAN };
    }
    for (code, x) in codes.iter_mut().zip(x) {
        *code = ((x * inverse).clamp(-limit, limit) + ROUND).to_bits() as i8;
    }
    scale
}

/// The sign of each component as a bit: set where it is not negative.
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows of `dim`.
pub fn to_binary(x: &[f32], dim: usize) -> Result<Vec<u8>, ShapeError> {
    shape::not_zero("dim", dim)?;
    shape::rows("x", x.len(), dim)?;
    let byte = |components: &[f32]| {
        components.iter().enumerate().fold(0_u8, |byte, (k, &x)| if x >= 0.0 { byte | 1 << k } else { byte })
    };
    Ok(x.chunks_exact(dim).flat_map(|row| row.chunks(8).map(byte)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_keeps_each_component_within_half_a_step() {
        let x = [0.5, -1.0, 0.25, 0.0, 1e-3, 2e-3, -3e-3, 0.0, 0.0, 0.0, 0.0, 0.0];
        let (codes, scales) = to_int8(&x, 4).unwrap();
        let tokens = Tokens::Int8 { codes: &codes, scales: &scales };
        assert_eq!(tokens.rows(4), Ok(3));
        for (i, &x) in x.iter().enumerate() {
            let found = tokens.component(4, i / 4, i % 4);
            assert!((found - x).abs() <= scales[i / 4] * 0.5001, "component {i}: {found} for {x}");
        }
        assert_eq!((scales[2], &codes[8..]), (0.0, &[128; 4][..]));
    }

    #[test]
    fn rows_without_codes_have_scales_that_say_so() {
        let row = |x: [f32; 3]| to_int8(&x, 3).unwrap();
        for x in [[0.0, -0.0, 0.0], [1e-44, 0.0, 0.0], [1e-37, -2e-37, 0.0]] {
            assert_eq!(row(x), (vec![128; 3], vec![0.0]), "{x:?}");
        }
        for x in [[1.0, f32::NAN, 0.0], [f32::INFINITY, 1.0, 0.0], [1.0, 0.0, f32::NEG_INFINITY]] {
            let (codes, scales) = row(x);
            assert!(scales[0].is_nan() && codes == [128; 3], "{x:?}");
        }
        assert_eq!(row([f32::MAX, -f32::MAX, 0.0]).0, [255, 1, 128]);
        assert_eq!(row([-127.0, 2.5, 3.5]), (vec![1, 130, 132], vec![1.0]));
    }

    #[test]
    fn slices_are_rows() {
        let x: Vec<f32> = (0..30).map(|i| i as f32 - 12.5).collect();
        let (halves, bits, (codes, scales)) = (to_f16(&x), to_binary(&x, 10).unwrap(), to_int8(&x, 10).unwrap());
        for tokens in [
            Tokens::F32(&x),
            Tokens::F16(&halves),
            Tokens::Int8 { codes: &codes, scales: &scales },
            Tokens::Binary(&bits),
        ] {
            let slice = tokens.slice(10, 1..3);
            assert_eq!((slice.rows(10), tokens.slice(10, 3..3).rows(10)), (Ok(2), Ok(0)));
            for (row, k) in [(0, 0), (0, 9), (1, 3)] {
                assert_eq!(slice.component(10, row, k), tokens.component(10, row + 1, k), "{tokens:?}");
            }
        }
    }

    #[test]
    fn bits_are_signs() {
        let x = [1.0, -1.0, 0.0, -0.5, 2.0, 3.0, -1.0, -2.0, -9.0, 9.0];
        let bits = to_binary(&x, 10).unwrap();
        assert_eq!(bits, [0b0011_0101, 0b10]);
        for (k, &x) in x.iter().enumerate() {
            assert_eq!(Tokens::Binary(&bits).component(10, 0, k), if x >= 0.0 { 1.0 } else { -1.0 });
        }
    }

    #[test]
    fn misfits_are_named() {
        assert_eq!(
            Tokens::F32(&[0.0; 7]).rows(4),
            Err(ShapeError::NotRows { argument: "documents", dim: 4, found: 7 })
        );
        assert_eq!(
            Tokens::Int8 { codes: &[0; 8], scales: &[1.0] }.rows(4),
            Err(ShapeError::Length { argument: "scales", expected: 2, found: 1 })
        );
        assert_eq!(Tokens::Binary(&[0; 2]).rows(0), Err(ShapeError::Zero { argument: "dim" }));
        assert!(to_int8(&[0.0; 3], 2).is_err() && to_binary(&[0.0; 3], 2).is_err());
    }
}
