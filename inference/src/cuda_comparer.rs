//! Comparing token vectors on a CUDA device, which keeps documents that have a name.
//!
//! Not yet run on a GPU: what is tested is everything up to the device's calls, and the kernels on a CPU.
//!
//! Documents of one storage and dimension share an arena in the device's memory. What no CUDA kernel reads, what is
//! beyond [`LAYOUTS_MAX`] and what the device has no room for, is compared on the CPU.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use sluice_core::{
    Operation,
    backend::{Backend, BackendError, BackendLimits, BatchOutput, DeviceCache, Ticket},
    batch::{Alignment, Comparison, PackedBatch, TokenMatch},
};
use sluice_kernels::{
    cuda::{
        CudaDevice, CudaError,
        maxsim::{self, Document, Layout, MaxSimDevice, Query, Request, ScoreError},
    },
    tokens::Storage,
};

use crate::{
    comparer::{CpuComparer, comparisons, tokens},
    submitted::Submitted,
};

/// Storages and dimensions that have an arena. Protects the device's memory.
const LAYOUTS_MAX: usize = 4;
/// An arena that does not fit is halved so often before the device counts as full.
const ARENA_HALVINGS_MAX: u32 = 6;

/// Computes [`Operation::MaxSim`] and [`Operation::Align`] for every model of a server.
pub struct CudaComparer {
    ordinal: usize,
    arena_bytes: usize,
    arenas: HashMap<(Storage, usize), MaxSimDevice>,
    /// Layouts for which the device had no room; asked again when it is rebuilt.
    without_room: HashSet<(Storage, usize)>,
    cpu: CpuComparer,
    submitted: Submitted<Arc<PackedBatch>>,
}

impl CudaComparer {
    /// On the device of that number, with `arena_bytes` of its memory for the documents of each storage and dimension
    /// that is met. `cpu` takes what no kernel reads, and gives its limits.
    ///
    /// # Errors
    /// [`CudaError`] says what is missing: known in milliseconds, without a panic.
    pub fn open(ordinal: usize, arena_bytes: usize, cpu: CpuComparer) -> Result<Self, CudaError> {
        drop(CudaDevice::open(ordinal)?);
        let limits = cpu.limits();
        Ok(Self {
            ordinal,
            arena_bytes,
            arenas: HashMap::new(),
            without_room: HashSet::new(),
            cpu,
            submitted: Submitted::new(limits),
        })
    }

    fn compute(&mut self, batch: &PackedBatch) -> Result<BatchOutput, BackendError> {
        let comparisons = comparisons(batch)?;
        let mut results = vec![Alignment { score: 0.0, matches: Vec::new() }; comparisons.len()];
        let align = match batch.lane().operation {
            Operation::MaxSim => false,
            Operation::Align => true,
            operation => return Err(BackendError::Failed(format!("{} is for a model's backend", operation.name()))),
        };
        for (layout, places) in by_layout(&comparisons) {
            let own: Vec<&Comparison> = places.iter().map(|place| comparisons[*place]).collect();
            let compared = match self.arena(layout)? {
                Some(arena) => on_device(arena, &own, align)?,
                None => self.cpu.align_or_score(&own, align)?,
            };
            for (place, result) in places.into_iter().zip(compared) {
                results[place] = result;
            }
        }
        Ok(if align {
            BatchOutput::Alignments(results)
        } else {
            BatchOutput::Scores(results.into_iter().map(|result| result.score).collect())
        })
    }

    /// The arena of a layout, made when it is first met; `None` for one that is compared on the CPU.
    fn arena(&mut self, (storage, dim): (Storage, usize)) -> Result<Option<&mut MaxSimDevice>, BackendError> {
        let known = self.arenas.contains_key(&(storage, dim));
        if !known {
            let on_cpu = storage == Storage::Binary || self.without_room.contains(&(storage, dim));
            if on_cpu || self.arenas.len() == LAYOUTS_MAX {
                return Ok(None);
            }
            let device = CudaDevice::open(self.ordinal).map_err(failure)?;
            match reserve(device, Layout { storage, dim }, self.arena_bytes, self.ordinal) {
                Ok(arena) => drop(self.arenas.insert((storage, dim), arena)),
                Err(BackendError::OutOfMemory) => {
                    self.without_room.insert((storage, dim));
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.arenas.get_mut(&(storage, dim)))
    }
}

impl Backend for CudaComparer {
    fn limits(&self) -> BackendLimits {
        self.submitted.limits()
    }

    fn submit(&mut self, batch: Arc<PackedBatch>) -> Result<Ticket, BackendError> {
        self.submitted.submit(batch)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<BatchOutput, BackendError> {
        let batch = self.submitted.pop(&ticket)?;
        self.compute(&batch)
    }

    fn release(&mut self) {
        self.submitted.clear();
        self.arenas.clear();
        self.without_room.clear();
    }

    fn rebuild(&mut self) -> Result<(), BackendError> {
        self.release();
        CudaDevice::open(self.ordinal).map(drop).map_err(failure)
    }

    fn device_cache(&self) -> Option<DeviceCache> {
        let mut sum = DeviceCache::default();
        for counters in self.arenas.values().map(MaxSimDevice::counters) {
            sum.hits += counters.hits;
            sum.misses += counters.misses;
            sum.evictions += counters.evictions;
            sum.documents += counters.documents as u64;
            sum.bytes += counters.bytes as u64;
        }
        Some(sum)
    }
}

/// As much of `bytes` as the device has.
fn reserve(mut device: CudaDevice, layout: Layout, bytes: usize, ordinal: usize) -> Result<MaxSimDevice, BackendError> {
    for halvings in 0..ARENA_HALVINGS_MAX {
        match MaxSimDevice::new(device, layout, bytes >> halvings) {
            Ok(arena) => return Ok(arena),
            Err(CudaError::OutOfMemory { .. }) => device = CudaDevice::open(ordinal).map_err(failure)?,
            Err(error) => return Err(failure(error)),
        }
    }
    Err(BackendError::OutOfMemory)
}

/// Where the documents of each storage and dimension stand, in order of their first.
fn by_layout(comparisons: &[&Comparison]) -> Vec<((Storage, usize), Vec<usize>)> {
    let mut groups: Vec<((Storage, usize), Vec<usize>)> = Vec::new();
    for (place, comparison) in comparisons.iter().enumerate() {
        let layout = (tokens(&*comparison.document).storage(), comparison.document.dim());
        match groups.iter_mut().find(|(known, _)| *known == layout) {
            Some((_, places)) => places.push(place),
            None => groups.push((layout, vec![place])),
        }
    }
    groups
}

/// Every document of one layout, each run of one query's after the other.
fn on_device(
    arena: &mut MaxSimDevice,
    comparisons: &[&Comparison],
    align: bool,
) -> Result<Vec<Alignment>, BackendError> {
    let mut queries = Vec::new();
    let mut documents = Vec::with_capacity(comparisons.len());
    for run in comparisons.chunk_by(|a, b| Arc::ptr_eq(&a.query, &b.query)) {
        let query = run[0].query.get();
        let query = query.ok_or_else(|| BackendError::Failed("a query's vectors are not there".to_owned()))?;
        if run.iter().any(|comparison| comparison.document.dim() != query.dim) {
            return Err(BackendError::Failed(format!("a query of {} components meets another document", query.dim)));
        }
        let count = u32::try_from(run.len()).map_err(|error| BackendError::Failed(error.to_string()))?;
        queries.push((query, Query { rows: &query.data, documents: count }));
        documents.extend(run.iter().map(|comparison| match comparison.document.key() {
            Some(key) => Document::Keep(key, tokens(&*comparison.document)),
            None => Document::Host(tokens(&*comparison.document)),
        }));
    }
    let asked: Vec<Query<'_>> = queries.iter().map(|(_, query)| *query).collect();
    let request = Request { queries: &asked, documents: &documents };
    let mut scores = vec![0.0; documents.len()];
    let mut found = maxsim::Alignment::default();
    if align {
        arena.align(&request, &mut scores, &mut found).map_err(score_failure)?;
    } else {
        arena.score(&request, &mut scores).map_err(score_failure)?;
    }
    let mut matches = found
        .values
        .into_iter()
        .zip(found.tokens)
        .map(|(similarity, token)| TokenMatch { document_token: (token != u32::MAX).then_some(token), similarity });
    let rows = queries.iter().flat_map(|(query, asked)| std::iter::repeat_n(query.rows(), asked.documents as usize));
    let result = |(score, rows): (f32, usize)| Alignment {
        score,
        matches: matches.by_ref().take(if align { rows } else { 0 }).collect(),
    };
    Ok(scores.into_iter().zip(rows).map(result).collect())
}

fn score_failure(error: ScoreError) -> BackendError {
    match error {
        ScoreError::Cuda(error) => failure(error),
        ScoreError::Request(error) => BackendError::Failed(error.to_string()),
    }
}

/// What a device's failure means to the executor.
pub(crate) fn failure(error: CudaError) -> BackendError {
    match error {
        CudaError::OutOfMemory { .. } => BackendError::OutOfMemory,
        CudaError::Launch { .. } => BackendError::Failed(error.to_string()),
        CudaError::Lost { .. }
        | CudaError::LibraryMissing { .. }
        | CudaError::DriverTooOld { .. }
        | CudaError::NoDevice { .. }
        | CudaError::TooOld { .. } => BackendError::DeviceLost(error.to_string()),
    }
}
