//! Our kernels, and what bounds them.

use std::{hint::black_box, time::Duration};

use rayon::prelude::*;
use sluice_kernels::{
    Isa,
    maxsim::PackedQuery,
    peak,
    tokens::{Storage, Tokens},
};

use super::{turns::Contender, vectors::Stored};

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread.
    One,
    /// rayon's.
    All,
}

/// Documents that a thread takes at a time.
const DOCUMENTS_AT_A_TIME: usize = 16;
/// Operations of a run over few documents: about a millisecond.
const OPERATIONS_MIN: u64 = 1 << 27;

/// MaxSim of every document.
pub(super) struct Ours<'a> {
    query: &'a PackedQuery,
    stored: Stored<'a>,
    threads: Threads,
    repeats: u64,
    clock: fn() -> Duration,
}

impl<'a> Ours<'a> {
    pub(super) fn new(query: &'a PackedQuery, stored: Stored<'a>, threads: Threads, clock: fn() -> Duration) -> Self {
        Self { query, stored, threads, repeats: 1, clock }
    }

    /// Goes over the documents, which take so many operations, until the clock can tell.
    pub(super) fn repeat_for(&mut self, operations: u64) {
        self.repeats = OPERATIONS_MIN.div_ceil(operations.max(1));
    }

    /// Passes over the documents of a run.
    pub(super) fn repeats(&self) -> u64 {
        self.repeats
    }

    fn score(&self, scores: &mut [f32]) -> anyhow::Result<()> {
        let Self { query, stored, .. } = self;
        match self.threads {
            Threads::One => query.score_all((0..stored.documents).map(|index| stored.document(index)), scores)?,
            Threads::All => {
                scores.par_chunks_mut(DOCUMENTS_AT_A_TIME).enumerate().try_for_each(|(chunk, scores)| {
                    let first = chunk * DOCUMENTS_AT_A_TIME;
                    let documents = first..first + scores.len();
                    query.score_all(documents.map(|index| stored.document(index)), scores)
                })?;
            }
        }
        Ok(())
    }
}

impl Contender for Ours<'_> {
    fn name(&self) -> String {
        match self.threads {
            Threads::One => "one thread".to_owned(),
            Threads::All => "threads".to_owned(),
        }
    }

    fn run(&mut self) -> anyhow::Result<(f64, Vec<f32>)> {
        let mut scores = vec![f32::NAN; self.stored.documents];
        let started = (self.clock)();
        for _ in 0..self.repeats {
            self.score(black_box(&mut scores))?;
        }
        Ok((((self.clock)() - started).as_secs_f64(), scores))
    }
}

/// The instructions that bound a storage, on registers alone.
pub(super) struct Peak {
    isa: Isa,
    storage: Storage,
    rounds: u64,
    /// Operations asked for, of those done.
    share: f64,
    clock: fn() -> Duration,
}

impl Peak {
    /// At least `operations` of them; the time is reported for exactly as many.
    pub(super) fn new(isa: Isa, storage: Storage, operations: f64, clock: fn() -> Duration) -> Self {
        let mut peak = Self { isa, storage, rounds: 1, share: 1.0, clock };
        peak.rounds = (operations / peak.multiply(1) as f64).ceil() as u64;
        peak.share = operations / peak.multiply(peak.rounds) as f64;
        peak
    }

    fn multiply(&self, rounds: u64) -> u64 {
        match self.storage {
            Storage::F32 | Storage::F16 => peak::multiply_f32(self.isa, rounds),
            Storage::Int8 | Storage::Binary => peak::multiply_int8(self.isa, rounds),
        }
    }
}

impl Contender for Peak {
    fn name(&self) -> String {
        let operation = match self.storage {
            Storage::F32 | Storage::F16 => "f32",
            Storage::Int8 | Storage::Binary => "int8",
        };
        format!("{operation} multiply-adds alone")
    }

    fn run(&mut self) -> anyhow::Result<(f64, Vec<f32>)> {
        let started = (self.clock)();
        black_box(self.multiply(self.rounds));
        Ok((((self.clock)() - started).as_secs_f64() * self.share, Vec::new()))
    }
}

/// Reading the documents with all threads, and nothing else.
pub(super) struct Reading {
    words: Vec<u64>,
    clock: fn() -> Duration,
}

/// Words that a thread takes at a time: 256 KiB.
const WORDS_AT_A_TIME: usize = 32 * 1024;

impl Reading {
    /// As many bytes as these documents have.
    pub(super) fn new(stored: Stored<'_>, clock: fn() -> Duration) -> Self {
        let rows = stored.documents * stored.tokens;
        let scales = if matches!(stored.rows, Tokens::Int8 { .. }) { 4 } else { 0 };
        let bytes = rows * (stored.rows.storage().row_bytes(stored.dim) + scales);
        // Written, so that every page is there.
        Self { words: (0..(bytes / 8) as u64).collect(), clock }
    }

    /// How many that is.
    pub(super) fn bytes(&self) -> usize {
        self.words.len() * 8
    }
}

impl Contender for Reading {
    fn name(&self) -> String {
        "reading alone".to_owned()
    }

    fn run(&mut self) -> anyhow::Result<(f64, Vec<f32>)> {
        let isa = Isa::best();
        let started = (self.clock)();
        let sum =
            self.words.par_chunks(WORDS_AT_A_TIME).map(|words| peak::read(isa, words)).reduce(|| 0, u64::wrapping_add);
        let seconds = ((self.clock)() - started).as_secs_f64();
        black_box(sum);
        Ok((seconds, Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::vectors::Vectors, *};

    fn tick() -> Duration {
        use std::sync::atomic::{AtomicU64, Ordering};
        static TICKS: AtomicU64 = AtomicU64::new(0);
        Duration::from_secs(TICKS.fetch_add(1, Ordering::Relaxed))
    }

    #[test]
    fn threads_and_repeats_give_the_same_scores() {
        let vectors = Vectors::random(40, 5, 4, 24);
        let query = PackedQuery::new(Isa::best(), &vectors.query, 24).unwrap();
        for storage in [Storage::F32, Storage::Int8] {
            let run = |threads, repeats| {
                let mut ours = Ours::new(&query, vectors.stored(storage), threads, tick);
                ours.repeats = repeats;
                ours.run().unwrap().1
            };
            let one = run(Threads::One, 1);
            assert_eq!((run(Threads::All, 1), run(Threads::One, 3)), (one.clone(), one));
        }
        let mut ours = Ours::new(&query, vectors.stored(Storage::F32), Threads::One, tick);
        ours.repeat_for(OPERATIONS_MIN / 2 - 1);
        assert_eq!(ours.repeats(), 3);
    }

    #[test]
    fn bytes_are_those_of_the_documents() {
        let vectors = Vectors::random(4, 2, 1, 16);
        for (storage, bytes) in [(Storage::F32, 512), (Storage::F16, 256), (Storage::Int8, 160), (Storage::Binary, 16)]
        {
            assert_eq!(Reading::new(vectors.stored(storage), tick).bytes(), bytes, "{storage:?}");
        }
    }

    #[test]
    fn peaks_do_the_operations_asked_for() {
        let peak = Peak::new(Isa::fallback(), Storage::F32, 1e6, tick);
        assert!(peak.share > 0.99 && peak.share <= 1.0, "{}", peak.share);
    }
}
