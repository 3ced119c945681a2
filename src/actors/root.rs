//! The root of the tree: starts the roles of this process, and ends them in order.
//!
//! - Owns: the listeners, the threads, the right to the data directory; the tree of the broker.
//! - Takes: [`Stop`], [`Kill`].
//! - Sends: [`StopListening`] to the listeners; what ends the broker, see [`BrokerTree::stop`].
//! - Fails: what cannot start ends the process with a sentence; see [`NodeError`].
//! - Invariants: no client of the broker is served before everything stored is readable, only told how far that is;
//!   the directory is given up last.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::broker_plan::BrokerPlan;
use super::broker_tree::{BrokerTree, StartError};
use super::connection::{ConnectionLimits, Service};
use super::context::{Context, observed};
use super::facts::FactsSource;
use super::flusher::DiskFailed;
use super::listener::{ListenerConfig, RemotingListener, StopListening};
use super::name_server::{NameServer, NameServerConfig};
use super::name_server_service::NameServerService;
use super::name_server_settings::NameServerPlace;
use super::opening_service::OpeningService;
use super::threads::{Threads, come_to_rest};
use crate::clock::SharedClock;
use crate::store::file::StoreFiles;
use crate::store::metadata::{Metadata, MetadataError};
use crate::store::recovery_progress::RecoveryProgress;
use crate::store::store_lock::{LockError, StoreLock};
use crate::types::FlushMode;

/// How long a stop waits until replies on their way have left.
const REST_MAX: Duration = Duration::from_secs(1);
/// Clients that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// What a process is to be.
pub struct NodePlan {
    pub data_dir: PathBuf,
    pub name_server: Option<NameServerPlan>,
    pub broker: Option<BrokerPorts>,
    pub limits: ConnectionLimits,
    pub tls: Option<TlsAcceptor>,
    /// Threads that clients and queues are spread over.
    pub workers: usize,
    /// What sends wait for.
    pub flush: FlushMode,
}

#[derive(Clone, Copy, Debug)]
pub struct NameServerPlan {
    pub listen: SocketAddr,
    pub mailbox_capacity: usize,
}

/// A broker, and the ports it is served on.
pub struct BrokerPorts {
    pub listen: SocketAddr,
    /// Old clients send to the port two below; `None`: nobody listens there.
    pub fast_listen: Option<SocketAddr>,
    /// Given the ports in use, `(broker, own name server)`, the plan of the broker.
    pub plan: Box<dyn FnOnce(SocketAddr, Option<SocketAddr>) -> BrokerPlan>,
}

/// Why a process did not start.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("cannot write to the data directory {}: {source}", dir.display())]
    DataDir { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Store(#[from] StartError),
}

/// Where actors tell what ends the process; [`Root::failures`] is the other end.
struct FailureWatch {
    failures: UnboundedSender<DiskFailed>,
}

impl Actor for FailureWatch {
    type Context = Context<Self>;
}

observed!(FailureWatch);

impl Handler<DiskFailed> for FailureWatch {
    type Result = ();

    fn handle(&mut self, failed: DiskFailed, _: &mut Self::Context) {
        // Whoever runs the tree may have stopped listening: it is ending already.
        let _ = self.failures.send(failed);
    }
}

/// Drains and ends everything; answered when the data directory is free.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct Stop;

/// Ends everything where it stands, as a crash would: nothing is drained, flushed or written down as safe. Answered
/// when the data directory is free. The operating system still has what was stored, as after a crash of the process. Losing it leaves
/// everything running.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct Kill;

/// Where the process is reached.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub name_server: Option<SocketAddr>,
    pub broker: Option<SocketAddr>,
    pub broker_fast: Option<SocketAddr>,
    /// Where the HTTP paths of extensions are.
    pub http: Option<SocketAddr>,
}

pub struct Root {
    pub addresses: Addresses,
    /// What comes here ends the process at once, without [`Stop`]: nothing may be written down as safe any more.
    pub failures: Option<UnboundedReceiver<DiskFailed>>,
    /// Where to see how far the broker is; `None` without a broker.
    pub facts: Option<FactsSource>,
    listeners: Vec<Addr<RemotingListener>>,
    broker: Option<BrokerTree>,
    threads: Option<Threads>,
    lock: Option<StoreLock>,
}

impl Root {
    /// Starts the roles of `plan`. Returns when clients are served.
    pub async fn start_roles(
        plan: NodePlan,
        files: Arc<dyn StoreFiles>,
        clock: SharedClock,
    ) -> Result<Root, NodeError> {
        // Ports first: what is taken is told before any file is touched.
        let mut addresses = Addresses::default();
        let mut sockets = Vec::new();
        if let Some(name_server) = &plan.name_server {
            let socket = listen(name_server.listen)?;
            addresses.name_server = local(&socket);
            sockets.push(socket);
        }
        let mut broker_sockets = Vec::new();
        if let Some(broker) = &plan.broker {
            let socket = listen(broker.listen)?;
            addresses.broker = local(&socket);
            broker_sockets.push(socket);
            if let Some(fast) = broker.fast_listen {
                let socket = listen(fast)?;
                addresses.broker_fast = local(&socket);
                broker_sockets.push(socket);
            }
        }

        let dir = &plan.data_dir;
        files.create_dir_all(dir).map_err(|source| NodeError::DataDir { dir: dir.clone(), source })?;
        let lock = StoreLock::acquire(dir)?;
        if plan.broker.is_some() {
            crate::store::java_import::check_readable(&*files, dir).map_err(StartError::from)?;
        }
        let metadata = Metadata::open(&dir.join("metadata"))?;
        let threads = Threads::start(plan.workers, plan.flush);
        let (failed, failures) = unbounded_channel();
        let failed = threads.actors.start("", FailureWatch { failures: failed });
        let mut root = Root {
            addresses: addresses.clone(),
            failures: Some(failures),
            facts: None,
            listeners: Vec::new(),
            broker: None,
            threads: None,
            lock: Some(lock),
        };
        let (limits, tls) = (plan.limits.clone(), plan.tls.clone());
        let listener_config = |service: Arc<dyn Service>| ListenerConfig {
            service,
            limits: limits.clone(),
            tls: tls.clone(),
            clock: clock.clone(),
            threads: threads.workers.clone(),
            actors: threads.actors.clone(),
        };

        if let (Some(name_server), Some(addr)) = (&plan.name_server, addresses.name_server) {
            let config = NameServerConfig {
                mailbox_capacity: name_server.mailbox_capacity,
                place: NameServerPlace {
                    bind_address: addr.ip().to_string(),
                    listen_port: addr.port(),
                    home: dir.display().to_string(),
                },
            };
            let (actor, routes) = NameServer::open(config, Some(metadata.clone()), clock.clone())?;
            let actor = threads.actors.start_on(&threads.settings, "", move || actor);
            let service = Arc::new(NameServerService::new(routes, actor, threads.actors.clone()));
            root.serve(sockets, listener_config(service));
        }
        if let (Some(broker), Some(addr)) = (plan.broker, addresses.broker) {
            let plan = (broker.plan)(addr, addresses.name_server);
            // Clients are told how far recovery is, rather than that nobody is there.
            let recovery = RecoveryProgress::default();
            let opening = Arc::new(OpeningService::new(recovery.clone()));
            root.serve(broker_sockets, listener_config(opening.clone()));
            let tree = BrokerTree::start(
                plan,
                &threads,
                files,
                metadata,
                failed.recipient(),
                clock.clone(),
                &recovery,
            )
            .await?;
            opening.open(tree.service.clone());
            tree.register().await;
            root.addresses.http = tree.extensions.http();
            root.facts = Some(tree.facts.clone());
            root.broker = Some(tree);
        }
        root.threads = Some(threads);
        Ok(root)
    }

    /// Runs the root, on the list of those that it started.
    pub fn run(self) -> Addr<Root> {
        let actors = self.threads.as_ref().map(|threads| threads.actors.clone()).unwrap_or_default();
        actors.start("", self)
    }

    fn serve(&mut self, sockets: Vec<TcpListener>, config: ListenerConfig) {
        for socket in sockets {
            let label = local(&socket).map(|addr| addr.to_string()).unwrap_or_default();
            let listener = RemotingListener::new(socket, config.clone());
            self.listeners.push(config.actors.start(label, listener));
        }
    }
}

fn local(socket: &TcpListener) -> Option<SocketAddr> {
    socket.local_addr().ok()
}

fn listen(addr: SocketAddr) -> Result<TcpListener, NodeError> {
    let listening = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    listening().map_err(|source| NodeError::Listen { addr, source })
}

impl Actor for Root {
    type Context = Context<Self>;
}

observed!(Root);

impl Handler<Stop> for Root {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Stop, _: &mut Self::Context) -> Self::Result {
        info!("stopping: no new clients, finishing what was begun");
        let listeners = std::mem::take(&mut self.listeners);
        let broker = self.broker.take();
        let workers = self.threads.as_ref().map(|threads| threads.workers.clone()).unwrap_or_default();
        let ending = async move {
            for listener in listeners {
                if listener.send(StopListening).await.is_err() {
                    warn!("a listener has ended before");
                }
            }
            if let Some(broker) = broker {
                broker.stop().await;
            }
            if tokio::time::timeout(REST_MAX, come_to_rest(&workers)).await.is_err() {
                warn!("clients may miss answers: a thread is still busy with its last work");
            }
        };
        Box::pin(ending.into_actor(self).map(|(), root, _| {
            if let Some(threads) = root.threads.take() {
                threads.stop();
            }
            root.lock = None;
            info!("stopped");
        }))
    }
}

impl Handler<Kill> for Root {
    type Result = ();

    fn handle(&mut self, _: Kill, ctx: &mut Self::Context) {
        warn!("ending at once; the next start checks the log");
        self.listeners.clear();
        if let Some(threads) = self.threads.take() {
            threads.stop();
        }
        self.broker = None;
        self.lock = None;
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file::DiskFiles;
    use crate::testing::RuntimeClock;

    fn plan(dir: &std::path::Path, listen: SocketAddr) -> NodePlan {
        NodePlan {
            data_dir: dir.to_owned(),
            name_server: Some(NameServerPlan { listen, mailbox_capacity: 64 }),
            broker: None,
            limits: ConnectionLimits::default(),
            tls: None,
            workers: 1,
            flush: FlushMode::Async,
        }
    }

    async fn start(plan: NodePlan) -> Result<Root, NodeError> {
        Root::start_roles(plan, Arc::new(DiskFiles), RuntimeClock::shared()).await
    }

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[actix::test]
    async fn stopped_process_frees_port_and_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = start(plan(dir.path(), any_port())).await.unwrap();
        let addr = root.addresses.name_server.unwrap();
        tokio::net::TcpStream::connect(addr).await.unwrap();
        let second = start(plan(dir.path(), any_port())).await.err().unwrap();
        assert!(matches!(second, NodeError::Lock(_)), "{second}");
        root.start().send(Stop).await.unwrap();
        let again = start(plan(dir.path(), addr)).await.unwrap();
        assert_eq!(again.addresses.name_server, Some(addr));
        again.start().send(Stop).await.unwrap();
    }

    #[actix::test]
    async fn port_that_is_taken_is_told_before_any_file_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind(any_port()).unwrap();
        let addr = taken.local_addr().unwrap();
        let data_dir = dir.path().join("data");
        let error = start(plan(&data_dir, addr)).await.err().unwrap();
        assert!(matches!(error, NodeError::Listen { addr: refused, .. } if refused == addr), "{error}");
        assert!(!data_dir.exists());
    }

    #[actix::test]
    async fn directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let error = start(plan(&file.join("data"), any_port())).await.err().unwrap();
        assert!(matches!(error, NodeError::DataDir { .. }), "{error}");
    }
}
