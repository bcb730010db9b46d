//! ONNX Runtime, in Python: `rivals/encoder.py`.

use std::{cell::RefCell, collections::BTreeMap, path::Path, time::Duration};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::{
    Method,
    fastest::{BATCH_SIZES, fastest},
};
use crate::{
    interleave::{Answer, Contender, Request},
    machine::Machine,
    rivals::{Environment, Rival},
};

/// A process that holds the model in both precisions.
#[derive(Debug)]
pub struct OnnxRuntime {
    rival: RefCell<Rival>,
    hello: Hello,
    max_tokens: usize,
}

/// Precision of the rival's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As ours.
    F32,
    /// Dynamic int8: its scores are others, so it is a rival in speed alone.
    Int8,
}

impl Precision {
    /// As the rival calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

/// What ONNX Runtime makes of a BERT when it recognises one. Without them it would be half as good a rival.
const FUSED: [&str; 3] = ["Attention", "SkipLayerNormalization", "BiasGelu"];

#[derive(Debug, Deserialize)]
struct Hello {
    onnxruntime: String,
    operators: BTreeMap<String, BTreeMap<String, usize>>,
}

#[derive(Serialize)]
struct Question<'a> {
    precision: Precision,
    method: Method,
    query: &'a str,
    documents: &'a [String],
    max_tokens: usize,
    batch: usize,
}

#[derive(Deserialize)]
struct Reply {
    scores: Vec<f32>,
    tokens: u64,
    tokenize_seconds: f64,
    encode_seconds: f64,
}

impl OnnxRuntime {
    /// Starts it on a model folder; `scratch` is where its graphs go. Builds the environment if there is none.
    ///
    /// # Errors
    /// If Python, pip or the script fail, or ONNX Runtime does not fuse what it should.
    pub fn start(machine: &Machine, folder: &Path, scratch: &Path, limits: (usize, usize)) -> anyhow::Result<Self> {
        let (threads, max_tokens) = limits;
        let scripts = machine.workspace.join("benches/rivals");
        (machine.progress)("preparing ONNX Runtime");
        let environment = Environment::prepare(&machine.cache, &scripts.join("requirements.txt"))?;
        let mut rival = environment.start(&scripts.join("encoder.py"), &[folder, scratch], threads)?;
        let hello: Hello = rival.receive()?;
        let fused = hello.operators.get("f32");
        let missing: Vec<_> =
            FUSED.into_iter().filter(|name| !fused.is_some_and(|found| found.contains_key(*name))).collect();
        ensure!(missing.is_empty(), "ONNX Runtime has not fused {missing:?}, only {fused:?}");
        Ok(Self { rival: RefCell::new(rival), hello, max_tokens })
    }

    /// Its version and what it runs, for the report.
    #[must_use]
    pub fn description(&self) -> String {
        let graphs = self.hello.operators.iter().map(|(precision, operators)| {
            let mut operators: Vec<_> = operators.iter().filter(|(_, count)| **count > 1).collect();
            operators.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let operators: Vec<_> = operators.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
            format!("{precision} runs {}", operators.join(", "))
        });
        format!("ONNX Runtime {}: {}", self.hello.onnxruntime, graphs.collect::<Vec<_>>().join("; "))
    }

    /// The batch size at which it answers this request soonest.
    ///
    /// # Errors
    /// If it fails.
    pub fn best_batch(&self, precision: Precision, method: Method, request: &Request) -> anyhow::Result<usize> {
        fastest(&BATCH_SIZES, |batch| Ok(self.contender(precision, method, batch).rerank(request)?.total))
    }

    /// As a contender with one batch size.
    #[must_use]
    pub fn contender(&self, precision: Precision, method: Method, batch: usize) -> impl Contender + '_ {
        Batched { process: self, precision, method, batch }
    }
}

struct Batched<'a> {
    process: &'a OnnxRuntime,
    precision: Precision,
    method: Method,
    batch: usize,
}

impl Contender for Batched<'_> {
    fn name(&self) -> String {
        format!("onnxruntime {}", self.precision.name())
    }

    fn rerank(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let question = Question {
            precision: self.precision,
            method: self.method,
            query: &request.query,
            documents: &request.documents,
            max_tokens: self.process.max_tokens,
            batch: self.batch,
        };
        let reply: Reply = self.process.rival.borrow_mut().ask(&question)?;
        let encode = Duration::try_from_secs_f64(reply.encode_seconds)?;
        let total = encode + Duration::try_from_secs_f64(reply.tokenize_seconds)?;
        Ok(Answer { scores: reply.scores, tokens: reply.tokens, total, encode: Some(encode) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_what_the_script_reads() {
        let question = Question {
            precision: Precision::Int8,
            method: Method::LateInteraction,
            query: "q",
            documents: &["d".to_owned()],
            max_tokens: 256,
            batch: 8,
        };
        let expected = serde_json::json!({
            "precision": "int8", "method": "late_interaction", "query": "q", "documents": ["d"], "max_tokens": 256,
            "batch": 8,
        });
        assert_eq!(serde_json::to_value(question).unwrap(), expected);
    }
}
