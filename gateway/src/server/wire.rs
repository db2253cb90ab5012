//! The bytes between a client and hyper: one HTTP/1 request at a time.
//!
//! hyper looks for a client that has left only while it holds no byte of that client. So a single byte behind a
//! request would hide the end of the connection, and with it let a client that has left keep its slot. Here the
//! bytes behind a request are held back until its reply has ended, and reading goes on meanwhile: hyper always sees
//! an empty buffer, and the end as soon as it comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use super::client::Connection;
use super::framing::Framing;

/// Bytes that are held back at most. A client that sends more behind a request that is not answered is dropped:
/// with a full buffer its end could no longer be seen.
const MAX_AHEAD: usize = 16 * 1024;

/// Bytes that one read gives hyper at most. hyper doubles its buffer of 8 KiB when a read fills it, and keeps the
/// larger one for as long as the reply streams.
const MAX_READ: u64 = 8 * 1024 - 1;

pub(super) struct Wire<T> {
    io: Take<T>,
    connection: Arc<Connection>,
    /// `None`: HTTP/2, whose frames are left to hyper.
    framing: Option<Framing>,
    /// Bytes read and not yet given to hyper.
    ahead: Vec<u8>,
    /// Requests that hyper got whole.
    given: u64,
    ended: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    /// HTTP/1, with the bytes that were read to find that out.
    pub(super) fn http1(io: T, connection: Arc<Connection>, first: Vec<u8>) -> Self {
        Self::new(io, connection, Some(Framing::new()), first)
    }

    /// HTTP/2, with the bytes that were read to find that out.
    pub(super) fn http2(io: T, connection: Arc<Connection>, first: Vec<u8>) -> Self {
        Self::new(io, connection, None, first)
    }

    /// Whether the client may still be sending what nobody will read.
    pub(super) fn has_unread(&self) -> bool {
        let inside = self.framing.as_ref().is_some_and(Framing::is_inside);
        !self.ended && (inside || !self.ahead.is_empty() || self.connection.refusal().is_some())
    }

    fn new(io: T, connection: Arc<Connection>, framing: Option<Framing>, ahead: Vec<u8>) -> Self {
        Self { io: io.take(MAX_READ), connection, framing, ahead, given: 0, ended: false }
    }

    /// The layer below, for who wants no HTTP any more.
    pub(super) fn io(&mut self) -> &mut T {
        self.io.get_mut()
    }

    /// Whether the next byte would begin a request while another is not answered.
    fn must_hold(&self) -> bool {
        let between = self.framing.as_ref().is_some_and(|framing| !framing.is_inside());
        between && self.given > self.connection.answered() && self.connection.refusal().is_none()
    }

    /// Reads on behind the request under way; comes back only when the client has left.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut bytes);
            let Poll::Ready(read) = Pin::new(self.io.get_mut()).poll_read(cx, &mut buf) else {
                if !self.ahead.is_empty() {
                    self.connection.wake_when_answered(cx.waker());
                }
                return Poll::Pending;
            };
            read?;
            if buf.filled().is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            if self.ahead.len() + buf.filled().len() > MAX_AHEAD {
                return Poll::Ready(Err(io::Error::other("too many bytes behind a request that is not answered")));
            }
            self.ahead.extend_from_slice(buf.filled());
        }
    }

    /// How many of `bytes` hyper may have now.
    fn frame(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(framing) = &mut self.framing else { return Ok(bytes.len()) };
        if self.connection.refusal().is_some() {
            return Ok(bytes.len());
        }
        match framing.take(bytes) {
            Ok(taken) => {
                self.given += u64::from(taken.complete);
                Ok(taken.count)
            }
            // Inside a body there is no way back to clean framing.
            Err(why) if framing.is_in_body() => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
            Err(why) => {
                // hyper gets the head, and the service answers it with the refusal.
                self.connection.refuse(why);
                Ok(bytes.len())
            }
        }
    }

    fn give_ahead(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let mut ahead = std::mem::take(&mut self.ahead);
        let count = self.frame(ahead.get(..buf.remaining()).unwrap_or(&ahead))?;
        buf.put_slice(ahead.get(..count).unwrap_or_default());
        if count < ahead.len() {
            ahead.drain(..count);
            self.ahead = ahead;
        }
        Ok(())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ended || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.must_hold() {
            return this.read_ahead(cx);
        }
        if !this.ahead.is_empty() {
            return Poll::Ready(this.give_ahead(buf));
        }
        let before = buf.filled().len();
        this.io.set_limit(MAX_READ);
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        this.ended = fresh.is_empty();
        let count = this.frame(fresh)?;
        this.ahead.extend_from_slice(fresh.get(count..).unwrap_or_default());
        buf.set_filled(before + count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.io.get_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io.get_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_shutdown(cx)
    }
}
