//! A network in memory: streams between hosts that are slow, short, cut and reset as a seed says.
//!
//! It is one of streams, as TCP is: what arrives arrives in order and once. A cut holds everything up; a reset loses what
//! is under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::chance::Chance;
use crate::client::remoting::{ByteStream, Dial};

/// Bytes under way on one stream, beyond which a writer waits.
const WINDOW_BYTES: usize = 256 * 1024;
/// How often a connect that is cut off tries again.
const CONNECT_AGAIN: Duration = Duration::from_millis(200);

/// A machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Host(pub u8);

impl Host {
    pub fn addr(self, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, self.0], port))
    }
}

/// The network; clones are the same one.
#[derive(Clone)]
pub struct Network {
    net: Arc<Mutex<Net>>,
}

struct Net {
    chance: Chance,
    listeners: BTreeMap<SocketAddr, UnboundedSender<Accepted>>,
    wires: Vec<Weak<Wire>>,
    cuts: BTreeSet<(Host, Host)>,
    /// Longest time on the way, ms.
    latency_ms: u64,
    next_port: u16,
    /// What passes, when it is to be written down.
    log: Option<(WireLog, Instant)>,
}

/// A write: what two runs have in common, and what was written, where maps may be in another order.
#[derive(Clone, Debug)]
pub struct WireLine {
    pub key: String,
    pub text: String,
}

/// What passes; for finding where two runs part.
pub type WireLog = Arc<Mutex<Vec<WireLine>>>;

/// A connection as a server gets it.
#[derive(Debug)]
pub struct Accepted {
    pub stream: Stream,
    pub peer: SocketAddr,
}

impl Network {
    pub fn new(chance: Chance) -> Self {
        let net = Net {
            chance,
            listeners: BTreeMap::new(),
            wires: Vec::new(),
            cuts: BTreeSet::new(),
            latency_ms: 4,
            next_port: 30_000,
            log: None,
        };
        Self { net: Arc::new(Mutex::new(net)) }
    }

    /// Writes down what passes from now on.
    pub fn log(&self) -> WireLog {
        let log = WireLog::default();
        self.net().log = Some((log.clone(), Instant::now()));
        log
    }

    /// Connections that come to `addr`, until the receiver is dropped.
    pub fn listen(&self, addr: SocketAddr) -> UnboundedReceiver<Accepted> {
        let (listener, accepted) = unbounded_channel();
        self.net().listeners.insert(addr, listener);
        accepted
    }

    /// How clients on `from` connect.
    pub fn dial_from(&self, from: Host) -> Dial {
        let network = self.clone();
        Dial::new(move |addr| {
            let (network, addr) = (network.clone(), addr.to_owned());
            Box::pin(async move {
                let stream = network.connect(from, &addr).await?;
                Ok(Box::new(stream) as Box<dyn ByteStream>)
            })
        })
    }

    async fn connect(&self, from: Host, addr: &str) -> io::Result<Stream> {
        let to: SocketAddr = addr.parse().map_err(io::Error::other)?;
        let std::net::IpAddr::V4(ip) = to.ip() else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
        let hosts = pair(from, Host(ip.octets()[3]));
        let latency = self.net().latency();
        sleep(latency).await;
        while self.net().cuts.contains(&hosts) {
            sleep(CONNECT_AGAIN).await;
        }
        let mut net = self.net();
        net.next_port += 1;
        let peer = from.addr(net.next_port);
        let wire = Arc::new(Wire {
            hosts,
            state: Mutex::new(WireState {
                chance: Chance::of_seed(net.chance.below(u64::MAX)),
                latency_ms: net.latency_ms,
                log: net.log.clone(),
                ..WireState::default()
            }),
        });
        net.wires.retain(|wire| wire.strong_count() > 0);
        net.wires.push(Arc::downgrade(&wire));
        let listener = net.listeners.get(&to).ok_or(io::ErrorKind::ConnectionRefused)?;
        let accepted = Accepted { stream: Stream::new(wire.clone(), 1), peer };
        listener.send(accepted).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Stream::new(wire, 0))
    }

    /// Nothing passes between two hosts until it is [mended](Self::mend).
    pub fn cut(&self, one: Host, other: Host) {
        let hosts = pair(one, other);
        let mut net = self.net();
        net.cuts.insert(hosts);
        net.each_wire(|wire| wire.hosts == hosts, |state| state.is_cut = true);
    }

    pub fn mend(&self) {
        let mut net = self.net();
        net.cuts.clear();
        net.each_wire(|_| true, WireState::go_on);
    }

    /// Resets one connection in `one_in`.
    pub fn reset_some(&self, one_in: u64) -> usize {
        let mut net = self.net();
        let mut count = 0;
        let mut picks: Vec<bool> = Vec::new();
        for _ in 0..net.wires.len() {
            picks.push(net.chance.one_in(one_in));
        }
        let mut picks = picks.into_iter();
        net.each_wire(
            |_| picks.next().unwrap_or(false),
            |state| {
                count += 1;
                state.reset();
            },
        );
        count
    }

    /// A host's process is gone: its ports are closed, and its connections end, or are reset in mid-word.
    pub fn lose(&self, host: Host) {
        let mut net = self.net();
        net.listeners.retain(|addr, _| addr.ip() != host.addr(0).ip());
        let in_mid_word = net.chance.one_in(2);
        net.each_wire(
            |wire| wire.hosts.0 == host || wire.hosts.1 == host,
            |state| if in_mid_word { state.reset() } else { state.end() },
        );
    }

    /// Longest time on the way from now on, ms.
    pub fn set_latency_ms(&self, latency_ms: u64) {
        let mut net = self.net();
        net.latency_ms = latency_ms.max(1);
        net.each_wire(|_| true, |state| state.latency_ms = latency_ms.max(1));
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        lock(&self.net)
    }
}

impl Net {
    fn latency(&mut self) -> Duration {
        Duration::from_millis(self.chance.below(self.latency_ms + 1))
    }

    fn each_wire(&mut self, mut is_meant: impl FnMut(&Wire) -> bool, mut change: impl FnMut(&mut WireState)) {
        for wire in self.wires.iter().filter_map(Weak::upgrade) {
            if is_meant(&wire) {
                change(&mut lock(&wire.state));
            }
        }
    }
}

fn pair(one: Host, other: Host) -> (Host, Host) {
    (one.min(other), one.max(other))
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Wire {
    hosts: (Host, Host),
    state: Mutex<WireState>,
}

#[derive(Default)]
struct WireState {
    /// By who writes.
    pipes: [Pipe; 2],
    is_cut: bool,
    is_reset: bool,
    chance: Chance,
    latency_ms: u64,
    log: Option<(WireLog, Instant)>,
}

/// One direction.
#[derive(Default)]
struct Pipe {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last_due: Option<Instant>,
    /// Nothing comes behind what is under way.
    is_ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl WireState {
    fn go_on(&mut self) {
        self.is_cut = false;
        self.wake_all();
    }

    fn reset(&mut self) {
        self.is_reset = true;
        self.wake_all();
    }

    fn end(&mut self) {
        self.pipes.iter_mut().for_each(|pipe| pipe.is_ended = true);
        self.wake_all();
    }

    fn wake_all(&mut self) {
        for pipe in &mut self.pipes {
            for waker in pipe.reader.take().into_iter().chain(pipe.writer.take()) {
                waker.wake();
            }
        }
    }
}

/// One end of a connection.
pub struct Stream {
    wire: Arc<Wire>,
    side: usize,
    due: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    fn new(wire: Arc<Wire>, side: usize) -> Self {
        Self { wire, side, due: None }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("hosts", &self.wire.hosts).finish_non_exhaustive()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut state = lock(&this.wire.state);
        if state.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let is_cut = state.is_cut;
        let pipe = &mut state.pipes[1 - this.side];
        match pipe.under_way.front_mut() {
            None if pipe.is_ended && !is_cut => Poll::Ready(Ok(())),
            Some((due, bytes)) if *due <= Instant::now() && !is_cut => {
                let taken = bytes.len().min(buffer.remaining());
                buffer.put_slice(&bytes[..taken]);
                bytes.advance(taken);
                if bytes.is_empty() {
                    pipe.under_way.pop_front();
                }
                pipe.bytes -= taken;
                if let Some(writer) = pipe.writer.take() {
                    writer.wake();
                }
                Poll::Ready(Ok(()))
            }
            Some((due, _)) if !is_cut => {
                let mut waits = Box::pin(sleep_until(*due));
                pipe.reader = Some(task.waker().clone());
                drop(state);
                // It is not due yet, so this only leaves the waker there.
                if waits.as_mut().poll(task).is_ready() {
                    task.waker().wake_by_ref();
                }
                this.due = Some(waits);
                Poll::Pending
            }
            _ => {
                pipe.reader = Some(task.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.wire.state);
        if state.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if state.pipes[self.side].is_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let latency = state.latency_ms;
        let on_the_way = Duration::from_millis(state.chance.below(latency + 1));
        // Frames arrive in pieces, too.
        let longest = if state.chance.one_in(8) { 1 + state.chance.below(64) as usize } else { WINDOW_BYTES };
        if let Some((log, began)) = &state.log {
            let (hosts, len, text) = (self.wire.hosts, bytes.len(), String::from_utf8_lossy(bytes));
            lock(log).push(WireLine {
                key: format!("{:?} {hosts:?}.{} {len} bytes +{on_the_way:?}", began.elapsed(), self.side),
                text: text.chars().take(400).collect(),
            });
        }
        let pipe = &mut state.pipes[self.side];
        if pipe.bytes >= WINDOW_BYTES {
            pipe.writer = Some(task.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.len().min(longest);
        let due = (Instant::now() + on_the_way).max(pipe.last_due.unwrap_or_else(Instant::now));
        pipe.last_due = Some(due);
        pipe.bytes += taken;
        pipe.under_way.push_back((due, Bytes::copy_from_slice(&bytes[..taken])));
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.wire.state);
        let pipe = &mut state.pipes[self.side];
        pipe.is_ended = true;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        lock(&self.wire.state).end();
    }
}
