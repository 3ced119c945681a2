//! What happens in a broker, as extensions are told of it.

use std::net::SocketAddr;

use actix::Message;
use bytes::Bytes;

use crate::protocol::request_code::RequestCode;
use crate::types::{ClientId, GroupName, PhysicalOffset, QueueId, QueueOffset, TopicName};

/// A kind of event, to listen to.
///
/// ```
/// use telstar::extension::{BrokerEvent, EventKind};
///
/// let coming_and_going = [EventKind::ConsumerJoined, EventKind::ConsumerLeft]; // for `Hooks::on_events`
/// let left = BrokerEvent::ConsumerLeft { group: "bank".into(), client_id: "bank-1".into() };
/// assert!(coming_and_going.contains(&left.kind()));
/// ```
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
///
/// ```
/// use telstar::extension::BrokerEvent;
///
/// /// What is worth a line in the diary.
/// fn line(event: &BrokerEvent) -> Option<String> {
///     match event {
///         BrokerEvent::TopicCreated { topic, queues } => Some(format!("{topic} has {queues} queues")),
///         BrokerEvent::MessageDeadLettered { group, reason } => Some(format!("{group} gave up: {reason}")),
///         BrokerEvent::AdminRequested { request, refused: Some(why), .. } => Some(format!("no {request}: {why}")),
///         _ => None,
///     }
/// }
/// let event = BrokerEvent::TopicCreated { topic: "orders".into(), queues: 8 };
/// assert_eq!(line(&event).unwrap(), "orders has 8 queues");
/// assert_eq!(line(&BrokerEvent::TopicDeleted { topic: "orders".into() }), None);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BrokerEvent {
    /// A message is stored as safely as its topic promises. Told of the broker's own topics, too: a message that waits
    /// for its time is stored twice. Not told of one whose disk was late, see `store.sync_flush_timeout_ms`.
    MessageStored {
        /// Where it was stored.
        topic: TopicName,
        /// Where it was stored.
        queue_id: QueueId,
        /// Its number in that queue.
        queue_offset: QueueOffset,
        /// Its place in the log.
        physical_offset: PhysicalOffset,
        /// When it was stored, ms since 1970.
        stored_at_ms: i64,
    },
    /// A message goes to the dead letter queue of its group. Told again of one that could not be stored there, when its
    /// consumer tries again.
    MessageDeadLettered {
        /// The group that has not consumed it.
        group: GroupName,
        /// Why no more is tried.
        reason: String,
    },
    /// A transaction has ended.
    TransactionSettled {
        /// Queue offset of its half message.
        half: QueueOffset,
        /// Otherwise it was rolled back, or nobody has decided on it for too long.
        committed: bool,
    },
    /// A client is a member of a group; one that connects anew before its old connection ends is so all along.
    ConsumerJoined {
        /// The group it has joined.
        group: GroupName,
        /// Its name in the group.
        client_id: ClientId,
        /// From where it is connected.
        peer: SocketAddr,
    },
    /// A member has left, its connection is closed, or it was silent for too long.
    ConsumerLeft {
        /// The group it has left.
        group: GroupName,
        /// Its name in the group.
        client_id: ClientId,
    },
    /// There is a topic that was not there, retry topics and dead letter queues among them.
    TopicCreated {
        /// Its name.
        topic: TopicName,
        /// Queues that can be read.
        queues: u32,
    },
    /// A topic is gone, with its messages.
    TopicDeleted {
        /// Its name.
        topic: TopicName,
    },
    /// A file of the commit log was deleted, with the messages in it. The log has nothing before `log_begins` now; some of
    /// what lies before may still be on disk.
    SegmentDeleted {
        /// The first byte that is left.
        log_begins: PhysicalOffset,
    },
    /// Somebody asked to change something that is not a message: see [`RequestCode::is_administration`].
    AdminRequested {
        /// What was asked for.
        request: RequestCode,
        /// Who asked.
        client: SocketAddr,
        /// The header of the request, by the names that clients use.
        fields: Vec<(String, String)>,
        /// The body of the request.
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

/// Events for one extension, in their order: go through them with `for event in events`. The next ones come when these
/// are handled. Losing them loses news, and nothing of the broker's.
///
/// Messages that a queue has stored together share one entry, which is taken apart as one goes through the events: there
/// are hundreds of thousands of them in a second.
///
/// ```
/// use actix::prelude::*;
/// use telstar::extension::{BrokerEvent, BrokerEvents};
///
/// /// Counts new topics.
/// #[derive(Default)]
/// struct Counter(Vec<String>);
/// # impl Actor for Counter { type Context = Context<Self>; }
///
/// impl Handler<BrokerEvents> for Counter {
///     type Result = ();
///
///     fn handle(&mut self, events: BrokerEvents, _: &mut Self::Context) {
///         for event in events {
///             if let BrokerEvent::TopicCreated { topic, .. } = event {
///                 self.0.push(topic.to_string());
///             }
///         }
///     }
/// }
/// // A test of it tells it what it likes.
/// let events = BrokerEvents::from(vec![BrokerEvent::TopicCreated { topic: "orders".into(), queues: 8 }]);
/// assert_eq!(events.len(), 1);
/// ```
#[derive(Message, Clone, Default)]
#[rtype(result = "()")]
pub struct BrokerEvents(pub(super) Vec<Told>);

/// What a source tells at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    One(BrokerEvent),
    Stored(StoredMessages),
}

/// Messages that a queue has stored as safely as was promised: an event each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredMessages {
    pub topic: TopicName,
    pub queue_id: QueueId,
    pub messages: Vec<StoredAt>,
}

/// Where one of them is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredAt {
    pub queue_offset: QueueOffset,
    pub physical_offset: PhysicalOffset,
    pub stored_at_ms: i64,
}

impl Told {
    /// How many events it is.
    pub fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Stored(stored) => stored.messages.len(),
        }
    }

    /// Which kind they are of.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::One(event) => event.kind(),
            Self::Stored(_) => EventKind::MessageStored,
        }
    }

    /// Leaves the first `count` of its events.
    pub fn truncated(self, count: usize) -> Option<Self> {
        match self {
            _ if count == 0 => None,
            Self::One(_) => Some(self),
            Self::Stored(mut stored) => {
                stored.messages.truncate(count);
                Some(Self::Stored(stored))
            }
        }
    }

    fn events(&self) -> impl Iterator<Item = BrokerEvent> {
        let (one, stored) = match self {
            Self::One(event) => (Some(event.clone()), None),
            Self::Stored(stored) => (None, Some(stored)),
        };
        let event = |stored: &StoredMessages, at: &StoredAt| at.event(stored.topic.clone(), stored.queue_id);
        let messages = stored
            .into_iter()
            .flat_map(move |stored| stored.messages.iter().map(move |at| event(stored, at)));
        one.into_iter().chain(messages)
    }
}

impl StoredAt {
    fn event(&self, topic: TopicName, queue_id: QueueId) -> BrokerEvent {
        let Self { queue_offset, physical_offset, stored_at_ms } = *self;
        BrokerEvent::MessageStored { topic, queue_id, queue_offset, physical_offset, stored_at_ms }
    }
}

impl BrokerEvents {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(Told::count).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Goes through them, and leaves them as they are.
    pub fn iter(&self) -> impl Iterator<Item = BrokerEvent> {
        self.0.iter().flat_map(Told::events)
    }
}

impl From<Vec<BrokerEvent>> for BrokerEvents {
    /// For tests of an extension, which tell it what they like.
    fn from(events: Vec<BrokerEvent>) -> Self {
        Self(events.into_iter().map(Told::One).collect())
    }
}

impl PartialEq for BrokerEvents {
    /// The same events in the same order, however they were told.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for BrokerEvents {}

impl std::fmt::Debug for BrokerEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl IntoIterator for BrokerEvents {
    type Item = BrokerEvent;
    type IntoIter = EventsInOrder;

    fn into_iter(self) -> EventsInOrder {
        EventsInOrder { told: self.0.into_iter(), stored: None }
    }
}

/// Goes through [`BrokerEvents`].
///
/// ```
/// use telstar::extension::{BrokerEvent, BrokerEvents, EventsInOrder};
///
/// let topics = ["orders", "payments"].map(|topic| BrokerEvent::TopicDeleted { topic: topic.into() });
/// let mut events: EventsInOrder = BrokerEvents::from(topics.to_vec()).into_iter();
/// assert_eq!(events.next(), Some(topics[0].clone()));
/// assert_eq!(events.count(), 1);
/// ```
#[derive(Debug)]
pub struct EventsInOrder {
    told: std::vec::IntoIter<Told>,
    /// Messages of one queue that are being gone through.
    stored: Option<(TopicName, QueueId, std::vec::IntoIter<StoredAt>)>,
}

impl Iterator for EventsInOrder {
    type Item = BrokerEvent;

    fn next(&mut self) -> Option<BrokerEvent> {
        loop {
            if let Some((topic, queue_id, messages)) = &mut self.stored
                && let Some(at) = messages.next()
            {
                return Some(at.event(topic.clone(), *queue_id));
            }
            match self.told.next()? {
                Told::One(event) => return Some(event),
                Told::Stored(StoredMessages { topic, queue_id, messages }) => {
                    self.stored = Some((topic, queue_id, messages.into_iter()));
                }
            }
        }
    }
}

/// What becomes of events that an extension is too slow for.
///
/// ```
/// use telstar::extension::{BrokerEvents, EventKind, WhenBehind};
/// use telstar::testing::{Act, Scenario, calls::create_topic};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (slow, _) = scene.fake::<BrokerEvents>("broker -> slow").acts(|_| Act::Hang).start();
/// let broker = scene.broker("broker").hooks("slow", move |hooks| {
///     hooks.on_events(&[EventKind::TopicCreated], slow.clone(), WhenBehind::DropAndCount, 2);
/// });
/// let broker = broker.start().await;
/// let mut admin = broker.client("admin");
/// for topic in ["a", "b", "c", "d", "e"] {
///     admin.succeed(create_topic(topic, 1)).await; // nobody waits for the slow one
/// }
/// assert_eq!(broker.extensions().await[0].events.dropped, 3);
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenBehind {
    /// New ones are dropped, and counted.
    DropAndCount,
    /// Message queues store nothing more until there is room: senders wait, and are refused as busy in the end. Other
    /// events are kept beyond the capacity; clients cause them, one at a time. An extension that has failed, or handles
    /// nothing for 10 s, slows nobody: until it goes on, events it has no room for are dropped and counted.
    SlowSource,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(offsets: std::ops::Range<u64>) -> Told {
        let at = |offset| StoredAt {
            queue_offset: QueueOffset(offset),
            physical_offset: PhysicalOffset(offset * 100),
            stored_at_ms: 7,
        };
        Told::Stored(StoredMessages {
            topic: "orders".into(),
            queue_id: QueueId(3),
            messages: offsets.map(at).collect(),
        })
    }

    fn one(offset: u64) -> BrokerEvent {
        BrokerEvent::MessageStored {
            topic: "orders".into(),
            queue_id: QueueId(3),
            queue_offset: QueueOffset(offset),
            physical_offset: PhysicalOffset(offset * 100),
            stored_at_ms: 7,
        }
    }

    fn gone(topic: &str) -> BrokerEvent {
        BrokerEvent::TopicDeleted { topic: topic.into() }
    }

    #[test]
    fn messages_stored_together_are_gone_through_one_by_one() {
        let events = BrokerEvents(vec![
            Told::One(gone("a")),
            stored(4..6),
            stored(6..6),
            stored(9..10),
            Told::One(gone("b")),
        ]);
        let expected = vec![gone("a"), one(4), one(5), one(9), gone("b")];
        assert_eq!(events.len(), 5);
        assert_eq!(events.iter().collect::<Vec<_>>(), expected);
        assert_eq!(events, BrokerEvents::from(expected.clone()), "however they were told");
        assert_eq!(events.into_iter().collect::<Vec<_>>(), expected);
        assert!(BrokerEvents(vec![stored(0..0)]).is_empty());
    }

    #[test]
    fn what_there_is_no_room_for_is_cut_off_the_end() {
        assert_eq!(stored(4..7).truncated(2), Some(stored(4..6)));
        assert_eq!(stored(4..7).truncated(3), Some(stored(4..7)));
        assert_eq!(stored(4..7).truncated(0), None);
        assert_eq!(Told::One(gone("a")).truncated(1), Some(Told::One(gone("a"))));
        assert_eq!(Told::One(gone("a")).truncated(0), None);
    }
}
