//! The requests that a workload stands for, and when they are intended.

use std::{sync::Arc, time::Duration};

use super::{Abandon, Content, Process, Random, Stream, Workload, WorkloadFaults, sizes::Sampler};

/// What a seed is for: streams of numbers that have nothing to do with each other.
const ARRIVALS: u64 = 1;
const CONTENTS: u64 = 2;
const STORED: u64 = 3;
const CALLERS: u64 = 4;

/// A workload whose faults have been looked for: the requests that it stands for.
///
/// A request follows from the workload's seed, the stream's position and the request's number alone, and its intended
/// time from those before it in the same stream; nothing else is drawn. Adding a stream leaves the others as they are.
#[derive(Clone, Debug)]
pub struct Traffic {
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    workload: Workload,
    samplers: Vec<Samplers>,
}

#[derive(Debug)]
struct Samplers {
    documents: Sampler,
    document_tokens: Sampler,
    query_tokens: Sampler,
}

/// A request and the time at which it is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// From the start of the run.
    pub at: Duration,
    /// What is sent.
    pub request: Request,
}

/// What is known of a request before its texts are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Position of its stream in the workload, from 0.
    pub stream: usize,
    /// Seed of the query's text, and what tells two contents apart: equal ones are the same request again.
    pub content: u64,
    /// Tokens of the query, special ones not counted.
    pub query_tokens: u32,
    /// The documents, in order.
    pub documents: Vec<Document>,
    /// So long after sending its caller leaves; `None`: it waits for the answer or the deadline.
    pub abandoned_after: Option<Duration>,
}

/// What is known of a document before its text is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document {
    /// Seed of its text; of a stored document its number in the pool, from 0.
    pub id: u64,
    /// Its tokens, special ones not counted.
    pub tokens: u32,
}

impl Traffic {
    /// What `workload` stands for.
    ///
    /// # Errors
    ///
    /// What [`Workload::check`] finds.
    pub fn new(workload: Workload) -> Result<Self, WorkloadFaults> {
        workload.check()?;
        let samplers = workload.streams.iter().map(|stream| Samplers {
            documents: Sampler::new(&stream.documents),
            document_tokens: Sampler::new(&stream.document_tokens),
            query_tokens: Sampler::new(&stream.query_tokens),
        });
        let samplers = samplers.collect();
        Ok(Self { plan: Arc::new(Plan { workload, samplers }) })
    }

    /// The description.
    #[must_use]
    pub fn workload(&self) -> &Workload {
        &self.plan.workload
    }

    /// Requests of the streams that do not wait for answers, in order of time; of those at one time, in order of their
    /// streams.
    #[must_use]
    pub fn arrivals(&self) -> Arrivals {
        let streams = (0..self.workload().streams.len()).filter_map(|stream| OpenStream::new(&self.plan, stream));
        Arrivals { streams: streams.collect(), plan: Arc::clone(&self.plan) }
    }

    /// Callers of the streams that do wait, in order of their streams.
    #[must_use]
    pub fn callers(&self) -> Vec<Caller> {
        let mut found = Vec::new();
        for (index, stream) in self.workload().streams.iter().enumerate() {
            if let Process::Closed { callers, think_time } = stream.arrivals {
                let plan = || Arc::clone(&self.plan);
                found.extend((0..callers).map(|caller| Caller {
                    plan: plan(),
                    stream: index,
                    caller,
                    number: 0,
                    think_time,
                }));
            }
        }
        found
    }

    /// The stored documents that the requests of a stream ask for, in order of their numbers; none of a stream that
    /// asks for none. Streams that share a namespace share its documents.
    pub fn stored(&self, stream: usize) -> impl Iterator<Item = Document> + '_ {
        let pool = match self.workload().streams.get(stream).map(|stream| &stream.content) {
            Some(Content::Stored { pool, .. }) => *pool,
            _ => 0,
        };
        (0..pool).map(move |number| self.plan.stored(stream, u64::from(number)))
    }
}

impl Plan {
    fn stream(&self, index: usize) -> &Stream {
        &self.workload.streams[index]
    }

    /// Request `number` of a stream; of a closed one also that of a caller.
    fn request(&self, stream: usize, caller: u64, number: u64) -> Request {
        let (settings, samplers) = (self.stream(stream), &self.samplers[stream]);
        let seed = self.workload.seed;
        let mut own = Random::new(Random::seed(&[seed, CONTENTS, stream as u64, caller, number]));
        let leaves = |Abandon { share, after }: Abandon| (own.unit() < share).then_some(after);
        let abandoned_after = settings.abandon.and_then(leaves);
        let content = match settings.distinct {
            None => own.bits(),
            Some(distinct) => Random::seed(&[seed, CONTENTS, stream as u64, own.below(u64::from(distinct))]),
        };
        // From here on everything follows from the content.
        let mut drawn = Random::new(content);
        let query_tokens = samplers.query_tokens.draw(&mut drawn);
        let documents = u64::from(samplers.documents.draw(&mut drawn));
        let documents = match settings.content {
            Content::Text | Content::Vectors { .. } => {
                let document = |_| Document { id: drawn.bits(), tokens: samplers.document_tokens.draw(&mut drawn) };
                (0..documents).map(document).collect()
            }
            Content::Stored { pool, .. } => {
                let first = drawn.below(u64::from(pool));
                (first..first + documents).map(|number| self.stored(stream, number % u64::from(pool))).collect()
            }
        };
        Request { stream, content, query_tokens, documents, abandoned_after }
    }

    /// A stored document has one length, whoever asks for it.
    fn stored(&self, stream: usize, number: u64) -> Document {
        let mut drawn = Random::new(Random::seed(&[self.workload.seed, STORED, number]));
        Document { id: number, tokens: self.samplers[stream].document_tokens.draw(&mut drawn) }
    }

    fn until(&self, stream: usize) -> Duration {
        self.stream(stream).until.unwrap_or(self.workload.duration)
    }
}

/// Requests with their intended times, in order of time.
#[derive(Clone, Debug)]
pub struct Arrivals {
    plan: Arc<Plan>,
    /// Those that have a next one.
    streams: Vec<OpenStream>,
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let earliest = (0..self.streams.len()).min_by_key(|index| self.streams[*index].next)?;
        let OpenStream { stream, number, next: at, .. } = self.streams[earliest];
        if !self.streams[earliest].advance(&self.plan) {
            self.streams.remove(earliest);
        }
        Some(Arrival { at, request: self.plan.request(stream, 0, number) })
    }
}

#[derive(Clone, Debug)]
struct OpenStream {
    stream: usize,
    /// Of the next request, from 0.
    number: u64,
    next: Duration,
    /// Seconds from the stream's beginning to the next request, unrounded.
    since: f64,
    gaps: Random,
}

impl OpenStream {
    /// None of a closed stream, or of one that ends before it has sent anything.
    fn new(plan: &Plan, stream: usize) -> Option<Self> {
        let from = plan.stream(stream).from;
        let gaps = Random::new(Random::seed(&[plan.workload.seed, ARRIVALS, stream as u64]));
        let mut open = Self { stream, number: 0, next: from, since: 0.0, gaps };
        match plan.stream(stream).arrivals {
            Process::Constant { .. } => Some(open),
            Process::Poisson { rate } => {
                open.since = open.gaps.exponential() / rate;
                open.place(plan).then_some(open)
            }
            Process::Closed { .. } => None,
        }
    }

    /// Moves on to the next request; false if there is none.
    fn advance(&mut self, plan: &Plan) -> bool {
        self.number += 1;
        match plan.stream(self.stream).arrivals {
            // Not a sum of gaps, whose rounding would add up.
            Process::Constant { rate } => self.since = self.number as f64 / rate,
            Process::Poisson { rate } => self.since += self.gaps.exponential() / rate,
            Process::Closed { .. } => return false,
        }
        self.place(plan)
    }

    fn place(&mut self, plan: &Plan) -> bool {
        let from = plan.stream(self.stream).from;
        let next = Duration::try_from_secs_f64(self.since).ok().and_then(|since| from.checked_add(since));
        self.next = next.unwrap_or(Duration::MAX);
        self.next < plan.until(self.stream)
    }
}

/// One who sends, waits, thinks, and sends again.
#[derive(Clone, Debug)]
pub struct Caller {
    plan: Arc<Plan>,
    stream: usize,
    caller: u32,
    number: u64,
    think_time: Duration,
}

impl Caller {
    /// Position of its stream in the workload, from 0.
    #[must_use]
    pub fn stream(&self) -> usize {
        self.stream
    }

    /// When it sends first. Callers of a stream begin spread over a think time, so that they do not move in step.
    #[must_use]
    pub fn begins(&self) -> Duration {
        let seed = Random::seed(&[self.plan.workload.seed, CALLERS, self.stream as u64, u64::from(self.caller)]);
        self.plan.stream(self.stream).from + self.think_time.mul_f64(Random::new(seed).unit())
    }

    /// When it sends next, having been answered at `answered`.
    #[must_use]
    pub fn resumes(&self, answered: Duration) -> Duration {
        answered.saturating_add(self.think_time)
    }

    /// Its next request, if it is still to send one at `now`.
    pub fn send(&mut self, now: Duration) -> Option<Request> {
        if now >= self.plan.until(self.stream) {
            return None;
        }
        let number = self.number;
        self.number += 1;
        // Callers count from 1: 0 stands for those who do not wait.
        Some(self.plan.request(self.stream, u64::from(self.caller) + 1, number))
    }
}
