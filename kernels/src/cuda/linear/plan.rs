//! What is asked of cuBLASLt: pure arithmetic, without the library.

use crate::cuda::encoder::{self, Arena, Function, OpError, Output};

/// A linear layer's product, for batches of any [padded](padded_rows) size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of W: components of an output.
    pub outputs: u32,
    /// Columns of W: components of an input.
    pub inputs: u32,
    /// Components from one row of x to the next; at least `inputs`.
    pub x_pitch: u32,
    /// Components from one row of y to the next; at least `outputs`.
    pub y_pitch: u32,
    /// What is done with the sums.
    pub epilogue: Epilogue,
    /// Rows of the largest batch: an algorithm is chosen for those, and must take every smaller padded number.
    pub rows_max: u32,
}

/// Rows that a batch of `rows` is computed as, the last ones for nobody: a library's algorithm may refuse any number that
/// it was not asked about, so there are few, and no small ones, which the quickest algorithms do not take. From 512 on at
/// most a quarter more than there are.
#[must_use]
pub fn padded_rows(rows: u32, rows_max: u32) -> u32 {
    let padded = match rows {
        0..=512 => rows.max(1).next_multiple_of(64),
        513..=1024 => rows.next_multiple_of(128),
        _ => rows.div_ceil(256).saturating_mul(256),
    };
    padded.min(rows_max)
}

/// Every number that [`padded_rows`] gives, ascending.
pub(super) fn row_counts(rows_max: u32) -> impl Iterator<Item = u32> {
    let next = move |rows: &u32| (*rows < rows_max).then(|| padded_rows(rows + 1, rows_max));
    std::iter::successors((rows_max > 0).then(|| padded_rows(1, rows_max)), next)
}

/// What is done with the sums of a product before they are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// The bias is added.
    Bias,
    /// The bias is added, and GELU in its tanh form applied: the only one that cuBLASLt has.
    BiasGeluTanh,
}

/// A matrix as cuBLASLt sees it: columns of `rows` components, `pitch` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub rows: u64,
    pub columns: u64,
    pub pitch: i64,
}

/// The three matrices of yᵀ = Wᵀᵀ·xᵀ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrices {
    /// Read transposed.
    pub weight: Columns,
    pub x: Columns,
    pub y: Columns,
}

/// An algorithm that the heuristic proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The library's verdict on this product: 0 if it can.
    pub status: u32,
    pub workspace_bytes: usize,
    /// Parts that k is cut into.
    pub split_k: i32,
    /// How parts are put together; 0 for not at all.
    pub reduction: u32,
}

impl Product {
    /// The matrices for that many rows.
    pub(super) fn matrices(&self, rows: u32) -> Matrices {
        let columns = |rows: u32, columns: u32, pitch: u32| Columns {
            rows: rows.into(),
            columns: columns.into(),
            pitch: pitch.into(),
        };
        Matrices {
            weight: columns(self.inputs, self.outputs, self.inputs),
            x: columns(self.inputs, rows, self.x_pitch),
            y: columns(self.outputs, rows, self.y_pitch),
        }
    }

    /// Whether rows hold what they are said to, and none of it is nothing.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Self { outputs, inputs, x_pitch, y_pitch, rows_max, .. } = *self;
        outputs > 0 && inputs > 0 && x_pitch >= inputs && y_pitch >= outputs && rows_max > 0
    }
}

/// A product that cuBLASLt computes, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Multiplication {
    pub product: Product,
    /// Rows of x and y.
    pub rows: u32,
    pub x: u64,
    pub weight: u64,
    /// 0 without one.
    pub bias: u64,
    pub y: u64,
}

impl Multiplication {
    /// `None` for what cuBLASLt has no epilogue for, and what it does not round to f16.
    ///
    /// # Errors
    /// [`OpError`] for what does not lie in the arena or has more than 32 bits.
    pub fn of(op: &encoder::Product, arena: Arena) -> Result<Option<Self>, OpError> {
        let epilogue = match (op.bias, op.function) {
            (None, None) => Epilogue::None,
            (Some(_), None) => Epilogue::Bias,
            (Some(_), Some(Function::GeluTanh)) => Epilogue::BiasGeluTanh,
            _ => return Ok(None),
        };
        let Output::F16(out) = op.out else { return Ok(None) };
        // Weights are rows end to end.
        if op.weight.pitch() != op.weight.column_count() {
            return Ok(None);
        }
        let number = |argument, number: usize| u32::try_from(number).map_err(|_| OpError::TooLarge { argument });
        let product = Product {
            outputs: number("weight", op.weight.row_count())?,
            inputs: number("weight", op.weight.column_count())?,
            x_pitch: number("x", op.x.pitch())?,
            y_pitch: number("out", out.pitch())?,
            epilogue,
            rows_max: number("rows_max", op.rows_max)?,
        };
        Ok(Some(Self {
            product,
            rows: number("x", op.x.row_count())?,
            x: arena.matrix("x", &op.x)?,
            weight: arena.matrix("weight", &op.weight)?,
            bias: op.bias.map_or(Ok(0), |bias| arena.address("bias", &bias))?,
            y: arena.matrix("out", &out)?,
        }))
    }
}

impl Candidate {
    /// Whether it computes a sum in one piece, within the workspace.
    pub(super) fn fits(&self, workspace_bytes: usize) -> bool {
        let Self { status, workspace_bytes: needed, split_k, reduction } = *self;
        status == 0 && needed <= workspace_bytes && split_k <= 1 && reduction == 0
    }
}

/// Bytes that algorithms may use besides: what NVIDIA recommends for a device of that compute capability.
pub(super) fn workspace_bytes(compute_capability: (i32, i32)) -> usize {
    if compute_capability.0 >= 9 { 32 << 20 } else { 4 << 20 }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::cuda::encoder::{ArenaLayout, Matrix};

    #[test]
    fn operations_that_cublaslt_knows_are_its_own() {
        let mut layout = ArenaLayout::default();
        let count = layout.region(1);
        let bias = layout.region(16);
        let weight = Matrix::new(layout.region(16 * 8), 8).unwrap();
        let x = Matrix::new(layout.region(5 * 24), 24).unwrap().columns(8..16).unwrap();
        let out = Matrix::new(layout.region(5 * 16), 16).unwrap();
        let sums = layout.region(5 * 16);
        let arena = Arena { base: 1 << 20, bytes: layout.bytes() };
        let op = |bias, function, out| encoder::Product { count, x, weight, bias, function, out, rows_max: 300 };
        let check = |op: encoder::Product, expected| {
            let found = Multiplication::of(&op, arena).unwrap();
            assert_eq!(found.map(|found| found.product.epilogue), expected, "{op:?}");
            found
        };
        let (some, rounded) = (Some(bias), Output::F16(out));
        check(op(None, None, rounded), Some(Epilogue::None));
        check(op(some, Some(Function::GeluTanh), rounded), Some(Epilogue::BiasGeluTanh));
        check(op(some, Some(Function::GeluErf), rounded), None);
        check(op(None, Some(Function::GeluTanh), rounded), None);
        check(op(some, None, Output::F32(sums)), None);
        let found = check(op(some, None, rounded), Some(Epilogue::Bias)).unwrap();
        let epilogue = Epilogue::Bias;
        let product = Product { outputs: 16, inputs: 8, x_pitch: 24, y_pitch: 16, epilogue, rows_max: 300 };
        assert_eq!((found.product, found.rows), (product, 5));
        let at = |offset: usize| arena.base + offset as u64;
        let expected = [at(x.offset()), at(weight.offset()), at(bias.offset()), at(out.offset())];
        assert_eq!([found.x, found.weight, found.bias, found.y], expected);
        let beyond = Multiplication::of(&op(None, None, rounded), Arena { bytes: 64, ..arena });
        assert!(matches!(beyond, Err(OpError::Arena { .. })), "{beyond:?}");
    }

    const QKV: Product =
        Product { outputs: 1152, inputs: 384, x_pitch: 384, y_pitch: 1152, epilogue: Epilogue::Bias, rows_max: 32_768 };

    #[test]
    fn rows_are_padded_to_few_numbers_and_by_little() {
        for rows_max in [1, 3, 63, 64, 700, 2_048, 5_000, 32_768, u32::MAX] {
            let mut counts: Vec<u32> = row_counts(rows_max.min(40_000)).collect();
            assert!(counts.len() <= 16 + 152, "{rows_max}: {}", counts.len());
            for rows in 1..=rows_max.min(40_000) {
                let padded = padded_rows(rows, rows_max.min(40_000));
                assert!(padded >= rows && counts.binary_search(&padded).is_ok(), "{rows} of {rows_max}: {padded}");
                assert!(rows < 512 || padded * 4 <= rows * 5, "{rows} of {rows_max}: {padded}");
                assert_eq!(padded_rows(padded, rows_max.min(40_000)), padded);
            }
            counts.dedup();
            assert_eq!(counts.last(), Some(&rows_max.min(40_000)), "the largest batch is computed as it is");
        }
        assert_eq!([1, 65, 700, 1_025, 2_100].map(|rows| padded_rows(rows, 32_768)), [64, 128, 768, 1_280, 2_304]);
        assert_eq!(row_counts(0).next(), None);
        assert_eq!(padded_rows(u32::MAX, u32::MAX), u32::MAX);
    }

    #[test]
    fn rows_become_columns() {
        let found = QKV.matrices(100);
        assert_eq!(found.weight, Columns { rows: 384, columns: 1152, pitch: 384 });
        assert_eq!(found.x, Columns { rows: 384, columns: 100, pitch: 384 });
        assert_eq!(found.y, Columns { rows: 1152, columns: 100, pitch: 1152 });
        // Keys and values alone, into the rows that queries have a part of too.
        let found = Product { outputs: 768, ..QKV }.matrices(7);
        assert_eq!(found.y, Columns { rows: 768, columns: 7, pitch: 1152 });
        assert_eq!(found.weight, Columns { rows: 384, columns: 768, pitch: 384 });
    }

    #[test]
    fn products_of_nothing_and_rows_that_overlap_are_unsound() {
        assert!(QKV.is_sound());
        for unsound in [
            Product { outputs: 0, ..QKV },
            Product { inputs: 0, ..QKV },
            Product { x_pitch: 383, ..QKV },
            Product { y_pitch: 1151, ..QKV },
            Product { rows_max: 0, ..QKV },
        ] {
            assert!(!unsound.is_sound(), "{unsound:?}");
        }
    }

    #[test]
    fn plans_are_told_apart_by_all_that_an_algorithm_may_depend_on() {
        let keys = [
            QKV,
            Product { outputs: 768, ..QKV },
            Product { inputs: 192, ..QKV },
            Product { epilogue: Epilogue::None, ..QKV },
            // First rows are fewer, and have an algorithm of their own.
            Product { rows_max: 256, ..QKV },
        ];
        let distinct: std::collections::HashSet<_> = keys.into_iter().chain([QKV]).collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn no_algorithm_that_splits_a_sum_fits() {
        let sound = Candidate { status: 0, workspace_bytes: 100, split_k: 1, reduction: 0 };
        let check = |candidate: Candidate, expected| assert_eq!(candidate.fits(100), expected, "{candidate:?}");
        check(sound, true);
        check(Candidate { split_k: 0, ..sound }, true);
        check(Candidate { split_k: 2, ..sound }, false);
        check(Candidate { reduction: 1, ..sound }, false);
        check(Candidate { status: 15, ..sound }, false);
        check(Candidate { workspace_bytes: 101, ..sound }, false);
    }

    #[test]
    fn newer_devices_get_more_workspace() {
        assert_eq!([(8, 0), (8, 9), (9, 0), (12, 0)].map(|device| workspace_bytes(device) >> 20), [4, 4, 32, 32]);
    }
}
