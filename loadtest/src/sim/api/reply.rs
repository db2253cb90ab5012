//! From the model's events to an HTTP reply: a stream, or one piece.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{Either, Full};

use super::super::engine::Ticket;
use super::super::fault::Fault;
use super::super::model::{Event, Output};
use super::super::server::App;
use super::about::{About, Finished};
use super::ask::{Ask, Surface};
use super::error::ApiError;
use super::json::ordered;
use super::messages::Messages;
use super::responses::Responses;
use super::{chat, completions, messages, responses};

/// The body of a reply.
pub(crate) type Body = Either<Full<Bytes>, EventStream>;

/// What llama-server says when its context is full in the middle of a reply.
const MID_STREAM_ERROR: &str = "Context size has been exceeded.";

/// Answers a request that generates text.
///
/// # Errors
/// As llama-server's; also the faults that were asked for.
pub(crate) async fn generate(app: &Arc<App>, ask: Ask) -> Result<Response<Body>, ApiError> {
    match ask.fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Status500) => return Err(ApiError::server("a simulated fault")),
        Some(Fault::Status503) => return Err(ApiError::unavailable("Loading model")),
        _ => {}
    }
    let Ask { surface, request, plans, show, fault } = ask;
    let streamed = request.streamed;
    let about = app.about(plans, show, fault);
    let mut ticket = app.engine.submit(request);
    if !streamed {
        return in_one_piece(app, &about, surface, ticket).await;
    }
    // The head comes with the slot, before the prompt is computed.
    match ticket.next().await {
        Some(Output { event: Event::TooLong(tokens), .. }) => {
            Err(ApiError::too_long(tokens, app.options.profile.context))
        }
        _ => Ok(stream_head(EventStream::new(about, surface, ticket))),
    }
}

fn stream_head(stream: EventStream) -> Response<Body> {
    let mut response = Response::new(Either::Right(stream));
    let headers = response.headers_mut();
    headers.insert("x-accel-buffering", header::HeaderValue::from_static("no"));
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response
}

async fn in_one_piece(
    app: &App,
    about: &About,
    surface: Surface,
    mut ticket: Ticket,
) -> Result<Response<Body>, ApiError> {
    let mut finished: Vec<Option<Finished>> = vec![None; about.plans.len()];
    while finished.iter().any(Option::is_none) {
        let Some(output) = ticket.next().await else { return Err(ApiError::server("the simulator has ended")) };
        match output.event {
            Event::TooLong(tokens) => return Err(ApiError::too_long(tokens, app.options.profile.context)),
            Event::Broken if about.fault == Some(Fault::Cut) => return Ok(cut_reply()),
            Event::Broken => return Err(ApiError::server(MID_STREAM_ERROR)),
            Event::Ended(end) => {
                if let Some(place) = finished.get_mut(output.sequence) {
                    *place = Some(Finished { end, timings: output.timings });
                }
            }
            _ => {}
        }
    }
    let finished: Vec<_> = finished.into_iter().flatten().collect();
    let text = match surface {
        _ if about.fault == Some(Fault::Garbage) => "{\"choices\":[{\"mess".to_owned(),
        Surface::Chat => chat::whole(about, &finished).text(),
        Surface::Completions => completions::whole(about, &finished).text(),
        Surface::Responses => responses::whole(about, &finished).text(),
        Surface::Messages => messages::whole(about, &finished).text(),
    };
    Ok(json_reply(StatusCode::OK, text.into()))
}

/// A JSON reply.
pub(crate) fn json_reply(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// A reply that promises more than comes.
fn cut_reply() -> Response<Body> {
    let mut response =
        Response::new(Either::Right(EventStream { state: State::LastWords(Bytes::from_static(b"{\"choi")) }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from_static("600"));
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

/// The events of a stream, as its body.
pub(crate) struct EventStream {
    state: State,
}

enum State {
    Open(Box<Open>),
    /// What is still given before the connection is cut.
    LastWords(Bytes),
    /// What was given is on its way.
    Cut,
    Ended,
}

struct Open {
    about: About,
    writer: Writer,
    ticket: Ticket,
    /// Sequences that are not over.
    left: usize,
}

enum Writer {
    Chat,
    Completions,
    Responses(Responses),
    Messages(Messages),
}

impl EventStream {
    fn new(about: About, surface: Surface, ticket: Ticket) -> Self {
        let writer = match surface {
            Surface::Chat => Writer::Chat,
            Surface::Completions => Writer::Completions,
            Surface::Responses => Writer::Responses(Responses::default()),
            Surface::Messages => Writer::Messages(Messages::default()),
        };
        let left = about.plans.len();
        Self { state: State::Open(Box::new(Open { about, writer, ticket, left })) }
    }
}

impl Open {
    /// The bytes of an event, none for some.
    fn bytes(&mut self, output: &Output) -> String {
        let mut text = match &mut self.writer {
            Writer::Chat => chat::event(&self.about, output),
            Writer::Completions => completions::event(&self.about, output),
            Writer::Responses(responses) => responses.event(&self.about, output),
            Writer::Messages(messages) => messages.event(&self.about, output),
        };
        match output.event {
            Event::Ping => text.push_str(":\n\n"),
            Event::Token if self.about.fault == Some(Fault::Garbage) && output.timings.predicted == 2 => {
                text.push_str("data: {\"choices\":[{\"del\n\n");
            }
            Event::Ended(_) | Event::TooLong(_) => self.left = self.left.saturating_sub(1),
            _ => {}
        }
        if self.left == 0 && matches!(self.writer, Writer::Chat | Writer::Completions) {
            text.push_str("data: [DONE]\n\n");
        }
        text
    }

    /// The error event that ends a stream. On the Messages API it has a name and no `error` around it.
    fn error(&self) -> Bytes {
        let error = ApiError::server(MID_STREAM_ERROR).value();
        if matches!(self.writer, Writer::Messages(_)) {
            let data = ordered! {"code": 500, "message": MID_STREAM_ERROR, "type": "server_error"};
            return format!("event: error\ndata: {}\n\n", data.text()).into();
        }
        format!("data: {error}\n\n").into()
    }
}

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            let open = match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Cut => return Poll::Ready(Some(Err(io::Error::other("a simulated cut")))),
                State::LastWords(bytes) if bytes.is_empty() => {
                    self.state = State::Cut;
                    // hyper writes while it waits; an error at once would take back what it has not written yet.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::LastWords(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
                State::Open(open) => open,
            };
            if open.left == 0 {
                self.state = State::Ended;
                continue;
            }
            let Some(output) = std::task::ready!(open.ticket.poll_next(cx)) else {
                self.state = State::LastWords(Bytes::new());
                continue;
            };
            if output.event == Event::Broken {
                let error = open.error();
                if open.about.fault == Some(Fault::Cut) {
                    self.state = State::LastWords(Bytes::new());
                    continue;
                }
                self.state = State::Ended;
                return Poll::Ready(Some(Ok(Frame::data(error))));
            }
            let bytes = open.bytes(&output);
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
            }
        }
    }
}
