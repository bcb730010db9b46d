//! Input that is read while what came before it is worked on.

use std::thread;

use tokio::sync::mpsc;

/// Batches that are read before they can be worked on.
const BATCHES_MAX: usize = 1;

/// Reads on a thread of its own: input that is slow to come does not hold up what is under way.
pub(crate) fn read_ahead<B: Send + 'static>(
    batches: impl Iterator<Item = anyhow::Result<B>> + Send + 'static,
) -> anyhow::Result<mpsc::Receiver<anyhow::Result<B>>> {
    let (sender, receiver) = mpsc::channel(BATCHES_MAX);
    let read = move || {
        for batch in batches {
            if sender.blocking_send(batch).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("input".to_owned()).spawn(read)?;
    Ok(receiver)
}
