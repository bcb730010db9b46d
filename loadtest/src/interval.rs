//! How certain a figure is: 95 % confidence intervals of figures whose samples depend on each other.
//!
//! Requests that wait in one queue are late together, so intervals that take them for independent are too narrow. The
//! counted part of a run is cut into [`SLICES`] equal slices of intended time, long against how long a queue remembers,
//! and how much the slices differ says how much the figure does (*batch means*; Law, *Simulation Modeling and
//! Analysis*, 5th ed., 9.5.3).

/// Slices of the counted part of a run.
pub(crate) const SLICES: usize = 20;
/// 97.5 % of Student's t with `SLICES − 1` degrees of freedom is below it.
const T: f64 = 2.093;

/// Half the width of the interval around the sum of the slices' counts: t · √slices · their standard deviation.
pub(crate) fn sum_half_width(slices: &[u64; SLICES]) -> f64 {
    let count = SLICES as f64;
    let mean = slices.iter().sum::<u64>() as f64 / count;
    let variance = slices.iter().map(|slice| (*slice as f64 - mean).powi(2)).sum::<f64>() / (count - 1.0);
    T * (count * variance).sqrt()
}

/// How many times more the slices' shares of samples above a percentile vary than those of independent samples would;
/// at least 1. Each slice is its samples and how many of them are above.
pub(crate) fn inflation(slices: &[(u64, u64)]) -> f64 {
    let (all, above) = slices.iter().fold((0, 0), |(all, above), slice| (all + slice.0, above + slice.1));
    let share = above as f64 / all as f64;
    let independent = all as f64 * share * (1.0 - share);
    if slices.len() < 2 || independent <= 0.0 || !independent.is_finite() {
        return 1.0;
    }
    let squares = slices.iter().map(|(all, above)| (*above as f64 - share * *all as f64).powi(2)).sum::<f64>();
    let found = squares * slices.len() as f64 / (slices.len() - 1) as f64;
    (found / independent).max(1.0)
}

/// The ranks, from 1, of the samples between which quantile `q` of `count` samples lies, free of any assumption on
/// their distribution (binomial, approximately; Conover, *Practical Nonparametric Statistics*, 3.2). The spread is
/// known from slices alone where it is inflated, hence Student's t.
/// `None` where that would be beyond the last sample, or before the first.
pub(crate) fn quantile_ranks(count: u64, q: f64, inflation: f64) -> (Option<u64>, Option<u64>) {
    let samples = count as f64;
    let half = T * (samples * q * (1.0 - q) * inflation).sqrt();
    let (low, high) = ((samples * q - half).floor(), (samples * q + half).ceil() + 1.0);
    let within = |rank: f64| (rank >= 1.0 && rank <= samples).then_some(rank as u64);
    (within(low), within(high))
}

#[cfg(test)]
mod tests {
    use sluice_core::workload::Random;

    use super::*;

    #[test]
    fn intervals_of_sums_hold_the_truth_as_often_as_they_say() {
        // Slices are sums of 200 coins, so the truth is 2,000. Of 2,000 intervals 95 % hold it, give or take 1.5 %.
        let mut random = Random::new(1);
        let held = (0..2_000).filter(|_| {
            let slices = [(); SLICES].map(|()| (0..200).map(|_| random.below(2)).sum::<u64>());
            (slices.iter().sum::<u64>() as f64 - 2_000.0).abs() <= sum_half_width(&slices)
        });
        let held = held.count() as f64 / 2_000.0;
        assert!((0.935..0.965).contains(&held), "{held}");
        assert_eq!(sum_half_width(&[7; SLICES]), 0.0);
    }

    #[test]
    fn intervals_of_percentiles_hold_the_truth_also_where_samples_come_in_runs() {
        // Uniform numbers from 0 to 1, each drawn `run` times in a row: the truth of quantile q is q.
        for (run, q) in [(1, 0.5), (1, 0.9), (10, 0.5), (10, 0.9)] {
            let mut random = Random::new(run + 7);
            let held = (0..600).filter(|_| {
                let samples: Vec<f64> = (0..2_000 / run).flat_map(|_| vec![random.unit(); run as usize]).collect();
                let mut sorted = samples.clone();
                sorted.sort_by(f64::total_cmp);
                let found = sorted[(q * samples.len() as f64) as usize];
                let above = |slice: &[f64]| slice.iter().filter(|sample| **sample > found).count() as u64;
                let slices: Vec<_> =
                    samples.chunks(samples.len() / SLICES).map(|slice| (slice.len() as u64, above(slice))).collect();
                let (low, high) = quantile_ranks(samples.len() as u64, q, inflation(&slices));
                let at = |rank: Option<u64>| sorted[rank.expect("far from both ends") as usize - 1];
                at(low) <= q && q <= at(high)
            });
            let held = held.count() as f64 / 600.0;
            assert!(held >= 0.91, "runs of {run}, quantile {q}: {held}");
        }
    }

    #[test]
    fn ranks_beyond_the_samples_are_not_made_up() {
        let cases = [
            (100, 0.5, 1.0, (Some(39), Some(62))),
            (100, 0.99, 1.0, (Some(96), None)),
            (10, 0.5, 40.0, (None, None)),
            (0, 0.5, 1.0, (None, None)),
        ];
        for (count, q, inflation, expected) in cases {
            assert_eq!(quantile_ranks(count, q, inflation), expected, "{count} {q} {inflation}");
        }
        assert_eq!(inflation(&[]), 1.0);
        assert_eq!(inflation(&[(5, 0), (5, 0)]), 1.0);
    }
}
