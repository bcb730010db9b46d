//! Malformed requests: each is a function of a seed and a number.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tonic::Code;

use super::{
    MESSAGE_BYTES_MAX,
    common::raw::{Call, End, frame, frame_of},
    samples::{self, METHODS, OWN_METHODS, REFLECTION, REFLECTION_ALPHA},
};

/// tonic's own limit, which holds for health.
const TONICS_MESSAGE_BYTES_MAX: u32 = 4 << 20;

/// What is wrong with a request, which says what may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Bytes that may be no message: random, cut short, flipped, or made of fields at random.
    Message,
    /// A message with nonsense in it.
    Values,
    /// gRPC's frame does not hold what it says, or there is none, or there are several.
    Frame,
    /// A frame that announces more than a message may have.
    OverLimit,
    /// A compression that nobody knows.
    Encoding,
    /// No such method.
    Path,
    /// `grpc-timeout` is no time.
    NoTimeout,
    /// `grpc-timeout` is over.
    PassedTimeout,
    /// Headers that should not be there, or lack.
    Headers,
    /// The caller leaves in the middle, so that nothing need be answered.
    Leaves,
}

impl What {
    /// How such a request may end.
    ///
    /// `INTERNAL` is what gRPC itself says to bytes that are no message and to frames that are none (grpc's
    /// `doc/statuscodes.md`: "Error parsing request proto"; `doc/compression.md`: a compressed flag without
    /// an encoding "MUST fail with INTERNAL status"): tonic answers so before a handler is asked. A handler
    /// of ours has no reason to, so the caller of this also looks at who said it. `UNKNOWN` is never right.
    pub fn allowed(self) -> &'static [Code] {
        use Code::{DeadlineExceeded, Internal, InvalidArgument, NotFound, Ok, OutOfRange, Unimplemented};
        match self {
            Self::Message | Self::Frame => &[Ok, InvalidArgument, NotFound, Internal],
            Self::Values | Self::Headers => &[Ok, InvalidArgument, NotFound],
            Self::OverLimit => &[OutOfRange],
            Self::Encoding | Self::Path => &[Unimplemented],
            Self::NoTimeout => &[InvalidArgument],
            Self::PassedTimeout => &[DeadlineExceeded],
            Self::Leaves => &[Ok, InvalidArgument, NotFound, Internal],
        }
    }
}

/// A malformed request.
#[derive(Clone, Debug)]
pub struct Case {
    pub what: What,
    pub call: Call,
}

impl Case {
    fn new(what: What, method: &str, body: Vec<Bytes>) -> Self {
        Self { what, call: Call::with_body(method, body) }
    }
}

/// A valid message of every method, cut short at every length.
pub fn truncated(seed: u64) -> Vec<Case> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cases = Vec::new();
    for method in METHODS {
        for _ in 0..3 {
            let message = samples::valid(&mut rng, method);
            let cut = |length: usize| Case::new(What::Message, method, vec![frame(&message[..length])]);
            cases.extend((0..message.len()).map(cut));
        }
    }
    cases
}

/// The `number`-th request of a seed.
pub fn seeded(seed: u64, number: u64) -> Case {
    let mut rng = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let rng = &mut rng;
    let method = *METHODS.choose(rng).expect("there are some");
    match rng.random_range(0..100) {
        0..40 => Case::new(What::Message, method, vec![frame(&message(rng, method))]),
        40..58 => Case::new(What::Values, method, vec![frame(&samples::absurd(rng, method))]),
        58..74 => framing(rng, method),
        74..80 => path(rng),
        80..86 => timeout(rng),
        86..95 => headers(rng, method),
        _ => leaving(rng, method),
    }
}

/// Bytes in the place of a message.
fn message(rng: &mut StdRng, method: &str) -> Vec<u8> {
    match rng.random_range(0..4) {
        0 => bytes(rng, 200),
        1 => {
            let mut message = samples::valid(rng, method);
            message.truncate(rng.random_range(0..=message.len()));
            message
        }
        2 => {
            let mut message = samples::valid(rng, method);
            for _ in 0..rng.random_range(1..4) {
                if let Some(byte) = message.get_mut(rng.random_range(0..200)) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
            message
        }
        _ => fields(rng, 0),
    }
}

/// Something that looks like protobuf: fields with tags, lengths and nesting that may all be wrong.
fn fields(rng: &mut StdRng, depth: u32) -> Vec<u8> {
    let mut out = Vec::new();
    if depth == 0 && rng.random_bool(0.1) {
        return nested(rng);
    }
    for _ in 0..rng.random_range(0..8) {
        let tag = *[1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 20, 29, 0, 1 << 28, u64::MAX >> 3].choose(rng).expect("a tag");
        let wire_type = rng.random_range(0..8);
        varint(&mut out, tag << 3 | wire_type);
        match wire_type {
            0 => varint(&mut out, *[0, 1, 2, 99, u64::MAX, 1 << 31, 1 << 63].choose(rng).expect("a number")),
            1 => out.extend(bytes(rng, 9)),
            2 => {
                let content = match rng.random_range(0..4) {
                    0 => bytes(rng, 30),
                    1 => vec![0xff, 0xfe, 0xc3, 0x28],
                    2 => b"red apple".to_vec(),
                    _ if depth < 6 => fields(rng, depth + 1),
                    _ => Vec::new(),
                };
                let honest = content.len() as u64;
                let length = *[honest, honest, honest, honest + 1, u64::MAX, 1 << 31].choose(rng).expect("a length");
                varint(&mut out, length);
                out.extend(content);
            }
            5 => out.extend(bytes(rng, 5)),
            _ => {}
        }
    }
    out
}

/// A message in a message, or a group in a group, deeper than anyone would go.
fn nested(rng: &mut StdRng) -> Vec<u8> {
    let depth = rng.random_range(1..400);
    if rng.random() {
        return vec![rng.random_range(1..16) << 3 | 3; depth];
    }
    let field = rng.random_range(1..16_u64) << 3 | 2;
    (0..depth).fold(Vec::new(), |inner, _| {
        let mut outer = Vec::new();
        varint(&mut outer, field);
        varint(&mut outer, inner.len() as u64);
        outer.extend(inner);
        outer
    })
}

fn framing(rng: &mut StdRng, method: &str) -> Case {
    let valid = samples::valid(rng, method);
    let honest = u32::try_from(valid.len()).expect("small");
    let over = MESSAGE_BYTES_MAX + 1;
    let framed = |frames: Vec<Bytes>| Case::new(What::Frame, method, frames);
    match rng.random_range(0..9) {
        0 => framed(vec![]),
        1 => framed(vec![Bytes::new()]),
        2 => framed(vec![frame(&valid).slice(..rng.random_range(0..5))]),
        3 => framed(vec![frame_of(0, honest + rng.random_range(1..9_000), &valid)]),
        4 => framed(vec![frame_of(0, rng.random_range(0..=honest), &valid)]),
        5 => framed(vec![frame_of(rng.random_range(1..=255), honest, &valid)]),
        6 => {
            let mut case = framed(vec![frame_of(1, honest, &valid)]);
            let encoding = *[b"gzip".as_slice(), b"zstd", b"identity"].choose(rng).expect("one of three");
            // Health and reflection take nothing compressed.
            if encoding != b"identity" && !OWN_METHODS.contains(&method) {
                case.what = What::Encoding;
            }
            case.call = case.call.header("grpc-encoding", encoding);
            case
        }
        7 => {
            // Announced, and never sent: the limit must not be what is allocated.
            let length = rng.random_range(over..=u32::MAX);
            let (what, limit) = match method {
                // tonic's reflection ends the call, with OK, at the first thing it cannot read.
                REFLECTION | REFLECTION_ALPHA => (What::Frame, over),
                own if OWN_METHODS.contains(&own) => (What::OverLimit, over),
                _ => (What::OverLimit, TONICS_MESSAGE_BYTES_MAX + 1),
            };
            Case::new(what, method, vec![frame_of(0, length.max(limit), &valid)])
        }
        _ => {
            let whole = frame(&valid);
            let pieces = whole.chunks(rng.random_range(1..7)).map(Bytes::copy_from_slice);
            framed(pieces.chain([frame(&message(rng, method))]).collect())
        }
    }
}

fn path(rng: &mut StdRng) -> Case {
    let long = format!("/{}", "x".repeat(rng.random_range(1..4_000)));
    let paths = [
        "/",
        "//",
        "/sluice.rerank.v1.RerankService",
        "/sluice.rerank.v1.RerankService/",
        "/sluice.rerank.v1.RerankService/rerank",
        "/sluice.rerank.v1.RerankService/Rerank/",
        "/sluice.rerank.v1.RerankService/Explicate",
        "/sluice.rerank.v2.RerankService/Rerank",
        "/sluice.model.v1.ModelService/LoadModel",
        "/RerankService/Rerank",
        "/%00/%ff",
        "/../../etc/passwd",
        "/metrics",
        &long,
    ];
    let path = paths.choose(rng).expect("there are some");
    let body = samples::valid(rng, samples::RERANK);
    Case::new(What::Path, path, vec![frame(&body)])
}

fn timeout(rng: &mut StdRng) -> Case {
    let method = *OWN_METHODS.choose(rng).expect("there are some");
    let (what, timeout): (_, &[u8]) = *[
        (What::NoTimeout, b"".as_slice()),
        (What::NoTimeout, b"1"),
        (What::NoTimeout, b"m"),
        (What::NoTimeout, b"-1S"),
        (What::NoTimeout, b"1.5S"),
        (What::NoTimeout, b"123456789S"),
        (What::NoTimeout, b"1 S"),
        (What::NoTimeout, b"1s"),
        (What::NoTimeout, b"\xff\xfeS"),
        (What::PassedTimeout, b"0S"),
        (What::PassedTimeout, b"00000000n"),
        (What::PassedTimeout, b"1n"),
        (What::Headers, b"99999999H"),
    ]
    .choose(rng)
    .expect("there are some");
    let body = vec![frame(&samples::valid(rng, method))];
    let mut case = Case::new(what, method, body);
    case.call = case.call.header("grpc-timeout", timeout);
    case
}

fn headers(rng: &mut StdRng, method: &str) -> Case {
    let mut case = Case::new(What::Headers, method, vec![frame(&samples::valid(rng, method))]);
    case.call = match rng.random_range(0..9) {
        0 => {
            case.what = What::Encoding;
            let encodings: [&[u8]; 5] = [b"br", b"deflate", b"snappy", b"", b"\xff\xfe"];
            case.call.header("grpc-encoding", encodings.choose(rng).expect("one of five"))
        }
        1 => case.call.header("grpc-accept-encoding", b"\xff,,gzip;q=0,*"),
        2 => case.call.header("trace-bin", b"this is not base64!!"),
        3 => case.call.header("user-agent", &vec![b'u'; rng.random_range(1..8_000)]),
        4 => (0..60).fold(case.call, |call, _| call.header("x-again", b"and again")),
        5 => {
            case.call.headers.clear();
            case.call
        }
        6 => {
            case.call.headers[0].1 = HeaderValue::from_static("text/html");
            case.call
        }
        7 => {
            let mut trailers = HeaderMap::new();
            trailers.insert(HeaderName::from_static("x-late"), HeaderValue::from_static("1"));
            trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("13"));
            case.call.end = End::Trailers(trailers);
            case.call
        }
        _ => {
            case.call.method = [Method::PUT, Method::PATCH, Method::OPTIONS].choose(rng).expect("one of three").clone();
            case.call
        }
    };
    case
}

fn leaving(rng: &mut StdRng, method: &str) -> Case {
    let whole = frame(&samples::valid(rng, method));
    let said = whole.slice(..rng.random_range(0..=whole.len()));
    let mut case = Case::new(What::Leaves, method, vec![said]);
    case.call.end = End::Reset;
    case
}

fn bytes(rng: &mut StdRng, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..max)];
    rng.fill(&mut bytes[..]);
    bytes
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
