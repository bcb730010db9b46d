//! What an index finds, as the versions of documents that a snapshot shows.
//!
//! An index and a snapshot are hardly ever at the same write. What the index finds beside the snapshot's own versions:
//!
//! | where the index is | it finds | which is |
//! |---|---|---|
//! | behind | a version that ended since | taken for the document, which is shown at its present version |
//! | behind | a document that was deleted since | dropped |
//! | ahead | a version that began since | dropped: the one before it is there as well, for as long as the snapshot |
//! | anywhere | a version that ended before, kept for an older reader | dropped |
//!
//! So a document that is replaced is found at every moment, by its former text and vectors until the index has the new
//! ones. Only a version that ended after what the index has is taken for a later one: whoever waited for a write does not
//! find by what that write replaced.

use roaring::RoaringBitmap;

use super::{Found, Leg, LegJob, Snapshot, SourceError};
use crate::{
    identity::{DocId, Lsn},
    vector_index::{Hit, IndexError, Stop},
};

/// Former versions that are looked up at a time: legs share the snapshot, and none holds it for long.
const LOOKED_UP_MAX: usize = 256;
/// Times that an index is asked, for twice as many documents each time. The second time few but what is shown take places:
/// only the two versions of a document that an index has which went on meanwhile.
const TRIES_MAX: usize = 8;

/// The versions that one leg's index finds and a snapshot does not show as they are.
struct Versions<'a> {
    snapshot: &'a dyn Snapshot,
    /// They ended after what the index has.
    former: RoaringBitmap,
}

/// What a leg's index finds of a snapshot: its best `job.k` documents, only those in `among` if that is given; with what
/// the index had. No documents if the index is so far behind that nobody knows what ended since.
pub(super) fn search(
    leg: &dyn Leg,
    job: &LegJob,
    snapshot: &dyn Snapshot,
    among: Option<&RoaringBitmap>,
    stop: &dyn Stop,
) -> Result<(Lsn, Option<Vec<(Found, f32)>>), IndexError> {
    let (mut live, mut k, mut tries) = (None, job.k, TRIES_MAX);
    loop {
        // Before it is searched: an index that has gone on since has more than this.
        let applied = leg.applied();
        let Some(versions) = Versions::between(snapshot, applied)? else { return Ok((applied, None)) };
        let among = among.or(live.as_ref()).map(|among| versions.with_former(among, stop)).transpose()?;
        let hits = leg.search(k, among.as_ref(), stop)?;
        let mut found = versions.found(&hits)?;
        tries -= 1;
        if hits.len() < k || found.len() >= job.k || tries == 0 {
            found.truncate(job.k);
            return Ok((applied, Some(found)));
        }
        // What was dropped has taken places of documents that are there.
        live = Some(snapshot.live().map_err(unread)?);
        k = k.saturating_mul(2);
    }
}

impl<'a> Versions<'a> {
    /// Between a snapshot and an index that has everything up to and with `applied`. `None` if nobody knows.
    fn between(snapshot: &'a dyn Snapshot, applied: Lsn) -> Result<Option<Self>, IndexError> {
        let former = if applied < snapshot.lsn() {
            snapshot.ended_after(applied).map_err(unread)?
        } else {
            Some(RoaringBitmap::new())
        };
        Ok(former.map(|former| Self { snapshot, former }))
    }

    /// These documents, with the former versions of them that the index may have in their place.
    fn with_former(&self, among: &RoaringBitmap, stop: &dyn Stop) -> Result<RoaringBitmap, IndexError> {
        let mut with = among.clone();
        let former: Vec<DocId> = self.former.iter().map(DocId).collect();
        for former in former.chunks(LOOKED_UP_MAX) {
            if stop.stop() {
                return Err(IndexError::Stopped);
            }
            let current = self.snapshot.current(former).map_err(unread)?;
            let pairs = former.iter().zip(current);
            let wanted = pairs.filter(|(_, current)| current.is_some_and(|current| among.contains(current.0)));
            with.extend(wanted.map(|(former, _)| former.0));
        }
        Ok(with)
    }

    /// The documents of hits, each once; without what the snapshot does not show.
    fn found(&self, hits: &[Hit]) -> Result<Vec<(Found, f32)>, IndexError> {
        let is_former = |hit: &&Hit| self.former.contains(hit.document.0);
        let former: Vec<DocId> = hits.iter().filter(is_former).map(|hit| hit.document).collect();
        let mut current = self.snapshot.current(&former).map_err(unread)?.into_iter();
        // An index that went on meanwhile has both: what it says of the version that is shown counts.
        let mut seen: RoaringBitmap = hits.iter().filter(|hit| !is_former(hit)).map(|hit| hit.document.0).collect();
        let shown = hits.iter().filter_map(|hit| match is_former(&hit) {
            false => Some((hit.document, hit.score)),
            true => current.next()?.filter(|current| seen.insert(current.0)).map(|current| (current, hit.score)),
        });
        let (numbers, scores): (Vec<DocId>, Vec<f32>) = shown.unzip();
        let ids = self.snapshot.ids(&numbers).map_err(unread)?;
        let found = ids.into_iter().zip(numbers).zip(scores);
        Ok(found.filter_map(|((id, document), score)| Some((Found { id: id?, document }, score))).collect())
    }
}

fn unread(error: SourceError) -> IndexError {
    IndexError::Storage { doing: "reading what was found", cause: Box::new(error) }
}
