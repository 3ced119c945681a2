//! A port: accepts clients, tells TLS from plain text by the first byte, and starts a connection for each.
//!
//! - Owns: the listening socket; the choice of the thread a connection lives on.
//! - Takes: [`StopListening`].
//! - Sends: nothing; it starts [`Connection`] actors.
//! - Fails: an accept that fails (out of descriptors) is logged and tried again after a pause; a client that says
//!   nothing, or whose handshake fails, is let go alone.
//! - Invariants: nobody waits for a client that is slow to begin: each begins on the thread it will live on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::connection::{Connection, ConnectionLimits, NewConnection, Service};
use super::transport::Transport;
use crate::clock::SharedClock;

/// First byte of a TLS handshake record; no plain frame begins with it, frames being under 16 MiB + 4.
const TLS_HANDSHAKE: u8 = 0x16;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time a client has to finish its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Stops accepting; connections that exist go on.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct StopListening;

/// What a listener is made of.
#[derive(Clone)]
pub struct ListenerConfig {
    pub service: Arc<dyn Service>,
    pub limits: ConnectionLimits,
    pub tls: Option<TlsAcceptor>,
    pub clock: SharedClock,
    /// Threads that connections are spread over.
    pub arbiters: Vec<ArbiterHandle>,
}

pub struct RemotingListener {
    socket: Option<TcpListener>,
    config: ListenerConfig,
}

impl RemotingListener {
    pub fn new(socket: TcpListener, config: ListenerConfig) -> Self {
        Self { socket: Some(socket), config }
    }
}

impl Actor for RemotingListener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(socket) = self.socket.take() {
            ctx.spawn(accept_all(socket, self.config.clone()).into_actor(self));
        }
    }
}

impl Handler<StopListening> for RemotingListener {
    type Result = ();

    fn handle(&mut self, _: StopListening, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

async fn accept_all(socket: TcpListener, config: ListenerConfig) {
    let mut next_arbiter = 0;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let arbiter = &config.arbiters[next_arbiter % config.arbiters.len()];
                next_arbiter += 1;
                // The socket is tied to the reactor of the thread that accepted it; its connection lives on another.
                match stream.into_std() {
                    Ok(stream) => {
                        let config = config.clone();
                        arbiter.spawn(async move { begin(stream, peer, config).await });
                    }
                    Err(error) => debug!(%peer, %error, "client was lost while it was accepted"),
                }
            }
            Err(error) => {
                warn!(%error, "cannot accept a client, trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for the first byte, which tells TLS, and starts the connection.
async fn begin(stream: std::net::TcpStream, peer: SocketAddr, config: ListenerConfig) {
    let begun = async {
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let mut first = [0];
        match tokio::time::timeout(config.limits.idle_timeout, stream.peek(&mut first)).await {
            Ok(Ok(1)) => {}
            Ok(Ok(_)) | Err(_) => return Ok(None), // left, or silent, without a word
            Ok(Err(error)) => return Err(error),
        }
        let transport = match (first[0], &config.tls) {
            (TLS_HANDSHAKE, Some(acceptor)) => {
                let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
                Transport::Tls(Box::new(handshake.await.map_err(std::io::Error::from)??))
            }
            _ => Transport::Plain(stream),
        };
        Ok(Some((transport, local)))
    };
    match begun.await {
        Ok(Some((transport, local))) => {
            let ListenerConfig { service, limits, clock, .. } = config;
            Connection::new(NewConnection { transport, peer, local, service, limits, clock }).start();
        }
        Ok(None) => debug!(%peer, "client sent nothing"),
        Err(error) => warn!(%peer, %error, "connection closed: it did not begin"),
    }
}
