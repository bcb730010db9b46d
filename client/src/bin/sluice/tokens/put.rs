//! `sluice tokens put`.

use std::collections::HashSet;

use anyhow::{anyhow, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::ProgressBar;
use serde::Serialize;
use sluice_client::{Client, ClientError, Code, PutResponse, PutTokens, table};
use tokio::{sync::mpsc, time::Instant};

use super::batches::{Batch, Batches};
use crate::{
    args::tokens::PutArgs,
    lines::Input,
    output::{Failure, note, print, print_json, width},
    progress,
    read_ahead::read_ahead,
    server::{ServerDefault, connect},
};

/// Batches under way: the server encodes one while the next one travels.
const BATCHES_IN_FLIGHT_MAX: usize = 2;

pub(crate) async fn run(args: &PutArgs, server_default: &ServerDefault) -> Result<(), Failure> {
    let input = Input::open(args.file.as_deref())?;
    let name = input.name.clone();
    let client = connect(&args.server, server_default, args.deadline_ms).await?;
    let mut template = PutTokens::new(&args.namespace).model(args.model.clone().unwrap_or_default());
    if let Some(storage) = args.storage {
        template = template.storage(storage.into());
    }

    let progress = progress::bar(input.bytes);
    let batches = read_ahead(Batches::of(input, usize::from(args.batch)))?;
    let put = Put { client, template, name: name.clone() };
    let mut stored = Stored::default();
    let start = Instant::now();
    let ended = put.all(batches, &mut stored, &progress, start).await;
    stored.seconds = start.elapsed().as_secs_f64();
    progress.finish_and_clear();
    if let Err(fault) = ended {
        if stored.documents > 0 {
            note(&format!("documents stored before that: {}; storing them again changes nothing", stored.documents));
        }
        return Err(fault.into());
    }
    if stored.documents == 0 {
        return Err(anyhow!("{name}: no documents").into());
    }
    if args.json { print_json(&Output { namespace: &args.namespace, stored }) } else { print(&stored.summary()) }
}

struct Put {
    client: Client,
    /// A request without documents.
    template: PutTokens,
    /// The input's.
    name: String,
}

/// What became of a batch.
struct Done {
    /// All of its documents'.
    ids: Vec<String>,
    bytes: u64,
    /// Of the parts that the server took.
    stored: Stored,
    fault: Option<anyhow::Error>,
}

impl Put {
    /// Stores every batch; after a fault no more of them, but those under way are waited for.
    ///
    /// The last of two documents with one id counts, as it does in one request: a batch waits for those under way
    /// that share an id with it.
    async fn all(
        &self,
        mut batches: mpsc::Receiver<anyhow::Result<Batch>>,
        stored: &mut Stored,
        progress: &ProgressBar,
        start: Instant,
    ) -> anyhow::Result<()> {
        let mut under_way = FuturesUnordered::new();
        let mut ids: HashSet<String> = HashSet::new();
        let mut waiting: Option<Batch> = None;
        let (mut reading, mut ended) = (true, Ok(()));
        loop {
            let free = under_way.len() < BATCHES_IN_FLIGHT_MAX;
            if let Some(batch) = waiting.take_if(|batch| free && !batch.ids.iter().any(|id| ids.contains(id))) {
                ids.extend(batch.ids.iter().cloned());
                under_way.push(self.batch(batch));
            }
            tokio::select! {
                batch = batches.recv(), if reading && waiting.is_none() => match batch {
                    Some(Ok(batch)) => waiting = Some(batch),
                    Some(Err(fault)) => (reading, ended) = (false, Err(fault)),
                    None => reading = false,
                },
                Some(done) = under_way.next() => {
                    for id in &done.ids {
                        ids.remove(id);
                    }
                    stored.add(done.stored);
                    progress.inc(done.bytes);
                    progress.set_message(stored.rates(start.elapsed().as_secs_f64()));
                    if let Some(fault) = done.fault {
                        (reading, waiting, ended) = (false, None, ended.and(Err(fault)));
                    }
                }
                else => return ended,
            }
        }
    }

    /// Stores a batch, in parts where the server refuses it for its size.
    async fn batch(&self, batch: Batch) -> Done {
        let mut done = Done { ids: batch.ids.clone(), bytes: batch.bytes, stored: Stored::default(), fault: None };
        // The first part is the last here.
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            let request = self.template.clone().documents(part.ids.iter().zip(&part.texts));
            match self.client.put_tokens(request).await {
                Ok(response) => match Stored::of(&part, response) {
                    Ok(stored) => done.stored.add(stored),
                    Err(fault) => done.fault = Some(fault),
                },
                Err(error) if part.ids.len() > 1 && refused_for_size(&error) => {
                    let (first, second) = part.halves();
                    parts.extend([second, first]);
                }
                Err(error) => {
                    let place = place(&error, &part).map(|place| format!("{}: {place}", self.name));
                    let error = anyhow::Error::new(error);
                    done.fault = Some(match place {
                        Some(place) => error.context(place),
                        None => error,
                    });
                }
            }
            if done.fault.is_some() {
                break;
            }
        }
        done
    }
}

/// Whether fewer documents may be taken: the server has found fault with all of them together, or the message is too
/// large for it or for us.
fn refused_for_size(error: &ClientError) -> bool {
    match error {
        ClientError::TooLarge { .. } => true,
        ClientError::Status(status) => match status.code {
            Code::InvalidArgument => status.field_violations.iter().any(|violation| violation.field == "documents"),
            code => code == Code::OutOfRange,
        },
        _ => false,
    }
}

/// Where in the input the documents are that an error is about; `None` where it is about none of them.
fn place(error: &ClientError, part: &Batch) -> Option<String> {
    let (field, code) = match error {
        ClientError::Status(status) => (status.field_violations.first().map(|first| first.field.as_str()), status.code),
        _ => (None, Code::Unknown),
    };
    let about_none = matches!(code, Code::FailedPrecondition | Code::NotFound | Code::Unimplemented);
    if about_none || field.is_some_and(|field| !field.starts_with("documents")) {
        return None;
    }
    let position = field.and_then(|field| field.strip_prefix("documents[")?.split_once(']')?.0.parse::<usize>().ok());
    Some(match (position.and_then(|position| part.lines.get(position)), part.lines.first(), part.lines.last()) {
        (Some(line), ..) => format!("line {line}"),
        (None, Some(first), Some(last)) if first != last => format!("lines {first} to {last}"),
        (None, first, _) => format!("line {}", first?),
    })
}

/// What is stored.
#[derive(Debug, Default, Serialize)]
struct Stored {
    model: String,
    model_digest: String,
    documents: usize,
    tokens: u64,
    truncated: usize,
    computed_tokens: u64,
    requests: usize,
    seconds: f64,
}

/// What `--json` prints; `sluice tokens put --help` documents it.
#[derive(Serialize)]
struct Output<'a> {
    namespace: &'a str,
    #[serde(flatten)]
    stored: Stored,
}

impl Stored {
    fn of(part: &Batch, response: PutResponse) -> anyhow::Result<Self> {
        let same = part.ids.iter().eq(response.documents.iter().map(|document| &document.id));
        ensure!(same, "the answer does not name the documents that were put");
        Ok(Self {
            documents: response.documents.len(),
            tokens: response.documents.iter().map(|document| u64::from(document.tokens)).sum(),
            truncated: response.documents.iter().filter(|document| document.truncated).count(),
            computed_tokens: response.computed_tokens,
            requests: 1,
            seconds: 0.0,
            model: response.model,
            model_digest: response.model_digest,
        })
    }

    fn add(&mut self, other: Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.truncated += other.truncated;
        self.computed_tokens += other.computed_tokens;
        self.requests += other.requests;
        if other.requests > 0 {
            (self.model, self.model_digest) = (other.model, other.model_digest);
        }
    }

    fn rates(&self, seconds: f64) -> String {
        let seconds = seconds.max(1e-9);
        let (documents, tokens) = (self.documents as f64 / seconds, self.tokens as f64 / seconds);
        format!("{} documents, {documents:.0} documents/s, {tokens:.0} tokens/s", self.documents)
    }

    fn summary(&self) -> String {
        let Self { documents, tokens, truncated, seconds, .. } = self;
        let model = table::one_line(&self.model, width());
        let rate = *documents as f64 / seconds.max(1e-9);
        format!(
            "{documents} documents, {tokens} tokens, {truncated} truncated, {model}, {seconds:.1} s, {rate:.1} documents/s"
        )
    }
}

#[cfg(test)]
mod tests {
    use sluice_client::{FieldViolation, StatusError};

    use super::*;

    fn refused(code: Code, fields: &[&str]) -> ClientError {
        let violation = |field: &&str| FieldViolation { field: (*field).to_owned(), description: String::new() };
        ClientError::Status(Box::new(StatusError {
            code,
            message: String::new(),
            field_violations: fields.iter().map(violation).collect(),
            retry_after: None,
            reason: None,
            attempts: 1,
        }))
    }

    #[test]
    fn errors_are_about_lines() {
        let part = Batch { lines: vec![4, 6, 7], ..Batch::default() };
        let single = Batch { lines: vec![9], ..Batch::default() };
        let cases = [
            (refused(Code::InvalidArgument, &["documents[1].id"]), &part, false, Some("line 6")),
            (refused(Code::InvalidArgument, &["documents[9].id"]), &part, false, Some("lines 4 to 7")),
            (refused(Code::InvalidArgument, &["documents"]), &part, true, Some("lines 4 to 7")),
            (refused(Code::InvalidArgument, &["namespace"]), &single, false, None),
            (refused(Code::FailedPrecondition, &[]), &part, false, None),
            (refused(Code::OutOfRange, &[]), &part, true, Some("lines 4 to 7")),
            (refused(Code::Internal, &[]), &single, false, Some("line 9")),
            (ClientError::TooLarge { bytes: 2, limit: 1 }, &single, true, Some("line 9")),
        ];
        for (error, part, size, expected) in cases {
            assert_eq!((refused_for_size(&error), place(&error, part).as_deref()), (size, expected), "{error}");
        }
    }
}
