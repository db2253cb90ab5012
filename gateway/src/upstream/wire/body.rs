//! The body of a reply: reads the connection when it is polled.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::io::ReadBuf;

use super::framing::Framing;
use super::{ReplyError, Wire, space};
use crate::upstream::pool::Pool;

/// Frames are cut from a block of this size, which is used again once they are dropped. Larger ones get their own.
const BLOCK_BYTES: usize = 1 << 10;

/// The body of a reply. Everything that has arrived is one frame. Dropping it before its end closes the connection at
/// once; an end that was not announced is an error.
pub struct ReplyBody {
    /// None when the body is over, in whatever way.
    wire: Option<Wire>,
    framing: Framing,
    /// Where the connection goes after a proper end; none if it cannot be used again.
    pool: Option<Arc<Pool>>,
    block: BytesMut,
    /// What came together with the head.
    first: Bytes,
    /// What went wrong after the bytes that were handed out.
    fault: Option<ReplyError>,
}

impl ReplyBody {
    pub(super) fn new(wire: Wire, framing: Framing, pool: Option<Arc<Pool>>, first: &[u8]) -> Self {
        let mut body =
            Self { wire: Some(wire), framing, pool, block: BytesMut::new(), first: Bytes::new(), fault: None };
        body.first = body.take(first);
        body
    }

    /// Takes bytes from the connection and gives what of them belongs to the body.
    fn take(&mut self, bytes: &[u8]) -> Bytes {
        let mut own = BytesMut::new();
        let out = if bytes.len() > BLOCK_BYTES { &mut own } else { &mut self.block };
        if out.capacity() < bytes.len() {
            out.reserve(bytes.len().max(BLOCK_BYTES));
        }
        let taken = self.framing.push(bytes, out);
        let payload = out.split().freeze();
        match taken {
            Ok(taken) if self.framing.is_over() => self.over(taken == bytes.len()),
            Ok(_) => {}
            Err(fault) => self.fail(fault),
        }
        payload
    }

    /// The announced end was reached. What comes behind it belongs to no reply.
    fn over(&mut self, clean: bool) {
        if let (Some(wire), Some(pool)) = (self.wire.take(), self.pool.take())
            && clean
        {
            pool.give(wire);
        }
    }

    fn closed(&mut self) {
        match self.framing.close() {
            Ok(()) => self.wire = None,
            Err(fault) => self.fail(fault),
        }
    }

    fn fail(&mut self, fault: ReplyError) {
        self.wire = None;
        self.fault = Some(fault);
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if let Some(wire) = &self.wire {
            wire.traffic.abandon();
        }
    }
}

/// Without its bytes: replies are nobody's business.
impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody").field("framing", &self.framing).finish_non_exhaustive()
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = ReplyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        let this = self.get_mut();
        let mut payload = std::mem::take(&mut this.first);
        loop {
            if !payload.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(payload))));
            }
            if let Some(fault) = this.fault.take() {
                return Poll::Ready(Some(Err(fault)));
            }
            let Some(wire) = &mut this.wire else { return Poll::Ready(None) };
            let mut space = space();
            let mut buffer = ReadBuf::uninit(&mut space);
            match ready!(wire.poll_read(context, &mut buffer)) {
                Err(error) => this.fail(error.into()),
                Ok(()) if buffer.filled().is_empty() => this.closed(),
                Ok(()) => payload = this.take(buffer.filled()),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.wire.is_none() && self.first.is_empty() && self.fault.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(left) => SizeHint::with_exact(left + self.first.len() as u64),
            _ if self.wire.is_none() => SizeHint::with_exact(self.first.len() as u64),
            Framing::Chunked(_) | Framing::UntilClose => SizeHint::default(),
        }
    }
}
