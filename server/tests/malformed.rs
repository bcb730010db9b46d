//! What is malformed is refused, kills nothing and leaves nothing behind, through the real port.
//!
//! Every request is a function of a seed and a number; a failure prints both, and
//! `SLUICE_MALFORMED_SEED=N` runs another seed.

#![allow(clippy::disallowed_methods, reason = "real sockets, real time and an environment variable")]
#![allow(clippy::panic, clippy::print_stdout, reason = "a test fails by panicking, in its helper functions too")]

#[path = "malformed/cases.rs"]
mod cases;
mod common;
#[path = "malformed/samples.rs"]
mod samples;
#[path = "malformed/tcp.rs"]
mod tcp;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cases::{Case, What};
use common::{
    SCRIPT, TestServer,
    ledger::{Counts, Held},
    raw::{Call, Connection, End, Ending, Reply, frame},
    request,
};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use sluice_proto::rerank::v1::{RerankManyRequest, RerankManyResponse, rerank_many_response::Outcome};
use tokio::sync::Mutex;
use tonic::Code;

const SEED: u64 = 20_260_417;
/// Requests that are malformed by a seed and a number.
const SEEDED: u64 = 10_000;
/// Connections that speak something else.
const TCP_CONNECTIONS: u64 = 1_000;
/// Connections that are left hanging meanwhile.
const TCP_MUTE: usize = 100;
/// Calls at a time, each on a connection of its own.
const CALLERS: usize = 16;
/// Calls on one connection before the caller opens another.
const CALLS_PER_CONNECTION: u64 = 300;
/// Messages that a caller listens to: more than any answer has, except for the watch on health, which has no end.
const MESSAGES_MAX: usize = 10_000;
/// Faults that a failure lists.
const FAULTS_SHOWN: usize = 10;
/// The server's limit, low enough to be passed cheaply.
const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// The metrics and the panic hook are one per process: one server at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

static PANICS: LazyLock<Arc<AtomicUsize>> = LazyLock::new(|| {
    let panics = Arc::new(AtomicUsize::new(0));
    let (counter, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counter.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    panics
});

/// Says how a request ended that may not end that way, or that its server's answer is no answer.
type Fault = String;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_speak_no_grpc_are_dropped() {
    unharmed(|address| async move {
        let seed = seed();
        let mute: Vec<_> = (0..TCP_MUTE).map(|number| tcp::mute(address, number)).collect();
        let callers = (0..8).map(|caller| {
            std::thread::spawn(move || {
                for number in (caller..TCP_CONNECTIONS).step_by(8) {
                    tcp::connection(address, seed, number);
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            assert!(caller.join().is_ok(), "seed {seed}");
        }
        // Others were served all the while.
        Connection::open(address).await;
        drop(mute);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_cut_short_anywhere_are_refused_or_answered() {
    unharmed(|address| async move {
        let cases = cases::truncated(seed());
        let count = cases.len() as u64;
        assert!(count > 1_000, "{count} is not every length");
        run(address, count, move |number| cases[number as usize].clone()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeded_malformed_requests_are_refused_or_answered() {
    unharmed(|address| async move {
        let seed = seed();
        let tally = run(address, SEEDED, move |number| cases::seeded(seed, number)).await;
        // A kind of request that never ends as it may is not the kind that it says.
        use What::{Encoding, Frame, Headers, Message, NoTimeout, OverLimit, PassedTimeout, Path, Values};
        for what in [Message, Values, OverLimit, Encoding, Path, NoTimeout, PassedTimeout, Frame, Headers] {
            let common: &[Code] = match what {
                Frame => &[Code::Ok, Code::Internal],
                Headers => &[Code::Ok],
                _ => what.allowed(),
            };
            for code in common {
                assert!(
                    tally.contains_key(&(what, format!("{code:?}"))),
                    "seed {seed}: no {what:?} ended with {code:?}"
                );
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_many_requests_survives_what_is_in_it() {
    unharmed(|address| async move {
        let connection = Connection::open(address).await;
        for (name, messages, code, outcomes) in scripts() {
            let reply = connection.call(Call::with_body(samples::RERANK_MANY, messages), MESSAGES_MAX).await;
            assert_eq!(reply.ending.code(), Some(code), "{name}: {reply:?}");
            let Some(expected) = outcomes else { continue };
            let answers: BTreeMap<_, _> = reply.messages.iter().map(outcome).collect();
            assert_eq!(answers.len(), reply.messages.len(), "{name}: one answer each");
            let expected = expected.iter().map(|(id, code)| ((*id).to_owned(), *code)).collect();
            assert_eq!(answers, expected, "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_vanish_take_their_work_with_them() {
    const SLOW: &str = "max_tokens = 64\nbatch_sequences_max = 4\n[service_time]\nper_batch = \"1ms\"\n";
    unharmed_with(SLOW, |address| async move {
        let seed = seed();
        for number in 0..60 {
            let rng = &mut StdRng::seed_from_u64(seed ^ number);
            let connection = Connection::open(address).await;
            let mut open = Vec::new();
            for method in [samples::RERANK, samples::RERANK_STREAM, samples::RERANK_MANY, samples::ENCODE] {
                let messages = if method == samples::RERANK_MANY { rng.random_range(1..40) } else { 1 };
                let body = (0..messages).map(|_| frame(&samples::valid(rng, method))).collect();
                let mut call = Call::with_body(method, body);
                call.end = if rng.random() { End::Close } else { End::Open };
                open.push(connection.begin(call).await.expect("the server listens"));
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..8))).await;
            // Either the calls are reset or the connection is gone under them.
            if rng.random() {
                drop(open);
            }
        }
    })
    .await;
}

/// What is sent in one call: its name, its body, how the call ends, and how each request ends, where that is known.
type Script = (&'static str, Vec<Bytes>, Code, Option<Vec<(&'static str, Code)>>);

fn scripts() -> Vec<Script> {
    let good = |id: &str| RerankManyRequest {
        request_id: id.to_owned(),
        request: Some(request("red apple", &["a red apple", "a blue car"])),
        timeout: None,
    };
    let timed = |id: &str, seconds, nanos| RerankManyRequest {
        timeout: Some(prost_types::Duration { seconds, nanos }),
        ..good(id)
    };
    let framed = |request: RerankManyRequest| frame(&request.encode_to_vec());
    let garbage = frame(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f garbage");
    let no_request = RerankManyRequest { request: None, ..good("no request") };
    let mut unknown = good("unknown model");
    unknown.request.as_mut().expect("a request").model = "elsewhere".to_owned();
    let mut strange = good("strange method");
    strange.request.as_mut().expect("a request").method = -7;
    let long = "i".repeat(129);
    vec![
        ("nothing", vec![], Code::Ok, Some(vec![])),
        ("an empty message", vec![frame(b"")], Code::Ok, Some(vec![("", Code::InvalidArgument)])),
        ("garbage", vec![garbage.clone()], Code::Internal, Some(vec![])),
        ("garbage after good ones", vec![framed(good("a")), framed(good("b")), garbage.clone()], Code::Internal, None),
        ("half a frame after a good one", vec![framed(good("a")), garbage.slice(..9)], Code::Internal, None),
        (
            "good ones between bad ones",
            vec![framed(no_request), framed(good("a")), framed(unknown), framed(strange), framed(good("b"))],
            Code::Ok,
            Some(vec![
                ("no request", Code::InvalidArgument),
                ("a", Code::Ok),
                ("unknown model", Code::NotFound),
                ("strange method", Code::InvalidArgument),
                ("b", Code::Ok),
            ]),
        ),
        ("an id too long", vec![framed(good(&long))], Code::Ok, None),
        (
            "timeouts that are none",
            vec![
                framed(timed("least", i64::MIN, 0)),
                framed(timed("less than least", i64::MIN, i32::MIN)),
                framed(timed("negative", -1, 0)),
                framed(timed("a little negative", 0, -1)),
                framed(timed("too many nanoseconds", 1, i32::MAX)),
                framed(timed("mixed signs", 1, -1)),
                framed(timed("the most", i64::MAX, 999_999_999)),
            ],
            Code::Ok,
            Some(vec![
                ("least", Code::InvalidArgument),
                ("less than least", Code::InvalidArgument),
                ("negative", Code::InvalidArgument),
                ("a little negative", Code::InvalidArgument),
                ("too many nanoseconds", Code::InvalidArgument),
                ("mixed signs", Code::InvalidArgument),
                ("the most", Code::Ok),
            ]),
        ),
        ("no time at all", vec![framed(timed("x", 0, 0))], Code::Ok, Some(vec![("x", Code::DeadlineExceeded)])),
    ]
}

fn outcome(message: &Bytes) -> (String, Code) {
    let RerankManyResponse { request_id, outcome } = RerankManyResponse::decode(message.clone()).expect("an answer");
    let code = match outcome.expect("always set") {
        Outcome::Response(_) => Code::Ok,
        Outcome::Error(error) => Code::from_i32(error.code),
    };
    (request_id, code)
}

/// Lets `attack` loose on a server, which then has to be as it was: nothing inside, nothing held, no panic, and the
/// right answers.
async fn unharmed<F: Future<Output = ()>>(attack: impl FnOnce(SocketAddr) -> F) {
    unharmed_with(SCRIPT, attack).await;
}

async fn unharmed_with<F: Future<Output = ()>>(script: &str, attack: impl FnOnce(SocketAddr) -> F) {
    let _alone = ALONE.lock().await;
    let panics = PANICS.load(Ordering::Relaxed);
    let tokens = stored_documents(script).await;
    let server = TestServer::scripted(script, |config| {
        // Nothing is written, so that no file is opened by what is asked.
        config.token_store.dir = Some(tokens.path().to_owned());
        config.token_store.read_only = true;
        config.metrics_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.grpc.max_message_size = MESSAGE_BYTES_MAX as usize;
        config.limits.documents_per_request_max = 2_000;
        config.limits.document_bytes_max = 8 << 10;
        config.limits.query_bytes_max = 1 << 10;
    })
    .await;
    let channel = server.channel().await;
    assert_answers(&channel).await;
    Counts::at_rest(&server).await;
    let held = Held::now();
    let begin = Instant::now();
    attack(server.address).await;
    println!("{:?} under attack", begin.elapsed());
    if cfg!(not(target_os = "linux")) {
        println!("skipped: descriptors and threads are not counted on this system");
    }
    assert_answers(&channel).await;
    assert!(server.serving("").await && server.serving("sluice.rerank.v1.RerankService").await);
    Counts::at_rest(&server).await;
    held.not_grown().await;
    assert_eq!(PANICS.load(Ordering::Relaxed), panics, "a panic was logged");
    drop(channel);
    server.stop().await.expect("it drains");
}

/// A folder with a document in the namespace `kept`, whose vectors are that script's.
async fn stored_documents(script: &str) -> tempfile::TempDir {
    use sluice_proto::rerank::v1::{PutDocument, PutRequest, put_document::Content};

    let folder = tempfile::tempdir().expect("a folder");
    let writer = TestServer::scripted(script, |config| config.token_store.dir = Some(folder.path().to_owned())).await;
    let content = Some(Content::Text("a red apple".to_owned()));
    let documents = vec![PutDocument { id: "0".to_owned(), content, content_hash: Vec::new() }];
    let put = PutRequest { namespace: "kept".to_owned(), documents, ..PutRequest::default() };
    writer.token_store().await.put(put).await.expect("valid");
    writer.stop().await.expect("it drains");
    folder
}

async fn assert_answers(channel: &tonic::transport::Channel) {
    use sluice_proto::rerank::v1::rerank_service_client::RerankServiceClient;
    let answer = RerankServiceClient::new(channel.clone())
        .rerank(request("red apple", &["a blue car", "a red apple", "a red car"]))
        .await
        .expect("the server answers")
        .into_inner();
    assert_eq!(answer.results.iter().map(|result| result.index).collect::<Vec<_>>(), [1, 2, 0]);
}

/// How often each kind of request ended in each way.
type Tally = BTreeMap<(What, String), u64>;

/// Sends requests 0 to `count` and judges how each ended.
async fn run(address: SocketAddr, count: u64, case: impl Fn(u64) -> Case + Send + Sync + 'static) -> Tally {
    let (case, next) = (Arc::new(case), Arc::new(AtomicU64::new(0)));
    let callers = (0..CALLERS).map(|_| {
        let (case, next) = (Arc::clone(&case), Arc::clone(&next));
        tokio::spawn(async move {
            let (mut tally, mut faults) = (Tally::new(), Vec::new());
            let mut connection = Connection::open(address).await;
            for calls in 1.. {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                if calls % CALLS_PER_CONNECTION == 0 {
                    connection = Connection::open(address).await;
                }
                let Case { what, call } = case(number);
                let messages_max = if call.path == samples::WATCH { 1 } else { MESSAGES_MAX };
                let reply = connection.call(call.clone(), messages_max).await;
                match judge(what, &call, &reply) {
                    Ok(ending) => *tally.entry((what, ending)).or_default() += 1,
                    Err(fault) => faults.push(format!("request {number}, {what:?}: {fault}\n{}", shown(&call))),
                }
            }
            (tally, faults)
        })
    });
    let (mut tally, mut faults) = (Tally::new(), Vec::new());
    for caller in callers.collect::<Vec<_>>() {
        let (its_tally, its_faults) = caller.await.expect("no panic");
        its_tally.into_iter().for_each(|(key, count)| *tally.entry(key).or_default() += count);
        faults.extend(its_faults);
    }
    println!("{tally:#?}");
    let shown = faults.iter().take(FAULTS_SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "seed {}, {} faults:\n{shown}", seed(), faults.len());
    assert_eq!(tally.values().sum::<u64>(), count, "every request has an ending");
    tally
}

/// The name of the ending, if a request of this kind may end so.
fn judge(what: What, call: &Call, reply: &Reply) -> Result<String, Fault> {
    if call.path == samples::RERANK_MANY {
        for message in &reply.messages {
            let (_, code) = outcome(message);
            if !What::Values.allowed().contains(&code) && code != Code::DeadlineExceeded {
                return Err(format!("a request inside ended with {code:?}"));
            }
        }
    }
    let status = match &reply.ending {
        Ending::Status(status) => status,
        Ending::Left if call.path == samples::WATCH => return Ok("Left".to_owned()),
        Ending::Reset(_) | Ending::Gone(_) if what == What::Leaves => return Ok("Left".to_owned()),
        ending => return Err(format!("{ending:?} is no gRPC status")),
    };
    // Whoever would change the store is told that it is only read.
    let read_only = call.path.contains("TokenStoreService/") && status.code() == Code::FailedPrecondition;
    if !read_only && !what.allowed().contains(&status.code()) {
        return Err(format!("{status:?} is not among {:?}", what.allowed()));
    }
    if status.code() == Code::Internal && !TRANSPORT_FAULTS.iter().any(|fault| status.message().starts_with(fault)) {
        return Err(format!("{status:?} is a fault of ours"));
    }
    Ok(format!("{:?}", status.code()))
}

/// A call for a failure's text.
fn shown(call: &Call) -> String {
    let mut text = format!("{call:?}");
    text.truncate(text.floor_char_boundary(1_000));
    text
}

/// How tonic begins what it says of frames and messages that are none.
const TRANSPORT_FAULTS: [&str; 5] = [
    "failed to decode Protobuf message",
    "protocol error: received message with",
    "Error decompressing",
    "Unexpected EOF decoding stream.",
    "Missing request message.",
];

fn seed() -> u64 {
    std::env::var("SLUICE_MALFORMED_SEED").map_or(SEED, |seed| seed.parse().expect("a number"))
}
