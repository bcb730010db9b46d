//! Where a page ended, in bytes that only we read.
//!
//! A page is cut from one fused list. The next one goes on behind the last hit that was sent, if the list is still the
//! same: the cursor carries a fingerprint of the query, the log sequence number that the list was made at, a number that
//! tells it from other lists of that query and moment, and the last hit's place, score and id. A list in which that hit
//! does not stand there is another one.
//!
//! ```text
//! version u8 │ fingerprint [u8; 16] │ lsn u64 │ list u64 │ rank u32 │ score f64 │ id, UTF-8        integers little-endian
//! ```

/// Bytes of a query's fingerprint.
pub const FINGERPRINT_BYTES: usize = 16;

const VERSION: u8 = 2;
/// Bytes before the id.
const HEAD_BYTES: usize = 1 + FINGERPRINT_BYTES + 8 + 8 + 4 + 8;
/// Longest id that is read, in bytes.
const ID_BYTES_MAX: usize = 1024;

/// The last hit of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    /// Of everything in the query that decides about the list.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    /// The state that the list was made at.
    pub lsn: u64,
    /// The list, among those of the same query and state.
    pub list: u64,
    /// The hit's place, from 1.
    pub rank: u32,
    /// Its fused score.
    pub score: f64,
    /// Its id.
    pub id: String,
}

/// A cursor that cannot be gone on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// It is none of ours.
    #[error("is not a cursor of this server")]
    Malformed,
    /// It came from a search for something else.
    #[error("belongs to another search: everything but the limit and what is sent of each hit has to stay the same")]
    OtherQuery,
    /// The hit that it names is not there any more.
    #[error("the list that it belongs to has changed since")]
    Moved,
}

impl Cursor {
    /// As bytes for the caller to send back.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.id.len());
        bytes.push(VERSION);
        bytes.extend(self.fingerprint);
        bytes.extend(self.lsn.to_le_bytes());
        bytes.extend(self.list.to_le_bytes());
        bytes.extend(self.rank.to_le_bytes());
        bytes.extend(self.score.to_le_bytes());
        bytes.extend(self.id.as_bytes());
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote for a query with this fingerprint.
    ///
    /// # Errors
    /// [`CursorError::Malformed`] for anything else, [`CursorError::OtherQuery`] for another query's.
    pub fn decode(bytes: &[u8], fingerprint: [u8; FINGERPRINT_BYTES]) -> Result<Self, CursorError> {
        let cursor = Self::read(bytes).ok_or(CursorError::Malformed)?;
        if cursor.fingerprint == fingerprint { Ok(cursor) } else { Err(CursorError::OtherQuery) }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (version, bytes) = bytes.split_first_chunk::<1>()?;
        let (fingerprint, bytes) = bytes.split_first_chunk::<FINGERPRINT_BYTES>()?;
        let (lsn, bytes) = bytes.split_first_chunk()?;
        let (list, bytes) = bytes.split_first_chunk()?;
        let (rank, bytes) = bytes.split_first_chunk()?;
        let (score, id) = bytes.split_first_chunk()?;
        let cursor = Self {
            fingerprint: *fingerprint,
            lsn: u64::from_le_bytes(*lsn),
            list: u64::from_le_bytes(*list),
            rank: u32::from_le_bytes(*rank),
            score: f64::from_le_bytes(*score),
            id: str::from_utf8(id).ok()?.to_owned(),
        };
        let sound = *version == [VERSION] && cursor.rank > 0 && cursor.score.is_finite() && id.len() <= ID_BYTES_MAX;
        sound.then_some(cursor)
    }

    /// How many hits of the list come before the next page, given what stands at [`rank`](Self::rank) in it.
    ///
    /// # Errors
    /// [`CursorError::Moved`] if that is not the cursor's own hit.
    pub fn resume(&self, there: Option<(f64, &str)>) -> Result<usize, CursorError> {
        match there {
            Some((score, id)) if score.to_bits() == self.score.to_bits() && id == self.id => Ok(self.rank as usize),
            _ => Err(CursorError::Moved),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: [u8; FINGERPRINT_BYTES] = *b"0123456789abcdef";

    fn cursor() -> Cursor {
        Cursor { fingerprint: FINGERPRINT, lsn: 1 << 40, list: 1 << 50, rank: 10, score: 0.03, id: "d/7 ü".to_owned() }
    }

    #[test]
    fn what_is_written_is_read() {
        for cursor in [cursor(), Cursor { id: String::new(), score: -0.0, lsn: u64::MAX, ..cursor() }] {
            assert_eq!(Cursor::decode(&cursor.encode(), FINGERPRINT), Ok(cursor));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let good = cursor().encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let cases = [
            (Vec::new(), CursorError::Malformed),
            (good[..HEAD_BYTES - 1].to_vec(), CursorError::Malformed),
            (with(0, 9), CursorError::Malformed),
            (with(1, 9), CursorError::OtherQuery),
            (with(HEAD_BYTES, 0xff), CursorError::Malformed),
            (Cursor { rank: 0, ..cursor() }.encode(), CursorError::Malformed),
            (Cursor { score: f64::NAN, ..cursor() }.encode(), CursorError::Malformed),
            (Cursor { id: "x".repeat(ID_BYTES_MAX + 1), ..cursor() }.encode(), CursorError::Malformed),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Cursor::decode(&bytes, FINGERPRINT), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn it_goes_on_behind_its_own_hit_alone() {
        let cases = [
            (Some((0.03, "d/7 ü")), Ok(10)),
            (Some((0.03, "d/8")), Err(CursorError::Moved)),
            (Some((0.030_000_000_000_000_002, "d/7 ü")), Err(CursorError::Moved)),
            (None, Err(CursorError::Moved)),
        ];
        for (there, expected) in cases {
            assert_eq!(cursor().resume(there), expected, "{there:?}");
        }
    }
}
