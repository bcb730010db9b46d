//! The thread that feeds one index from the log.
//!
//! It reads entries after what it has consumed, lets their documents begin in the index, publishes, and says how far it
//! is. Documents that end stay in the index until no [`Reader`] is open that was opened before they ended: a search that
//! began earlier still finds them, at the version that its reader shows, and one that begins later drops them by its own
//! live documents. What is noted with the index is therefore the last batch whose ends are done as well.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{
    bell::Bell,
    leg::{FeedError, Follower, Leg},
};
use crate::{
    identity::{DocId, Lsn},
    truth::{LogEntry, Reader, Truth},
};

/// Documents that are fed at a time: what searches wait for a turn behind, and what stands in memory.
const DOCUMENTS_MAX: usize = 4_096;
/// Between two tries of an index that refuses, or a disk that fails.
const RETRY: Duration = Duration::from_millis(500);
/// Batches that an index is behind with what it keeps before it is made durable for their sake.
const FLUSH_BATCHES: u64 = 256;

/// How far an index is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Searches find everything up to and with this batch.
    pub lsn: Lsn,
    /// What ended up to and with this batch is gone from it. Behind `lsn` while readers from before are open.
    pub complete: Lsn,
    /// It holds all documents of the collection that existed up to then: false while it is filled.
    pub filled: bool,
    /// Times that filling it began. Where two looks at it see the same number, and both that it is filled, it held all
    /// documents in between.
    pub fills: u64,
    /// Why it does not go on, if it does not. It is tried again.
    pub fault: Option<String>,
}

/// What others see of an applier.
#[derive(Debug)]
pub(super) struct Station {
    pub(super) leg: Leg,
    pub(super) follower: Arc<dyn Follower>,
    pub(super) progress: watch::Sender<Progress>,
    /// The log up to and with here is not needed by this index.
    floor: AtomicU64,
    /// It is to be filled anew.
    pub(super) rebuild: AtomicBool,
}

impl Station {
    pub(super) fn new(leg: Leg, follower: Arc<dyn Follower>) -> Self {
        let progress = watch::Sender::default();
        Self { leg, follower, progress, floor: AtomicU64::new(0), rebuild: AtomicBool::new(false) }
    }

    pub(super) fn floor(&self) -> Lsn {
        Lsn(self.floor.load(Ordering::Acquire))
    }
}

/// Feeds one index until the bell says that it is over.
pub(super) struct Applier {
    station: Arc<Station>,
    truth: Arc<Truth>,
    bell: Arc<Bell>,
    /// Where it is, once the index is filled.
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    /// Entries up to and with this one are read, and what began in them is in the index.
    consumed: Lsn,
    /// Documents that ended and are still in the index, by the batch that ended them.
    deferred: VecDeque<(Lsn, DocId)>,
}

impl Place {
    /// The last batch that is done with, ends included, where this is the first that did not end.
    fn complete(consumed: Lsn, deferred: Option<&(Lsn, DocId)>) -> Lsn {
        deferred.map_or(consumed, |(lsn, _)| Lsn(lsn.0.saturating_sub(1)))
    }

    fn is_complete_to(&self) -> Lsn {
        Self::complete(self.consumed, self.deferred.front())
    }
}

impl Applier {
    pub(super) fn new(station: Arc<Station>, truth: Arc<Truth>, bell: Arc<Bell>) -> Self {
        let place = station.follower.reached().map(|consumed| Place { consumed, deferred: VecDeque::new() });
        let applier = Self { station, truth, bell, place };
        applier.move_floor();
        applier
    }

    pub(super) fn run(mut self) {
        while !self.bell.is_over() {
            let heard = self.bell.heard();
            match self.step() {
                Ok(true) => {}
                Ok(false) => self.bell.wait(heard),
                Err(fault) => {
                    self.station.progress.send_modify(|progress| progress.fault = Some(fault.to_string()));
                    self.bell.pause(RETRY);
                }
            }
        }
        // Half an index is none: it says nowhere that it has reached anything.
        if self.place.is_none() {
            return;
        }
        // What is not made durable now is fed again after the next start: nothing is lost if this fails.
        if let Err(fault) = self.station.follower.flush() {
            self.station.progress.send_modify(|progress| progress.fault = Some(fault.to_string()));
        }
    }

    /// Does some of what there is to do; false if there was nothing.
    fn step(&mut self) -> Result<bool, FeedError> {
        if self.station.rebuild.swap(false, Ordering::AcqRel) {
            self.place = None;
        }
        let Some(consumed) = self.place.as_ref().map(|place| place.consumed) else {
            self.place = self.fill()?;
            return Ok(true);
        };
        // A read that fails leaves the place where it is: without one, everything is read again.
        let reader = self.truth.read()?;
        let entries = reader.log_after(consumed, DOCUMENTS_MAX)?;
        let (Some(mut place), Some(entries)) = (self.place.take(), entries) else {
            // The log does not reach back to where the index is: everything is read again, the next time round.
            return Ok(true);
        };
        let worked = self.follow(&mut place, &reader, entries);
        self.place = Some(place);
        self.move_floor();
        if worked? {
            return Ok(true);
        }
        self.flush()
    }

    /// Feeds what the entries say, and what may end by now; false if that is nothing.
    fn follow(&self, place: &mut Place, reader: &Reader, entries: Vec<(Lsn, LogEntry)>) -> Result<bool, FeedError> {
        let (mut began, mut consumed, deferred) = (Vec::new(), place.consumed, place.deferred.len());
        for (lsn, entry) in entries {
            began.extend(entry.began);
            place.deferred.extend(entry.ended.into_iter().map(|doc| (lsn, doc)));
            consumed = lsn;
        }
        // Who opens a reader from now on sees what this one sees, or more.
        let oldest = self.truth.oldest_reader().map_or(reader.lsn(), |oldest| oldest.min(reader.lsn()));
        let ready = place.deferred.partition_point(|(lsn, _)| *lsn <= oldest);
        if consumed == place.consumed && ready == 0 {
            self.announce(place);
            return Ok(false);
        }
        let ended: Vec<_> = place.deferred.range(..ready).map(|(_, doc)| *doc).collect();
        let complete = Place::complete(consumed, place.deferred.get(ready));
        let follower = &self.station.follower;
        if let Err(fault) = follower.feed(reader, &began, &ended, complete).and_then(|()| follower.publish()) {
            // The entries are read again.
            place.deferred.truncate(deferred);
            return Err(fault);
        }
        place.deferred.drain(..ready);
        place.consumed = consumed;
        self.announce(place);
        Ok(true)
    }

    /// Feeds all documents there are; `None` if it is over before that is done.
    fn fill(&self) -> Result<Option<Place>, FeedError> {
        let reader = self.truth.read()?;
        let lsn = reader.lsn();
        // The log is kept from here on, since the floor stands where it stood before.
        let follower = &self.station.follower;
        self.station.progress.send_modify(|progress| (progress.filled, progress.fills) = (false, progress.fills + 1));
        follower.clear()?;
        // A search that began before this still finds what ended since.
        let oldest = self.truth.oldest_reader().map_or(lsn, |oldest| oldest.min(lsn));
        let since = reader.log_after(oldest, usize::MAX)?.unwrap_or_default();
        let ended = since.into_iter().flat_map(|(lsn, entry)| entry.ended.into_iter().map(move |doc| (lsn, doc)));
        let deferred: VecDeque<_> = ended.collect();
        let live = reader.live()?.into_iter().map(DocId);
        let docs: Vec<_> = live.chain(deferred.iter().map(|(_, doc)| *doc)).collect();
        for docs in docs.chunks(DOCUMENTS_MAX) {
            if self.bell.is_over() {
                return Ok(None);
            }
            follower.feed(&reader, docs, &[], Lsn::ZERO)?;
        }
        let place = Place { consumed: lsn, deferred };
        follower.feed(&reader, &[], &[], place.is_complete_to())?;
        follower.publish()?;
        follower.filled();
        if follower.durable().is_some() {
            follower.flush()?;
        }
        self.announce(&place);
        Ok(Some(place))
    }

    /// Makes durable what the log would have to be kept for; false, since there is nothing more to do then.
    fn flush(&self) -> Result<bool, FeedError> {
        let (Some(place), Some(durable)) = (&self.place, self.station.follower.durable()) else { return Ok(false) };
        if place.is_complete_to().0 >= durable.0 + FLUSH_BATCHES {
            self.station.follower.flush()?;
            self.move_floor();
        }
        Ok(false)
    }

    fn announce(&self, place: &Place) {
        let (lsn, complete) = (place.consumed, place.is_complete_to());
        self.station.progress.send_if_modified(|progress| {
            // Not where it was asked for anew meanwhile.
            let filled = !self.station.rebuild.load(Ordering::Acquire);
            let now = Progress { lsn, complete, filled, fills: progress.fills, fault: None };
            let changed = *progress != now;
            *progress = now;
            changed
        });
    }

    /// The log is needed from the last batch that is done with, and from the last that is kept.
    fn move_floor(&self) {
        let Some(place) = &self.place else { return };
        let floor = self
            .station
            .follower
            .durable()
            .map_or(place.is_complete_to(), |durable| durable.min(place.is_complete_to()));
        self.station.floor.store(floor.0, Ordering::Release);
    }
}
