//! A search of three legs beside each leg, and beside the engines alone.
//!
//! The least that a search of all legs can take is what its slowest leg takes, or the legs' processor time over the
//! processors, if that is more. Each query is asked several times, all contenders in turn, and the fastest counts: little
//! of what others do on the machine is in it, so that a leg's time, which is of one thread that never waits, is its
//! processor time too. Percentiles are over the queries.

use std::{thread, time::Duration};

use anyhow::ensure;
use sluice_retrieval::{
    search::{Leg, LegQuery},
    vector_index::{Hit, Never},
};
use tokio::runtime::Runtime;

use super::{
    Asker, K, Options, Search,
    drawn::Drawn,
    quantile,
    rivals::{Tantivy, Usearch},
    row, row_of_cost,
};
use crate::{machine::Machine, report::Report};

/// What a search of all legs may take over the least that it can.
const OVERHEAD_MAX: f64 = 0.25;
const LEGS: [&str; 3] = ["words", "dense", "sparse"];
/// Of a score beside tantivy's: f32, summed in another order.
const TOLERANCE: f32 = 1e-4;

/// Milliseconds of one query, the fastest of all passes.
#[derive(Clone, Copy)]
struct Times {
    legs: [f64; 3],
    tantivy: f64,
    usearch: f64,
    all: f64,
    /// Of that, as the answer says: the snapshot, the legs, fusing and reading.
    parts: [f64; 3],
}

impl Times {
    const NONE: Self = Self {
        legs: [f64::INFINITY; 3],
        tantivy: f64::INFINITY,
        usearch: f64::INFINITY,
        all: f64::INFINITY,
        parts: [f64::INFINITY; 3],
    };

    fn least(&self, processors: usize) -> f64 {
        let slowest = self.legs.into_iter().fold(0.0, f64::max);
        let shared = self.legs.iter().sum::<f64>() / processors.min(LEGS.len()) as f64;
        slowest.max(shared)
    }
}

/// Adds the rows.
///
/// # Errors
/// If a search fails.
pub(super) fn measure(
    asker: &Asker,
    (tantivy, usearch): (&Tantivy, &Usearch),
    drawn: &Drawn,
    options: &Options,
    (machine, runtime): (&Machine, &Runtime),
    report: &mut Report,
) -> anyhow::Result<()> {
    let queries: Vec<[LegQuery; 3]> = (0..options.queries).map(|number| drawn.query(number)).collect();
    let engines = Engines { asker, tantivy, usearch, machine, runtime };
    (machine.progress)("three legs, one search after the other");
    let mut times = vec![Times::NONE; queries.len()];
    // It warms all of them, too.
    for query in &queries {
        report.faults.extend(engines.check(query)?);
    }
    report.faults.truncate(5);
    for _ in 0..options.passes {
        for turn in 0..queries.len() {
            // Whoever comes second to a query finds its lists in the processor's caches: each is at another one.
            for (place, contender) in Contender::ALL.into_iter().enumerate() {
                let nth = (turn + place * queries.len() / Contender::ALL.len()) % queries.len();
                engines.measure(contender, &queries[nth], &mut times[nth])?;
            }
        }
    }
    one_by_one(&times, options, machine, report);
    (machine.progress)("three legs, closed loops");
    engines.closed_loops(&queries, options, report)
}

fn one_by_one(times: &[Times], options: &Options, machine: &Machine, report: &mut Report) {
    let processors = machine.processors.get();
    let of = |time: &dyn Fn(&Times) -> f64| times.iter().map(time).collect::<Vec<f64>>();
    let all = of(&|times| times.all);
    let least = of(&|times| times.least(processors));
    let pairs = [
        ("words", of(&|times| times.legs[0]), "tantivy alone", of(&|times| times.tantivy), None),
        ("dense", of(&|times| times.legs[1]), "usearch alone", of(&|times| times.usearch), None),
        ("sparse", of(&|times| times.legs[2]), "all legs", all.clone(), None),
        ("three legs", all.clone(), "slowest leg, or processor time", least.clone(), Some(1.0 / (1.0 + OVERHEAD_MAX))),
        ("three legs beside words", all.clone(), "tantivy alone", of(&|times| times.tantivy), None),
        ("three legs beside dense", all, "usearch alone", of(&|times| times.usearch), None),
    ];
    for (name, ours, rival, theirs, target) in pairs {
        for (share, percentile) in [(0.5, "p50"), (0.95, "p95")] {
            let case = format!("{}/{name} {percentile}", options.documents);
            let rival = (rival, quantile(&theirs, share));
            let target = target.filter(|_| share == 0.5);
            report.rows.push(row_of_cost(case, "ms (less is better)", quantile(&ours, share), rival, target));
        }
    }
    let part = |part: usize| quantile(&of(&|times| times.parts[part]), 0.5);
    report.notes.push(format!(
        "{} queries, k = {K}, {K} hits without texts, RRF; the fastest of {} passes each; at p50 its snapshot takes {:.3} ms, \
         its legs {:.3}, fusing and reading {:.3}",
        times.len(),
        options.passes,
        part(0),
        part(1),
        part(2),
    ));
    let overheads: Vec<f64> = times.iter().map(|times| times.all / times.least(processors) - 1.0).collect();
    report.notes.push(format!(
        "a search takes {:.1} % more than the least that it can at p50, {:.1} % by the query in the middle; {:.0} % is asked \
         for",
        100.0 * (quantile(&of(&|times| times.all), 0.5) / quantile(&least, 0.5) - 1.0),
        100.0 * quantile(&overheads, 0.5),
        100.0 * OVERHEAD_MAX,
    ));
}

#[derive(Clone, Copy)]
enum Contender {
    Tantivy,
    Usearch,
    Leg(usize),
    All,
}

impl Contender {
    const ALL: [Self; 6] = [Self::Tantivy, Self::Usearch, Self::Leg(0), Self::Leg(1), Self::Leg(2), Self::All];
}

struct Engines<'a> {
    asker: &'a Asker,
    tantivy: &'a Tantivy,
    usearch: &'a Usearch,
    machine: &'a Machine,
    runtime: &'a Runtime,
}

impl Engines<'_> {
    /// One turn of each; what is wrong with their answers.
    fn check(&self, query: &[LegQuery; 3]) -> anyhow::Result<Option<String>> {
        let (text, _) = parts(query)?;
        for contender in Contender::ALL {
            self.measure(contender, query, &mut { Times::NONE })?;
        }
        let words = self.asker.source.leg(&query[0])?.search(K, None, &Never)?;
        Ok(disagreement(&words, &self.tantivy.search(text)?, text))
    }

    /// One turn of one; the fastest so far counts.
    fn measure(&self, contender: Contender, query: &[LegQuery; 3], times: &mut Times) -> anyhow::Result<()> {
        let (text, vector) = parts(query)?;
        match contender {
            Contender::Tantivy => {
                let (milliseconds, _) = self.timed(|| self.tantivy.search(text))?;
                times.tantivy = times.tantivy.min(milliseconds);
            }
            Contender::Usearch => {
                let (milliseconds, _) = self.timed(|| self.usearch.search(vector))?;
                times.usearch = times.usearch.min(milliseconds);
            }
            Contender::Leg(nth) => {
                let leg: Box<dyn Leg + '_> = self.asker.source.leg(&query[nth])?;
                let (milliseconds, _) = self.timed(|| Ok(leg.search(K, None, &Never)?))?;
                times.legs[nth] = times.legs[nth].min(milliseconds);
            }
            Contender::All => {
                let (milliseconds, answer) = self.timed(|| self.asker.ask_now(self.runtime, Search::of(query)))?;
                ensure!(!answer.hits.is_empty(), "nothing was found");
                if milliseconds < times.all {
                    let parts = [answer.timing.filter, answer.timing.legs, answer.timing.fuse];
                    (times.all, times.parts) = (milliseconds, parts.map(|part| 1e3 * part.as_secs_f64()));
                }
            }
        }
        Ok(())
    }

    fn timed<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
        let began = (self.machine.clock)();
        let done = work()?;
        Ok((1e3 * ((self.machine.clock)() - began).as_secs_f64(), done))
    }

    /// As many callers as processors, each asking as soon as it is answered.
    fn closed_loops(&self, queries: &[[LegQuery; 3]], options: &Options, report: &mut Report) -> anyhow::Result<()> {
        let (callers, time) = (self.machine.processors.get(), options.loop_time);
        let all = self.closed_loop(callers, time, |nth| {
            self.asker.ask_now(self.runtime, Search::of(&queries[nth % queries.len()])).map(drop)
        })?;
        let words = self
            .closed_loop(callers, time, |nth| self.tantivy.search(parts(&queries[nth % queries.len()])?.0).map(drop))?;
        let dense = self
            .closed_loop(callers, time, |nth| self.usearch.search(parts(&queries[nth % queries.len()])?.1).map(drop))?;
        for (name, rival) in [("tantivy alone", words), ("usearch alone", dense)] {
            let case = format!("{}/three legs, closed loop, {callers} callers, beside {name}", options.documents);
            report.rows.push(row(case, "searches/s", all, (name, rival), None));
        }
        Ok(())
    }

    /// Answers a second.
    fn closed_loop(
        &self,
        callers: usize,
        time: Duration,
        ask: impl Fn(usize) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<f64> {
        let clock = self.machine.clock;
        let began = clock();
        let counts: Vec<anyhow::Result<usize>> = thread::scope(|scope| {
            let caller = |caller: usize| {
                let ask = &ask;
                scope.spawn(move || {
                    let mut asked = 0;
                    while clock() - began < time {
                        ask(caller + asked * callers)?;
                        asked += 1;
                    }
                    Ok(asked)
                })
            };
            let callers: Vec<_> = (0..callers).map(caller).collect();
            callers
                .into_iter()
                .map(|caller| caller.join().unwrap_or_else(|_| anyhow::bail!("a caller panicked")))
                .collect()
        });
        let asked = counts.into_iter().sum::<anyhow::Result<usize>>()?;
        Ok(asked as f64 / (clock() - began).as_secs_f64())
    }
}

fn parts(query: &[LegQuery; 3]) -> anyhow::Result<(&str, &[f32])> {
    match query {
        [LegQuery::Lexical(words), LegQuery::Dense { query, .. }, _] => Ok((&words.text, query)),
        _ => anyhow::bail!("a query has words and a vector"),
    }
}

/// The leg's scores are tantivy's.
fn disagreement(leg: &[Hit], alone: &[f32], text: &str) -> Option<String> {
    if leg.len() != alone.len() {
        return Some(format!("{} hits for {text:?}, tantivy alone has {}", leg.len(), alone.len()));
    }
    let differs = |(hit, score): &(&Hit, &f32)| (hit.score - **score).abs() > TOLERANCE * score.abs();
    let (hit, score) = leg.iter().zip(alone).find(differs)?;
    Some(format!("{hit:?} for {text:?}, tantivy alone has {score}"))
}

#[cfg(test)]
mod tests {
    use sluice_retrieval::identity::DocId;

    use super::*;

    #[test]
    fn the_least_is_the_slowest_leg_or_the_processors() {
        let times = Times { legs: [1.0, 2.0, 5.0], ..Times::NONE };
        for (processors, least) in [(1, 8.0), (2, 5.0), (16, 5.0)] {
            assert_eq!(times.least(processors), least, "{processors}");
        }
        let even = Times { legs: [2.0; 3], ..Times::NONE };
        assert_eq!((even.least(2), even.least(8)), (3.0, 2.0));
    }

    #[test]
    fn other_scores_are_a_fault() {
        let hit = |score| Hit { document: DocId(1), score };
        assert_eq!(disagreement(&[hit(2.0), hit(1.0)], &[2.0, 1.0], "x"), None);
        assert!(disagreement(&[hit(2.0)], &[2.0, 1.0], "x").is_some());
        assert!(disagreement(&[hit(2.0), hit(1.0)], &[2.0, 1.1], "x").is_some());
    }
}
