//! What has become of the documents.

use std::{io, io::IsTerminal, time::Duration};

use indicatif::{HumanDuration, ProgressBar};
use serde::Serialize;
use tokio::time::Instant;

use super::input::Fault;
use crate::{output::note, progress};

/// Counts of documents.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    pub documents: usize,
    pub written: usize,
    pub unchanged: usize,
    pub duplicates: usize,
    pub absent: usize,
    pub bad_lines: usize,
    pub embedded: usize,
    pub kept_vectors: usize,
    pub not_embedded: usize,
    pub tokens_stored: usize,
    pub tokens_not_stored: usize,
}

/// What `--json` prints; `sluice index --help` documents it.
#[derive(Debug, Serialize)]
pub(super) struct Output<'a> {
    pub collection: &'a str,
    #[serde(flatten)]
    pub tally: &'a Tally,
    pub model: Option<&'a str>,
    pub model_digest: Option<&'a str>,
    pub lsn: Option<u64>,
    pub interrupted: bool,
    pub seconds: f64,
}

/// How far it has come, for a person: a bar on a terminal, a line now and then elsewhere.
pub(super) struct Shown {
    bar: ProgressBar,
    start: Instant,
    on_terminal: bool,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.written += other.written;
        self.unchanged += other.unchanged;
        self.duplicates += other.duplicates;
        self.absent += other.absent;
        self.bad_lines += other.bad_lines;
        self.embedded += other.embedded;
        self.kept_vectors += other.kept_vectors;
        self.not_embedded += other.not_embedded;
        self.tokens_stored += other.tokens_stored;
        self.tokens_not_stored += other.tokens_not_stored;
    }

    /// One line; what is 0 is left out, but for documents and what was written.
    pub(super) fn summary(&self, seconds: f64) -> String {
        let rate = self.documents as f64 / seconds.max(1e-9);
        let mut text = format!("{} documents, {} written", self.documents, self.written);
        let rest = [
            (self.unchanged, "unchanged"),
            (self.duplicates, "duplicates"),
            (self.absent, "absent"),
            (self.embedded, "embedded"),
            (self.kept_vectors, "with the vector that they had"),
            (self.not_embedded, "not embedded"),
            (self.tokens_stored, "with token vectors stored"),
            (self.tokens_not_stored, "without token vectors"),
            (self.bad_lines, "bad lines"),
        ];
        for (count, what) in rest.into_iter().filter(|(count, _)| *count > 0) {
            text += &format!(", {count} {what}");
        }
        text + &format!(", {seconds:.1} s, {rate:.1} documents/s")
    }
}

impl Shown {
    pub(super) fn new(bytes: Option<u64>) -> Self {
        Self { bar: progress::bar(bytes), start: Instant::now(), on_terminal: io::stderr().is_terminal() }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Names bad lines and other faults.
    pub(super) fn faults(&self, faults: &[Fault]) {
        if !faults.is_empty() {
            self.bar.suspend(|| faults.iter().for_each(|fault| note(&format!("{}: {}", fault.place, fault.reason))));
        }
    }

    pub(super) fn note(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }

    /// All before `position` is done.
    pub(super) fn done(&self, position: u64, tally: &Tally) {
        self.bar.set_position(position.max(self.bar.position()));
        self.bar.set_message(self.rate(tally));
    }

    /// Says how far it has come where no bar does.
    pub(super) fn tick(&self, tally: &Tally) {
        if self.on_terminal {
            return;
        }
        let progress = match self.bar.length().filter(|length| *length > 0) {
            Some(length) if self.bar.position() > 0 => {
                let done = self.bar.position() as f64 / length as f64;
                let left = Duration::from_secs_f64(self.seconds() * (1.0 - done).max(0.0) / done);
                format!(", {:.0} %, {} left", 100.0 * done, HumanDuration(left))
            }
            _ => String::new(),
        };
        note(&format!("{}{progress}", self.rate(tally)));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn rate(&self, tally: &Tally) -> String {
        let rate = tally.documents as f64 / self.seconds().max(1e-9);
        format!("{} documents, {rate:.0} documents/s", tally.documents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_there_is() {
        let mut tally = Tally { documents: 10, written: 7, unchanged: 3, ..Tally::default() };
        assert_eq!(tally.summary(2.0), "10 documents, 7 written, 3 unchanged, 2.0 s, 5.0 documents/s");
        let one = Tally {
            documents: 1,
            written: 1,
            unchanged: 1,
            duplicates: 1,
            absent: 1,
            bad_lines: 1,
            embedded: 1,
            kept_vectors: 1,
            not_embedded: 1,
            tokens_stored: 1,
            tokens_not_stored: 1,
        };
        tally.add(&one);
        assert_eq!(
            tally.summary(1.0),
            "11 documents, 8 written, 4 unchanged, 1 duplicates, 1 absent, 1 embedded, 1 with the vector that they had, \
             1 not embedded, 1 with token vectors stored, 1 without token vectors, 1 bad lines, 1.0 s, 11.0 documents/s"
        );
    }
}
