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

use super::actor_list::ActorList;
use super::connection::{Connection, ConnectionLimits, NewConnection, Service};
use super::context::{Context, observed};
use super::threads::Thread;
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
    pub threads: Vec<Thread>,
    /// Where connections are entered.
    pub actors: ActorList,
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
            let config = ListenerConfig { actors: ctx.actors().clone(), ..self.config.clone() };
            ctx.spawn(accept_all(socket, config).into_actor(self));
        }
    }
}

observed!(RemotingListener);

impl Handler<StopListening> for RemotingListener {
    type Result = ();

    fn handle(&mut self, _: StopListening, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

async fn accept_all(socket: TcpListener, config: ListenerConfig) {
    let mut next_thread = 0;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let thread = &config.threads[next_thread % config.threads.len()];
                next_thread += 1;
                // The socket is tied to the reactor of the thread that accepted it; its connection lives on another.
                match stream.into_std() {
                    Ok(stream) => {
                        let config = config.clone();
                        thread.spawn(async move { begin(stream, peer, config).await });
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
            let ListenerConfig { service, limits, clock, actors, .. } = config;
            let connection = NewConnection { transport, peer, local, service, limits, clock };
            actors.start(peer.to_string(), Connection::new(connection));
        }
        Ok(None) => debug!(%peer, "client sent nothing"),
        Err(error) => warn!(%peer, %error, "connection closed: it did not begin"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

    use super::*;
    use crate::actors::request::{Answer, Reply, ReplyContent, Request};
    use crate::protocol::command::{Command, OutgoingHead};
    use crate::protocol::frame::{HeaderCodec, NextFrame, next_frame};
    use crate::testing::RuntimeClock;

    /// Answers every request with its body.
    struct Echo;

    impl Service for Echo {
        fn serve(&self, requests: &mut Vec<Request>, replies: &mut Vec<Reply>) {
            for request in requests.drain(..) {
                let answer = Answer::success().with_body(request.command.body.clone());
                replies.push(Reply { to: request.reply_to(), content: ReplyContent::Answer(answer) });
            }
        }
    }

    async fn listen(tls: Option<TlsAcceptor>) -> (Addr<RemotingListener>, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let config = ListenerConfig {
            service: Arc::new(Echo),
            limits: ConnectionLimits::default(),
            tls,
            clock: RuntimeClock::shared(),
            threads: vec![Thread::Arbiter(Arbiter::current()); 2],
            actors: ActorList::default(),
        };
        (RemotingListener::new(socket, config).start(), addr)
    }

    async fn is_served(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> bool {
        let mut bytes = BytesMut::new();
        OutgoingHead::request(HeaderCodec::Json, 1, 1).write(&mut bytes, 5);
        bytes.extend_from_slice(b"hello");
        if stream.write_all(&bytes).await.is_err() {
            return false;
        }
        let mut input = BytesMut::new();
        loop {
            if let NextFrame::Whole(frame) = next_frame(&mut input, 1 << 20).unwrap() {
                return Command::decode(frame).unwrap().body == "hello";
            }
            if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
                return false;
            }
        }
    }

    /// A certificate for localhost: the two ends that trust it.
    fn certified() -> (TlsAcceptor, TlsConnector) {
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = signing_key.serialize_der().try_into().unwrap();
        let server = ServerConfig::builder().with_no_client_auth();
        let server = server.with_single_cert(vec![cert.der().clone()], key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        (Arc::new(server).into(), Arc::new(client).into())
    }

    #[actix::test]
    async fn clients_are_served_until_listening_stops_and_those_there_go_on() {
        let (listener, addr) = listen(None).await;
        let mut first = TcpStream::connect(addr).await.unwrap();
        let mut second = TcpStream::connect(addr).await.unwrap();
        assert!(is_served(&mut first).await && is_served(&mut second).await);
        listener.send(StopListening).await.unwrap();
        crate::testing::log::settle().await;
        assert!(is_served(&mut first).await);
        if let Ok(mut late) = TcpStream::connect(addr).await {
            assert!(!is_served(&mut late).await);
        }
    }

    #[actix::test]
    async fn first_byte_tells_tls_from_plain_text() {
        let (acceptor, connector) = certified();
        let (_listener, addr) = listen(Some(acceptor)).await;
        let mut plain = TcpStream::connect(addr).await.unwrap();
        assert!(is_served(&mut plain).await);
        let stream = TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut secure = connector.connect(name, stream).await.unwrap();
        assert!(is_served(&mut secure).await);
    }

    #[actix::test]
    async fn broken_handshake_costs_that_client_alone() {
        let (acceptor, _) = certified();
        let (_listener, addr) = listen(Some(acceptor)).await;
        let mut broken = TcpStream::connect(addr).await.unwrap();
        broken.write_all(&[TLS_HANDSHAKE, 9, 9, 0, 1, 0]).await.unwrap();
        let mut rest = Vec::new();
        let _ = broken.read_to_end(&mut rest).await; // an alert, perhaps, and the end
        let mut fine = TcpStream::connect(addr).await.unwrap();
        assert!(is_served(&mut fine).await);
    }

    #[actix::test]
    async fn client_that_says_nothing_is_let_go() {
        let (_listener, addr) = listen(None).await;
        let mut silent = TcpStream::connect(addr).await.unwrap();
        let mut other = TcpStream::connect(addr).await.unwrap();
        assert!(is_served(&mut other).await, "the silent one was accepted before");
        drop(other);
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
        assert!(begun.elapsed() >= Duration::from_secs(119));
    }
}
