//! The library: what a run finds of servers that behave in known ways.

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_client::{BearerToken, proto::rerank::v1::RerankRequest};
use sluice_core::workload::{Abandon, Class, Content, Process, Sizes, Stream, Traffic, Workload};
use sluice_loadtest::{
    Options, Progress, RunError, Target,
    compose::{Composer, Texts},
    report::{Latency, Report},
    run,
};

use crate::fake::{Behaviour, Fake};

const MS: Duration = Duration::from_millis(1);

pub(crate) fn stream(arrivals: Process) -> Stream {
    let mut stream = Stream::new("s", arrivals, Sizes::Fixed(3));
    stream.document_tokens = Sizes::Fixed(5);
    stream.deadline = Duration::from_secs(10);
    stream
}

fn workload(duration: Duration, streams: Vec<Stream>) -> Workload {
    Workload { duration, warm_up: Duration::ZERO, seed: 1, streams }
}

fn options(in_flight_max: usize) -> Options {
    Options { in_flight_max: NonZero::new(in_flight_max).unwrap(), ..Options::default() }
}

fn target(fake: &Fake) -> Target {
    Target { url: fake.url.clone(), token: None, tenants: BTreeMap::new() }
}

fn try_send(target: &Target, workload: Workload, options: &Options) -> Result<Report, RunError> {
    let composer = Arc::new(Composer::new(Traffic::new(workload).unwrap(), Texts::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(composer, target, options, |_| {}, std::future::pending()))
}

fn send(fake: &Fake, workload: Workload, options: &Options) -> Report {
    try_send(&target(fake), workload, options).unwrap()
}

fn latency(latency: &Option<Latency>) -> Latency {
    latency.clone().expect("some were answered")
}

#[test]
fn requests_behind_a_stall_are_late_though_the_server_was_quick_with_each() {
    // 200 requests a second, one at a time; the 50th takes 500 ms, so about 100 are due before it ends and wait.
    let stalling = Behaviour::StallOnce(50, 500 * MS);
    let fake = Fake::start(stalling);
    let open = send(&fake, workload(1_500 * MS, vec![stream(Process::Constant { rate: 200.0 })]), &options(1));
    let (from_intended, from_sending) = (latency(&open.total.latency_seconds), latency(&open.total.service_seconds));
    assert_eq!((from_intended.count, from_sending.count), (300, 300));
    assert!(from_intended.p90.value > 0.2, "{from_intended:?}");
    assert!(from_sending.p90.value < 0.1, "{from_sending:?}");
    assert!(open.generator.waited_for_a_slot >= 50, "{:?}", open.generator);
    assert!(open.generator.late_starts >= 50, "{:?}", open.generator);
    assert_eq!(open.generator.in_flight_peak, 1);

    // A caller who waits for its answers stalls with the server, and hardly notices.
    let fake = Fake::start(stalling);
    let closed = Process::Closed { callers: 1, think_time: 5 * MS };
    let closed = send(&fake, workload(1_500 * MS, vec![stream(closed)]), &options(1));
    let found = latency(&closed.total.latency_seconds);
    assert!(found.p90.value < 0.1 && found.max >= 0.5, "{found:?}");
}

#[test]
fn requests_leave_on_time_whatever_the_server_does() {
    let fake = Fake::start(Behaviour::After(300 * MS));
    let report = send(&fake, workload(MS * 1_000, vec![stream(Process::Constant { rate: 100.0 })]), &options(1_000));
    assert_eq!((report.total.requests, report.total.answered), (100, 100));
    assert_eq!(report.generator.waited_for_a_slot, 0);
    assert!(fake.most_at_once() >= 20, "{} at once: the loop is not open", fake.most_at_once());
    assert!(report.generator.in_flight_peak >= 20);
    let (from_intended, from_sending) =
        (latency(&report.total.latency_seconds), latency(&report.total.service_seconds));
    assert!(from_intended.p50.value >= 0.3 && from_sending.p50.value >= 0.3);
    assert!(fake.seen().iter().all(|seen| seen.timed), "the server is told the deadline");
}

#[test]
fn refusals_are_counted_by_status_and_reason() {
    let fake = Fake::start(Behaviour::Refuse);
    let report = send(&fake, workload(500 * MS, vec![stream(Process::Poisson { rate: 200.0 })]), &options(100));
    let total = &report.total;
    assert!(total.requests > 50);
    assert_eq!((total.answered, total.good, total.goodput_per_second.value), (0, 0, 0.0));
    assert_eq!(total.outcomes.len(), 1);
    let outcome = &total.outcomes[0];
    assert_eq!((outcome.status.as_str(), outcome.reason.as_str()), ("RESOURCE_EXHAUSTED", "QUEUE_FULL"));
    assert_eq!(outcome.count, total.requests);
    assert_eq!(fake.seen().len() as u64, total.requests, "a refused request is not sent again");
    assert_eq!(latency(&total.refusal_seconds).count, total.requests);
    assert_eq!(total.latency_seconds, None);
}

#[test]
fn a_refused_caller_of_a_closed_loop_comes_back_when_it_was_told() {
    let fake = Fake::start(Behaviour::Refuse);
    let closed = Process::Closed { callers: 1, think_time: Duration::ZERO };
    send(&fake, workload(400 * MS, vec![stream(closed)]), &options(1));
    // 20 ms after each refusal.
    assert!((2..=20).contains(&fake.seen().len()), "{}", fake.seen().len());
}

#[test]
fn a_server_that_hangs_does_not_hang_the_run() {
    let fake = Fake::start(Behaviour::Hang);
    let stream = Stream { deadline: 200 * MS, ..stream(Process::Constant { rate: 100.0 }) };
    let begin = Instant::now();
    let report = send(&fake, workload(500 * MS, vec![stream.clone()]), &options(1_000));
    assert!(begin.elapsed() < Duration::from_secs(10));
    let total = &report.total;
    assert_eq!(total.requests, 50);
    assert_eq!(total.count("DEADLINE_EXCEEDED"), 50);
    assert!(total.outcomes.iter().all(|outcome| outcome.reason == "NO_ANSWER"), "{:?}", total.outcomes);
    assert_eq!(total.refusal_seconds, None, "nobody refused anything");
    fake.wait_for_dropped(50);

    // Two at a time: most cannot be sent before the run is over, and none is sent later.
    let stream = Stream { deadline: Duration::from_secs(2), ..stream };
    let report = send(&Fake::start(Behaviour::Hang), workload(500 * MS, vec![stream]), &options(2));
    let total = &report.total;
    assert_eq!((total.requests, total.sent, total.count("UNSENT")), (50, 2, 48));
    assert!(report.elapsed_seconds < 10.0);
}

#[test]
fn callers_who_leave_are_gone_and_counted() {
    let fake = Fake::start(Behaviour::Hang);
    let mut stream = stream(Process::Constant { rate: 100.0 });
    stream.abandon = Some(Abandon { share: 1.0, after: 20 * MS });
    let report = send(&fake, workload(300 * MS, vec![stream]), &options(100));
    assert_eq!(report.total.count("ABANDONED"), 30);
    fake.wait_for_dropped(30);
}

#[test]
fn partial_answers_are_good_and_counted() {
    let fake = Fake::start(Behaviour::Partial);
    let report = send(&fake, workload(200 * MS, vec![stream(Process::Constant { rate: 50.0 })]), &options(100));
    let total = &report.total;
    assert_eq!((total.answered, total.good, total.partial), (10, 10, 10));
    assert_eq!(total.partial_reasons, BTreeMap::from([("budget".to_owned(), 10)]));
}

#[test]
fn callers_of_a_closed_loop_bound_what_is_under_way() {
    let fake = Fake::start(Behaviour::After(10 * MS));
    let closed = Process::Closed { callers: 3, think_time: Duration::ZERO };
    let report = send(&fake, workload(500 * MS, vec![stream(closed)]), &options(1));
    assert_eq!(fake.most_at_once(), 3);
    // 3 callers and at least 10 ms a call; a busy machine is slower.
    assert!((15..=150).contains(&report.total.answered), "{}", report.total.answered);
    assert_eq!(report.total.answered, report.total.good);
}

#[test]
fn two_runs_send_the_same() {
    let sent = || {
        let fake = Fake::start(Behaviour::Answer);
        send(&fake, workload(300 * MS, vec![stream(Process::Poisson { rate: 100.0 })]), &options(100));
        // Those that leave within one millisecond may arrive in any order.
        let mut requests: Vec<RerankRequest> = fake.seen().into_iter().map(|seen| seen.request).collect();
        requests.sort_by_key(|request| format!("{request:?}"));
        requests
    };
    let first = sent();
    assert!(first.len() > 10);
    assert_eq!(first, sent());
}

#[test]
fn tenants_bring_their_tokens_and_classes_have_figures() {
    let fake = Fake::start(Behaviour::Answer);
    let rate = Process::Constant { rate: 50.0 };
    let a = Stream { name: "a".to_owned(), tenant: Some("acme".to_owned()), class: Class::Bulk, ..stream(rate) };
    let b = Stream { name: "b".to_owned(), class: Class::Interactive, ..stream(rate) };
    let workload = workload(200 * MS, vec![a, b]);
    let unknown = try_send(&target(&fake), workload.clone(), &options(100));
    assert!(matches!(unknown, Err(RunError::NoToken { ref stream, .. }) if stream == "a"), "{unknown:?}");
    assert!(fake.seen().is_empty());

    let token = |text| BearerToken::new(text).unwrap();
    let tenants = BTreeMap::from([("acme".to_owned(), token("s3cret"))]);
    let known = Target { token: Some(token("mine")), tenants, ..target(&fake) };
    let report = try_send(&known, workload, &options(100)).unwrap();
    let seen = fake.seen();
    for (authorization, priority) in [("Bearer s3cret", 3), ("Bearer mine", 1)] {
        let own = seen.iter().filter(|seen| seen.authorization.as_deref() == Some(authorization));
        assert_eq!(own.filter(|seen| seen.request.priority == priority).count(), 10);
    }
    let classes: Vec<(Class, u64)> = report.classes.iter().map(|class| (class.class, class.figures.answered)).collect();
    assert_eq!(classes, [(Class::Interactive, 10), (Class::Bulk, 10)]);
    let text = sluice_loadtest::table::render(&report);
    assert!(text.contains("all bulk") && !text.contains("s3cret"), "{text}");
}

#[test]
fn stored_documents_are_there_before_the_first_request() {
    let fake = Fake::start(Behaviour::Answer);
    let mut stream = stream(Process::Constant { rate: 50.0 });
    stream.content = Content::Stored { namespace: "load".to_owned(), pool: 300 };
    send(&fake, workload(100 * MS, vec![stream]), &options(100));
    assert_eq!(fake.seen().iter().map(|seen| seen.put).collect::<Vec<_>>(), [300; 5]);
}

#[test]
fn the_warm_up_is_sent_and_not_counted() {
    let fake = Fake::start(Behaviour::Answer);
    let mut workload = workload(500 * MS, vec![stream(Process::Constant { rate: 100.0 })]);
    workload.warm_up = 200 * MS;
    let report = send(&fake, workload, &options(100));
    assert_eq!((fake.seen().len(), report.total.requests), (50, 30));
    assert_eq!(report.seconds, 0.3);
    assert!((report.total.offered_per_second - 100.0).abs() < 1e-9);
}

#[test]
fn a_run_can_be_stopped_and_watched() {
    let fake = Fake::start(Behaviour::Answer);
    let workload = workload(Duration::from_secs(600), vec![stream(Process::Constant { rate: 100.0 })]);
    let composer = Arc::new(Composer::new(Traffic::new(workload).unwrap(), Texts::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut shown = 0;
    let report = runtime.block_on(async {
        let stop = tokio::time::sleep(1_200 * MS);
        let count = |progress: &Progress| shown += u32::from(matches!(progress, Progress::Sending { .. }));
        run(composer, &target(&fake), &options(100), count, stop).await
    });
    let report = report.unwrap();
    assert!(report.interrupted && report.elapsed_seconds < 60.0);
    assert!(report.total.answered > 20);
    assert!(shown >= 2, "{shown}");
}

#[test]
fn without_a_server_there_are_no_figures() {
    let nobody = Target { url: "http://127.0.0.1:1".to_owned(), token: None, tenants: BTreeMap::new() };
    let found = try_send(&nobody, workload(MS, vec![stream(Process::Constant { rate: 1.0 })]), &options(1));
    assert!(matches!(found, Err(RunError::Client(_))), "{found:?}");
}
