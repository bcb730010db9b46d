//! The batch size that suits a rival best.

use std::time::Duration;

/// Batch sizes that are tried; the fastest one runs.
pub const BATCH_SIZES: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Rounds over them: a size counts with its fastest round.
const ROUNDS: usize = 2;

/// The size whose fastest round is the fastest of all.
///
/// # Errors
/// If a measurement fails.
pub fn fastest(sizes: &[usize], mut measure: impl FnMut(usize) -> anyhow::Result<Duration>) -> anyhow::Result<usize> {
    let mut best = (Duration::MAX, 1);
    for _ in 0..ROUNDS {
        for &size in sizes {
            best = best.min((measure(size)?, size));
        }
    }
    Ok(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_round_decides() {
        let mut milliseconds = [9, 5, 7, 4, 6, 8].into_iter();
        let mut asked = Vec::new();
        let best = fastest(&[1, 8, 32], |size| {
            asked.push(size);
            Ok(Duration::from_millis(milliseconds.next().unwrap()))
        });
        assert_eq!((best.unwrap(), asked), (1, vec![1, 8, 32, 1, 8, 32]));
    }
}
