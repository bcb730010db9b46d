//! `sluice index`: files to a collection of a shard, embedded on the way.
//!
//! ```text
//! files → reader (a thread) → prepare: what is there? embed, store token vectors (several batches at once, in order)
//!       → writer: one call, some batches ahead of their acknowledgements → tally
//! ```
//!
//! Every step is bounded in batches, and a batch in documents and bytes. There is no journal: what the shard has is
//! what is done.

mod document;
mod embedding;
mod end;
mod input;
mod prepare;
mod report;
mod schema;
mod target;
mod writer;

use std::{pin::Pin, rc::Rc, time::Duration};

use anyhow::anyhow;
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at},
};

use self::{
    input::Batch,
    prepare::{Prepared, Preparer},
    report::{Output, Shown, Tally},
    target::Target,
    writer::{Writer, Written},
};
use crate::{
    args::index::{BadLine, IndexArgs},
    output::{Failure, print, print_json},
    read_ahead::read_ahead,
    server::ServerDefault,
};

/// How often a line says how far it has come, where no bar does.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: &IndexArgs, server_default: &ServerDefault) -> Result<(), Failure> {
    let Target { reader, preparer, writer } = target::open(args, server_default).await?;
    let shown = Shown::new(reader.bytes());
    let preparer = Rc::new(preparer);
    let batches = read_ahead(reader.batches())?;
    let mut run = Run { preparer, writer, shown, on_bad_line: args.on_bad_line, tally: Tally::default(), lsn: None };
    let ended = run.all(batches, usize::from(args.concurrency)).await;
    run.shown.finish();
    run.conclude(args.json, ended)
}

/// How it ended before its end.
#[derive(Debug)]
enum Early {
    Interrupted,
    BadLine,
    Failed(anyhow::Error),
}

struct Run {
    preparer: Rc<Preparer>,
    writer: Writer,
    shown: Shown,
    on_bad_line: BadLine,
    /// Of what is done.
    tally: Tally,
    lsn: Option<u64>,
}

type Interrupts = Pin<Box<dyn Stream<Item = ()>>>;

impl Run {
    /// Writes every batch; in the end, however it comes, what was sent is waited for.
    async fn all(&mut self, batches: mpsc::Receiver<anyhow::Result<Batch>>, concurrency: usize) -> Result<(), Early> {
        let mut interrupts = interrupts();
        let ended = self.until_end(batches, concurrency, &mut interrupts).await;
        if matches!(ended, Err(Early::Interrupted)) {
            self.shown.note("interrupted: waiting for what was sent; once more gives that up");
        }
        while !self.writer.is_idle() {
            tokio::select! {
                biased;
                Some(()) = interrupts.next() => return Err(Early::Interrupted),
                written = self.writer.next() => match written {
                    Ok(written) => self.written(written),
                    Err(error) => return ended.and(Err(Early::Failed(error))),
                },
            }
        }
        self.writer.close().await;
        ended
    }

    async fn until_end(
        &mut self,
        mut batches: mpsc::Receiver<anyhow::Result<Batch>>,
        concurrency: usize,
        interrupts: &mut Interrupts,
    ) -> Result<(), Early> {
        let preparer = Rc::clone(&self.preparer);
        let batches = stream::poll_fn(move |cx| batches.poll_recv(cx));
        let prepare = move |batch: anyhow::Result<Batch>| {
            let prepared = batch.map(|mut batch| (std::mem::take(&mut batch.faults), preparer.prepare(batch)));
            async move {
                let (faults, prepared) = prepared?;
                Ok::<_, anyhow::Error>((faults, prepared.await?))
            }
        };
        let mut prepared = std::pin::pin!(batches.map(prepare).buffered(concurrency));
        let mut lines = interval_at(Instant::now() + LINE_INTERVAL, LINE_INTERVAL);
        let mut reading = true;
        loop {
            tokio::select! {
                biased;
                Some(()) = interrupts.next() => return Err(Early::Interrupted),
                _ = lines.tick() => self.shown.tick(&self.tally),
                written = self.writer.next(), if !self.writer.is_idle() => {
                    self.written(written.map_err(Early::Failed)?);
                }
                next = prepared.next(), if reading && self.writer.has_room() => match next {
                    Some(Ok((faults, batch))) => {
                        self.tally.bad_lines += faults.len();
                        self.shown.faults(&faults);
                        self.writer.push(batch);
                    }
                    Some(Err(error)) => return Err(Early::Failed(error)),
                    None => reading = false,
                },
            }
            if self.on_bad_line == BadLine::Fail && self.tally.bad_lines > 0 {
                return Err(Early::BadLine);
            }
            if !reading && self.writer.is_idle() {
                return Ok(());
            }
        }
    }

    fn written(&mut self, written: Written) {
        let Written { prepared: Prepared { ids, tally, complaints, position, .. }, lsn } = written;
        self.preparer.leave(&ids);
        self.lsn = lsn.or(self.lsn);
        self.tally.add(&tally);
        self.shown.faults(&complaints);
        self.shown.done(position, &self.tally);
    }

    fn conclude(self, json: bool, ended: Result<(), Early>) -> Result<(), Failure> {
        let Self { preparer, shown, tally, lsn, .. } = self;
        let encoder = preparer.encoder.as_ref();
        let dense = encoder.and_then(|encoder| encoder.dense.as_ref()).map(|(_, maker)| maker);
        let maker = dense.or(encoder.and_then(|encoder| encoder.tokens.as_ref()).map(|tokens| &tokens.maker));
        let seconds = shown.seconds();
        let output = Output {
            collection: &preparer.collection,
            tally: &tally,
            model: maker.map(|maker| maker.name.as_str()),
            model_digest: maker.map(|maker| maker.digest.as_str()),
            lsn,
            interrupted: matches!(ended, Err(Early::Interrupted)),
            seconds,
        };
        let printed = if json { print_json(&output) } else { print(&tally.summary(seconds)) };
        let again = "what is written stays; the same command goes on from there";
        match ended {
            Err(Early::Interrupted) => Err(anyhow!("interrupted: {again}").into()),
            Err(Early::BadLine) => Err(anyhow!("ended at a bad line: {again}").into()),
            Err(Early::Failed(error)) if tally.written > 0 => {
                shown.note(again);
                Err(error.into())
            }
            Err(Early::Failed(error)) => Err(error.into()),
            Ok(()) if tally.documents == 0 => Err(anyhow!("there are no documents in it").into()),
            // Only here does it matter whether somebody could read that: no pipe makes a failed run a good one.
            Ok(()) => printed,
        }
    }
}

/// Each time that the user, or the system, asks for the end.
fn interrupts() -> Interrupts {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        if let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        {
            return Box::pin(stream::poll_fn(move |cx| {
                let interrupted = interrupt.poll_recv(cx);
                if interrupted.is_ready() { interrupted } else { terminate.poll_recv(cx) }
            }));
        }
    }
    // Where that cannot be told, the process just ends: what was acknowledged is written.
    Box::pin(stream::pending())
}
