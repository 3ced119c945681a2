//! One client's connection: bytes in, typed requests out; replies in, bytes out.
//!
//! - Owns: the socket, its buffers, the opaque numbers of requests we ask the client.
//! - Takes: [`Replies`], [`CallClient`], [`WatchConnection`], [`CloseConnection`]; and the bytes of the socket.
//! - Sends: requests to its [`Service`]; [`ConnectionClosed`] to whoever watches.
//! - Fails: bytes that are no command, a silent half frame, a full peer: the connection closes with a line in the
//!   log that names cause and peer; nobody else notices.
//! - Invariants: a client is not read while more than `max_in_work_bytes` of its requests are in work, or more than
//!   `max_unread_bytes` of output wait for it; what is held beyond that is what one read brought, and its replies.
//!
//! Replies bypass the mailbox capacity: they are bounded by the requests that were let through. So does
//! [`ConnectionClosed`]: there is one for each watch.

mod gathering;

use std::future::Future;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use actix::prelude::*;
use bytes::BytesMut;
use gathering::{Gathering, Writing};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::backlog_pace::BacklogPace;
use super::context::{Context, observed};
use super::output::{MAX_SLICES, Output};
use super::request::{
    CallClient, CallFailed, ClientAnswer, ClientLink, ClientName, CloseConnection, ConnectionClosed,
    ConnectionId, PulledReply, Replies, Reply, ReplyContent, Request, WatchConnection,
};
use super::transport::Transport;
use crate::clock::SharedClock;
use crate::collections::HashMap;
use crate::protocol::command::Command;
use crate::protocol::frame::{NextFrame, next_frame};

/// Room made for one read of a socket.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one turn; then the other actors of the thread have theirs.
const READS_PER_TURN: usize = 8;
/// How often idleness is looked at, unless a limit is shorter.
const IDLE_CHECK: Duration = Duration::from_secs(10);

/// What a port serves. Called with all requests of one read; answers at once into `replies` what needs nobody
/// else, and passes the rest on to be answered through [`Request::from`].
pub trait Service: Send + Sync {
    fn serve(&self, requests: &mut Vec<Request>, replies: &mut Vec<Reply>);
}

/// Limits of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Largest frame, bytes.
    pub max_frame_bytes: usize,
    /// Requests in work for one client, bytes of their frames.
    pub max_in_work_bytes: usize,
    /// Output the client has not read, bytes.
    pub max_unread_bytes: usize,
    /// Silence after which a connection is closed.
    pub idle_timeout: Duration,
    /// Silence in the middle of a frame after which a connection is closed.
    pub half_frame_timeout: Duration,
    /// Messages other actors may have waiting here, replies not counted.
    pub mailbox_capacity: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_frame_bytes: crate::protocol::frame::MAX_FRAME_BYTES,
            max_in_work_bytes: 16 * 1024 * 1024,
            max_unread_bytes: 8 * 1024 * 1024,
            idle_timeout: Duration::from_secs(120),
            half_frame_timeout: Duration::from_secs(30),
            mailbox_capacity: 1024,
        }
    }
}

/// What a new connection is made of.
pub struct NewConnection {
    pub transport: Transport,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub service: Arc<dyn Service>,
    pub limits: ConnectionLimits,
    pub clock: SharedClock,
}

pub struct Connection {
    parts: NewConnection,
    id: ConnectionId,
    link: Option<Arc<ClientLink>>,
    input: BytesMut,
    /// Bytes the input must hold before the next frame is whole.
    wanted_bytes: usize,
    output: Output,
    in_work_bytes: usize,
    /// Requests and replies of one read, kept for their room.
    requests: Vec<Request>,
    replies: Vec<Reply>,
    calls: HashMap<i32, oneshot::Sender<ClientAnswer>>,
    next_opaque: i32,
    watchers: Vec<Recipient<ConnectionClosed>>,
    last_active: Instant,
    closing: bool,
    gathering: Gathering,
    /// Who is told what it takes to write answers to pulls of a backlog, and how many of them are new in the output.
    backlog: Option<(Arc<BacklogPace>, u32)>,
}

impl Connection {
    pub fn new(parts: NewConnection) -> Self {
        Self {
            parts,
            id: ConnectionId::next(),
            link: None,
            input: BytesMut::new(),
            wanted_bytes: 0,
            output: Output::default(),
            in_work_bytes: 0,
            requests: Vec::new(),
            replies: Vec::new(),
            calls: HashMap::default(),
            next_opaque: 0,
            watchers: Vec::new(),
            last_active: Instant::now(),
            closing: false,
            gathering: Gathering::default(),
            backlog: None,
        }
    }

    /// Reads, serves, writes; as far as the socket and the limits allow.
    fn pump(&mut self, task: &mut Task<'_>) -> Result<(), CloseCause> {
        for turn in 0.. {
            match self.gathering.writing(&self.output, self.in_work_bytes > 0) {
                Writing::Now => self.write(task)?,
                Writing::NextTurn => {
                    look_again(task);
                    return Ok(());
                }
                Writing::WithMoreSends => look_again(task),
            }
            if self.in_work_bytes > self.parts.limits.max_in_work_bytes
                || self.output.len_bytes() > self.parts.limits.max_unread_bytes
            {
                // Replies that arrive, or output that drains, wake this actor again.
                return Ok(());
            }
            if turn == READS_PER_TURN {
                task.waker().wake_by_ref();
                return Ok(());
            }
            let room = self.room_bytes();
            match self.parts.transport.poll_read(task, &mut self.input, room) {
                Poll::Pending => {
                    if self.input.is_empty() {
                        self.input = BytesMut::new(); // an idle connection holds no buffer
                    }
                    return Ok(());
                }
                Poll::Ready(Ok(0)) => return Err(CloseCause::Ended { inside_frame: !self.input.is_empty() }),
                Poll::Ready(Ok(_)) => self.last_active = Instant::now(),
                Poll::Ready(Err(error)) => return Err(CloseCause::Io(error)),
            }
            self.take_frames()?;
        }
        Ok(())
    }

    /// A large frame gets its room in doubling steps: what a length claims is not believed before it arrives.
    fn room_bytes(&self) -> usize {
        let missing = self.wanted_bytes.saturating_sub(self.input.len());
        missing.clamp(READ_BYTES, READ_BYTES.max(self.input.len()))
    }

    fn take_frames(&mut self) -> Result<(), CloseCause> {
        let Some(link) = self.link.clone() else { return Ok(()) };
        let received_at = self.parts.clock.now();
        loop {
            match next_frame(&mut self.input, self.parts.limits.max_frame_bytes) {
                Ok(NextFrame::Whole(frame)) => {
                    let command =
                        Command::decode(frame).map_err(|error| CloseCause::Garbage(error.to_string()))?;
                    if command.is_response() {
                        self.take_answer(command);
                        continue;
                    }
                    let request = Request { command, from: link.clone(), received_at };
                    let to = request.reply_to();
                    self.in_work_bytes += to.cost_bytes as usize;
                    self.gathering.request_taken(to);
                    self.requests.push(request);
                }
                Ok(NextFrame::NeedsBytes(wanted)) => {
                    self.wanted_bytes = wanted;
                    break;
                }
                Err(error) => return Err(CloseCause::Garbage(error.to_string())),
            }
        }
        if !self.requests.is_empty() {
            self.parts.service.serve(&mut self.requests, &mut self.replies);
            self.requests.clear();
            let mut replies = std::mem::take(&mut self.replies);
            for reply in replies.drain(..) {
                self.put_reply(reply);
            }
            self.replies = replies;
        }
        Ok(())
    }

    fn put_reply(&mut self, reply: Reply) {
        self.in_work_bytes = self.in_work_bytes.saturating_sub(reply.to.cost_bytes as usize);
        self.gathering.reply_ready(reply.to);
        if let ReplyContent::Pulled(PulledReply { backlog: Some(pace), .. }) = &reply.content {
            self.backlog.get_or_insert_with(|| (pace.clone(), 0)).1 += 1;
        }
        self.output.put_reply(reply);
    }

    fn take_answer(&mut self, command: Command) {
        let Some(waiting) = self.calls.remove(&command.head.opaque) else {
            debug!(connection = self.id.0, opaque = command.head.opaque, "client answered what nobody asked");
            return;
        };
        let answer = ClientAnswer {
            code: command.head.code,
            remark: command.head.remark,
            fields: command.fields,
            body: command.body,
        };
        // Whoever asked may have stopped waiting.
        let _ = waiting.send(answer);
    }

    fn write(&mut self, task: &mut Task<'_>) -> Result<(), CloseCause> {
        let Some((pace, pulls)) = self.backlog.take() else { return self.write_output(task) };
        let begun = Instant::now();
        let written = self.write_output(task);
        pace.write_took(begun.elapsed() / pulls);
        written
    }

    fn write_output(&mut self, task: &mut Task<'_>) -> Result<(), CloseCause> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.output.slices(&mut slices);
            match self.parts.transport.poll_write(task, &slices[..count]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(CloseCause::Ended { inside_frame: true }),
                Poll::Ready(Ok(written)) => self.output.advance(written),
                Poll::Ready(Err(error)) => return Err(CloseCause::Io(error)),
            }
            self.last_active = Instant::now();
        }
        match self.parts.transport.poll_flush(task) {
            Poll::Ready(Err(error)) => Err(CloseCause::Io(error)),
            _ => Ok(()),
        }
    }

    fn check_idle(&mut self, ctx: &mut Context<Self>) {
        if self.in_work_bytes > self.parts.limits.max_in_work_bytes {
            return; // nothing is read now: the silence is ours
        }
        let silent = self.last_active.elapsed();
        if !self.input.is_empty() && silent >= self.parts.limits.half_frame_timeout {
            let cause = CloseCause::HalfFrame { have: self.input.len(), wanted: self.wanted_bytes, silent };
            self.close(cause, ctx);
        } else if silent >= self.parts.limits.idle_timeout {
            self.close(CloseCause::Idle { silent }, ctx);
        }
    }

    fn close(&mut self, cause: CloseCause, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.closing, true) {
            cause.log(self.id, self.parts.peer);
            ctx.stop();
        }
    }
}

/// Wakes the actor of `task` when all that are ready on this thread have had their turn.
fn look_again(task: &mut Task<'_>) {
    // Polled once: that is enough to be woken.
    let _ = pin!(tokio::task::yield_now()).poll(task);
}

/// Why a connection closes.
enum CloseCause {
    Ended { inside_frame: bool },
    Io(std::io::Error),
    Garbage(String),
    HalfFrame { have: usize, wanted: usize, silent: Duration },
    Idle { silent: Duration },
    Asked(&'static str),
}

impl CloseCause {
    /// What a healthy client does is no warning.
    fn log(&self, id: ConnectionId, peer: SocketAddr) {
        let connection = id.0;
        match self {
            Self::Ended { inside_frame: false } => debug!(connection, %peer, "client closed the connection"),
            Self::Ended { inside_frame: true } => {
                warn!(connection, %peer, "connection closed: the client left in the middle of a frame")
            }
            Self::Io(error) => debug!(connection, %peer, %error, "connection closed: the socket failed"),
            Self::Garbage(cause) => {
                warn!(connection, %peer, cause, "connection closed: not a RocketMQ command")
            }
            Self::HalfFrame { have, wanted, silent } => warn!(
                connection, %peer, have_bytes = have, wanted_bytes = wanted, silent_s = silent.as_secs(),
                "connection closed: a frame did not continue"
            ),
            Self::Idle { silent } => {
                debug!(connection, %peer, silent_s = silent.as_secs(), "connection closed: idle")
            }
            Self::Asked(cause) => debug!(connection, %peer, cause, "connection closed"),
        }
    }
}

/// The future that moves the bytes, polled behind the mailbox: replies of one turn leave in one write.
struct Pump;

impl ActorFuture<Connection> for Pump {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        connection: &mut Connection,
        ctx: &mut Context<Connection>,
        task: &mut Task<'_>,
    ) -> Poll<()> {
        if connection.closing {
            return Poll::Ready(());
        }
        match connection.pump(task) {
            Ok(()) => Poll::Pending,
            Err(cause) => {
                connection.close(cause, ctx);
                Poll::Ready(())
            }
        }
    }
}

impl Actor for Connection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.limits.mailbox_capacity);
        let address = ctx.address();
        self.link = Some(Arc::new(ClientLink {
            id: self.id,
            client: ClientName::default(),
            peer: self.parts.peer,
            local: self.parts.local,
            replies: address.clone().recipient(),
            calls: address.clone().recipient(),
            watches: address.clone().recipient(),
            closes: address.recipient(),
        }));
        debug!(connection = self.id.0, peer = %self.parts.peer, "client connected");
        ctx.spawn(Pump);
        let limits = &self.parts.limits;
        let check_every = IDLE_CHECK.min(limits.idle_timeout).min(limits.half_frame_timeout);
        ctx.run_interval(check_every, Self::check_idle);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        for watcher in self.watchers.drain(..) {
            watcher.do_send(ConnectionClosed { id: self.id });
        }
    }
}

observed!(Connection, Connection::facts);

impl Connection {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        json!({
            "inWorkBytes": self.in_work_bytes,
            "unreadBytes": self.output.len_bytes(),
            "calls": self.calls.len(),
            "watchers": self.watchers.len(),
        })
    }
}

impl Handler<Replies> for Connection {
    type Result = ();

    fn handle(&mut self, replies: Replies, _: &mut Self::Context) {
        for reply in replies.0 {
            self.put_reply(reply);
        }
    }
}

impl Handler<CallClient> for Connection {
    type Result = ResponseFuture<Result<ClientAnswer, CallFailed>>;

    fn handle(&mut self, call: CallClient, _: &mut Self::Context) -> Self::Result {
        let opaque = self.next_opaque;
        self.next_opaque = self.next_opaque.wrapping_add(1);
        self.output.put_request(call.code, opaque, call.timeout.is_none(), &call.fields, call.body);
        let Some(timeout) = call.timeout else {
            return Box::pin(async { Err(CallFailed::TimedOut) });
        };
        let (waiting, answered) = oneshot::channel();
        self.calls.retain(|_, waiting| !waiting.is_closed());
        self.calls.insert(opaque, waiting);
        Box::pin(async move {
            match tokio::time::timeout(timeout, answered).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(CallFailed::Closed),
                Err(_) => Err(CallFailed::TimedOut),
            }
        })
    }
}

impl Handler<WatchConnection> for Connection {
    type Result = ();

    fn handle(&mut self, watch: WatchConnection, _: &mut Self::Context) {
        if self.closing {
            watch.watcher.do_send(ConnectionClosed { id: self.id });
        } else {
            self.watchers.push(watch.watcher);
        }
    }
}

impl Handler<CloseConnection> for Connection {
    type Result = ();

    fn handle(&mut self, close: CloseConnection, ctx: &mut Self::Context) {
        self.close(CloseCause::Asked(close.cause), ctx);
    }
}

#[cfg(test)]
mod tests;
