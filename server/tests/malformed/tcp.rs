//! Connections that speak no gRPC, or no HTTP/2, or not at all.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// In which the server has to give up on what cannot be HTTP/2.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The caller closes it at once.
    Drop,
    /// The caller says that it has nothing more to say, and listens.
    Half,
    /// The server has to close it.
    Wait,
}

/// A connection that stops in the middle of its first words, and stays.
pub fn mute(address: SocketAddr, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.write_all(&PREFACE[..number % PREFACE.len()]).expect("nothing is wrong so far");
    stream
}

/// The `number`-th connection of a seed, from its opening to its end.
pub fn connection(address: SocketAddr, seed: u64, number: u64) {
    let rng = &mut StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (said, end) = speech(rng);
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    // The server may have closed already, having seen enough.
    let _ = stream.write_all(&said);
    match end {
        End::Drop => return,
        End::Half => drop(stream.shutdown(Shutdown::Write)),
        End::Wait => {}
    }
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => unreachable!("the server holds on to {said:?} ({end:?}): {error}"),
    }
}

fn speech(rng: &mut StdRng) -> (Vec<u8>, End) {
    let half = [End::Drop, End::Half];
    let any = [End::Drop, End::Half, End::Wait];
    match rng.random_range(0..8) {
        0 => (Vec::new(), *half.choose(rng).expect("one of two")),
        1 => {
            let length = rng.random_range(1..PREFACE.len());
            (PREFACE[..length].to_vec(), *half.choose(rng).expect("one of two"))
        }
        2 => {
            let mut garbage = vec![0; rng.random_range(PREFACE.len()..4_000)];
            rng.fill(&mut garbage[..]);
            (garbage, *any.choose(rng).expect("one of three"))
        }
        3 => (b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), *any.choose(rng).expect("one of three")),
        4 => {
            // A TLS ClientHello's beginning.
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_vec(), End::Wait)
        }
        5 => ([PREFACE, &SETTINGS].concat(), *half.choose(rng).expect("one of two")),
        _ => (frames(rng), *half.choose(rng).expect("one of two")),
    }
}

/// A proper beginning, and then frames of any type, on any stream, of any content.
fn frames(rng: &mut StdRng) -> Vec<u8> {
    let mut said = [PREFACE, &SETTINGS].concat();
    for _ in 0..rng.random_range(1..12) {
        let mut payload = vec![0_u8; rng.random_range(0..60)];
        rng.fill(&mut payload[..]);
        let honest = payload.len() as u32;
        let length = *[honest, honest, honest, 0, 1, 0xff_ffff].choose(rng).expect("a length");
        let stream: u32 = *[0, 1, 1, 3, 2, u32::MAX].choose(rng).expect("a stream");
        said.extend(&length.to_be_bytes()[1..]);
        said.push(rng.random_range(0..12));
        said.push(rng.random());
        said.extend(stream.to_be_bytes());
        said.extend(payload);
    }
    said
}
