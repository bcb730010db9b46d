//! Vectors on the wire → vectors in memory.

use half::f16;
use sluice_proto::{
    model::v1::{DataType, Embedding},
    retrieval::v1 as wire,
};

use super::{Faults, at};
use crate::{
    document::SparseVector,
    schema::{DenseField, VectorFault},
};

impl Faults {
    /// A single row of the field's components, or `None` and what is wrong with it.
    pub(super) fn dense(&mut self, path: &str, embedding: &Embedding, field: &DenseField) -> Option<Vec<f32>> {
        match components(embedding, field.dim) {
            Ok(vector) => match field.check(&vector) {
                Ok(()) => return Some(vector),
                Err(fault) => self.add(at(path, "data"), fault.to_string()),
            },
            Err((part, description)) => self.add(at(path, part), description),
        }
        None
    }

    pub(super) fn sparse(&mut self, path: &str, vector: wire::SparseVector) -> Option<SparseVector> {
        let wire::SparseVector { indices, values } = vector;
        let vector = SparseVector { indices, values };
        let Err(fault) = vector.check() else { return Some(vector) };
        let part = match fault {
            VectorFault::Order { position } => format!("indices[{position}]"),
            VectorFault::NotFinite { position } | VectorFault::ZeroValue { position } => format!("values[{position}]"),
            VectorFault::TooMany { .. } => "indices".to_owned(),
            VectorFault::Lengths { .. } | VectorFault::Dim { .. } | VectorFault::Zero => "values".to_owned(),
        };
        self.add(at(path, &part), fault.to_string());
        None
    }
}

fn components(embedding: &Embedding, dim: u32) -> Result<Vec<f32>, (&'static str, String)> {
    let Embedding { data, dtype, rows, dim: found, scales } = embedding;
    if *found != dim {
        return Err(("dim", format!("is {found}, the field's vectors have {dim} components")));
    }
    if *rows != 1 {
        return Err(("rows", format!("must be 1, got {rows}")));
    }
    let bytes_each = match DataType::try_from(*dtype) {
        Ok(DataType::F32) => 4,
        Ok(DataType::F16) => 2,
        Ok(DataType::I8) => 1,
        Ok(DataType::Unspecified) => return Err(("dtype", "is required".to_owned())),
        Err(_) => return Err(("dtype", format!("{dtype} is not a value of this enum"))),
    };
    let bytes = u64::from(dim) * bytes_each;
    if data.len() as u64 != bytes {
        return Err(("data", format!("has {} bytes, {dim} components in this dtype are {bytes}", data.len())));
    }
    let scale_bytes = if bytes_each == 1 { 4 } else { 0 };
    if scales.len() != scale_bytes {
        return Err(("scales", format!("has {} bytes instead of {scale_bytes}", scales.len())));
    }
    Ok(match bytes_each {
        4 => data.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect(),
        2 => data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        _ => {
            let scale = scales.first_chunk().map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes));
            if !scale.is_finite() || scale.is_sign_negative() {
                return Err(("scales", "the scale is not a finite number from 0".to_owned()));
            }
            data.iter().map(|code| f32::from(code.cast_signed()) * scale).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Metric;

    fn embedding(dtype: DataType, data: Vec<u8>, scales: &[f32]) -> Embedding {
        let scales: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        Embedding { data: data.into(), dtype: dtype.into(), rows: 1, dim: 2, scales: scales.into() }
    }

    fn f32s(values: [f32; 2]) -> Embedding {
        embedding(DataType::F32, values.into_iter().flat_map(f32::to_le_bytes).collect(), &[])
    }

    fn field(metric: Metric) -> DenseField {
        DenseField { name: "dense".to_owned(), dim: 2, metric }
    }

    #[test]
    fn every_dtype_becomes_its_numbers() {
        let f16s = [0.5, -1.0].into_iter().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect();
        for embedding in [
            f32s([0.5, -1.0]),
            embedding(DataType::F16, f16s, &[]),
            embedding(DataType::I8, vec![64, 128], &[1.0 / 128.0]),
        ] {
            let mut faults = Faults::default();
            assert_eq!(faults.dense("v", &embedding, &field(Metric::Cosine)), Some(vec![0.5, -1.0]), "{embedding:?}");
        }
    }

    #[test]
    fn every_fault_of_a_dense_vector_names_its_part() {
        let good = f32s([1.0, 2.0]);
        let cases = [
            (Embedding { dim: 3, ..good.clone() }, "v.dim"),
            (Embedding { rows: 0, ..good.clone() }, "v.rows"),
            (Embedding { rows: 2, ..good.clone() }, "v.rows"),
            (Embedding { dtype: 0, ..good.clone() }, "v.dtype"),
            (Embedding { dtype: 99, ..good.clone() }, "v.dtype"),
            (Embedding { data: vec![0; 7].into(), ..good.clone() }, "v.data"),
            (Embedding { scales: vec![0; 4].into(), ..good }, "v.scales"),
            (f32s([1.0, f32::NAN]), "v.data"),
            (f32s([f32::INFINITY, 1.0]), "v.data"),
            (f32s([0.0, -0.0]), "v.data"),
            (embedding(DataType::I8, vec![1, 2], &[]), "v.scales"),
            (embedding(DataType::I8, vec![1, 2], &[-1.0]), "v.scales"),
            (embedding(DataType::I8, vec![1, 2], &[f32::NAN]), "v.scales"),
        ];
        for (embedding, expected) in cases {
            let mut faults = Faults::default();
            assert_eq!(faults.dense("v", &embedding, &field(Metric::Cosine)), None, "{embedding:?}");
            assert_eq!(faults.0.iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(), [expected]);
        }
        let mut faults = Faults::default();
        assert!(faults.dense("v", &f32s([0.0, 0.0]), &field(Metric::Dot)).is_some(), "only a cosine needs a direction");
    }

    #[test]
    fn every_fault_of_a_sparse_vector_names_its_part() {
        let cases: [(&[u32], &[f32], Option<&str>); 7] = [
            (&[1, 5], &[0.5, -1.0], None),
            (&[], &[], None),
            (&[1, 5], &[0.5], Some("v.values")),
            (&[5, 1], &[0.5, 1.0], Some("v.indices[1]")),
            (&[5, 5], &[0.5, 1.0], Some("v.indices[1]")),
            (&[1, 5], &[0.5, f32::NAN], Some("v.values[1]")),
            (&[1, 5], &[0.0, 1.0], Some("v.values[0]")),
        ];
        for (indices, values, expected) in cases {
            let mut faults = Faults::default();
            let vector = wire::SparseVector { indices: indices.to_vec(), values: values.to_vec() };
            let parsed = faults.sparse("v", vector);
            assert_eq!(parsed.is_some(), expected.is_none(), "{indices:?} {values:?}");
            assert_eq!(faults.0.first().map(|fault| fault.field.as_str()), expected, "{indices:?} {values:?}");
        }
    }
}
