//! What happens in a broker, as extensions are told of it.

use std::net::SocketAddr;

use actix::Message;
use bytes::Bytes;

use crate::protocol::request_code::RequestCode;
use crate::types::{ClientId, GroupName, PhysicalOffset, QueueId, QueueOffset, TopicName};

/// A kind of event, to listen to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventKind {
    /// [`BrokerEvent::MessageStored`].
    MessageStored,
    /// [`BrokerEvent::MessageDeadLettered`].
    MessageDeadLettered,
    /// [`BrokerEvent::TransactionSettled`].
    TransactionSettled,
    /// [`BrokerEvent::ConsumerJoined`].
    ConsumerJoined,
    /// [`BrokerEvent::ConsumerLeft`].
    ConsumerLeft,
    /// [`BrokerEvent::TopicCreated`].
    TopicCreated,
    /// [`BrokerEvent::TopicDeleted`].
    TopicDeleted,
    /// [`BrokerEvent::SegmentDeleted`].
    SegmentDeleted,
    /// [`BrokerEvent::AdminRequested`].
    AdminRequested,
}

impl EventKind {
    /// Its place in a set of kinds.
    pub(super) fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Something that happened. Those of one queue, one group, one owner come in the order in which they happened; between
/// two owners there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BrokerEvent {
    /// A message is stored as safely as its topic promises. Told of the broker's own topics, too: a message that waits
    /// for its time is stored twice. Not told of one whose disk was late, see `store.sync_flush_timeout_ms`.
    MessageStored {
        topic: TopicName,
        queue_id: QueueId,
        queue_offset: QueueOffset,
        physical_offset: PhysicalOffset,
        stored_at_ms: i64,
    },
    /// A message goes to the dead letter queue of its group. Told again of one that could not be stored there, when its
    /// consumer tries again.
    MessageDeadLettered { group: GroupName, reason: String },
    /// A transaction has ended.
    TransactionSettled {
        /// Queue offset of its half message.
        half: QueueOffset,
        /// Otherwise it was rolled back, or nobody has decided on it for too long.
        committed: bool,
    },
    /// A client is a member of a group; one that connects anew before its old connection ends is so all along.
    ConsumerJoined { group: GroupName, client_id: ClientId, peer: SocketAddr },
    /// A member has left, its connection is closed, or it was silent for too long.
    ConsumerLeft { group: GroupName, client_id: ClientId },
    /// There is a topic that was not there, retry topics and dead letter queues among them.
    TopicCreated { topic: TopicName, queues: u32 },
    /// A topic is gone, with its messages.
    TopicDeleted { topic: TopicName },
    /// A file of the commit log was deleted, with the messages in it. The log has nothing before `log_begins` now; some of
    /// what lies before may still be on disk.
    SegmentDeleted { log_begins: PhysicalOffset },
    /// Somebody asked to change something that is not a message: see [`RequestCode::is_administration`].
    AdminRequested {
        request: RequestCode,
        client: SocketAddr,
        fields: Vec<(String, String)>,
        body: Bytes,
        /// Why it was refused; `None`: it was done.
        refused: Option<String>,
    },
}

impl BrokerEvent {
    /// Which kind it is of.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::MessageStored { .. } => EventKind::MessageStored,
            Self::MessageDeadLettered { .. } => EventKind::MessageDeadLettered,
            Self::TransactionSettled { .. } => EventKind::TransactionSettled,
            Self::ConsumerJoined { .. } => EventKind::ConsumerJoined,
            Self::ConsumerLeft { .. } => EventKind::ConsumerLeft,
            Self::TopicCreated { .. } => EventKind::TopicCreated,
            Self::TopicDeleted { .. } => EventKind::TopicDeleted,
            Self::SegmentDeleted { .. } => EventKind::SegmentDeleted,
            Self::AdminRequested { .. } => EventKind::AdminRequested,
        }
    }
}

/// Events for one extension, in their order. The next ones come when these are handled. Losing them loses news, and
/// nothing of the broker's.
#[derive(Message, Clone, PartialEq, Eq, Debug)]
#[rtype(result = "()")]
pub struct BrokerEvents(pub Vec<BrokerEvent>);

/// What becomes of events that an extension is too slow for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenBehind {
    /// New ones are dropped, and counted.
    DropAndCount,
    /// Message queues store nothing more until there is room: senders wait, and are refused as busy in the end. Other
    /// events are kept beyond the capacity; clients cause them, one at a time. An extension that has failed, or handles
    /// nothing for 10 s, slows nobody: until it goes on, events it has no room for are dropped and counted.
    SlowSource,
}
