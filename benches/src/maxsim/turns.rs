//! Contenders in turn on the same work, so that a machine that slows down slows down all of them.

/// Who does a case's work.
pub(super) trait Contender {
    /// What it is called in the report.
    fn name(&self) -> String;

    /// Does the work once: the seconds it took, and the scores if there are any.
    ///
    /// # Errors
    /// Whatever keeps it from doing so; the scenario ends.
    fn run(&mut self) -> anyhow::Result<(f64, Vec<f32>)>;
}

/// What a contender did.
#[derive(Debug, Clone)]
pub(super) struct Track {
    /// The contender's name.
    pub(super) name: String,
    /// The fastest run of each turn.
    pub(super) seconds: Vec<f64>,
    /// The last scores.
    pub(super) scores: Vec<f32>,
}

impl Track {
    /// The fastest run of all.
    pub(super) fn fastest(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// Runs of a turn, of which the fastest counts: the first one finds the caches as another contender left them, and any
/// may be interrupted.
pub(super) const RUNS: usize = 3;

/// A turn for everybody, `passes` times.
///
/// # Errors
/// If a contender fails.
pub(super) fn take_turns<C: AsContender>(contenders: &mut [C], passes: usize) -> anyhow::Result<Vec<Track>> {
    let mut tracks: Vec<Track> = contenders
        .iter_mut()
        .map(|contender| Track { name: contender.get().name(), seconds: Vec::new(), scores: Vec::new() })
        .collect();
    for _ in 0..passes {
        for (contender, track) in contenders.iter_mut().zip(&mut tracks) {
            let mut fastest = f64::INFINITY;
            for _ in 0..RUNS {
                let (seconds, scores) = contender.get().run()?;
                fastest = fastest.min(seconds);
                track.scores = scores;
            }
            track.seconds.push(fastest);
        }
    }
    Ok(tracks)
}

/// Owned or borrowed.
pub(super) trait AsContender {
    fn get(&mut self) -> &mut dyn Contender;
}

impl AsContender for &mut dyn Contender {
    fn get(&mut self) -> &mut dyn Contender {
        *self
    }
}

impl AsContender for Box<dyn Contender + '_> {
    fn get(&mut self) -> &mut dyn Contender {
        &mut **self
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    struct Scripted<'a> {
        name: &'static str,
        seconds: Vec<f64>,
        log: &'a RefCell<String>,
    }

    impl Contender for Scripted<'_> {
        fn name(&self) -> String {
            self.name.to_owned()
        }

        fn run(&mut self) -> anyhow::Result<(f64, Vec<f32>)> {
            self.log.borrow_mut().push_str(self.name);
            anyhow::ensure!(!self.seconds.is_empty(), "nothing left");
            Ok((self.seconds.remove(0), vec![1.0]))
        }
    }

    #[test]
    fn the_fastest_run_of_each_turn_counts() {
        let log = RefCell::default();
        let mut a = Scripted { name: "a", seconds: vec![3.0, 1.0, 2.0, 5.0, 6.0, 4.0], log: &log };
        let mut b = Scripted { name: "b", seconds: vec![7.0; 6], log: &log };
        let contenders: &mut [&mut dyn Contender] = &mut [&mut a, &mut b];
        let tracks = take_turns(contenders, 2).unwrap();
        assert_eq!((tracks[0].seconds.as_slice(), tracks[0].fastest()), (&[1.0, 4.0][..], 1.0));
        assert_eq!((tracks[1].name.as_str(), tracks[1].scores.as_slice()), ("b", &[1.0][..]));
        assert!(take_turns(contenders, 1).is_err());
        assert_eq!(log.into_inner(), "aaabbbaaabbba");
    }
}
