//! MaxSim of one query against many documents beside maxsim-cpu and NumPy: the same vectors, one thread each.
//!
//! | case | documents |
//! |---|---|
//! | `DIM/STORAGE` | as many as make 92 MB in f32 (1,000 at 128 components), far more than the caches take |
//! | `DIM/f32/avx2` | the same, with AVX2 on a machine that has more |
//! | `DIM/STORAGE/N threads` | the same, divided among threads, beside one thread; and beside reading them |
//! | `DIM/STORAGE/cached` | two that stay in the caches, beside a loop of the multiply-adds that bound them |
//!
//! Operations are those of the formula, 2 · query tokens · document tokens · components, whatever was done: f32 and f16
//! can exceed what multiply-adds alone reach, since AVX-512 need not compute all of them.
//!
//! Vectors are random, of length 1, from a fixed seed. Every score is compared with NumPy's, and some with the f64
//! reference over what is stored: a run in which they disagree fails. maxsim-cpu 0.1.0 crashes at 384 components, so
//! that it is a rival at 128 alone.

mod huge_pages;
mod ours;
mod rival;
mod turns;
mod vectors;

use std::num::NonZero;

use sluice_kernels::{InstructionSet, Isa, maxsim::PackedQuery, tokens::Storage};

use crate::{
    machine::Machine,
    report::{Report, Row, Spread},
};
use ours::{Ours, Peak, Reading, Threads};
use rival::{Loaded, Rivals};
use turns::{Contender, Track, take_turns};
use vectors::Vectors;

/// What is measured, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Documents at 128 components; at others as many as make as many bytes.
    pub documents: usize,
    /// Token vectors of a document.
    pub tokens: usize,
    /// Token vectors of the query.
    pub query_tokens: usize,
    /// Threads of the cases with several.
    pub threads: NonZero<usize>,
    /// Passes over the contenders of a case.
    pub passes: usize,
}

/// Components of a vector, as models have them.
const DIMS: [usize; 4] = [128, 384, 768, 1024];
/// The dimension at which `documents` counts, and every case is measured.
const MAIN_DIM: usize = DIMS[0];
/// How many times as fast as maxsim-cpu each storage should be.
const TARGETS: [(Storage, Option<f64>); 4] =
    [(Storage::F32, Some(5.0)), (Storage::F16, Some(5.0)), (Storage::Int8, Some(10.0)), (Storage::Binary, None)];
const AVX2_TARGET: f64 = 2.5;
const THREADS_TARGET: f64 = 1.7;
const CACHED_TARGET: f64 = 0.8;
/// Documents of a cached case.
const CACHED: usize = 2;

/// Runs the scenario. The report's `faults` say where ours and the rivals disagree.
///
/// # Errors
/// If the rivals are not to be had, or one fails.
pub fn run(options: &Options, machine: &Machine) -> anyhow::Result<Report> {
    let scratch = tempfile::Builder::new().prefix("bench-").tempdir_in(&machine.cache)?;
    let mut rivals = Rivals::start(machine, scratch.path())?;
    let mut report = Report {
        scenario: "maxsim",
        host: machine.host(options.threads.get()),
        commit: machine.commit(),
        rows: Vec::new(),
        notes: vec![
            format!(
                "documents of {} token vectors, {} query token vectors, {} passes; a turn is the fastest of {} runs; one \
                 thread unless a case says otherwise",
                options.tokens,
                options.query_tokens,
                options.passes,
                turns::RUNS
            ),
            format!("{}; ours on {}", rivals.description(), Isa::best().name()),
        ],
        faults: Vec::new(),
    };
    for dim in DIMS {
        (machine.progress)(&format!("{dim} components"));
        let documents = (options.documents * MAIN_DIM / dim).max(CACHED);
        let vectors = Vectors::random(documents, options.tokens, options.query_tokens, dim);
        let loaded = rivals.load(&vectors, scratch.path())?;
        report.notes.push(format!("{dim}: {documents} documents; NumPy's fastest is {}", loaded.numpy()));
        beside_rivals(&vectors, &loaded, options, machine, &mut report)?;
        cached(&vectors, options, machine, &mut report)?;
        if dim == MAIN_DIM && options.threads.get() > 1 {
            beside_one_thread(&vectors, options, machine, &mut report)?;
        }
    }
    Ok(report)
}

/// All storages, and AVX2, beside the rivals.
fn beside_rivals(
    vectors: &Vectors,
    loaded: &Loaded<'_>,
    options: &Options,
    machine: &Machine,
    report: &mut Report,
) -> anyhow::Result<()> {
    let main = vectors.dim == MAIN_DIM;
    let query = packed(Isa::best(), vectors)?;
    let avx2 = Isa::of(InstructionSet::Avx2).filter(|isa| main && *isa != Isa::best());
    let avx2 = avx2.map(|isa| packed(isa, vectors)).transpose()?;
    let mut contenders: Vec<Box<dyn Contender + '_>> = vec![Box::new(loaded.contender("numpy"))];
    for (storage, _) in TARGETS {
        contenders.push(Box::new(Ours::new(&query, vectors.stored(storage), Threads::One, machine.clock)));
    }
    if main {
        contenders.push(Box::new(loaded.contender("maxsim-cpu")));
    }
    if let Some(query) = &avx2 {
        contenders.push(Box::new(Ours::new(query, vectors.stored(Storage::F32), Threads::One, machine.clock)));
    }
    let tracks = take_turns(&mut contenders, options.passes)?;
    let (numpy, ours) = (&tracks[0], &tracks[1..=TARGETS.len()]);
    let per_second = vectors.documents as f64;
    for ((storage, target), track) in TARGETS.into_iter().zip(ours) {
        let case = format!("{}/{}", vectors.dim, storage.name());
        if main {
            report.rows.push(row(&case, "documents/s", per_second, (track, &tracks[TARGETS.len() + 1]), target));
        }
        report.rows.push(row(&case, "documents/s", per_second, (track, numpy), None));
        report.faults.extend(vectors.faults(&case, storage, &track.scores, &numpy.scores));
    }
    if avx2.is_some() {
        let (maxsim_cpu, track) = (&tracks[TARGETS.len() + 1], &tracks[TARGETS.len() + 2]);
        let case = format!("{}/f32/avx2", vectors.dim);
        report.rows.push(row(&case, "documents/s", per_second, (track, maxsim_cpu), Some(AVX2_TARGET)));
        report.faults.extend(vectors.faults(&case, Storage::F32, &track.scores, &numpy.scores));
    }
    Ok(())
}

/// Two documents, over and over, beside the instructions alone.
fn cached(vectors: &Vectors, options: &Options, machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    let few = vectors.first(CACHED);
    let isa = Isa::best();
    let query = packed(isa, &few)?;
    for storage in [Storage::F32, Storage::F16, Storage::Int8] {
        let mut ours = Ours::new(&query, few.stored(storage), Threads::One, machine.clock);
        ours.repeat_for(few.operations());
        let operations = ours.repeats() as f64 * few.operations() as f64;
        let mut peak = Peak::new(isa, storage, operations, machine.clock);
        let tracks = take_turns::<&mut dyn Contender>(&mut [&mut ours, &mut peak], options.passes)?;
        let case = format!("{}/{}/cached", few.dim, storage.name());
        let target = (storage == Storage::F32 && few.dim == MAIN_DIM).then_some(CACHED_TARGET);
        report.rows.push(row(&case, "Gop/s", operations / 1e9, (&tracks[0], &tracks[1]), target));
    }
    Ok(())
}

/// Documents divided among threads, beside one thread, and beside threads that only read them.
fn beside_one_thread(
    vectors: &Vectors,
    options: &Options,
    machine: &Machine,
    report: &mut Report,
) -> anyhow::Result<()> {
    let query = packed(Isa::best(), vectors)?;
    let threads = options.threads;
    for storage in [Storage::F32, Storage::F16, Storage::Int8] {
        let stored = vectors.stored(storage);
        let mut one = Ours::new(&query, stored, Threads::One, machine.clock);
        let mut several = Ours::new(&query, stored, Threads::All, machine.clock);
        let mut reading = Reading::new(stored, machine.clock);
        let contenders: &mut [&mut dyn Contender] = &mut [&mut one, &mut several, &mut reading];
        let tracks = take_turns(contenders, options.passes)?;
        let case = format!("{}/{}/{threads} threads", vectors.dim, storage.name());
        let target = Some(THREADS_TARGET);
        report.rows.push(row(&case, "documents/s", vectors.documents as f64, (&tracks[1], &tracks[0]), target));
        let gigabytes = reading.bytes() as f64 / 1e9;
        let share = row(&case, "GB/s", gigabytes, (&tracks[1], &tracks[2]), None);
        let bound = tracks[0].fastest() / tracks[2].fastest();
        report.notes.push(format!(
            "{case}: reading alone takes 1/{bound:.2} of one thread's time, {:.1} GB/s; {:.0} % of that is reached, so \
             that the bound is {}",
            share.rival_value.median,
            100.0 * share.ratio.median,
            if bound < threads.get() as f64 { "memory" } else { "arithmetic" },
        ));
        report.rows.push(share);
    }
    Ok(())
}

fn packed(isa: Isa, vectors: &Vectors) -> anyhow::Result<PackedQuery> {
    Ok(PackedQuery::new(isa, &vectors.query, vectors.dim)?)
}

fn row(case: &str, unit: &'static str, amount: f64, (ours, rival): (&Track, &Track), target: Option<f64>) -> Row {
    let rate = |track: &Track| Spread::of(track.seconds.iter().map(|seconds| amount / seconds));
    Row {
        case: case.to_owned(),
        unit,
        ours: rate(ours),
        rival: rival.name.clone(),
        rival_value: rate(rival),
        ratio: Spread::of(ours.seconds.iter().zip(&rival.seconds).map(|(ours, rival)| rival / ours)),
        target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_amounts_a_second_and_ratios_pass_by_pass() {
        let track = |name: &str, seconds: &[f64]| Track {
            name: name.to_owned(),
            seconds: seconds.to_vec(),
            scores: Vec::new(),
        };
        let row =
            row("128/f32", "documents/s", 10.0, (&track("ours", &[1.0, 2.0]), &track("other", &[5.0, 6.0])), Some(5.0));
        assert_eq!((row.ours.max, row.rival_value.max, row.rival.as_str()), (10.0, 2.0, "other"));
        assert_eq!(row.ratio, Spread { median: 4.0, min: 3.0, max: 5.0 });
    }
}
