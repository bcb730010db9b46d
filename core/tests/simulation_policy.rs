//! What the policy promises callers, in numbers: a server of two cores under load, in virtual time.
//!
//! Each table stands beside first come, first served without admission, which is what other servers do.

#![allow(clippy::print_stderr, reason = "tables are for whoever reads the test's output")]

#[path = "simulation/cpu_time.rs"]
mod cpu_time;

use std::{collections::BTreeMap, num::NonZero, time::Duration};

use cpu_time::cpu_time;
use sluice_core::{
    Priority, TenantId,
    scheduler::{FairPolicy, Policy},
    simulate::{Report, Setup, Tally, simulate},
    workload::{Class, Content, Method, Process, Sizes, Stream, Workload},
};

/// Requests of ten documents a second that the simulated device can do: 3.5 ms a document.
const CAPACITY: f64 = 27.5;

fn stream(name: &str, arrivals: Process, documents: u32, deadline_ms: u64) -> Stream {
    Stream { deadline: Duration::from_millis(deadline_ms), ..Stream::new(name, arrivals, Sizes::Fixed(documents)) }
}

fn poisson(rate: f64) -> Process {
    Process::Poisson { rate }
}

fn run(seconds: u64, streams: Vec<Stream>, setup: &Setup) -> Report {
    let (duration, warm_up) = (Duration::from_secs(seconds), Duration::from_secs(5));
    simulate(&Workload { duration, warm_up, seed: 11, streams }, setup).expect("a valid workload")
}

fn fifo() -> Setup {
    let mut setup = Setup { admission: None, ..Setup::default() };
    setup.scheduler.policy = Policy::Fifo;
    setup
}

fn quantile_ms(tally: &Tally, q: f64) -> f64 {
    tally.latencies.quantile(q).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
}

fn print(what: &str, report: &Report) {
    eprint!("{what:24} goodput {:5.1}/s, busy {:3.0} %", report.goodput(), 100.0 * report.utilisation);
    for tally in &report.streams {
        let (p50, p99) = (quantile_ms(tally, 0.5), quantile_ms(tally, 0.99));
        let (offered, good, late, refused) = (tally.offered, tally.good(), tally.late, tally.refused());
        eprint!(" | {offered} sent, {good} in time, {late} late, {refused} refused, p50 {p50:.0} p99 {p99:.0} ms");
        eprint!(", wasted {:.1} s", tally.wasted.as_secs_f64());
    }
    eprintln!();
}

#[test]
fn goodput_stays_under_overload() {
    let mixed = |load: f64| {
        let rate = CAPACITY * load;
        let class = |class, stream| Stream { class, ..stream };
        vec![
            class(Class::Interactive, stream("interactive", poisson(rate * 0.2), 10, 500)),
            class(Class::Standard, stream("standard", poisson(rate * 0.4), 10, 2_000)),
            class(Class::Bulk, stream("bulk", poisson(rate * 0.04), 100, 10_000)),
        ]
    };
    let documents = |report: &Report| {
        let good = report.streams.iter().zip([10, 10, 100]).map(|(tally, documents)| tally.good() * documents);
        good.sum::<u64>() as f64 / report.counted.as_secs_f64()
    };
    let goodput = |setup: &Setup, name: &str| {
        [0.5, 1.0, 2.0, 5.0].map(|load| {
            let report = run(125, mixed(load), setup);
            print(&format!("{name} at {load} of capacity"), &report);
            documents(&report)
        })
    };
    let (fair, fifo) = (goodput(&Setup::default(), "fair"), goodput(&fifo(), "fifo"));
    let peak = fair.into_iter().fold(0.0, f64::max);
    assert!(fair[3] >= 0.9 * peak, "documents a second in time: {fair:?}");
    assert!(fair.iter().zip(fifo).all(|(fair, fifo)| *fair >= fifo * 0.98), "{fair:?} against {fifo:?}");
}

/// Offered more than all of them can do, in every way that a request can be asked for.
#[test]
fn devices_add_up() {
    let method = |name: &str, method| Stream { method, ..stream(name, poisson(CAPACITY * 2.0), 10, 2_000) };
    let kinds = [
        ("pairs", method("pairs", Some(Method::CrossEncoder))),
        ("late interaction", method("late interaction", Some(Method::LateInteraction))),
        (
            "stored",
            Stream { content: Content::Stored { namespace: "kept".to_owned(), pool: 1_000 }, ..method("stored", None) },
        ),
    ];
    for (name, kind) in kinds {
        let goodput = [1_u16, 2, 4].map(|devices| {
            let mut setup = Setup::default();
            setup.scheduler.devices = NonZero::new(devices).expect("at least one");
            let load = if name == "stored" { 32.0 } else { 1.0 } * f64::from(devices);
            let report = run(65, vec![Stream { arrivals: poisson(CAPACITY * 2.0 * load), ..kind.clone() }], &setup);
            print(&format!("{name} on {devices}"), &report);
            report.goodput()
        });
        let [one, two, four] = goodput;
        assert!(two >= 1.9 * one && four >= 3.7 * one, "{name}: {goodput:?} a second");
    }
}

/// A device more is no reason to promise what a batch cannot keep, nor to refuse what the devices can do together.
#[test]
fn admission_keeps_its_word_on_several_devices() {
    let late = [1_u16, 2, 4].map(|devices| {
        let mut setup = Setup::default();
        setup.scheduler.devices = NonZero::new(devices).expect("at least one");
        let [calm, overloaded] = [0.7, 3.0].map(|load| {
            let rate = CAPACITY * load * f64::from(devices);
            let report = run(125, vec![stream("all", poisson(rate), 10, 500)], &setup);
            print(&format!("{load} of the capacity of {devices}"), &report);
            report.total()
        });
        assert!(calm.answered * 100 >= calm.offered * 98, "{} of {} on {devices}", calm.answered, calm.offered);
        overloaded.late as f64 / (overloaded.late + overloaded.answered) as f64
    });
    assert!(late.iter().all(|share| *share <= 1.5 * late[0]), "late of those let in: {late:?}");
}

#[test]
fn interactive_requests_do_not_feel_bulk_overload() {
    let with_bulk = |load: f64| {
        let interactive = stream("interactive", poisson(CAPACITY * 0.2), 10, 1_000);
        let bulk = stream("bulk", poisson(CAPACITY * (load - 0.2) / 10.0), 100, 10_000);
        vec![Stream { class: Class::Interactive, ..interactive }, Stream { class: Class::Bulk, ..bulk }]
    };
    let p99 = |setup: &Setup, name: &str| {
        [0.5, 2.0].map(|load| {
            let report = run(305, with_bulk(load), setup);
            print(&format!("{name} at {load} of capacity"), &report);
            quantile_ms(&report.class(Priority::Interactive), 0.99)
        })
    };
    let [calm, overloaded] = p99(&Setup::default(), "fair");
    p99(&fifo(), "fifo");
    assert!(overloaded <= 2.0 * calm, "p99 {calm} ms at half, {overloaded} ms at twice the capacity");
}

#[test]
fn a_hostile_tenant_costs_its_neighbour_one_batch() {
    let small = Stream { tenant: Some("small".to_owned()), ..stream("small", poisson(CAPACITY * 0.3), 10, 5_000) };
    let without_pause = Process::Closed { callers: 4, think_time: Duration::ZERO };
    let hostile = Stream { tenant: Some("hostile".to_owned()), ..stream("hostile", without_pause, 1_000, 60_000) };
    let tenants = BTreeMap::from([("small".to_owned(), TenantId(1)), ("hostile".to_owned(), TenantId(2))]);
    let both = |setup: Setup, name: &str| {
        let setup = Setup { tenants: tenants.clone(), ..setup };
        let alone = run(305, vec![small.clone()], &setup);
        let beside = run(305, vec![small.clone(), hostile.clone()], &setup);
        print(&format!("{name} alone"), &alone);
        print(&format!("{name} beside the hostile"), &beside);
        (alone, beside)
    };
    let (alone, beside) = both(Setup::default(), "fair");
    both(fifo(), "fifo");
    let [p95, p95_beside] = [&alone, &beside].map(|report| quantile_ms(&report.tenant(Some("small")), 0.95));
    let batch = beside.batch_duration_max.as_secs_f64() * 1e3;
    assert!(p95_beside <= 1.2 * p95 + batch, "p95 {p95} ms alone, {p95_beside} ms beside, a batch {batch} ms");
    assert!(beside.streams[1].good() > 20, "the hostile tenant has its share: {:?}", beside.streams[1].good());
    assert_eq!(beside.streams[0].good(), beside.streams[0].offered, "nobody refuses the small one");
}

#[test]
fn ten_minutes_take_about_a_second() {
    let streams = vec![
        Stream { class: Class::Interactive, ..stream("interactive", poisson(10.0), 10, 500) },
        stream("standard", poisson(50.0), 10, 2_000),
        Stream { class: Class::Bulk, ..stream("bulk", poisson(2.0), 100, 30_000) },
    ];
    let begun = cpu_time();
    let report = run(600, streams, &Setup::default());
    let took = cpu_time().zip(begun).map(|(now, begun)| now - begun);
    let units = report.streams[0].offered * 10 + report.streams[1].offered * 10 + report.streams[2].offered * 100;
    print("ten minutes", &report);
    let Some(took) = took else {
        return eprintln!("skipped: this system does not say how long a thread has computed");
    };
    eprintln!("ten minutes of {units} documents offered took {took:?} of a processor");
    assert!(took < Duration::from_secs(10), "far from a second: {took:?}");
}

#[test]
fn bulk_work_is_not_starved_by_endless_interactive_work() {
    // Twice what the device can do of interactive requests that nobody refuses, and one bulk request at a time.
    let interactive = Stream { class: Class::Interactive, ..stream("interactive", poisson(2.0 * CAPACITY), 10, 2_000) };
    let one_by_one = Process::Closed { callers: 1, think_time: Duration::ZERO };
    let bulk = Stream { class: Class::Bulk, ..stream("bulk", one_by_one, 10, 600_000) };
    let report = run(305, vec![interactive, bulk], &Setup { admission: None, ..Setup::default() });
    print("a bulk caller", &report);
    // Ten documents at a 65th of the device: 2.3 s, and a batch of the others.
    let longest = quantile_ms(&report.streams[1], 1.0);
    assert!(longest <= 65.0 * 36.5 * 1.1 + 10.0, "the longest took {longest} ms");
    assert!(report.streams[1].good() >= 120, "{} in five minutes", report.streams[1].good());
    // Without admission, too, the device works on what will be in time.
    let (good, can) = (report.streams[0].good() as f64, CAPACITY * 300.0);
    assert!(good >= 0.9 * can, "{good} of the {can} that the device can do");
}

#[test]
fn tenants_share_by_weight() {
    let without_pause = Process::Closed { callers: 3, think_time: Duration::ZERO };
    let tenant = |name: &str| Stream { tenant: Some(name.to_owned()), ..stream(name, without_pause, 40, 60_000) };
    let mut setup = Setup { admission: None, ..Setup::default() };
    setup.tenants = ["one", "three"].into_iter().zip([1, 2].map(TenantId)).map(|(n, id)| (n.to_owned(), id)).collect();
    let tenant_weights = BTreeMap::from([(TenantId(2), 3)]);
    setup.scheduler.policy = Policy::Fair(FairPolicy { tenant_weights, ..FairPolicy::default() });
    let report = run(305, vec![tenant("one"), tenant("three")], &setup);
    print("weights 1 and 3", &report);
    let [one, three] = [0, 1].map(|stream: usize| report.streams[stream].good() as f64);
    assert!((2.8..3.2).contains(&(three / one)), "{three} requests beside {one}");
}

#[test]
fn a_small_request_passes_a_large_one_of_the_same_tenant() {
    let large = stream("large", Process::Constant { rate: 0.1 }, 1_000, 60_000);
    let small = stream("small", poisson(4.0), 10, 60_000);
    let report = run(305, vec![large, small], &Setup::default());
    print("beside large ones", &report);
    let p99 = quantile_ms(&report.streams[1], 0.99);
    assert!(p99 < 250.0, "{p99} ms for 35 ms of work, beside 3.5 s of a large request");
}
