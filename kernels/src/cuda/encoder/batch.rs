//! A batch on its way to the device, and where it lies there.
//!
//! | region | words | holds |
//! |---|---|---|
//! | `tokens`, `sequences`, `tiles` | 1 each | how many there are |
//! | `cu_seqlens` | `sequences + 1` | first row of each sequence, then `tokens` |
//! | `tile_table` | 2 for each tile | the attention's tiles: sequence, first query in it |
//! | `input_ids`, `token_types`, `positions` | `tokens` each | |
//!
//! They lie end to end, so that one copy brings them. A tile is up to 64 queries of one sequence; full ones come first.

use std::fmt;

use super::{
    launch::OpError,
    memory::{ArenaLayout, Region},
};

/// Queries of a tile of attention.
pub(super) const TILE_QUERIES: usize = 64;

/// What a batch holds at most. Launches are sized by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens of all sequences.
    pub tokens: usize,
    /// Sequences, not more than tokens.
    pub sequences: usize,
}

/// How many rows the tables of embeddings have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Word embeddings.
    pub ids: u32,
    /// Token-type embeddings.
    pub token_types: u32,
    /// Position embeddings.
    pub positions: u32,
}

/// Packed sequences.
#[derive(Clone, Copy, Debug)]
pub struct HostBatch<'a> {
    /// `[tokens]`.
    pub input_ids: &'a [u32],
    /// `[tokens]`.
    pub token_types: &'a [u32],
    /// First row of each sequence, then `tokens`: `[sequences + 1]`.
    pub cu_seqlens: &'a [u32],
    /// Position of a sequence's first token: 0 for BERT, the padding's id and 1 for RoBERTa.
    pub first_position: u32,
}

/// Where a batch lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchRegions {
    /// How many tokens: `[1]`.
    pub tokens: Region<u32>,
    /// How many sequences: `[1]`.
    pub sequences: Region<u32>,
    /// How many tiles: `[1]`.
    pub tiles: Region<u32>,
    /// `[capacity.sequences + 1]`.
    pub cu_seqlens: Region<u32>,
    /// Sequence and first query, `[tiles, 2]`.
    pub tile_table: Region<u32>,
    /// `[capacity.tokens]`.
    pub input_ids: Region<u32>,
    /// `[capacity.tokens]`.
    pub token_types: Region<u32>,
    /// `[capacity.tokens]`.
    pub positions: Region<u32>,
    /// What launches are sized for.
    pub capacity: Capacity,
    /// All of the above.
    pub whole: Region<u32>,
}

/// Why a batch is refused. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// More tokens than the capacity.
    Tokens {
        /// How many.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// More sequences than the capacity.
    Sequences {
        /// How many.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A slice of another length than the other arguments imply.
    Length {
        /// Which argument.
        argument: &'static str,
        /// Elements it should have.
        expected: usize,
        /// Elements it has.
        found: usize,
    },
    /// `cu_seqlens` that does not begin with 0, decreases, or does not end at the number of tokens.
    CuSeqlens,
    /// A sequence without tokens has no first one.
    EmptySequence {
        /// Its number.
        sequence: usize,
    },
    /// A number that has no row in its table.
    OutOfRange {
        /// Which table: `input_ids`, `token_types`, `positions`.
        table: &'static str,
        /// The largest number.
        found: u32,
        /// Rows of the table.
        rows: u32,
    },
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens { found, most } => write!(f, "{found} tokens, at most {most}"),
            Self::Sequences { found, most } => write!(f, "{found} sequences, at most {most}"),
            Self::Length { argument, expected, found } => {
                write!(f, "{argument} has {found} elements instead of {expected}")
            }
            Self::CuSeqlens => f.write_str("cu_seqlens does not divide the tokens into sequences"),
            Self::EmptySequence { sequence } => write!(f, "sequence {sequence} is empty"),
            Self::OutOfRange { table, found, rows } => write!(f, "{found} in {table}, which has {rows} rows"),
        }
    }
}

impl std::error::Error for BatchError {}

impl BatchRegions {
    /// Room for a batch. A capacity of more sequences than tokens has as many as tokens.
    pub fn new(layout: &mut ArenaLayout, capacity: Capacity) -> Self {
        let Capacity { tokens, sequences } = capacity;
        let capacity = Capacity { tokens, sequences: sequences.min(tokens) };
        let words = lengths(capacity).iter().map(|length| length.next_multiple_of(4)).sum();
        Self::at(layout.region::<u32>(words), capacity).expect("the whole was made for the parts")
    }

    /// From the beginning of a region on.
    fn at(region: Region<u32>, capacity: Capacity) -> Result<Self, OpError> {
        let mut end = 0;
        let [counts, cu_seqlens, tile_table, input_ids, token_types, positions] = lengths(capacity).map(|length| {
            let begin = end;
            // What is read 8 bytes at a time is aligned to 16.
            end = (begin + length).next_multiple_of(4);
            region.slice(begin..begin + length)
        });
        let counts = counts?;
        Ok(Self {
            tokens: counts.slice(0..1)?,
            sequences: counts.slice(1..2)?,
            tiles: counts.slice(2..3)?,
            cu_seqlens: cu_seqlens?,
            tile_table: tile_table?,
            input_ids: input_ids?,
            token_types: token_types?,
            positions: positions?,
            capacity,
            whole: region.slice(0..end)?,
        })
    }

    /// The beginning of the same place for smaller batches: launches are sized for those, and a copy brings no more.
    ///
    /// # Errors
    /// [`OpError::Shape`] if the capacity is larger than this one's, or 0.
    pub fn within(&self, capacity: Capacity) -> Result<Self, OpError> {
        let Capacity { tokens, sequences } = capacity;
        let refused = |argument, expected, found| Err(OpError::Shape { argument, expected, found });
        if tokens == 0 || tokens > self.capacity.tokens {
            return refused("tokens", self.capacity.tokens, tokens);
        }
        if sequences == 0 || sequences > self.capacity.sequences {
            return refused("sequences", self.capacity.sequences, sequences);
        }
        Self::at(self.whole, Capacity { tokens, sequences: sequences.min(tokens) })
    }
}

/// Words of each part: counts, `cu_seqlens`, `tile_table`, `input_ids`, `token_types`, `positions`.
fn lengths(capacity: Capacity) -> [usize; 6] {
    let Capacity { tokens, sequences } = capacity;
    [4, sequences + 1, 2 * tiles_max(capacity), tokens, tokens, tokens]
}

/// Tiles that a batch of that capacity has at most: each sequence ends in one that is not full.
pub(super) fn tiles_max(capacity: Capacity) -> usize {
    capacity.tokens.min(capacity.tokens / TILE_QUERIES + capacity.sequences)
}

/// Checks a batch and writes it into `out`, which is then copied to `regions.whole`; what lies between the parts and behind
/// the batch's own numbers stays as it is.
///
/// # Errors
/// [`BatchError`].
pub fn fill(
    regions: &BatchRegions,
    vocabulary: Vocabulary,
    batch: HostBatch<'_>,
    out: &mut [u32],
) -> Result<(), BatchError> {
    check(regions, vocabulary, &batch, out.len())?;
    let HostBatch { input_ids, token_types, cu_seqlens, first_position } = batch;
    let place = |region: &Region<u32>| (region.offset() - regions.whole.offset()) / size_of::<u32>();
    let mut write = |region: &Region<u32>, values: &[u32]| {
        let at = place(region);
        out[at..at + values.len()].copy_from_slice(values);
    };
    write(&regions.cu_seqlens, cu_seqlens);
    write(&regions.input_ids, input_ids);
    write(&regions.token_types, token_types);
    let at = place(&regions.positions);
    for rows in cu_seqlens.windows(2) {
        let positions = &mut out[at + rows[0] as usize..at + rows[1] as usize];
        positions.iter_mut().zip(first_position..).for_each(|(out, position)| *out = position);
    }
    let tiles = write_tiles(cu_seqlens, &mut out[place(&regions.tile_table)..]);
    let counts = [input_ids.len() as u32, cu_seqlens.len() as u32 - 1, tiles];
    for (region, count) in [&regions.tokens, &regions.sequences, &regions.tiles].into_iter().zip(counts) {
        out[place(region)] = count;
    }
    Ok(())
}

/// Full tiles, then each sequence's last one, which may be short: what a device starts last ends soon. Returns how many.
fn write_tiles(cu_seqlens: &[u32], out: &mut [u32]) -> u32 {
    let tile = TILE_QUERIES as u32;
    let mut count = 0;
    let mut write = |sequence: usize, first: u32| {
        out[2 * count] = sequence as u32;
        out[2 * count + 1] = first;
        count += 1;
    };
    let lengths = || cu_seqlens.windows(2).map(|rows| rows[1] - rows[0]).enumerate();
    for (sequence, length) in lengths() {
        (0..(length - 1) / tile).for_each(|number| write(sequence, number * tile));
    }
    for (sequence, length) in lengths() {
        write(sequence, (length - 1) / tile * tile);
    }
    count as u32
}

fn check(
    regions: &BatchRegions,
    vocabulary: Vocabulary,
    batch: &HostBatch<'_>,
    words: usize,
) -> Result<(), BatchError> {
    let HostBatch { input_ids, token_types, cu_seqlens, first_position } = *batch;
    let Capacity { tokens, sequences } = regions.capacity;
    let length = |argument, expected, found| {
        if expected == found { Ok(()) } else { Err(BatchError::Length { argument, expected, found }) }
    };
    length("out", regions.whole.len(), words)?;
    length("token_types", input_ids.len(), token_types.len())?;
    if input_ids.len() > tokens {
        return Err(BatchError::Tokens { found: input_ids.len(), most: tokens });
    }
    let found = crate::shape::sequences(cu_seqlens, input_ids.len()).map_err(|_| BatchError::CuSeqlens)?;
    if found > sequences {
        return Err(BatchError::Sequences { found, most: sequences });
    }
    if let Some(sequence) = cu_seqlens.windows(2).position(|rows| rows[0] == rows[1]) {
        return Err(BatchError::EmptySequence { sequence });
    }
    let longest = cu_seqlens.windows(2).map(|rows| rows[1] - rows[0]).max();
    let last_position = longest.map(|length| first_position.saturating_add(length - 1));
    for (table, found, rows) in [
        ("input_ids", input_ids.iter().copied().max(), vocabulary.ids),
        ("token_types", token_types.iter().copied().max(), vocabulary.token_types),
        ("positions", last_position, vocabulary.positions),
    ] {
        if let Some(found) = found
            && found >= rows
        {
            return Err(BatchError::OutOfRange { table, found, rows });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: Vocabulary = Vocabulary { ids: 100, token_types: 2, positions: 512 };

    fn regions(tokens: usize, sequences: usize) -> BatchRegions {
        let mut layout = ArenaLayout::default();
        layout.region::<u32>(7);
        BatchRegions::new(&mut layout, Capacity { tokens, sequences })
    }

    #[test]
    fn a_batch_lies_where_its_regions_say() {
        let regions = regions(300, 5);
        let cu_seqlens = [0, 1, 130, 194];
        let ids: Vec<u32> = (0..194).map(|i| i % 100).collect();
        let types: Vec<u32> = (0..194).map(|i| i % 2).collect();
        let batch = HostBatch { input_ids: &ids, token_types: &types, cu_seqlens: &cu_seqlens, first_position: 2 };
        let mut out = vec![u32::MAX; regions.whole.len()];
        fill(&regions, VOCABULARY, batch, &mut out).unwrap();
        let at = |region: &Region<u32>| &out[(region.offset() - regions.whole.offset()) / 4..][..region.len()];
        assert_eq!((at(&regions.tokens), at(&regions.sequences), at(&regions.tiles)), (&[194][..], &[3][..], &[5][..]));
        assert_eq!(at(&regions.cu_seqlens)[..4], cu_seqlens);
        assert_eq!((&at(&regions.input_ids)[..194], &at(&regions.token_types)[..194]), (&ids[..], &types[..]));
        let positions: Vec<u32> = [1_u32, 129, 64].iter().flat_map(|&length| 2..2 + length).collect();
        assert_eq!(at(&regions.positions)[..194], positions);
        assert_eq!(at(&regions.tile_table)[..10], [1, 0, 1, 64, 0, 0, 1, 128, 2, 0]);
        assert!(regions.tile_table.offset().is_multiple_of(8) && regions.whole.offset() == 256);
    }

    #[test]
    fn there_is_room_for_the_tiles_of_any_batch() {
        for (tokens, sequences) in [(1, 1), (64, 64), (65, 1), (129, 2), (640, 3), (640, 640), (6400, 100)] {
            let capacity = Capacity { tokens, sequences };
            // As many sequences as may be of one token more than whole tiles, and the rest of one.
            let mut lengths = vec![1; sequences];
            let mut left = tokens - sequences;
            for length in &mut lengths {
                if left >= TILE_QUERIES {
                    *length += TILE_QUERIES * (left / TILE_QUERIES);
                    left %= TILE_QUERIES;
                }
            }
            let tiles: usize = lengths.iter().map(|length| length.div_ceil(TILE_QUERIES)).sum();
            assert!(tiles <= tiles_max(capacity), "{capacity:?}: {tiles}");
        }
    }

    #[test]
    fn misfits_are_named() {
        let regions = regions(8, 2);
        let (ids, types) = ([1, 2, 3], [0, 1, 1]);
        let sound = HostBatch { input_ids: &ids, token_types: &types, cu_seqlens: &[0, 1, 3], first_position: 0 };
        let words = regions.whole.len();
        let refused = |batch, words: usize| fill(&regions, VOCABULARY, batch, &mut vec![0; words]);
        assert_eq!(refused(sound, words), Ok(()));
        let range = |table, found, rows| BatchError::OutOfRange { table, found, rows };
        let length = |argument, expected, found| BatchError::Length { argument, expected, found };
        for (batch, expected) in [
            (HostBatch { token_types: &[0; 2], ..sound }, length("token_types", 3, 2)),
            (HostBatch { input_ids: &[1; 9], token_types: &[0; 9], ..sound }, BatchError::Tokens { found: 9, most: 8 }),
            (HostBatch { cu_seqlens: &[0, 1, 2, 3], ..sound }, BatchError::Sequences { found: 3, most: 2 }),
            (HostBatch { cu_seqlens: &[0, 2], ..sound }, BatchError::CuSeqlens),
            (HostBatch { cu_seqlens: &[], ..sound }, BatchError::CuSeqlens),
            (HostBatch { cu_seqlens: &[0, 3, 3], ..sound }, BatchError::EmptySequence { sequence: 1 }),
            (HostBatch { input_ids: &[1, 100, 2], ..sound }, range("input_ids", 100, 100)),
            (HostBatch { token_types: &[0, 0, 2], ..sound }, range("token_types", 2, 2)),
            (HostBatch { first_position: 511, ..sound }, range("positions", 512, 512)),
            (HostBatch { first_position: u32::MAX, ..sound }, range("positions", u32::MAX, 512)),
        ] {
            assert_eq!(refused(batch, words), Err(expected));
        }
        assert_eq!(refused(sound, words - 1), Err(length("out", words, words - 1)));
        assert!(regions.within(Capacity { tokens: 9, sequences: 1 }).is_err());
        assert!(regions.within(Capacity { tokens: 4, sequences: 0 }).is_err());
        let within = regions.within(Capacity { tokens: 1, sequences: 2 }).unwrap();
        assert_eq!(within.capacity, Capacity { tokens: 1, sequences: 1 });
    }
}
