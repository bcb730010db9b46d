//! What was learnt of costs, kept from one start to the next.
//!
//! A JSON file, one entry per model, backend and operation. It is a convenience: one that cannot be read is measured
//! anew, and says so in the log.
//!
//! ```json
//! {"version": 1, "lanes": [{"model_digest": "53aa…", "backend": "cpu-f32-avx512", "operation": "late_interaction",
//!   "coefficients": {"batch": 0.001, "sequence": 0.00005, "token": 0.00005, "token_squared": 1e-8},
//!   "accuracy": {"observations": 1200, "median_relative_error": 0.04}}]}
//! ```
//!
//! Coefficients are seconds of a batch, a sequence, a token and a pair of tokens of one sequence.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sluice_core::{
    Lane, ModelIndex, Operation,
    cost::{Accuracy, Coefficients, CostModel},
};
use tokio::sync::watch;

use crate::models::{Model, Models};

const VERSION: u32 = 1;
/// Batches behind what is written: fewer say little.
const OBSERVATIONS_MIN: u64 = 20;
/// How often it is written while the server learns.
const WRITE_INTERVAL: Duration = Duration::from_secs(60);
/// Files written so far.
static WRITTEN: AtomicU64 = AtomicU64::new(0);
const OPERATIONS: [Operation; 6] = [
    Operation::EncodeTokens,
    Operation::EncodeDense,
    Operation::LateInteraction,
    Operation::CrossEncode,
    Operation::MaxSim,
    Operation::Align,
];

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    lanes: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    model_digest: String,
    backend: String,
    operation: String,
    coefficients: Coefficients,
    accuracy: Option<Accuracy>,
}

/// Why a file was not used.
#[derive(Debug, thiserror::Error)]
pub enum CostFileError {
    /// It is there and cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is no such file.
    #[error("is not a file of costs: {0}")]
    Parse(#[from] serde_json::Error),
    /// It was written by another version.
    #[error("has version {0}, expected {VERSION}")]
    Version(u32),
}

/// What the file knows of these models; nothing, if there is no such file.
///
/// # Errors
/// [`CostFileError`].
pub fn read(path: &Path, models: &Models) -> Result<CostModel, CostFileError> {
    let mut cost = CostModel::default();
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(cost),
        Err(error) => return Err(error.into()),
    };
    let content: Content = serde_json::from_slice(&text)?;
    if content.version != VERSION {
        return Err(CostFileError::Version(content.version));
    }
    for (index, model) in models.iter() {
        for entry in content.lanes.iter().filter(|entry| is_of(entry, model)) {
            if let Some(operation) = OPERATIONS.into_iter().find(|operation| operation.name() == entry.operation) {
                cost.restore(Lane { model: index, operation }, entry.coefficients);
            }
        }
    }
    Ok(cost)
}

fn is_of(entry: &Entry, model: &Model) -> bool {
    entry.model_digest == model.info.digest && entry.backend == model.info.backend
}

/// Writes the file in one piece: whoever reads it finds the old one or the new one.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, models: &Models, cost: &CostModel) -> io::Result<()> {
    let known = |index: ModelIndex| cost.lanes().filter(move |lane| lane.model == index);
    let lanes = models.iter().flat_map(|(index, model)| {
        let measured =
            |lane: &Lane| cost.accuracy(*lane).is_some_and(|accuracy| accuracy.observations >= OBSERVATIONS_MIN);
        known(index).filter(measured).map(|lane| Entry {
            model_digest: model.info.digest.clone(),
            backend: model.info.backend.to_owned(),
            operation: lane.operation.name().to_owned(),
            coefficients: cost.coefficients(lane),
            accuracy: cost.accuracy(lane),
        })
    });
    let content = Content { version: VERSION, lanes: lanes.collect() };
    let mut text = serde_json::to_vec_pretty(&content).map_err(io::Error::other)?;
    text.push(b'\n');
    // Whoever writes at the same time writes to a file of their own.
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", WRITTEN.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

/// Keeps the file up to date for as long as there is something to learn. What is known at the end is the caller's to
/// [`write()`].
pub async fn keep(path: PathBuf, models: Models, mut costs: watch::Receiver<Arc<CostModel>>) {
    while costs.changed().await.is_ok() {
        let known = Arc::clone(&costs.borrow_and_update());
        let written = {
            let (path, models) = (path.clone(), models.clone());
            tokio::task::spawn_blocking(move || write(&path, &models, &known)).await
        };
        if let Ok(Err(error)) = written {
            tracing::warn!(path = %path.display(), %error, "costs were not written");
        }
        tokio::time::sleep(WRITE_INTERVAL).await;
    }
}
