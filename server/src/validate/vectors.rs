//! Vectors on the wire → vectors in memory.

use half::f16;
use sluice_proto::model::v1::{DataType, Embedding};

use super::Faults;
use crate::vectors::{OwnedComponents, OwnedVectors};

/// What a caller's vectors must fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Components of the model's vectors.
    pub(super) dim: usize,
    /// Most rows.
    pub(super) rows_max: usize,
}

impl Faults {
    /// The vectors of `embedding`, or `None` and what is wrong with them.
    pub(super) fn vectors(&mut self, path: &str, embedding: &Embedding, expected: Expected) -> Option<OwnedVectors> {
        match parse(embedding, expected) {
            Ok(components) => Some(OwnedVectors { components, dim: expected.dim }),
            Err((field, description)) => {
                self.add(if field.is_empty() { path.to_owned() } else { format!("{path}.{field}") }, description);
                None
            }
        }
    }
}

type Fault = (&'static str, String);

fn parse(embedding: &Embedding, expected: Expected) -> Result<OwnedComponents, Fault> {
    let Embedding { data, dtype, rows, dim, scales } = embedding;
    let (rows, dim) = (*rows as usize, *dim as usize);
    if dim != expected.dim {
        return Err(("dim", format!("is {dim}, the model's vectors have {} components", expected.dim)));
    }
    if rows == 0 || rows > expected.rows_max {
        return Err(("rows", format!("must be 1 to {}, got {rows}", expected.rows_max)));
    }
    let bytes_each = match DataType::try_from(*dtype) {
        Ok(DataType::F32) => 4,
        Ok(DataType::F16) => 2,
        Ok(DataType::I8) => 1,
        Ok(DataType::Unspecified) => return Err(("dtype", "is required".to_owned())),
        Err(_) => return Err(("dtype", format!("{dtype} is not a value of this enum"))),
    };
    // Within u64 for any two u32, and then within usize for what fits a message.
    let bytes = rows as u64 * dim as u64 * bytes_each;
    if data.len() as u64 != bytes {
        return Err(("data", format!("has {} bytes, {rows} rows of {dim} in this dtype are {bytes}", data.len())));
    }
    let scale_bytes = if bytes_each == 1 { 4 * rows } else { 0 };
    if scales.len() != scale_bytes {
        return Err(("scales", format!("has {} bytes instead of {scale_bytes}", scales.len())));
    }
    let components = match bytes_each {
        4 => OwnedComponents::F32(f32s(data)),
        2 => OwnedComponents::F16(data.as_chunks().0.iter().copied().map(f16::from_le_bytes).collect()),
        // Two's complement to offset binary.
        _ => OwnedComponents::Int8 { codes: data.iter().map(|byte| byte ^ 0x80).collect(), scales: f32s(scales) },
    };
    check_finite(&components, dim)?;
    Ok(components)
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect()
}

fn check_finite(components: &OwnedComponents, dim: usize) -> Result<(), Fault> {
    let (field, position) = match components {
        OwnedComponents::F32(data) => ("data", data.iter().position(|x| !x.is_finite())),
        OwnedComponents::F16(data) => ("data", data.iter().position(|x| !x.is_finite())),
        OwnedComponents::Int8 { scales, .. } => {
            let wrong = |scale: &f32| !scale.is_finite() || scale.is_sign_negative();
            return match scales.iter().position(wrong) {
                Some(row) => Err(("scales", format!("the scale of row {row} is not a finite number from 0"))),
                None => Ok(()),
            };
        }
    };
    match position {
        Some(position) => {
            let (row, component) = (position / dim, position % dim);
            Err((field, format!("component {component} of row {row} is not a finite number")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::batch::TokenVectors;

    use super::*;

    const EXPECTED: Expected = Expected { dim: 2, rows_max: 3 };

    fn embedding(dtype: DataType, data: &[u8], scales: &[f32]) -> Embedding {
        let scales: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        Embedding { data: data.to_vec().into(), dtype: dtype.into(), rows: 2, dim: 2, scales: scales.into() }
    }

    fn bytes<const N: usize, T>(values: &[T], each: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(each).collect()
    }

    #[test]
    fn every_dtype_becomes_its_numbers() {
        let numbers = [0.5_f32, -1.0, 0.25, 1.0];
        let f16s = numbers.map(f16::from_f32);
        for embedding in [
            embedding(DataType::F32, &bytes(&numbers, |x| x.to_le_bytes()), &[]),
            embedding(DataType::F16, &bytes(&f16s, |x| x.to_le_bytes()), &[]),
            embedding(DataType::I8, &[64, 128, 25, 100], &[1.0 / 128.0, 0.01]),
        ] {
            let mut faults = Faults::default();
            let vectors = faults.vectors("v", &embedding, EXPECTED).expect("valid");
            assert_eq!((vectors.dim(), vectors.rows()), (2, 2));
            let found = vectors.into_matrix().data;
            assert!(found.iter().zip(numbers).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
            assert!(faults.finish().is_ok());
        }
    }

    #[test]
    fn every_fault_names_its_field() {
        let f32s = |x: [f32; 4]| embedding(DataType::F32, &bytes(&x, |x| x.to_le_bytes()), &[]);
        let good = f32s([1.0; 4]);
        let cases = [
            (Embedding { dim: 3, ..good.clone() }, "v.dim"),
            (Embedding { dim: 0, ..good.clone() }, "v.dim"),
            (Embedding { rows: 0, ..good.clone() }, "v.rows"),
            (Embedding { rows: 4, ..good.clone() }, "v.rows"),
            (Embedding { rows: u32::MAX, ..good.clone() }, "v.rows"),
            (Embedding { rows: 1, ..good.clone() }, "v.data"),
            (Embedding { dtype: 0, ..good.clone() }, "v.dtype"),
            (Embedding { dtype: 9, ..good.clone() }, "v.dtype"),
            (Embedding { scales: vec![0; 8].into(), ..good }, "v.scales"),
            (f32s([1.0, f32::NAN, 1.0, 1.0]), "v.data"),
            (f32s([1.0, 1.0, 1.0, f32::NEG_INFINITY]), "v.data"),
            (embedding(DataType::F16, &bytes(&[0_u16, 0, 0, 0x7e00], |x| x.to_le_bytes()), &[]), "v.data"),
            (embedding(DataType::I8, &[0; 4], &[1.0]), "v.scales"),
            (embedding(DataType::I8, &[0; 4], &[1.0, f32::INFINITY]), "v.scales"),
            (embedding(DataType::I8, &[0; 4], &[1.0, -1.0]), "v.scales"),
        ];
        for (embedding, field) in cases {
            let mut faults = Faults::default();
            assert!(faults.vectors("v", &embedding, EXPECTED).is_none(), "{embedding:?}");
            let fields: Vec<_> = faults.0.iter().map(|fault| fault.field.as_str()).collect();
            assert_eq!(fields, [field], "{embedding:?}");
        }
    }
}
