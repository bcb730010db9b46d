//! The one inner loop behind every product of matrices here.
//!
//! A tile is [`ROWS`] rows of the left matrix times [`LANES`] columns of the right one. Its sums live in
//! registers: 4 × 8 sums are 8 registers of 4 lanes, so that 2 of columns and the broadcasts fit into
//! the 16 that every x86-64 and more than those that every aarch64 has. Each step of the depth loads
//! 8 columns and 4 rows' elements for 64 FLOPs.
//!
//! Every sum adds up in order of depth, whatever tile it is in.

/// Columns of a tile.
pub(crate) const LANES: usize = 8;
/// Rows of a tile.
pub(crate) const ROWS: usize = 4;

/// The right matrix, `[depth, columns]`, as panels of [`LANES`] columns: `[panels][depth][LANES]`, so that
/// the inner loop reads it in order. Columns beyond the last are 0.
#[derive(Default)]
pub(crate) struct Panels {
    data: Vec<[f32; LANES]>,
    depth: usize,
}

impl Panels {
    /// Takes `matrix` rows as columns: `row(j)`, `depth` long, becomes column `j`.
    pub(crate) fn pack_transposed<'a>(&mut self, columns: usize, depth: usize, row: impl Fn(usize) -> &'a [f32]) {
        self.reset(columns, depth);
        for j in 0..columns {
            let panel = &mut self.data[j / LANES * depth..][..depth];
            for (target, &x) in panel.iter_mut().zip(row(j)) {
                target[j % LANES] = x;
            }
        }
    }

    /// The panels, each `depth` steps of [`LANES`] columns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[[f32; LANES]]> {
        // A depth of 0 has no steps and therefore no panel.
        self.data.chunks_exact(self.depth.max(1))
    }

    fn reset(&mut self, columns: usize, depth: usize) {
        self.depth = depth;
        self.data.clear();
        self.data.resize(columns.div_ceil(LANES) * depth, [0.0; LANES]);
    }
}

/// `R` rows times one panel.
#[inline(always)]
pub(crate) fn multiply<const R: usize>(rows: [&[f32]; R], panel: &[[f32; LANES]]) -> [[f32; LANES]; R] {
    let rows = rows.map(|row| &row[..panel.len()]);
    let mut sums = [[0.0_f32; LANES]; R];
    for (k, columns) in panel.iter().enumerate() {
        for r in 0..R {
            let x = rows[r][k];
            for lane in 0..LANES {
                sums[r][lane] += x * columns[lane];
            }
        }
    }
    sums
}

/// Calls `each` with the index and the sums of every row of a matrix times one panel.
#[inline(always)]
pub(crate) fn for_each_row<'a>(
    count: usize,
    row: impl Fn(usize) -> &'a [f32],
    panel: &[[f32; LANES]],
    mut each: impl FnMut(usize, [f32; LANES]),
) {
    let whole = count - count % ROWS;
    for start in (0..whole).step_by(ROWS) {
        let rows: [&[f32]; ROWS] = std::array::from_fn(|r| row(start + r));
        for (r, sums) in multiply(rows, panel).into_iter().enumerate() {
            each(start + r, sums);
        }
    }
    for index in whole..count {
        let [sums] = multiply([row(index)], panel);
        each(index, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_multiply() {
        for (rows, columns, depth) in [(1, 1, 1), (4, 8, 3), (5, 9, 7), (11, 24, 2), (3, 17, 16)] {
            let left: Vec<f32> = (0..rows * depth).map(|i| (i % 13) as f32 - 6.0).collect();
            let right: Vec<f32> = (0..depth * columns).map(|i| (i % 7) as f32 - 3.0).collect();
            let transposed: Vec<f32> = (0..columns * depth).map(|i| right[i % depth * columns + i / depth]).collect();
            let expected: Vec<f32> = (0..rows * columns)
                .map(|i| (0..depth).map(|k| left[i / columns * depth + k] * right[k * columns + i % columns]).sum())
                .collect();
            let mut panels = Panels::default();
            panels.pack_transposed(columns, depth, |j| &transposed[j * depth..][..depth]);
            let mut product = vec![0.0; rows * columns];
            for (p, panel) in panels.iter().enumerate() {
                for_each_row(
                    rows,
                    |r| &left[r * depth..][..depth],
                    panel,
                    |r, sums| {
                        for (lane, sum) in sums.into_iter().enumerate().take(columns - p * LANES) {
                            product[r * columns + p * LANES + lane] = sum;
                        }
                    },
                );
            }
            assert_eq!(product, expected, "[{rows}, {depth}] × [{depth}, {columns}]");
        }
    }
}
