//! From the vectors that a caller has to the bytes that a segment holds.

use half::f16;
use sluice_kernels::tokens::{Storage, Tokens, to_binary, to_f16, to_int8};

use crate::{ContentHash, DocumentFault, Layout, layout::aligned};

/// A document to store.
#[derive(Clone, Copy, Debug)]
pub struct PutDocument<'a> {
    /// 1 to [`TokenStore::ID_BYTES_MAX`](crate::TokenStore::ID_BYTES_MAX) bytes.
    pub id: &'a str,
    /// SHA-256 of the exact text that was encoded.
    pub content_hash: ContentHash,
    /// Whether the text was longer than what was encoded of it.
    pub truncated: bool,
    /// `[rows, dim]`, at least one row: f32 or f16, which are quantised to what the collection stores, or that itself.
    pub vectors: Tokens<'a>,
}

/// Appends vectors to `out` as a segment holds them: components, and for int8 the scales, 64-aligned from where `out`
/// ended, which must be aligned itself. Returns the number of rows. On an error `out` is in no particular state.
pub(crate) fn append_vectors(layout: Layout, vectors: Tokens<'_>, out: &mut Vec<u8>) -> Result<u32, DocumentFault> {
    let rows = vectors.rows(layout.dim())?;
    let needs = DocumentFault::TooLarge { bytes: u64::MAX, max: u64::from(u32::MAX) };
    let rows_stored = u32::try_from(rows).map_err(|_| needs)?;
    if rows == 0 {
        return Err(DocumentFault::NoRows);
    }
    match vectors {
        Tokens::F32(x) => {
            all_finite(layout, x, f32::is_finite)?;
            append_floats(layout, x, out)?;
        }
        Tokens::F16(x) => {
            all_finite(layout, x, f16::is_finite)?;
            if layout.storage() == Storage::F16 {
                append_halves(x, out);
            } else {
                let widened: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
                append_floats(layout, &widened, out)?;
            }
        }
        Tokens::Int8 { codes, scales } => {
            expect_storage(layout, Storage::Int8)?;
            if let Some(row) = scales.iter().position(|scale| !scale.is_finite() || *scale < 0.0) {
                return Err(DocumentFault::NotFinite { row });
            }
            append_int8(codes, scales, out);
        }
        Tokens::Binary(bits) => {
            expect_storage(layout, Storage::Binary)?;
            no_stray_bits(layout, bits)?;
            out.extend_from_slice(bits);
        }
    }
    Ok(rows_stored)
}

fn append_floats(layout: Layout, x: &[f32], out: &mut Vec<u8>) -> Result<(), DocumentFault> {
    match layout.storage() {
        Storage::F16 => {
            let halves = to_f16(x);
            all_finite(layout, &halves, f16::is_finite)?;
            append_halves(&halves, out);
        }
        Storage::Int8 => {
            let (codes, scales) = to_int8(x, layout.dim())?;
            append_int8(&codes, &scales, out);
        }
        Storage::Binary => out.extend_from_slice(&to_binary(x, layout.dim())?),
        Storage::F32 => expect_storage(layout, Storage::F32)?,
    }
    Ok(())
}

fn append_halves(x: &[f16], out: &mut Vec<u8>) {
    out.reserve(2 * x.len());
    out.extend(x.iter().flat_map(|x| x.to_le_bytes()));
}

fn append_int8(codes: &[u8], scales: &[f32], out: &mut Vec<u8>) {
    out.extend_from_slice(codes);
    out.resize(aligned(out.len() as u64) as usize, 0);
    out.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
}

fn all_finite<T: Copy>(layout: Layout, x: &[T], is_finite: impl Fn(T) -> bool) -> Result<(), DocumentFault> {
    match x.iter().position(|&x| !is_finite(x)) {
        Some(at) => Err(DocumentFault::NotFinite { row: at / layout.dim() }),
        None => Ok(()),
    }
}

fn no_stray_bits(layout: Layout, bits: &[u8]) -> Result<(), DocumentFault> {
    let used = layout.dim() % 8;
    let row_bytes = layout.dim().div_ceil(8);
    let stray = bits.chunks_exact(row_bytes).position(|row| used != 0 && row[row_bytes - 1] >> used != 0);
    stray.map_or(Ok(()), |row| Err(DocumentFault::StrayBits { row }))
}

fn expect_storage(layout: Layout, found: Storage) -> Result<(), DocumentFault> {
    let expected = layout.storage();
    if found == expected { Ok(()) } else { Err(DocumentFault::Storage { expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(storage: Storage, dim: usize, vectors: Tokens<'_>, expected: Result<(u32, &[u8]), DocumentFault>) {
        let mut out = vec![7; 64];
        let found = append_vectors(Layout::new(storage, dim).unwrap(), vectors, &mut out);
        match expected {
            Ok((rows, bytes)) => assert_eq!((found, &out[64..]), (Ok(rows), bytes), "{storage:?} {vectors:?}"),
            Err(fault) => assert_eq!(found, Err(fault), "{storage:?} {vectors:?}"),
        }
    }

    #[test]
    fn vectors_become_what_is_stored() {
        let one = [0x00, 0x3c];
        check(Storage::F16, 1, Tokens::F32(&[1.0, 1.0]), Ok((2, &[one, one].concat())));
        check(Storage::F16, 1, Tokens::F16(&[f16::ONE]), Ok((1, &one)));
        let mut int8 = vec![1, 255];
        int8.resize(64, 0);
        int8.extend((2.0_f32 / 127.0).to_le_bytes());
        check(Storage::Int8, 2, Tokens::F32(&[-2.0, 2.0]), Ok((1, &int8)));
        check(Storage::Int8, 2, Tokens::F16(&[f16::from_f32(-2.0), f16::from_f32(2.0)]), Ok((1, &int8)));
        check(Storage::Int8, 2, Tokens::Int8 { codes: &[1, 255], scales: &[2.0 / 127.0] }, Ok((1, &int8)));
        check(Storage::Binary, 3, Tokens::F32(&[1.0, -1.0, 0.0]), Ok((1, &[0b101])));
        check(Storage::Binary, 3, Tokens::Binary(&[0b111, 0]), Ok((2, &[0b111, 0])));
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let mismatch = |expected, found| Err(DocumentFault::Storage { expected, found });
        for storage in [Storage::F16, Storage::Int8, Storage::Binary] {
            check(storage, 2, Tokens::F32(&[]), Err(DocumentFault::NoRows));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let vectors = [0.0, 0.0, 0.0, bad];
                check(storage, 2, Tokens::F32(&vectors), Err(DocumentFault::NotFinite { row: 1 }));
                check(storage, 2, Tokens::F16(&vectors.map(f16::from_f32)), Err(DocumentFault::NotFinite { row: 1 }));
            }
        }
        check(Storage::F16, 1, Tokens::F32(&[65_504.0, 65_520.0]), Err(DocumentFault::NotFinite { row: 1 }));
        for bad in [-1.0, f32::NAN, f32::INFINITY] {
            let vectors = Tokens::Int8 { codes: &[1, 2], scales: &[1.0, bad] };
            check(Storage::Int8, 1, vectors, Err(DocumentFault::NotFinite { row: 1 }));
        }
        check(Storage::Binary, 9, Tokens::Binary(&[0, 1, 0, 2]), Err(DocumentFault::StrayBits { row: 1 }));
        check(Storage::Int8, 8, Tokens::Binary(&[1]), mismatch(Storage::Int8, Storage::Binary));
        check(Storage::F16, 1, Tokens::Int8 { codes: &[1], scales: &[1.0] }, mismatch(Storage::F16, Storage::Int8));
        let shape = Tokens::F32(&[0.0; 3]).rows(2).unwrap_err();
        check(Storage::F16, 2, Tokens::F32(&[0.0; 3]), Err(DocumentFault::Shape(shape)));
    }
}
