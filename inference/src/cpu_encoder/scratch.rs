//! Memory that an encoder works in: grown to the largest batch so far, and used again.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sluice_core::batch::PackedBatch;
use sluice_kernels::{Aligned, ShapeError, attention::AttentionScratch, quantized::Codes};

use super::{Wanted, compute_pool::Share, layer::Layer};
use crate::folder::BertConfig;

/// Queries of a unit of attention: enough that packing the sequence's keys once more costs little beside them.
const UNIT_QUERIES_MAX: usize = 128;

/// Units are cut at multiples of this: rows of a tile that is as fast as the highest.
const QUERIES_MULTIPLE: usize = 6;

/// What a batch needs, and what each thread needs.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[total_tokens, hidden]`.
    pub(super) hidden: Aligned<f32>,
    /// What attention makes of it.
    pub(super) attended: Aligned<f32>,
    /// `[total_tokens, 3·hidden]`.
    pub(super) qkv: Aligned<f32>,
    /// `[sequences, hidden]`, where first tokens alone are wanted.
    pub(super) first_hidden: Aligned<f32>,
    pub(super) first_attended: Aligned<f32>,
    pub(super) narrow: Narrow,
    /// The batch's attention, divided.
    pub(super) units: Vec<Unit>,
    pub(super) workers: Workers,
}

/// What a batch of a few rows needs, whose products are divided by columns.
#[derive(Default)]
pub(super) struct Narrow {
    /// Each thread's columns of a product, `[threads][rows, outputs]`.
    pub(super) columns: Aligned<f32>,
    pub(super) projected: Aligned<f32>,
    pub(super) intermediate: Aligned<f32>,
}

/// Some queries of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The sequence's rows of the batch.
    pub(super) rows: Range<usize>,
    /// Those of them, counted from its first, that attend.
    pub(super) queries: Range<usize>,
}

/// One thread's memory.
#[derive(Default)]
pub(super) struct Worker {
    pub(super) projected: Aligned<f32>,
    pub(super) intermediate: Aligned<f32>,
    pub(super) codes: Codes,
    pub(super) attention: AttentionScratch,
}

/// Every thread's memory.
#[derive(Default)]
pub(super) struct Workers(Vec<Mutex<Worker>>);

impl Scratch {
    /// Makes room for a batch on that many threads, and divides its attention among them.
    pub(super) fn fit(&mut self, config: &BertConfig, threads: usize, batch: &PackedBatch, wanted: Wanted) {
        self.workers.0.resize_with(threads, Mutex::default);
        let (rows, dim) = (batch.total_tokens(), config.hidden_size as usize);
        self.hidden.grow(rows * dim);
        self.attended.grow(rows * dim);
        self.qkv.grow(rows * 3 * dim);
        if wanted == Wanted::First {
            self.first_hidden.grow(batch.len() * dim);
            self.first_attended.grow(batch.len() * dim);
        }
        self.units.clear();
        let total = batch.ranges().flat_map(units).map(|unit| unit.cost()).sum();
        let mut cut = Cut::new(total, threads);
        for unit in batch.ranges().flat_map(units) {
            let (first, second) = cut.split(unit);
            self.units.push(first);
            self.units.extend(second);
        }
    }
}

impl Share for Unit {
    fn rows(&self) -> usize {
        self.queries.len()
    }

    /// A query costs as much as 16 keys besides its keys, and packing a key as much as 4 queries' meeting it (measured
    /// with heads of 32, AVX-512).
    fn cost(&self) -> usize {
        (self.queries.len() + 4) * (self.rows.len() + 16)
    }
}

/// One sequence's attention in units of about one size.
fn units(rows: Range<usize>) -> impl Iterator<Item = Unit> {
    let parts = rows.len().div_ceil(UNIT_QUERIES_MAX).max(1);
    let size = rows.len().div_ceil(parts).max(1);
    let length = rows.len();
    (0..length).step_by(size).map(move |start| Unit { rows: rows.clone(), queries: start..(start + size).min(length) })
}

/// Cuts units where each thread's share of a batch's attention ends, so that none waits for the rest of a sequence.
struct Cut {
    total: usize,
    threads: usize,
    /// Cost of the units so far.
    done: usize,
    /// Threads whose shares are full.
    full: usize,
}

impl Cut {
    fn new(total: usize, threads: usize) -> Self {
        Self { total, threads, done: 0, full: 0 }
    }

    /// The next unit, in two if a share ends well inside it.
    fn split(&mut self, unit: Unit) -> (Unit, Option<Unit>) {
        let (start, cost) = (self.done, unit.cost());
        self.done += cost;
        let end = self.total * (self.full + 1) / self.threads;
        if self.done < end {
            return (unit, None);
        }
        self.full = self.done * self.threads / self.total.max(1);
        let queries = unit.queries.len();
        let first = (queries * (end - start) / cost.max(1)).next_multiple_of(QUERIES_MULTIPLE);
        if first == 0 || first >= queries {
            return (unit, None);
        }
        let middle = unit.queries.start + first;
        let second = Unit { rows: unit.rows.clone(), queries: middle..unit.queries.end };
        (Unit { queries: unit.queries.start..middle, ..unit }, Some(second))
    }
}

impl Worker {
    /// A layer behind its attention, for some rows, on this thread.
    pub(super) fn forward(&mut self, layer: &Layer, attended: &[f32], hidden: &mut [f32]) -> Result<(), ShapeError> {
        let Self { projected, intermediate, codes, .. } = self;
        layer.forward(attended, hidden, (projected, intermediate), |multiply, out| multiply.run(codes, out))
    }
}

impl Workers {
    /// The memory of the thread of the pool that asks. Nothing else asks for it meanwhile: a unit of work does not wait
    /// for another.
    pub(super) fn mine(&self) -> MutexGuard<'_, Worker> {
        let index = rayon::current_thread_index().unwrap_or(0);
        // A unit that panicked leaves numbers behind that the next one overwrites.
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some thread's memory, while none computes.
    pub(super) fn any(&mut self) -> &mut Worker {
        self.0[0].get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths of a batch's sequences, and how many queries each unit has on 2 threads.
    #[test]
    fn units_are_cut_where_a_thread_has_its_share() {
        for (lengths, expected) in [
            (&[][..], &[][..]),
            (&[1], &[1]),
            (&[100], &[54, 46]),
            (&[100, 100], &[100, 100]),
            (&[40, 100], &[40, 42, 58]),
            (&[256], &[128, 128]),
            (&[100, 7], &[54, 46, 7]),
        ] {
            let rows = |start: &mut usize, length: &usize| {
                *start += length;
                Some(*start - length..*start)
            };
            let ranges: Vec<Range<usize>> = lengths.iter().scan(0, rows).collect();
            let total = ranges.iter().cloned().flat_map(units).map(|unit| unit.cost()).sum();
            let mut cut = Cut::new(total, 2);
            let cut: Vec<Unit> = ranges
                .iter()
                .cloned()
                .flat_map(units)
                .map(|unit| cut.split(unit))
                .flat_map(|(first, second)| std::iter::once(first).chain(second))
                .collect();
            let found: Vec<usize> = cut.iter().map(|unit| unit.queries.len()).collect();
            assert_eq!(found, expected, "{lengths:?}");
            let covered = cut.iter().flat_map(|unit| unit.queries.clone().map(|query| unit.rows.start + query));
            assert!(covered.eq(0..lengths.iter().sum()), "{lengths:?}: {cut:?}");
        }
    }

    #[test]
    fn units_cover_a_sequence_once_in_order() {
        for length in [0, 1, 127, 128, 129, 256, 257, 512] {
            let units: Vec<Unit> = units(10..10 + length).collect();
            let covered: Vec<usize> = units.iter().flat_map(|unit| unit.queries.clone()).collect();
            assert_eq!(covered, (0..length).collect::<Vec<_>>());
            assert!(units.iter().all(|unit| unit.rows == (10..10 + length) && unit.queries.len() <= UNIT_QUERIES_MAX));
        }
    }
}
