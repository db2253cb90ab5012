//! A TCP proxy that stands between gateway and llama-server and misbehaves when told to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How bytes from llama-server are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As they come.
    Pass,
    /// One byte at a time.
    OneByte,
    /// Not at all, until the mode changes.
    Stall,
    /// New connections are closed at once.
    Refuse,
}

struct State {
    mode: Mode,
    live: Vec<(TcpStream, TcpStream)>,
}

/// The proxy. Its threads end with the test process.
pub(crate) struct Proxy {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Proxy {
    pub(crate) fn start(target: SocketAddr) -> Self {
        let state = Arc::new(Mutex::new(State { mode: Mode::Pass, live: Vec::new() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.lock().unwrap().mode != Mode::Refuse {
                    connect(&shared, client, target);
                }
            }
        });
        Self { state, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
    }

    /// Ends all connections with FIN.
    pub(crate) fn cut(&self) {
        for (client, server) in self.state.lock().unwrap().live.drain(..) {
            client.shutdown(Shutdown::Both).ok();
            server.shutdown(Shutdown::Both).ok();
        }
    }

    /// Ends all connections with RST towards the gateway.
    pub(crate) fn reset(&self) {
        for (client, server) in self.state.lock().unwrap().live.drain(..) {
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).ok();
            // Wakes the pump without a FIN; the RST goes out when the last handle is dropped.
            client.shutdown(Shutdown::Read).ok();
            server.shutdown(Shutdown::Both).ok();
        }
    }
}

fn connect(state: &Arc<Mutex<State>>, client: TcpStream, target: SocketAddr) {
    let Ok(server) = TcpStream::connect(target) else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (client_copy, server_copy) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    state.lock().unwrap().live.push((client.try_clone().unwrap(), server.try_clone().unwrap()));
    std::thread::spawn(move || pump(client_copy, server_copy, || Mode::Pass));
    let state = state.clone();
    std::thread::spawn(move || pump(server, client, || state.lock().unwrap().mode));
}

fn pump(mut from: TcpStream, mut to: TcpStream, mode: impl Fn() -> Mode) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        while mode() == Mode::Stall {
            std::thread::sleep(Duration::from_millis(5));
        }
        let step = if mode() == Mode::OneByte { 1 } else { n };
        if buffer[..n].chunks(step).any(|piece| to.write_all(piece).is_err()) {
            break;
        }
    }
    for stream in [to, from] {
        if socket2::SockRef::from(&stream).linger().is_ok_and(|linger| linger.is_none()) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}
