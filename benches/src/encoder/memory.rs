//! How much memory a busy server takes.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, ensure};

use super::{Method, over_grpc::OverGrpc};
use crate::{
    interleave::{Contender, Request},
    report::{Row, Spread},
};

/// What a server may take beside its weights.
const ALLOWANCE_BYTES: f64 = 200e6;
const MEBIBYTE: f64 = (1 << 20) as f64;

/// What was found.
pub struct Memory {
    /// The largest resident set beside what is allowed.
    pub row: Row,
    /// How it grew.
    pub note: String,
}

/// Keeps the server busy for that long with requests of each method in turn, and watches this process's resident set.
///
/// # Errors
/// If a request fails, or the system does not say how large this process is.
pub fn measure(
    served: &OverGrpc,
    requests: &[Request],
    folder: &Path,
    (duration, clock): (Duration, fn() -> Duration),
) -> anyhow::Result<Memory> {
    let weights = fs::metadata(folder.join("model.safetensors"))?.len() as f64;
    let mut turns = requests.iter().cycle();
    let mut ask = || -> anyhow::Result<f64> {
        let request = turns.next().context("no requests")?;
        for method in [Method::Dense, Method::LateInteraction, Method::CrossEncoder] {
            served.contender(method).rerank(request)?;
        }
        resident_bytes()
    };
    let started = clock();
    let mut samples = vec![ask()?];
    while clock().saturating_sub(started) < duration {
        samples.push(ask()?);
    }
    ensure!(samples.iter().all(|sample| *sample > 0.0), "a process of no size");
    let largest = samples.iter().copied().fold(0.0, f64::max);
    let limit = weights + ALLOWANCE_BYTES;
    let half = samples[samples.len() / 2];
    let last = samples[samples.len() - 1];
    Ok(Memory {
        row: Row {
            case: "memory".to_owned(),
            unit: "MiB resident (less is better)",
            ours: Spread::of([largest / MEBIBYTE]),
            rival: "weights + 200 MB".to_owned(),
            rival_value: Spread::of([limit / MEBIBYTE]),
            ratio: Spread::of([limit / largest]),
            target: Some(1.0),
        },
        note: format!(
            "memory: server, client and texts in one process, {} rounds of all methods in {:.0} s; {:.0} MiB after the \
             first, {:.0} half-way, {:.0} at the end; weights of {:.0} MiB",
            samples.len(),
            clock().saturating_sub(started).as_secs_f64(),
            samples[0] / MEBIBYTE,
            half / MEBIBYTE,
            last / MEBIBYTE,
            weights / MEBIBYTE,
        ),
    })
}

/// The resident set of this process.
fn resident_bytes() -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("this system does not say how large a process is")?;
    resident(&status).context("no VmRSS in /proc/self/status")
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_sets_are_read() {
        for (status, expected) in
            [("Name:\tx\nVmRSS:\t  1024 kB\n", Some(1_048_576.0)), ("VmRSS: lots\n", None), ("", None)]
        {
            assert_eq!(resident(status), expected, "{status:?}");
        }
    }
}
