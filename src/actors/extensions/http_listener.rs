//! Serves the HTTP paths of extensions.
//!
//! - Owns: a listening socket, and how many connections there are.
//! - Takes: [`StopServing`].
//! - Sends: [`HandOver`] with each request to the host of the extension that owns its path.
//! - Fails: a path that nobody owns is answered with 404, a body that is too long with 413, an extension that does not
//!   answer in time with 504, one that has failed with 502; a request that does not come in time is dropped with its
//!   connection.
//! - Invariants: no more connections than it may have; no body beyond its limit is kept.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, ActorContext, ActorFutureExt, AsyncContext, Handler, Message, WrapFuture};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::decisions::{HttpRequest, HttpResponse};
use super::hook_table::HookTable;
use super::host::HandOver;
use crate::actors::context::{Context, observed};

/// Pause after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends the listening, and with it every connection. Losing it leaves both.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct StopServing;

/// Limits of what comes by HTTP.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    pub max_body_bytes: usize,
    /// For a request to come, and again for it to be answered.
    pub request_timeout: Duration,
    pub max_connections: usize,
}

pub struct HttpListener {
    socket: Option<TcpListener>,
    serving: Arc<Serving>,
}

/// What all connections share.
struct Serving {
    hooks: HookTable,
    limits: HttpLimits,
}

impl HttpListener {
    pub fn new(socket: TcpListener, hooks: HookTable, limits: HttpLimits) -> Self {
        Self { socket: Some(socket), serving: Arc::new(Serving { hooks, limits }) }
    }
}

impl Actor for HttpListener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(socket) = self.socket.take() else { return };
        let accepting = accept(socket, self.serving.clone()).into_actor(self);
        ctx.spawn(accepting.map(|(), _, _| ()));
    }
}

observed!(HttpListener);

impl Handler<StopServing> for HttpListener {
    type Result = ();

    fn handle(&mut self, _: StopServing, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

async fn accept(socket: TcpListener, serving: Arc<Serving>) {
    let room = Arc::new(Semaphore::new(serving.limits.max_connections));
    let mut connections = tokio::task::JoinSet::new();
    // Never closed: it is ours.
    while let Ok(permit) = room.clone().acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match socket.accept().await {
            Ok((stream, peer)) => {
                let serving = serving.clone();
                connections.spawn_local(async move {
                    serve(stream, peer, serving).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "HTTP connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, serving: Arc<Serving>) {
    let timeout = serving.limits.request_timeout;
    let service = service_fn(move |request| {
        let serving = serving.clone();
        async move { Ok::<_, Infallible>(serving.answer(request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%peer, %error, "HTTP connection closed");
    }
}

impl Serving {
    async fn answer(&self, request: Request<Incoming>, client: SocketAddr) -> Response<Full<Bytes>> {
        let timeout = self.limits.request_timeout;
        let path = request.uri().path().to_owned();
        let Some(owner) = self.hooks.hooked().and_then(|hooked| hooked.paths.get(&path)).cloned() else {
            return plain(StatusCode::NOT_FOUND, format!("no extension serves {path}"));
        };
        let request = match tokio::time::timeout(timeout, self.read(request, client)).await {
            Ok(Ok(request)) => request,
            Ok(Err(refusal)) => return refusal,
            Err(_) => {
                let text = format!("the body did not come within {} ms", timeout.as_millis());
                return plain(StatusCode::REQUEST_TIMEOUT, text);
            }
        };
        let extension = owner.extension;
        match tokio::time::timeout(timeout, owner.host.send(HandOver(request))).await {
            Ok(Ok(Some(HttpResponse { status, content_type, body }))) => {
                let response = Response::builder().status(status).header("content-type", content_type);
                response.body(Full::new(body)).unwrap_or_else(|error| {
                    let text = format!("extension {extension} has answered what cannot be sent: {error}");
                    plain(StatusCode::BAD_GATEWAY, text)
                })
            }
            Ok(_) => {
                let text = format!("extension {extension} has failed and is being started again");
                plain(StatusCode::BAD_GATEWAY, text)
            }
            Err(_) => {
                let text = format!("extension {extension} did not answer within {} ms", timeout.as_millis());
                plain(StatusCode::GATEWAY_TIMEOUT, text)
            }
        }
    }

    async fn read(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
    ) -> Result<HttpRequest, Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let max_bytes = self.limits.max_body_bytes;
        let body = Limited::new(body, max_bytes).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let text = format!(
                    "the body is longer than {max_bytes} bytes; send less, or raise http.max_body_bytes"
                );
                plain(StatusCode::PAYLOAD_TOO_LARGE, text)
            } else {
                plain(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))
            }
        })?;
        let headers = parts.headers.iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        Ok(HttpRequest {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: headers.collect(),
            body: body.to_bytes(),
            client,
        })
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text + "\n")));
    *response.status_mut() = status;
    response
}
