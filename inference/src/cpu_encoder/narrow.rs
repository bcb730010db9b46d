//! A batch of a few rows, such as one query: too few to divide by rows, so every product is divided by columns.
//!
//! Each thread reads its own part of the weights, which is what such a batch waits for. Attention is divided as in any
//! batch; what else is between the products is next to nothing and stays on one thread. An output's bits do not depend on
//! which columns are computed with it, so they are those of the same rows in a large batch.

use sluice_core::batch::PackedBatch;
use sluice_kernels::{Aligned, ShapeError};

use super::{
    CpuEncoder,
    compute_pool::Division,
    product::Multiply,
    scratch::{Narrow, Scratch, Workers},
};

/// Columns are divided at multiples of this: whole panels of every instruction set.
const COLUMNS: usize = 64;

impl CpuEncoder {
    /// All layers, all rows, into `scratch.hidden`; on the threads of the pool that this runs in.
    pub(super) fn compute_narrow(&self, batch: &PackedBatch, scratch: &mut Scratch) -> Result<(), ShapeError> {
        let (dim, rows) = (self.hidden_size(), batch.total_tokens());
        let Scratch { hidden, attended, qkv, units, workers, narrow, .. } = scratch;
        let hidden = &mut hidden.as_mut_slice()[..rows * dim];
        let attended = &mut attended.as_mut_slice()[..rows * dim];
        let qkv = &mut qkv.as_mut_slice()[..rows * 3 * dim];
        let Narrow { columns, projected, intermediate } = narrow;
        self.embed(batch, 0..rows, hidden)?;
        for layer in &self.layers {
            let project = Multiply { product: &layer.qkv, x: hidden, activation: None };
            self.by_columns(project, (columns, workers), qkv)?;
            self.attention(units, qkv, attended, workers)?;
            let multiply = |product: Multiply<'_>, out: &mut [f32]| self.by_columns(product, (columns, workers), out);
            layer.forward(attended, hidden, (projected, intermediate), multiply)?;
        }
        Ok(())
    }

    /// A product, each thread some of its columns.
    fn by_columns(
        &self,
        multiply: Multiply<'_>,
        (columns, workers): (&mut Aligned<f32>, &Workers),
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        let Multiply { product, x, activation } = multiply;
        let (outputs, threads) = (product.outputs(), self.pool.threads());
        let ranges = Division { rows: outputs, granule: COLUMNS, parts: threads };
        columns.grow(threads * out.len());
        let columns = &mut columns.as_mut_slice()[..threads * out.len()];
        let threads = Division { rows: threads, granule: 1, parts: threads };
        threads.for_each((&mut *columns, out.len()), (&mut [], 0), &|thread, part: &mut [f32], _: &mut [f32]| {
            let range = ranges.range(thread.start);
            product.forward(x, range, activation, &mut workers.mine().codes, part)
        })?;
        for (thread, part) in columns.chunks_exact(out.len()).enumerate() {
            let range = ranges.range(thread);
            for (row, own) in out.chunks_exact_mut(outputs).zip(part.chunks_exact(outputs)) {
                row[range.clone()].copy_from_slice(&own[range.clone()]);
            }
        }
        Ok(())
    }
}
