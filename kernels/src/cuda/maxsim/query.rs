//! Queries as kernels read them.
//!
//! | documents | a query row is | bytes |
//! |---|---|---|
//! | f32 | f32 | 4·dim |
//! | f16 | f16, to nearest even; beyond ±65,504 it is infinite | 2·dim |
//! | int8 | signed codes of `max |x| / 127` | dim, and 8 for its scale and correction |
//!
//! Rows are padded with zeros to whole units of 16 bytes. An int8 row with a component that is not finite has scale NaN,
//! and so has every score that it takes part in.

use half::f16;

use crate::{ShapeError, shape, tokens::Storage};

/// Bytes of a query row's scale and correction.
const ROW_SCALE_BYTES: usize = 8;

/// Bytes of a row with its padding: from one row to the next, of queries and documents.
#[must_use]
pub fn pitch(storage: Storage, dim: usize) -> usize {
    storage.row_bytes(dim).next_multiple_of(16)
}

/// Bytes of a query's rows, and of their scales.
#[must_use]
pub fn bytes(storage: Storage, dim: usize, rows: usize) -> (usize, usize) {
    (rows * pitch(storage, dim), if storage == Storage::Int8 { rows * ROW_SCALE_BYTES } else { 0 })
}

/// Writes a query, `[rows, dim]`, for documents of that storage.
///
/// # Errors
/// [`ShapeError`] if `query` is not whole rows, or the outputs have other lengths than [`bytes`] says.
///
/// # Panics
/// If the storage is binary, which no kernel reads.
pub fn encode(
    storage: Storage,
    dim: usize,
    query: &[f32],
    out: &mut [u8],
    scales: &mut [u8],
) -> Result<(), ShapeError> {
    shape::not_zero("dim", dim)?;
    let rows = shape::rows("query", query.len(), dim)?;
    let (row_bytes, scale_bytes) = bytes(storage, dim, rows);
    shape::length("out", row_bytes, out.len())?;
    shape::length("scales", scale_bytes, scales.len())?;
    out.fill(0);
    for (i, (row, out)) in query.chunks_exact(dim).zip(out.chunks_exact_mut(pitch(storage, dim))).enumerate() {
        match storage {
            Storage::F32 => copy(out, row.iter().map(|x| x.to_le_bytes())),
            Storage::F16 => copy(out, row.iter().map(|&x| f16::from_f32(x).to_le_bytes())),
            Storage::Int8 => scales[i * ROW_SCALE_BYTES..][..ROW_SCALE_BYTES].copy_from_slice(&quantize(row, out)),
            Storage::Binary => unreachable!("a plan refuses binary documents"),
        }
    }
    Ok(())
}

fn copy<const N: usize>(out: &mut [u8], components: impl Iterator<Item = [u8; N]>) {
    out.chunks_exact_mut(N).zip(components).for_each(|(out, component)| out.copy_from_slice(&component));
}

/// Writes a row's codes; returns its scale and, as an integer, −128 · Σ codes.
fn quantize(row: &[f32], out: &mut [u8]) -> [u8; ROW_SCALE_BYTES] {
    let largest = row.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let scale = if row.iter().all(|x| x.is_finite()) { largest / 127.0 } else { f32::NAN };
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut sum = 0_i32;
    for (out, x) in out.iter_mut().zip(row) {
        let code = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        sum += i32::from(code);
        *out = code.cast_unsigned();
    }
    let mut bytes = [0; ROW_SCALE_BYTES];
    bytes[..4].copy_from_slice(&scale.to_le_bytes());
    bytes[4..].copy_from_slice(&(-128 * sum).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(storage: Storage, dim: usize, query: &[f32]) -> (Vec<u8>, Vec<u8>) {
        let (rows, scales) = bytes(storage, dim, query.len() / dim);
        let (mut out, mut row_scales) = (vec![7; rows], vec![7; scales]);
        encode(storage, dim, query, &mut out, &mut row_scales).unwrap();
        (out, row_scales)
    }

    #[test]
    fn rows_are_padded_with_zeros() {
        let (out, scales) = encoded(Storage::F16, 3, &[1.0, -2.0, 1e9, 0.0, 0.5, 0.0]);
        assert_eq!((out.len(), scales.len()), (32, 0));
        assert_eq!(out[..8], [0x00, 0x3c, 0x00, 0xc0, 0x00, 0x7c, 0, 0]);
        assert_eq!((&out[8..16], &out[18..20]), (&[0; 8][..], &[0x00, 0x38][..]));
        assert_eq!(encoded(Storage::F32, 5, &[1.0; 5]).0.len(), 32);
    }

    #[test]
    fn codes_have_their_scale_and_correction() {
        let (out, scales) = encoded(Storage::Int8, 4, &[1.0, -0.5, 0.0, 0.25, f32::NAN, 1.0, 1.0, 1.0]);
        assert_eq!(out[..4].iter().map(|&code| code.cast_signed()).collect::<Vec<_>>(), [127, -64, 0, 32]);
        assert_eq!(f32::from_le_bytes(scales[..4].try_into().unwrap()), 1.0 / 127.0);
        assert_eq!(i32::from_le_bytes(scales[4..8].try_into().unwrap()), -128 * (127 - 64 + 32));
        assert!(f32::from_le_bytes(scales[8..12].try_into().unwrap()).is_nan());
    }

    #[test]
    fn misfits_are_named() {
        let expected = ShapeError::Length { argument: "out", expected: 16, found: 8 };
        assert_eq!(encode(Storage::F16, 4, &[0.0; 4], &mut [0; 8], &mut []), Err(expected));
        assert!(encode(Storage::F16, 4, &[0.0; 5], &mut [0; 16], &mut []).is_err());
    }
}
