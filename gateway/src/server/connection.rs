//! One connection, from its first byte to its last.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::client::Connection;
use super::socket::Socket;
use super::streams::Streams;
use super::wire::Wire;
use super::{Phase, Shared};

/// What an HTTP/2 client sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// hyper's buffers cannot be bounded below this.
const LEAST_BUFFER: usize = 8 * 1024;

/// Requests that one HTTP/2 connection may have under way.
const MAX_STREAMS: u32 = 128;

/// How long, and for how many bytes, a client may go on sending what nobody reads, so that it can read the refusal:
/// a socket closed with unread bytes is reset, and a reset destroys what is on its way to the client.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

enum Protocol {
    Http1,
    Http2,
}

/// A connection whose protocol is known, with the bytes that were read to find it out.
enum Opened {
    Plain(Protocol, Socket, Vec<u8>),
    Tls(Protocol, Box<TlsStream<Socket>>),
}

/// Serves a connection until either side ends it, or until the drain reaches `until` before the client has said
/// anything.
///
/// The steps are boxed, so that a connection takes the memory of the step it is in, not of the largest one.
pub(super) async fn run(tcp: TcpStream, address: SocketAddr, shared: &Shared, until: Phase) {
    let connection = Connection::new(address.ip());
    let opened = match Box::pin(open(tcp, &connection, shared, until)).await {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%address, %error, "connection ended before its first request");
            return;
        }
    };
    match opened {
        Opened::Plain(protocol, socket, first) => serve(protocol, socket, first, &connection, shared).await,
        Opened::Tls(protocol, stream) => serve(protocol, stream, Vec::new(), &connection, shared).await,
    }
}

/// TLS if there is a certificate, then the protocol, within the header timeout; nothing if the drain reaches `until`.
async fn open(
    tcp: TcpStream,
    connection: &Arc<Connection>,
    shared: &Shared,
    until: Phase,
) -> io::Result<Option<Opened>> {
    let limits = &shared.options.limits;
    let mut socket = Socket::new(tcp, Arc::clone(connection), limits.slow_reader_timeout)?;
    let opened = async {
        let Some(tls) = &shared.options.tls else {
            let (protocol, first) = first_bytes(&mut socket).await?;
            return Ok(Opened::Plain(protocol, socket, first));
        };
        let stream = tls.acceptor().accept(socket).await?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Ok(Opened::Tls(protocol, Box::new(stream)))
    };
    tokio::select! {
        // What has been sent before the shutdown is answered.
        biased;
        opened = timeout(limits.header_timeout, opened) => opened?.map(Some),
        () = shared.drain.reached(until) => Ok(None),
    }
}

fn serve<'a, T>(
    protocol: Protocol,
    io: T,
    first: Vec<u8>,
    connection: &'a Arc<Connection>,
    shared: &'a Shared,
) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = Arc::clone(connection);
    match protocol {
        Protocol::Http1 => Box::pin(serve_http1(Wire::http1(io, state, first), connection, shared)),
        Protocol::Http2 => Box::pin(serve_http2(Wire::http2(io, state, first), connection, shared)),
    }
}

/// Reads until it is clear which protocol the client speaks.
async fn first_bytes(io: &mut (impl AsyncRead + Unpin)) -> io::Result<(Protocol, Vec<u8>)> {
    let mut seen = Vec::with_capacity(PREFACE.len());
    let mut rest = io.take(PREFACE.len() as u64);
    while seen.len() < PREFACE.len() {
        if rest.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(&seen) {
            return Ok((Protocol::Http1, seen));
        }
    }
    Ok((Protocol::Http2, seen))
}

async fn serve_http1<T>(wire: Wire<T>, connection: &Arc<Connection>, shared: &Shared)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.options.limits;
    let buffer = limits.max_header_bytes.max(LEAST_BUFFER);
    let answer = Answer::new(shared.router.clone(), Arc::clone(connection), Arc::clone(&shared.options.counts), false);
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(buffer)
        .max_buf_size(buffer)
        .half_close(false)
        .serve_connection(TokioIo::new(wire), answer);
    let mut phases = shared.drain.follow();
    let mut ticks = ticks(shared);
    let ended = loop {
        tokio::select! {
            // First, so that a request that has been sent is read before hyper is told to take no more.
            biased;
            ended = poll_fn(|cx| http.poll_without_shutdown(cx)) => break ended,
            phase = next(&mut phases) => match phase {
                Phase::Serving => {}
                Phase::Draining | Phase::Expired => Pin::new(&mut http).graceful_shutdown(),
                Phase::Over => return,
            },
            _ = ticks.tick() => if is_stalled(connection, shared) { return },
        }
    };
    // After any other error nobody waits for an answer.
    if ended.map_or_else(|error| error.is_parse(), |()| true) {
        Box::pin(linger(http.into_parts().io.into_inner())).await;
    }
}

async fn serve_http2<T>(wire: Wire<T>, connection: &Arc<Connection>, shared: &Shared)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.options.limits;
    let gone = CancellationToken::new();
    let _gone_when_done = gone.clone().drop_guard();
    let streams = Streams {
        tasks: shared.tasks.clone(),
        counts: Arc::clone(&shared.options.counts),
        gone,
        slow_reader_timeout: limits.slow_reader_timeout,
    };
    let answer = Answer::new(shared.router.clone(), Arc::clone(connection), Arc::clone(&shared.options.counts), true);
    let http = http2::Builder::new(streams)
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.header_timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(limits.max_header_bytes.max(LEAST_BUFFER))
        .serve_connection(TokioIo::new(wire), answer);
    let mut http = pin!(http);
    let mut phases = shared.drain.follow();
    let mut ticks = ticks(shared);
    loop {
        tokio::select! {
            biased;
            _ = &mut http => return,
            phase = next(&mut phases) => match phase {
                Phase::Serving => {}
                Phase::Draining | Phase::Expired => http.as_mut().graceful_shutdown(),
                Phase::Over => return,
            },
            _ = ticks.tick() => {
                if is_stalled(connection, shared) {
                    return;
                }
                let idle = connection.idle_for().unwrap_or_default();
                if idle > limits.header_timeout.saturating_mul(2) {
                    return;
                }
                if idle > limits.header_timeout {
                    http.as_mut().graceful_shutdown();
                }
            },
        }
    }
}

/// The next phase of the shutdown.
async fn next(phases: &mut watch::Receiver<Phase>) -> Phase {
    match phases.changed().await {
        Ok(()) => *phases.borrow_and_update(),
        Err(_nobody_drains_any_more) => Phase::Over,
    }
}

/// When to look whether a connection stands still.
fn ticks(shared: &Shared) -> Interval {
    let limits = &shared.options.limits;
    let pause = limits.slow_reader_timeout.min(limits.header_timeout) / 4;
    let mut ticks = interval(pause.max(Duration::from_millis(5)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn is_stalled(connection: &Connection, shared: &Shared) -> bool {
    let stalled = connection.blocked_for().is_some_and(|blocked| blocked > shared.options.limits.slow_reader_timeout);
    if stalled {
        connection.mark_stalled();
        shared.options.counts.stalled.fetch_add(1, Ordering::Relaxed);
    }
    stalled
}

/// Ends the writing side, and reads away what the client is still sending.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(mut wire: Wire<T>) {
    let unread = wire.has_unread();
    let last = async {
        wire.shutdown().await?;
        let (mut bytes, mut left) = ([0; 1024], if unread { LINGER_BYTES } else { 0 });
        let io = wire.io();
        while left > 0 {
            match io.read(&mut bytes).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        io::Result::Ok(())
    };
    // Whatever comes of it, the connection is closed now.
    timeout(LINGER, last).await.ok();
}
