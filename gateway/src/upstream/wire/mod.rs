//! One HTTP/1.1 connection to llama-server, as narrow as its use: a request is written, its reply is read, and both
//! by the one who wants the reply.
//!
//! A general client runs each connection in a task of its own, which costs every piece of a stream a second wake-up
//! and a channel between the two, and holds 15 KiB of buffers for as long as the stream is open. Here nothing is held
//! while nothing comes.

mod body;
mod framing;
mod head;
#[cfg(test)]
mod tests;

pub use body::ReplyBody;

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::Response;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::pool::Pool;

/// Bytes of one read. The buffer is on the stack, so it costs an open stream nothing.
pub(super) const READ_BYTES: usize = 8 << 10;

/// Why a reply cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server closed the connection in the middle of the reply.
    #[error("unexpected end")]
    UnexpectedEnd,
    /// What came is no HTTP reply.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
}

/// Why an exchange brought no reply.
pub(super) struct Lost {
    pub(super) error: ReplyError,
    /// The connection was closed before a byte of the reply had come.
    pub(super) unanswered: bool,
}

impl Lost {
    /// It was reset, as a socket is that is closed while there are bytes in it that nobody has read.
    pub(super) fn is_unread(&self) -> bool {
        self.unanswered && matches!(self.error, ReplyError::Io(_))
    }
}

/// What has happened on all connections to a replica.
#[derive(Default)]
pub(super) struct Traffic {
    heard: AtomicU64,
    abandoned: AtomicU64,
}

impl Traffic {
    /// How many reads brought bytes.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// How many replies were given up before their end, by this side.
    pub(super) fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }

    fn abandon(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }

    /// A request whose reply has not begun.
    pub(super) fn begin(&self) -> Begun<'_> {
        Begun(Some(self))
    }
}

/// A request that is given up when this is dropped.
pub(super) struct Begun<'a>(Option<&'a Traffic>);

impl Begun<'_> {
    /// The reply has begun, or never will.
    pub(super) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(traffic) = self.0 {
            traffic.abandon();
        }
    }
}

/// A connection. Dropping it closes it at once.
pub(super) struct Wire {
    stream: TcpStream,
    traffic: Arc<Traffic>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic }
    }

    /// Whether the server has neither closed the connection nor sent something that nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        // Asks the kernel: the runtime may not have looked for a while.
        let peeked = socket2::SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and reads the head of its reply. The connection goes to the pool once the body has been read
    /// to its end.
    pub(super) async fn exchange(
        mut self,
        mut request: impl Buf,
        pool: &Arc<Pool>,
    ) -> Result<Response<ReplyBody>, Lost> {
        if let Err(error) = self.stream.write_all_buf(&mut request).await {
            let unanswered = is_closed(&error);
            return Err(Lost { error: error.into(), unanswered });
        }
        let mut bytes = Vec::new();
        loop {
            let unanswered = bytes.is_empty();
            match self.read(&mut bytes).await {
                Ok(0) => return Err(Lost { error: ReplyError::UnexpectedEnd, unanswered }),
                Ok(_) => {}
                Err(error) => return Err(Lost { unanswered: unanswered && is_closed(&error), error: error.into() }),
            }
            if let Some((head, length)) = head::parse(&bytes).map_err(|error| Lost { error, unanswered: false })? {
                let pool = head.keep.then(|| Arc::clone(pool));
                let mut reply = Response::new(ReplyBody::new(self, head.framing, pool, &bytes[length..]));
                *reply.status_mut() = head.status;
                return Ok(reply);
            }
        }
    }

    /// Appends the bytes that come next and gives their number: 0 if the server has closed the connection.
    async fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|context| {
            let mut space = space();
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(self.poll_read(context, &mut buffer))?;
            bytes.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
        .await
    }

    /// Reads into an empty buffer, which stays empty if the server has closed the connection.
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if !buffer.filled().is_empty() {
            self.traffic.heard.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

/// Room for one read.
fn space() -> [MaybeUninit<u8>; READ_BYTES] {
    [const { MaybeUninit::uninit() }; READ_BYTES]
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    )
}
