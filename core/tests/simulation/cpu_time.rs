//! Time that this thread has computed: what others do on the machine does not count.

use std::{fs, time::Duration};

/// `None` where the system does not say.
pub(crate) fn cpu_time() -> Option<Duration> {
    // Nanoseconds on a processor, nanoseconds in its queue, turns.
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
