//! Requests on their way through the broker, and the answers to them. Typed until the edge: only the
//! connection turns an answer into bytes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use serde::Serialize;

use crate::actors::backlog_pace::BacklogPace;
use crate::clock::WallMs;
use crate::error::Refusal;
use crate::protocol::command::Command;
use crate::protocol::ext_fields::ExtFields;
use crate::protocol::fastjson;
use crate::protocol::frame::HeaderCodec;
use crate::protocol::header::{FieldWriter, PullResponse, TypedHeader};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::{ClientId, PhysicalOffset, QueueId, QueueOffset};

/// Number of a connection, unique within the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// A number that nobody has yet.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A request as it was received, with the connection it came by.
#[derive(Debug)]
pub struct Request {
    pub command: Command,
    pub from: Arc<ClientLink>,
    pub received_at: WallMs,
}

impl Request {
    /// Where the answer goes.
    pub fn reply_to(&self) -> ReplyTo {
        let command = &self.command;
        ReplyTo {
            opaque: command.head.opaque,
            codec: command.codec,
            one_way: command.is_one_way(),
            cost_bytes: (command.body.len() + 256) as u32,
            is_send: matches!(
                RequestCode::from_i32(command.head.code),
                RequestCode::SEND_MESSAGE | RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE
            ),
        }
    }

    /// The typed header, or a refusal that names the request and the field.
    pub fn header<H: TypedHeader>(&self, request: &'static str) -> Result<H, Refusal> {
        H::from_fields(&self.command.fields).map_err(|error| Refusal::Header { request, error })
    }

    /// The body as JSON of fastjson's dialect.
    pub fn json_body<T: serde::de::DeserializeOwned>(
        &self,
        request: &'static str,
        expected: &'static str,
    ) -> Result<T, Refusal> {
        fastjson::from_slice(&self.command.body).map_err(|error| Refusal::Body {
            request,
            expected,
            error: error.to_string(),
        })
    }
}

/// What the rest of the broker holds of a connection: its names, and what may be sent to it.
/// The replies a connection is sent are bounded by the requests it let through, so they bypass its capacity.
#[derive(Debug)]
pub struct ClientLink {
    pub id: ConnectionId,
    /// As its heartbeats say.
    pub client: ClientName,
    /// The client's end, as seen from here; the born host of its messages.
    pub peer: SocketAddr,
    /// Our end; tells by which port the client came.
    pub local: SocketAddr,
    pub replies: Recipient<Replies>,
    pub calls: Recipient<CallClient>,
    pub watches: Recipient<WatchConnection>,
    pub closes: Recipient<CloseConnection>,
}

impl ClientLink {
    pub fn reply(&self, reply: Reply) {
        self.replies.do_send(Replies(vec![reply]));
    }
}

/// What the client of a connection calls itself; nothing before its first heartbeat, which decides.
#[derive(Debug, Default)]
pub struct ClientName(OnceLock<ClientId>);

impl ClientName {
    /// A heartbeat says who it is.
    pub fn learn(&self, id: &ClientId) {
        self.0.get_or_init(|| id.clone());
    }

    pub fn get(&self) -> Option<&str> {
        self.0.get().map(|id| &**id)
    }
}

/// Answers to requests of one client. Losing them leaves the client waiting until its time-out.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Replies(pub Vec<Reply>);

/// The answer to one request.
#[derive(Debug)]
pub struct Reply {
    pub to: ReplyTo,
    pub content: ReplyContent,
}

/// What of a request is needed to answer it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyTo {
    pub opaque: i32,
    pub codec: HeaderCodec,
    /// Nobody waits: nothing is written, the connection only counts the request as done.
    pub one_way: bool,
    /// Bytes of the request's frame; what a connection has in work is bounded by them.
    pub cost_bytes: u32,
    /// It stores messages: answered in a moment, and many of one client are answered together.
    pub is_send: bool,
}

#[derive(Debug)]
pub enum ReplyContent {
    Stored(StoredReply),
    Pulled(PulledReply),
    Answer(Answer),
    Refused(Refusal),
    /// The request is done and has no answer.
    Silence,
}

/// Whether a stored message is as safe as was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    Promised,
    /// It is in the log, and the disk has not confirmed it in time.
    InMemory,
}

/// A message, or the messages of a batch, are stored.
#[derive(Debug)]
pub struct StoredReply {
    pub kept: Kept,
    pub queue_id: QueueId,
    /// Queue offset of the first message.
    pub queue_offset: QueueOffset,
    /// Physical offsets of all messages, in order; the ids are made of them at the edge.
    pub physical_offsets: Vec<PhysicalOffset>,
    pub store_host: SocketAddr,
    /// Unique key of the (first) message.
    pub unique_key: Option<Bytes>,
    /// By which a message that waits for its time can be taken back.
    pub recall_handle: Option<Box<str>>,
}

/// The outcome of a pull.
#[derive(Debug)]
pub struct PulledReply {
    /// SUCCESS, PULL_NOT_FOUND, PULL_RETRY_IMMEDIATELY or PULL_OFFSET_MOVED.
    pub code: ResponseCode,
    /// Name of the status, as Java puts it into the remark.
    pub status: &'static str,
    pub header: PullResponse,
    /// Records, slices of the commit log.
    pub records: Vec<Bytes>,
    /// Who is told what it takes to write it, where it is the answer to a pull of a backlog.
    pub backlog: Option<Arc<BacklogPace>>,
}

/// An answer of success, or of another code that is no refusal.
#[derive(Debug)]
pub struct Answer {
    pub code: ResponseCode,
    pub remark: Option<String>,
    pub fields: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Answer {
    pub fn success() -> Self {
        Self { code: ResponseCode::SUCCESS, remark: None, fields: Vec::new(), body: Bytes::new() }
    }

    pub fn header(header: &impl TypedHeader) -> Self {
        Self { fields: FieldWriter::of(header).into_pairs(), ..Self::success() }
    }

    /// A body of strict JSON; see `fastjson` for maps keyed by message queues.
    pub fn json(body: &impl Serialize) -> Self {
        Self::success().with_json(body)
    }

    pub fn with_json(self, body: &impl Serialize) -> Self {
        // Our own bodies are plain structs with text keys; they always have a JSON form.
        self.with_body(fastjson::to_vec(body).unwrap_or_default().into())
    }

    pub fn with_body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }

    pub fn with_remark(self, remark: impl Into<String>) -> Self {
        Self { remark: Some(remark.into()), ..self }
    }

    pub fn with_field(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

/// What a handler gives back; `None` leaves the request without an answer.
pub type Answered = Result<Option<Answer>, Refusal>;

/// An owner that cannot be reached: owners live as long as the broker does.
impl From<MailboxError> for Refusal {
    fn from(_: MailboxError) -> Self {
        Refusal::ShuttingDown
    }
}

/// Asks a client something, over the connection it opened. Losing it is as losing a packet.
#[derive(Message, Debug)]
#[rtype(result = "Result<ClientAnswer, CallFailed>")]
pub struct CallClient {
    pub code: i32,
    pub fields: Vec<(String, String)>,
    pub body: Bytes,
    /// `None`: one-way, nobody answers.
    pub timeout: Option<Duration>,
}

/// What a client answered, as it came.
#[derive(Clone, PartialEq, Debug)]
pub struct ClientAnswer {
    pub code: i32,
    pub remark: Option<String>,
    pub fields: ExtFields,
    pub body: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallFailed {
    #[error("the client did not answer in time")]
    TimedOut,
    #[error("the connection is closed")]
    Closed,
}

/// Asks a connection to tell `watcher` when it closes. Told at once if it is closed already.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct WatchConnection {
    pub watcher: Recipient<ConnectionClosed>,
}

/// A connection is closed. Losing it leaves members to their heartbeat time-out.
#[derive(Message, Clone, Copy, PartialEq, Eq, Debug)]
#[rtype(result = "()")]
pub struct ConnectionClosed {
    pub id: ConnectionId,
}

/// Asks a connection to close, for `cause`.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct CloseConnection {
    pub cause: &'static str,
}
