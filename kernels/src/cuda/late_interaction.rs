//! MaxSim between rows that an encoder has left on the device: no vector goes to the host and back.
//!
//! The kernels and their plan are those of [`maxsim`](super::maxsim), in f16. What they read of a plan, the *program*,
//! has addresses in it: it is made here, from regions that were checked, and a device copies it behind the encoder's
//! operations.

use std::fmt;

use super::{
    encoder::{Arena, Matrix, OpError, Region},
    maxsim::{
        arguments::{Placement, Rows},
        plan::{DeviceShape, LaunchPlan, Launches, PlanError, QueryShape, Shape, Step, Unit},
    },
};
use crate::tokens::Storage;

/// A query's rows and how many documents they are compared with.
#[derive(Clone, Copy, Debug)]
pub struct CompareQuery {
    /// Token vectors, each of whole 16 bytes and without gaps between them.
    pub rows: Matrix,
    /// Its documents: the next so many.
    pub documents: u32,
}

/// What is compared, and where the results go.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    /// Each followed by its documents.
    pub queries: &'a [CompareQuery],
    /// Token vectors of all queries' documents, as those of the queries.
    pub documents: &'a [Matrix],
    /// A score for each document, at least.
    pub scores: Region<f32>,
    /// Room for the program.
    pub program: Region<u32>,
    /// Room for what launches leave each other.
    pub partials: Region<f32>,
}

/// Why nothing is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareError {
    /// The kernels cannot.
    Plan(PlanError),
    /// Rows of other widths than the first query's, or with gaps, or beyond the arena.
    Rows,
    /// Less room than the plan needs. Fewer documents may fit.
    Room {
        /// Which region.
        region: &'static str,
        /// Bytes that are needed.
        needed: usize,
        /// Bytes that there are.
        found: usize,
    },
}

impl fmt::Display for CompareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(error) => error.fmt(f),
            Self::Rows => f.write_str("rows that are compared have one width, no gaps, and lie in the arena"),
            Self::Room { region, needed, found } => write!(f, "{region} needs {needed} bytes and has {found}"),
        }
    }
}

impl std::error::Error for CompareError {}

impl From<OpError> for CompareError {
    fn from(_: OpError) -> Self {
        Self::Rows
    }
}

/// A comparison's plan; kept from one to the next, so that planning allocates nothing once it has seen its largest.
#[derive(Debug, Default)]
pub struct ComparePlan {
    plan: LaunchPlan,
    query_shapes: Vec<QueryShape>,
    lengths: Vec<u32>,
    queries: Vec<Rows>,
    documents: Vec<Rows>,
}

/// A launch of a comparison; all of one comparison take the same parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompareLaunch {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Where it was compiled.
    pub unit: Unit,
    /// Thread blocks.
    pub grid: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl ComparePlan {
    /// Plans a comparison on a device, and writes its program, whose words are to be copied to
    /// [`Comparison::program`].
    ///
    /// # Errors
    /// [`CompareError`]; nothing is to be launched then.
    pub fn encode(
        &mut self,
        comparison: &Comparison<'_>,
        device: &DeviceShape,
        arena: Arena,
        program: &mut Vec<u8>,
    ) -> Result<Launches, CompareError> {
        let dim = comparison.queries.first().map_or(8, |query| query.rows.column_count());
        self.read(comparison, dim, arena)?;
        let shape =
            Shape { storage: Storage::F16, dim, queries: &self.query_shapes, lengths: &self.lengths, alignment: false };
        self.plan.rebuild(&shape, device, Step::Stream).map_err(CompareError::Plan)?;
        let room = |region, needed, found| match needed <= found {
            true => Ok(()),
            false => Err(CompareError::Room { region, needed, found }),
        };
        room("the program", self.plan.program_bytes(), comparison.program.bytes())?;
        room("partials", 4 * self.plan.partials, comparison.partials.bytes())?;
        room("scores", 4 * self.lengths.len(), comparison.scores.bytes())?;
        program.clear();
        program.resize(self.plan.program_bytes(), 0);
        let placement = Placement {
            program: arena.address("program", &comparison.program)?,
            queries: &self.queries,
            documents: &self.documents,
            scores: arena.address("scores", &comparison.scores)?,
            partials: arena.address("partials", &comparison.partials)?,
            partial_tokens: 0,
            alignment_values: 0,
            alignment_tokens: 0,
        };
        Ok(self.plan.encode(&placement, program))
    }

    /// What is launched for the program that was encoded last.
    #[must_use]
    pub fn launches(&self, launches: &Launches) -> Vec<CompareLaunch> {
        let LaunchPlan { kernel, grid, block, shared_bytes, .. } = self.plan;
        if grid == 0 {
            return Vec::new();
        }
        let first = CompareLaunch { kernel: kernel.name(), unit: kernel.unit, grid, threads: block, shared_bytes };
        let second = launches.second.map(|second| CompareLaunch {
            kernel: second.kernel,
            unit: Unit::Mma,
            grid: second.grid,
            threads: block,
            shared_bytes: 0,
        });
        [first].into_iter().chain(second).collect()
    }

    fn read(&mut self, comparison: &Comparison<'_>, dim: usize, arena: Arena) -> Result<(), CompareError> {
        let rows = |matrix: &Matrix| {
            // Kernels read whole 16 bytes, and take the next row to follow at once.
            let fits = matrix.column_count() == dim && matrix.pitch() == dim && dim.is_multiple_of(8);
            let length = u32::try_from(matrix.row_count()).map_err(|_| CompareError::Rows)?;
            if !fits {
                return Err(CompareError::Rows);
            }
            Ok((Rows { rows: arena.matrix("rows", matrix)?, scales: 0 }, length))
        };
        self.query_shapes.clear();
        self.queries.clear();
        for query in comparison.queries {
            let (place, length) = rows(&query.rows)?;
            self.queries.push(place);
            self.query_shapes.push(QueryShape { rows: length, documents: query.documents });
        }
        self.lengths.clear();
        self.documents.clear();
        for document in comparison.documents {
            let (place, length) = rows(document)?;
            self.documents.push(place);
            self.lengths.push(length);
        }
        Ok(())
    }
}
