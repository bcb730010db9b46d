//! A hub on a loopback port: as much of the hub's HTTP as a download needs.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use sha2::{Digest, Sha256};

/// What is answered to a path.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// 200 with this body.
    Body(Vec<u8>),
    /// 200 with this body, of which only the first so many bytes come.
    CutBody(Vec<u8>, usize),
    /// This status.
    Status(u16),
    /// 302 to this address.
    Redirect(String),
    /// Nothing, and the connection stays open.
    Silence,
}

/// A request that arrived: its path, and the token it carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

pub(crate) struct FakeHub {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeHub {
    pub(crate) fn start(replies: HashMap<String, Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (requests, stopped) = (Arc::clone(&requests), Arc::clone(&stopped));
            move || serve(&listener, &replies, &requests, &stopped)
        });
        Self { address, requests, stopped, thread: Some(thread) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

/// An address that nobody listens on.
pub(crate) fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

/// Replies of a repository whose `revision` (and itself) is `commit`. Weights are large files, as at the hub.
pub(crate) fn repository(
    name: &str,
    (revision, commit): (&str, &str),
    files: &[(&str, &[u8])],
) -> HashMap<String, Reply> {
    let siblings: Vec<String> = files
        .iter()
        .map(|(file, bytes)| {
            let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            let size = bytes.len();
            let lfs = format!(r#","lfs":{{"sha256":"{sha256}","size":{size},"pointerSize":130}}"#);
            let lfs = if file.ends_with(".safetensors") { lfs } else { String::new() };
            format!(r#"{{"rfilename":"{file}","size":{size},"blobId":"0"{lfs}}}"#)
        })
        .collect();
    let info = format!(r#"{{"id":"{name}","sha":"{commit}","siblings":[{}]}}"#, siblings.join(","));
    let mut replies = HashMap::new();
    for revision in [revision, commit] {
        let path = format!("/api/models/{name}/revision/{revision}?blobs=true");
        replies.insert(path, Reply::Body(info.clone().into_bytes()));
    }
    for (file, bytes) in files {
        replies.insert(format!("/{name}/resolve/{commit}/{file}"), Reply::Body(bytes.to_vec()));
    }
    replies
}

fn serve(
    listener: &TcpListener,
    replies: &HashMap<String, Reply>,
    requests: &Mutex<Vec<Request>>,
    stopped: &AtomicBool,
) {
    let mut silent = Vec::new();
    for stream in listener.incoming() {
        let stream = stream.expect("accepts");
        if stopped.load(Ordering::SeqCst) {
            return;
        }
        let Some(request) = read_request(&stream) else { continue };
        let reply = replies.get(&request.path).cloned().unwrap_or(Reply::Status(404));
        requests.lock().expect("no panic").push(request);
        // The client may hang up first: that is for its test to judge.
        match write_reply(&stream, &reply) {
            Ok(Answered::Yes) | Err(_) => {}
            Ok(Answered::No) => silent.push(stream),
        }
    }
}

enum Answered {
    Yes,
    No,
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut authorization = None;
    for line in lines {
        let line = line.ok()?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => authorization = Some(value.to_owned()),
            Some(_) => {}
            None => break,
        }
    }
    Some(Request { path, authorization })
}

fn write_reply(mut stream: &TcpStream, reply: &Reply) -> std::io::Result<Answered> {
    let (status, extra, body, sent) = match reply {
        Reply::Body(body) => (200, String::new(), body.as_slice(), body.len()),
        Reply::CutBody(body, sent) => (200, String::new(), body.as_slice(), *sent),
        Reply::Status(status) => (*status, String::new(), b"".as_slice(), 0),
        Reply::Redirect(to) => (302, format!("Location: {to}\r\n"), b"".as_slice(), 0),
        Reply::Silence => return Ok(Answered::No),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} Fake\r\nContent-Length: {length}\r\n{extra}Connection: close\r\n\r\n")?;
    stream.write_all(&body[..sent])?;
    stream.flush()?;
    Ok(Answered::Yes)
}
