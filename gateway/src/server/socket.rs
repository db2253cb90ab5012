//! The socket of a connection: notes since when it takes no byte.
//!
//! It is the lowest layer, below TLS, because only here a write that does not go on means a client that does not
//! read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::client::Connection;

/// Bytes that the kernel holds for a client beyond those on their way to it. Without this bound the kernel takes
/// megabytes for a client that does not read, and the gateway notices late.
const UNSENT_BYTES: u32 = 64 * 1024;

pub(super) struct Socket {
    tcp: TcpStream,
    connection: Arc<Connection>,
}

impl Socket {
    /// Takes an accepted socket over and sets its options.
    ///
    /// # Errors
    /// If the client has left already.
    pub(super) fn new(tcp: TcpStream, connection: Arc<Connection>, silence: Duration) -> io::Result<Self> {
        // A token is a small write: with Nagle's algorithm it would wait for the client's delayed acknowledgement.
        tcp.set_nodelay(true)?;
        let options = SockRef::from(&tcp);
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
        options.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        {
            // A client whose machine is gone acknowledges nothing. Twice the slow reader's time, so that the slow
            // reader, which does acknowledge, is found by the gateway and named so.
            options.set_tcp_user_timeout(Some(silence.saturating_mul(2)))?;
            options.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        }
        Ok(Self { tcp, connection })
    }

    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => self.connection.write_blocked(),
            Poll::Ready(_) => self.connection.write_went_on(),
        }
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
