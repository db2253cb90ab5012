//! A hub in this process: Hugging Face's API and files, a CDN, and a proxy, on a port of its own. What it answers with
//! the bytes of files is said beforehand: one `Act` a request.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// How a request for a file is answered. Without one, as it should be.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A right head, so many bytes, then the connection breaks.
    Cut(u64),
    /// A right head, so many bytes, then silence.
    Stall(u64),
    /// The whole file, whatever range was asked for; cut after so many bytes.
    NoRange(u64),
    /// All right, but for the byte at this place of what is sent.
    Flip(usize),
    /// This head, and then the bytes that belong to its status, and more.
    Head(String),
    /// This and nothing else.
    Raw(String),
}

#[derive(Clone, Debug)]
pub(crate) struct HubFile {
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
}

impl HubFile {
    pub(crate) fn sha256(&self) -> String {
        Sha256::digest(&self.bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_for_bytes(&self) -> bool {
        self.target.contains("/resolve/") || self.target.contains("/blob/")
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) commit: String,
    pub(crate) files: Vec<HubFile>,
    /// For requests for bytes, the first one first.
    pub(crate) acts: VecDeque<Act>,
    /// For requests to the API.
    pub(crate) api_acts: VecDeque<Act>,
    /// Where files are, if not here.
    pub(crate) cdn: Option<String>,
    /// How many files a page of the list has.
    pub(crate) page: usize,
    /// Where CONNECT leads to.
    pub(crate) tunnel: Option<SocketAddr>,
    pub(crate) requests: Vec<Request>,
}

pub(crate) struct Hub {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<Mutex<State>>,
    _listener: JoinSet<()>,
}

impl Hub {
    pub(crate) async fn start(files: Vec<HubFile>) -> Self {
        Self::start_with(files, None).await
    }

    pub(crate) async fn start_with(files: Vec<HubFile>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { commit: "c0ffee".repeat(6), files, page: 1000, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, state.clone(), tls));
        Self { address, state, _listener: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn act(&self, acts: impl IntoIterator<Item = Act>) {
        self.state.lock().unwrap().acts.extend(acts);
    }

    pub(crate) fn act_on_api(&self, acts: impl IntoIterator<Item = Act>) {
        self.state.lock().unwrap().api_acts.extend(acts);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The ranges that were asked for, of all requests for bytes.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        let requests = self.requests();
        let bytes = requests.iter().filter(|request| request.is_for_bytes());
        bytes.map(|request| request.header("range").map(str::to_owned)).collect()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>, tls: Option<TlsAcceptor>) {
    // Ends with the hub, and all that it serves with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (state, tls) = (state.clone(), tls.clone());
        connections.spawn(async move {
            let mut stream: Box<dyn Stream> = match tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => return,
                },
                None => Box::new(stream),
            };
            // A client that leaves is no fault of the hub.
            serve(&mut stream, &state).await.ok();
            stream.shutdown().await.ok();
        });
    }
}

async fn read_request(stream: &mut Box<dyn Stream>) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(&head).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Some(Request {
        method: parsed.method.unwrap().to_owned(),
        target: parsed.path.unwrap().to_owned(),
        headers: parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect(),
    })
}

async fn serve(stream: &mut Box<dyn Stream>, state: &Mutex<State>) -> std::io::Result<()> {
    let Some(request) = read_request(stream).await else { return Ok(()) };
    let tunnel = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        state.tunnel
    };
    if request.method == "CONNECT" {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        let mut onward = TcpStream::connect(tunnel.unwrap()).await?;
        return copy_bidirectional(stream, &mut onward).await.map(|_| ());
    }
    // As a proxy gets it.
    let path = match request.target.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/').unwrap()..],
        None => &request.target,
    };
    if path.starts_with("/api/") {
        let act = state.lock().unwrap().api_acts.pop_front();
        let answer = match act {
            Some(Act::Raw(text)) => text,
            Some(other) => panic!("no act for the API: {other:?}"),
            None => api(path, &state.lock().unwrap()),
        };
        return stream.write_all(answer.as_bytes()).await;
    }
    let file = path.split('?').next().unwrap().to_owned();
    let (redirect, file, act) = {
        let mut state = state.lock().unwrap();
        let redirect = state.cdn.clone().filter(|_| path.contains("/resolve/"));
        let found = state.files.iter().find(|known| file.ends_with(&format!("/{}", known.path))).cloned();
        let act = if redirect.is_none() { state.acts.pop_front() } else { None };
        (redirect, found, act)
    };
    let Some(file) = file else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    };
    if let Some(cdn) = redirect {
        let head = format!(
            "HTTP/1.1 302 Found\r\nlocation: {cdn}/blob/{}?Signature=signed-secret\r\ncontent-length: 0\r\n\
             connection: close\r\n\r\n",
            file.path
        );
        return stream.write_all(head.as_bytes()).await;
    }
    send(stream, &request, &file.bytes, act).await
}

async fn send(stream: &mut Box<dyn Stream>, request: &Request, bytes: &[u8], act: Option<Act>) -> std::io::Result<()> {
    let whole = bytes.len();
    let asked = request.header("range").map(|range| {
        let range = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
        range.parse::<usize>().unwrap()
    });
    let (asked, cut) = match act {
        Some(Act::NoRange(cut)) => (None, Some(cut)),
        Some(Act::Cut(cut) | Act::Stall(cut)) => (asked, Some(cut)),
        _ => (asked, None),
    };
    let mut body = bytes[asked.unwrap_or(0)..].to_vec();
    let length = body.len();
    let mut head = match asked {
        Some(start) => format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {start}-{}/{whole}\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n",
            whole - 1
        ),
        None => format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"),
    };
    match &act {
        Some(Act::Raw(text)) => return stream.write_all(text.as_bytes()).await,
        Some(Act::Head(text)) => {
            head.clone_from(text);
            if text.starts_with("HTTP/1.1 200 ") {
                body = bytes.to_vec();
            }
            body.extend_from_slice(b"more than there is");
        }
        Some(Act::Flip(at)) => body[*at] ^= 1,
        _ => {}
    }
    if let Some(cut) = cut {
        body.truncate(usize::try_from(cut).unwrap());
    }
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await?;
    if matches!(act, Some(Act::Stall(_))) {
        // Until the client leaves.
        tokio::io::copy(stream, &mut tokio::io::sink()).await.ok();
    }
    Ok(())
}

fn api(path: &str, state: &State) -> String {
    if path.contains("/revision/") {
        return json(&serde_json::json!({"id": "o/n", "sha": state.commit}), "");
    }
    let at = path.split_once("&cursor=").map_or(0, |(_, cursor)| cursor.parse::<usize>().unwrap());
    let mut entries = vec![serde_json::json!({"type": "directory", "path": "Q8_0", "size": 0, "oid": "0"})];
    for file in state.files.iter().skip(at).take(state.page) {
        let mut entry = serde_json::json!({"type": "file", "path": file.path, "size": file.bytes.len(), "oid": "0"});
        if file.path.ends_with(".gguf") {
            entry["lfs"] = serde_json::json!({"oid": file.sha256(), "size": file.bytes.len(), "pointerSize": 134});
        }
        entries.push(entry);
    }
    let next = at + state.page;
    let link = if next < state.files.len() {
        format!("link: <{}&cursor={next}>; rel=\"next\"\r\n", path.split("&cursor=").next().unwrap())
    } else {
        String::new()
    };
    json(&entries.into(), &link)
}

pub(crate) fn json(value: &serde_json::Value, headers: &str) -> String {
    let body = value.to_string();
    format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// An answer with this status, these headers and no body.
pub(crate) fn status(status: &str, headers: &str) -> Act {
    Act::Raw(format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n"))
}
