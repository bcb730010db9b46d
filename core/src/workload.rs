//! What callers do: a description of traffic that a load generator sends and a simulator plays in virtual time.
//!
//! The same description gives the same requests at the same intended times on every machine: see [`Traffic`].
//!
//! # The file
//!
//! ```toml
//! duration = "60s"        # arrivals are intended from 0 up to here
//! warm_up = "5s"          # what is intended earlier is sent and not counted; default 0
//! seed = 7                # of everything drawn; default 0
//!
//! [[stream]]              # 1 to 64, at once
//! name = "chat"           # in reports; unique
//! arrivals = { process = "poisson", rate = 20.0 }
//! documents = 10
//! class = "interactive"
//! deadline = "300ms"
//!
//! [[stream]]
//! name = "nightly"
//! arrivals = { process = "closed", callers = 4, think_time = "10ms" }
//! documents = [{ value = 100, weight = 3 }, { value = 1000, weight = 1 }]
//! document_tokens = { min = 20, max = 400, shape = "zipf" }
//! class = "bulk"
//! tenant = "batch"
//! ```
//!
//! | key of a stream | meaning | default |
//! |---|---|---|
//! | `name` | what reports call it, 1 to 64 bytes | – |
//! | `arrivals` | when requests come, see below | – |
//! | `from`, `until` | the part of the run in which it sends | all of it |
//! | `documents` | documents of a request, sizes from 1 to 10,000 | – |
//! | `document_tokens` | tokens of a document without special ones, sizes from 1 to 65,536 | 100 |
//! | `query_tokens` | the same of a query | 8 |
//! | `content` | what is sent: `{ kind = "text" }`, `{ kind = "stored", namespace = "load", pool = 1000 }` or `{ kind = "vectors", dim = 128 }` | text |
//! | `distinct` | different requests that there are; those sent are drawn from them | no two alike |
//! | `model` | model asked for | the server's default |
//! | `method` | `late_interaction`, `dense` or `cross_encoder` | the model's default |
//! | `class` | `interactive`, `standard` or `bulk` | `standard` |
//! | `tenant` | on whose account; who that is to a server is told to the generator, never here | nobody's |
//! | `deadline` | time from sending to the latest useful answer | `"30s"` |
//! | `budget` | `{ time = "100ms", pairs = 200 }`, either or both: what may be spent before the best known order is the answer | none |
//! | `abandon` | `{ share = 0.5, after = "20ms" }`: that share of the callers leaves so long after sending, answered or not | nobody |
//!
//! | `arrivals` | when requests come |
//! |---|---|
//! | `{ process = "constant", rate = R }` | `R` a second, evenly, the first at `from` |
//! | `{ process = "poisson", rate = R }` | `R` a second on average, independently of each other |
//! | `{ process = "closed", callers = N, think_time = T }` | each of `N` callers sends, waits for the answer, thinks for `T`, and sends again |
//!
//! *Sizes* are `100`, always the same; `{ min = 10, max = 50 }`, each as likely; `{ min = 10, max = 500, shape = "zipf" }`,
//! where the n-th smallest is 1/n as likely as the smallest; or `[{ value = 10, weight = 3 }, …]`, with at most 1,000
//! values. *Times* are a number and `ns`, `us`, `ms`, `s`, `m` or `h`.

mod check;
mod period;
mod random;
mod sizes;
mod traffic;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    check::{WorkloadFault, WorkloadFaults},
    period::{PeriodError, format as format_period, parse as parse_period},
    random::Random,
    sizes::{Shape, Sizes, Weighted},
    traffic::{Arrival, Arrivals, Caller, Document, Request, Traffic},
};

/// A description of traffic. The [module](self) documents it as a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Requests are intended from 0 up to here.
    #[serde(with = "period")]
    pub duration: Duration,
    /// What is intended earlier is sent and not counted.
    #[serde(default, with = "period")]
    pub warm_up: Duration,
    /// Of everything drawn.
    #[serde(default)]
    pub seed: u64,
    /// Who sends what, all at once.
    #[serde(rename = "stream")]
    pub streams: Vec<Stream>,
}

/// Requests of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// What reports call it.
    pub name: String,
    /// When its requests come.
    pub arrivals: Process,
    /// From when on it sends.
    #[serde(default, with = "period", skip_serializing_if = "Duration::is_zero")]
    pub from: Duration,
    /// Until when; `None` to the end.
    #[serde(default, with = "period::optional", skip_serializing_if = "Option::is_none")]
    pub until: Option<Duration>,
    /// Documents of a request.
    pub documents: Sizes,
    /// Tokens of a document, special ones not counted.
    #[serde(default = "document_tokens")]
    pub document_tokens: Sizes,
    /// Tokens of a query, special ones not counted.
    #[serde(default = "query_tokens")]
    pub query_tokens: Sizes,
    /// How documents are sent.
    #[serde(default)]
    pub content: Content,
    /// Different requests that there are; `None`: no two are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct: Option<u32>,
    /// Model asked for; empty: the server's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// How documents are scored; `None`: the model's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// How urgent it is.
    #[serde(default)]
    pub class: Class,
    /// On whose account; `None`: nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Time from sending to the latest useful answer.
    #[serde(default = "deadline", with = "period")]
    pub deadline: Duration,
    /// What may be spent before the best known order is the answer; `None`: no such bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Callers that do not wait for the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandon: Option<Abandon>,
}

/// When requests come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "process", rename_all = "lowercase", deny_unknown_fields)]
pub enum Process {
    /// Evenly.
    Constant {
        /// A second.
        rate: f64,
    },
    /// Independently of each other.
    Poisson {
        /// A second, on average.
        rate: f64,
    },
    /// After the answer to the one before.
    Closed {
        /// Who send at once.
        callers: u32,
        /// From an answer to the next request.
        #[serde(default, with = "period")]
        think_time: Duration,
    },
}

/// How documents are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Content {
    /// As texts.
    #[default]
    Text,
    /// As ids of what was put into the token store before.
    Stored {
        /// Where it was put.
        namespace: String,
        /// Documents that were put; a request asks for some that follow each other.
        pool: u32,
    },
    /// As normalised vectors, and the query as well.
    Vectors {
        /// Components of a vector.
        dim: u32,
    },
}

/// How documents are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// MaxSim over token vectors.
    LateInteraction,
    /// Cosine of pooled vectors.
    Dense,
    /// A classification head over the pair.
    CrossEncoder,
}

/// How urgent a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Somebody waits for it.
    Interactive,
    /// A program does.
    #[default]
    Standard,
    /// Nobody does.
    Bulk,
}

impl Class {
    /// All, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Bulk];

    /// As it stands in a file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }
}

/// What may be spent before the best known order is the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// From the arrival of the request.
    #[serde(default, with = "period::optional", skip_serializing_if = "Option::is_none")]
    pub time: Option<Duration>,
    /// Pairs scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<u32>,
}

/// Callers that do not wait for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abandon {
    /// Of all requests, from 0 to 1.
    pub share: f64,
    /// From sending to leaving.
    #[serde(with = "period")]
    pub after: Duration,
}

impl Stream {
    /// `documents` documents in a request of what is otherwise the default.
    #[must_use]
    pub fn new(name: &str, arrivals: Process, documents: Sizes) -> Self {
        Self {
            name: name.to_owned(),
            arrivals,
            from: Duration::ZERO,
            until: None,
            documents,
            document_tokens: document_tokens(),
            query_tokens: query_tokens(),
            content: Content::Text,
            distinct: None,
            model: String::new(),
            method: None,
            class: Class::Standard,
            tenant: None,
            deadline: deadline(),
            budget: None,
            abandon: None,
        }
    }
}

fn document_tokens() -> Sizes {
    Sizes::Fixed(100)
}

fn query_tokens() -> Sizes {
    Sizes::Fixed(8)
}

fn deadline() -> Duration {
    Duration::from_secs(30)
}

#[cfg(test)]
mod tests;
