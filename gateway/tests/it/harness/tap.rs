//! A TCP proxy between clients and the gateway that notes when each request and the head of its answer went by. Told
//! to, it hides from the gateway that a client has left, as proxies in the field do.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::stub::read_request;

/// A request that went by.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) at: Instant,
    /// Request line and headers.
    pub(crate) head: String,
    /// When the answer began, and its first bytes.
    pub(crate) answered: Option<(Instant, String)>,
}

impl Passed {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.answered.as_ref()?.1.split(' ').nth(1)?.parse().ok()
    }

    /// A header of the answer.
    pub(crate) fn answer_header(&self, name: &str) -> Option<String> {
        header(&self.answered.as_ref()?.1, name)
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().skip(1).take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}

/// The proxy. Its threads end with the test process.
pub(crate) struct Tap {
    passed: Arc<Mutex<Vec<Passed>>>,
    hides_leaving: Arc<AtomicBool>,
    clients: Arc<Mutex<Vec<TcpStream>>>,
    address: SocketAddr,
}

impl Tap {
    pub(crate) fn start(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (passed, hides_leaving) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let clients = Arc::new(Mutex::new(Vec::new()));
        let (shared, hides, live) = (passed.clone(), hides_leaving.clone(), clients.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(gateway) else { continue };
                live.lock().unwrap().push(client.try_clone().unwrap());
                connect(&shared, &hides, client, server);
            }
        });
        Self { passed, hides_leaving, clients, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on the gateway does not see that a client leaves.
    pub(crate) fn hide_leaving(&self) {
        self.hides_leaving.store(true, Ordering::Relaxed);
    }

    /// Closes the connections of all clients, as a proxy does that gives up waiting.
    pub(crate) fn cut_clients(&self) {
        for client in self.clients.lock().unwrap().drain(..) {
            client.shutdown(Shutdown::Both).ok();
        }
    }

    /// The requests that went by so far.
    pub(crate) fn passed(&self) -> Vec<Passed> {
        self.passed.lock().unwrap().clone()
    }
}

fn connect(passed: &Arc<Mutex<Vec<Passed>>>, hides: &Arc<AtomicBool>, client: TcpStream, server: TcpStream) {
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    // The last request of this connection.
    let last = Arc::new(Mutex::new(None::<usize>));
    let (mut to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let (requests, hides, current) = (passed.clone(), hides.clone(), last.clone());
    std::thread::spawn(move || {
        let mut reader = BufReader::new(client);
        while let Some((head, body)) = read_request(&mut reader) {
            let mut requests = requests.lock().unwrap();
            *current.lock().unwrap() = Some(requests.len());
            requests.push(Passed { at: Instant::now(), head: head.clone(), answered: None });
            drop(requests);
            if to_server.write_all(&[head.as_bytes(), &body].concat()).is_err() {
                break;
            }
        }
        if !hides.load(Ordering::Relaxed) {
            to_server.shutdown(Shutdown::Both).ok();
        }
    });
    let passed = passed.clone();
    std::thread::spawn(move || answer(&passed, &last, server, to_client));
}

fn answer(passed: &Mutex<Vec<Passed>>, last: &Mutex<Option<usize>>, mut server: TcpStream, mut client: TcpStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        if let Some(request) = *last.lock().unwrap() {
            let text = || String::from_utf8_lossy(&buffer[..n]).into_owned();
            passed.lock().unwrap()[request].answered.get_or_insert_with(|| (Instant::now(), text()));
        }
        // A client that has left takes nothing, but what comes is still of interest.
        client.write_all(&buffer[..n]).ok();
    }
    client.shutdown(Shutdown::Both).ok();
}
