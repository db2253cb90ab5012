//! For tests: a small HTTP server that answers what a function says.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::plain::{Client, Options};
use crate::target::Server;

/// What it was asked.
pub(crate) struct Asked {
    /// Path and query.
    pub(crate) path: String,
    /// The key, if one was shown.
    pub(crate) key: Option<String>,
    pub(crate) body: Bytes,
}

/// Serves until it is dropped.
pub(crate) struct Served {
    pub(crate) url: String,
    _tasks: JoinSet<()>,
}

impl Served {
    pub(crate) fn server(&self) -> Server {
        Server { url: self.url.clone(), client: Client::new(&self.url, &Options::default()).unwrap(), key: None }
    }
}

/// Serves what `answer` gives: status and body.
pub(crate) async fn serve(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Served {
    serve_bodies(move |asked| {
        let (status, text) = answer(asked);
        (status, Full::from(text))
    })
    .await
}

/// The same with bodies of any kind.
pub(crate) async fn serve_bodies<B>(answer: impl Fn(&Asked) -> (u16, B) + Send + Sync + 'static) -> Served
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request| reply(request, Arc::clone(&answer)));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
            connections.spawn(async move { drop(connection.await) });
        }
    });
    Served { url, _tasks: tasks }
}

async fn reply<B>(
    request: Request<Incoming>,
    answer: Arc<impl Fn(&Asked) -> (u16, B)>,
) -> Result<Response<B>, Infallible> {
    let (head, body) = request.into_parts();
    let authorization = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = authorization.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, body) = answer(&Asked { path, key, body });
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}
