//! One connection: TCP, TLS where it is wanted, and HTTP/1.1.
//!
//! hyper wants a connection to be polled beside what is done with it. That is usually a task of its own, which costs
//! every read a second wake-up. Here whoever waits for the reply polls the connection, too; nobody polls an idle one.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::SendError;

/// Where connections go.
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
    pub(super) connect_timeout: Duration,
}

/// TCP, or TLS on it.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Driver = http1::Connection<TokioIo<Box<dyn Io>>, Full<Bytes>>;

/// An open connection. Dropping it closes it.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Box<Driver>,
    /// The driver has ended, and must not be polled again.
    ended: bool,
}

impl Connection {
    pub(super) async fn open(target: &Target) -> Result<Self, SendError> {
        // On the heap: the future of a TLS handshake is large, and few requests need one.
        let io = timeout(target.connect_timeout, Box::pin(connect(target)));
        let io = io.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(SendError::Connect)?;
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await.map_err(SendError::Exchange)?;
        Ok(Self { sender, driver: Box::new(driver), ended: false })
    }

    fn drive(&mut self, context: &mut Context<'_>) {
        // How it ended is told to whoever waits for the reply.
        self.ended = self.ended || Pin::new(&mut *self.driver).poll(context).is_ready();
    }

    /// Whether a request can be sent: the server has not closed it, and nothing is under way.
    pub(super) fn poll_usable(&mut self, context: &mut Context<'_>) -> bool {
        self.drive(context);
        !self.ended && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its reply.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let mut head = pin!(self.sender.send_request(request));
        std::future::poll_fn(|context| {
            self.drive(context);
            head.as_mut().poll(context)
        })
        .await
    }

    /// The next piece of a reply's body, `None` at its end.
    pub(super) fn poll_chunk(
        &mut self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Bytes>>> {
        loop {
            self.drive(context);
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are of no use here.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// After a failure: whether any byte of a reply had come.
    pub(super) fn had_reply(self) -> bool {
        !self.driver.into_parts().read_buf.is_empty()
    }
}

async fn connect(target: &Target) -> std::io::Result<Box<dyn Io>> {
    let tcp = TcpStream::connect((target.host.as_str(), target.port)).await?;
    tcp.set_nodelay(true)?;
    match &target.tls {
        None => Ok(Box::new(tcp)),
        Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), tcp).await?)),
    }
}
