//! What kernels read: the structures of `kernels/cuda/maxsim`, field by field, and how they become bytes.
#![allow(unsafe_code, reason = "structures are read as the bytes that a device gets")]

use super::plan::{KernelName, LaunchPlan, Launches, Second};

/// Structures that a device reads as they lie.
///
/// # Safety
/// `repr(C)`, numbers only, no padding.
pub(crate) unsafe trait Record: Copy {}

macro_rules! records {
    ($($record:ty),*) => { $(
        // SAFETY: the assertions below hold the sizes to the sums of the fields, so there is no padding.
        unsafe impl Record for $record {}
    )* };
}
records!(Block, Piece, Join, Pair, Arguments, NaiveArguments, u32, f32, half::f16);

const _: () = assert!(size_of::<Block>() == 32 && size_of::<Piece>() == 32 && size_of::<Join>() == 32);
const _: () = assert!(size_of::<Pair>() == 48 && size_of::<Arguments>() == 88 && size_of::<NaiveArguments>() == 40);

/// The bytes of records.
pub(crate) fn bytes_of<T: Record>(records: &[T]) -> &[u8] {
    // SAFETY: a record has no padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(records.as_ptr().cast(), size_of_val(records)) }
}

/// A chunk of a query for one thread block: `Block` of scan.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub query: u64,
    pub row_scales: u64,
    pub rows: u32,
    pub first_row: u32,
    pub join_begin: u32,
    pub join_end: u32,
}

/// A run of a document's rows for one warp: `Piece` of scan.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub rows: u64,
    pub scales: u64,
    pub length: u32,
    pub first_token: u32,
    pub output: u32,
    pub cut: u32,
}

/// A document whose pieces' maxima are joined: `Join` of scan.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Join {
    pub partial: u32,
    pub pieces: u32,
    pub stride: u32,
    pub rows: u32,
    pub score: u32,
    pub alignment: u32,
    pub reserved: [u32; 2],
}

/// A query and a document of the naive kernels: `Pair` of maxsim_naive.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub rows: u64,
    pub scales: u64,
    pub query: u64,
    pub row_scales: u64,
    pub length: u32,
    pub query_rows: u32,
    pub score: u32,
    pub alignment: u32,
}

/// `Arguments` of scan.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub blocks: u64,
    pub warps: u64,
    pub pieces: u64,
    pub joins: u64,
    pub scores: u64,
    pub partials: u64,
    pub partial_tokens: u64,
    pub alignment_values: u64,
    pub alignment_tokens: u64,
    pub cells: u32,
    pub k_blocks: u32,
    pub join_begin: u32,
    pub join_end: u32,
}

/// `NaiveArguments` of maxsim_naive.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NaiveArguments {
    pub pairs: u64,
    pub scores: u64,
    pub alignment_values: u64,
    pub alignment_tokens: u64,
    pub dim: u32,
    pub pitch: u32,
}

/// The one parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter(ParameterOf);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParameterOf {
    Scan(Arguments),
    Naive(NaiveArguments),
}

impl Parameter {
    /// Its bytes, which a launch copies.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            ParameterOf::Scan(arguments) => bytes_of(std::slice::from_ref(arguments)),
            ParameterOf::Naive(arguments) => bytes_of(std::slice::from_ref(arguments)),
        }
    }
}

/// Where rows lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Address of the first row, a multiple of 16; rows are [`LaunchPlan::pitch`] bytes apart.
    pub rows: u64,
    /// int8: address of the rows' scales, f32 each (documents) or as [`query`](super::query) writes them. Else 0.
    pub scales: u64,
}

/// Where everything that a launch reads and writes lies on the device.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// Where the program will lie, a multiple of 16.
    pub program: u64,
    /// Each query of the shape.
    pub queries: &'a [Rows],
    /// Each document of the shape.
    pub documents: &'a [Rows],
    /// One f32 for each document.
    pub scores: u64,
    /// [`LaunchPlan::partials`] f32s that only the launch uses.
    pub partials: u64,
    /// With alignment, as many u32s.
    pub partial_tokens: u64,
    /// With alignment, [`LaunchPlan::alignments`] f32s.
    pub alignment_values: u64,
    /// With alignment, as many u32s.
    pub alignment_tokens: u64,
}

impl LaunchPlan {
    /// Bytes of the program: what [`encode`](Self::encode) writes.
    #[must_use]
    pub fn program_bytes(&self) -> usize {
        let [.., end] = self.sections();
        end
    }

    /// Writes the program, the plan with addresses in place of numbers, and returns the launches that run it.
    ///
    /// # Panics
    /// If `program` has another length than [`program_bytes`](Self::program_bytes), or the placement has fewer queries
    /// or documents than the shape.
    pub fn encode(&self, placement: &Placement<'_>, program: &mut [u8]) -> Launches {
        assert_eq!(program.len(), self.program_bytes(), "the program has a buffer of its size");
        if let KernelName::Naive(_) = self.kernel.name {
            return self.encode_naive(placement, program);
        }
        let [blocks, pieces, joins, warps, _] = self.sections();
        let mut write = Writer { program, at: blocks };
        for block in &self.blocks {
            let query = placement.queries[block.query as usize];
            let scales = if query.scales == 0 { 0 } else { query.scales + 8 * u64::from(block.first_row) };
            write.record(&Block {
                query: query.rows + u64::from(block.first_row) * u64::from(self.pitch),
                row_scales: scales,
                rows: block.rows,
                first_row: block.first_row,
                join_begin: block.joins.start,
                join_end: block.joins.end,
            });
        }
        write.at = pieces;
        for piece in &self.pieces {
            let document = placement.documents[piece.document as usize];
            let scales = if document.scales == 0 { 0 } else { document.scales + 4 * u64::from(piece.rows.start) };
            write.record(&Piece {
                rows: document.rows + u64::from(piece.rows.start) * u64::from(self.pitch),
                scales,
                length: piece.rows.end - piece.rows.start,
                first_token: piece.rows.start,
                output: piece.output,
                cut: u32::from(piece.cut),
            });
        }
        write.at = joins;
        self.joins.iter().for_each(|join| write.record(join));
        write.at = warps;
        self.warps.iter().for_each(|pieces| write.record(pieces));
        let address = |section: usize| placement.program + section as u64;
        let arguments = Arguments {
            blocks: address(blocks),
            warps: address(warps),
            pieces: address(pieces),
            joins: address(joins),
            scores: placement.scores,
            partials: placement.partials,
            partial_tokens: placement.partial_tokens,
            alignment_values: placement.alignment_values,
            alignment_tokens: placement.alignment_tokens,
            cells: self.pitch / 16,
            k_blocks: self.k_blocks,
            join_begin: self.rest.start,
            join_end: self.rest.end,
        };
        let parameter = Parameter(ParameterOf::Scan(arguments));
        let second = self.second.map(|(kernel, grid)| Second { kernel, grid });
        Launches { parameter, second }
    }

    fn encode_naive(&self, placement: &Placement<'_>, program: &mut [u8]) -> Launches {
        let mut write = Writer { program, at: 0 };
        for pair in &self.pairs {
            let (query, document) =
                (placement.queries[pair.query as usize], placement.documents[pair.document as usize]);
            write.record(&Pair {
                rows: document.rows,
                scales: document.scales,
                query: query.rows,
                row_scales: query.scales,
                length: pair.length,
                query_rows: pair.query_rows,
                score: pair.document,
                alignment: pair.alignment,
            });
        }
        let arguments = NaiveArguments {
            pairs: placement.program,
            scores: placement.scores,
            alignment_values: placement.alignment_values,
            alignment_tokens: placement.alignment_tokens,
            dim: self.dim,
            pitch: self.pitch,
        };
        Launches { parameter: Parameter(ParameterOf::Naive(arguments)), second: None }
    }

    /// Where blocks, pieces, joins and warps begin, and the end of it all.
    fn sections(&self) -> [usize; 5] {
        let pieces = self.blocks.len() * size_of::<Block>();
        let joins = pieces + self.pieces.len() * size_of::<Piece>();
        let warps = joins + self.joins.len() * size_of::<Join>();
        let end = warps + self.warps.len() * size_of::<u32>() + self.pairs.len() * size_of::<Pair>();
        [0, pieces, joins, warps, end]
    }
}

struct Writer<'a> {
    program: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn record<T: Record>(&mut self, record: &T) {
        let bytes = bytes_of(std::slice::from_ref(record));
        self.program[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}
