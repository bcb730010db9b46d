use super::*;
use crate::{
    scheduler::FairPolicy,
    workload::{Class, Process, Sizes, Stream},
};

fn stream(name: &str, class: Class, rate: f64, documents: u32, deadline_ms: u64) -> Stream {
    let stream = Stream::new(name, Process::Poisson { rate }, Sizes::Fixed(documents));
    Stream { class, deadline: Duration::from_millis(deadline_ms), ..stream }
}

fn run(seconds: u64, streams: Vec<Stream>, setup: &Setup) -> Report {
    let (duration, warm_up) = (Duration::from_secs(seconds), Duration::from_secs(2));
    simulate(&Workload { duration, warm_up, seed: 11, streams }, setup).expect("a valid workload")
}

fn fifo() -> Setup {
    let mut setup = Setup { admission: None, ..Setup::default() };
    setup.scheduler.policy = Policy::Fifo;
    setup
}

fn ms(duration: Option<Duration>) -> f64 {
    duration.map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e3)
}

#[test]
fn overload_table() {
    // Capacity: a document of 111 tokens takes 3.5 ms; ten of them 35 ms: about 28 requests a second.
    for (name, setup) in [("fair", Setup::default()), ("fifo", fifo())] {
        for load in [0.5, 0.9, 1.0, 2.0, 5.0] {
            let rate = 28.0 * load;
            let streams = vec![
                stream("interactive", Class::Interactive, rate * 0.2, 10, 500),
                stream("standard", Class::Standard, rate * 0.4, 10, 2_000),
                stream("bulk", Class::Bulk, rate * 0.04, 100, 10_000),
            ];
            let report = run(60, streams, &setup);
            let documents =
                [10.0, 10.0, 100.0].iter().zip(&report.streams).map(|(n, s)| n * s.good() as f64).sum::<f64>();
            eprint!(
                "{name} {load:3.1} good docs/s {:6.1} util {:.2} batch max {:?} ",
                documents / 58.0,
                report.utilisation,
                report.batch_duration_max
            );
            for tally in &report.streams {
                eprint!(
                    "| off {} ok {} late {} ref {} p50 {:.0} p99 {:.0} waste {:.1}s ",
                    tally.offered,
                    tally.good(),
                    tally.late,
                    tally.refused(),
                    ms(tally.latencies.quantile(0.5)),
                    ms(tally.latencies.quantile(0.99)),
                    tally.wasted.as_secs_f64()
                );
            }
            eprintln!();
        }
    }
    let _ = FairPolicy::default();
}
