//! Reads message queues and finds messages as nobody: no group, no offsets kept, nothing left behind.

use std::time::Duration;

use super::error::ClientError;
use super::remoting::{Call, RemotingConnection};
use super::route::{self, BrokerAt, QueueAt};
use super::servers::Servers;
use crate::protocol::body::subscription::EVERY_TAG;
use crate::protocol::header::{
    OffsetResponse, PULL_SUBSCRIPTION, PULL_SUSPEND, PullHeader, PullResponse, QueryMessage, QueueHeader,
    SearchOffset, ViewMessage,
};
use crate::protocol::message::StoredMessage;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::{BrokerName, GroupName, PhysicalOffset, TopicName};

/// Exists on every broker from its start, so that reading creates nothing.
pub const READER_GROUP: &str = "TOOLS_CONSUMER";
/// How long a broker may hold a read.
const HOLD: Duration = Duration::from_secs(15);
/// Most messages of one read; brokers give no more anyway.
const READ_MAX: i32 = 32;

/// A message and the broker it lies on.
#[derive(Clone, Debug)]
pub struct FoundMessage {
    /// The broker that has it.
    pub broker_name: BrokerName,
    /// The message.
    pub message: StoredMessage,
}

/// What kind of key a message is looked for by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// A key that its sender gave it; many messages may have it.
    Key,
    /// The id that its client gave it.
    UniqueKey,
    /// Brokers index tags since 5.5.
    Tag,
}

/// Looks for messages by key. Times are in ms, both ends included.
#[derive(Clone, Debug)]
pub struct KeySearch {
    /// The topic it is looked for in.
    pub topic: TopicName,
    /// What it is looked for by.
    pub key: String,
    /// What kind of key that is.
    pub kind: KeyKind,
    /// Stored at this time or later.
    pub from_ms: i64,
    /// Stored at this time or before.
    pub to_ms: i64,
    /// Messages of each broker.
    pub max: i32,
}

/// Whether a read at the end of a queue waits for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtEnd {
    /// Returns without a message.
    Return,
    /// Waits until one is stored, for some seconds.
    Wait,
}

/// What one read brought.
#[derive(Clone, Debug)]
pub struct ReadBatch {
    /// The messages, in their order.
    pub messages: Vec<StoredMessage>,
    /// Where to read on.
    pub next: i64,
}

/// Reads one queue, as no member of any group.
///
/// ```no_run
/// use telstar::client::queue_reader::{AtEnd, KeyKind, KeySearch};
/// use telstar::client::{ClientError, Servers, route};
///
/// /// Every message of a topic, and where those with a key are.
/// async fn look_through(servers: &mut Servers, key: &str) -> Result<(), ClientError> {
///     let topic = "orders".into();
///     let route = servers.route(&topic).await?;
///     for at in route::read_queues(&topic, &route) {
///         let reader = servers.queue_reader(&at).await?;
///         let extent = servers.extent(&at).await?;
///         let mut from = extent.min;
///         while from < extent.max {
///             let batch = reader.read(from, 32, AtEnd::Return).await?;
///             batch.messages.iter().for_each(|message| println!("{:?}", message.body));
///             from = batch.next;
///         }
///     }
///     let search =
///         KeySearch { topic, key: key.into(), kind: KeyKind::Key, from_ms: 0, to_ms: i64::MAX, max: 32 };
///     for found in servers.find_by_key(&search).await? {
///         println!("{} on {}", found.message.queue_offset, found.broker_name);
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct QueueReader {
    /// The queue, and who has it.
    pub at: QueueAt,
    connection: RemotingConnection,
    timeout: Duration,
}

impl QueueReader {
    /// Messages from `offset` on. An offset that is not there is answered with none and the nearest that is.
    pub async fn read(&self, offset: i64, max: i32, at_end: AtEnd) -> Result<ReadBatch, ClientError> {
        let (flags, hold) = match at_end {
            AtEnd::Return => (PULL_SUBSCRIPTION, Duration::ZERO),
            AtEnd::Wait => (PULL_SUBSCRIPTION | PULL_SUSPEND, HOLD),
        };
        let header = PullHeader {
            consumer_group: GroupName::from(READER_GROUP),
            topic: self.at.queue.topic.clone(),
            queue_id: self.at.queue.queue_id,
            queue_offset: offset,
            max_msg_nums: max.clamp(1, READ_MAX),
            sys_flag: flags,
            commit_offset: 0,
            suspend_timeout_ms: hold.as_millis() as i64,
            subscription: Some(EVERY_TAG.to_owned()),
            sub_version: 0,
            expression_type: None,
        };
        let call = Call::new(RequestCode::PULL_MESSAGE).header(&header);
        let answer = self.connection.call(call, self.timeout + hold).await?;
        let moved = [
            ResponseCode::PULL_NOT_FOUND,
            ResponseCode::PULL_RETRY_IMMEDIATELY,
            ResponseCode::PULL_OFFSET_MOVED,
        ];
        if moved.contains(&answer.code) {
            let next = answer.header::<PullResponse>()?.next_begin_offset;
            return Ok(ReadBatch { messages: Vec::new(), next });
        }
        let answer = answer.success()?;
        let next = answer.header::<PullResponse>()?.next_begin_offset;
        Ok(ReadBatch { messages: StoredMessage::decode_all(answer.body), next })
    }

    /// Up to `max` messages in `[from, end)`.
    pub async fn read_range(
        &self,
        from: i64,
        end: i64,
        max: usize,
    ) -> Result<Vec<FoundMessage>, ClientError> {
        let mut found = Vec::new();
        let mut next = from;
        while next < end && found.len() < max {
            let wanted = (end - next).min((max - found.len()) as i64).min(READ_MAX.into());
            let batch = self.read(next, wanted as i32, AtEnd::Return).await?;
            if batch.next <= next {
                break;
            }
            next = batch.next;
            let inside = |message: &StoredMessage| (message.queue_offset.0 as i64) < end;
            let broker_name = &self.at.queue.broker_name;
            let messages = batch.messages.into_iter().filter(inside);
            found.extend(messages.map(|message| FoundMessage { broker_name: broker_name.clone(), message }));
        }
        found.truncate(max);
        Ok(found)
    }
}

/// Offsets of a queue: `[min, max)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Offset of the oldest message.
    pub min: i64,
    /// The offset behind the newest message.
    pub max: i64,
}

#[doc(hidden)]
impl Servers {
    /// A reader of one queue.
    pub async fn queue_reader(&mut self, at: &QueueAt) -> Result<QueueReader, ClientError> {
        let connection = self.connection(&at.addr).await?;
        Ok(QueueReader { at: at.clone(), connection, timeout: self.timeout() })
    }

    /// Where a queue begins and ends.
    pub async fn extent(&mut self, at: &QueueAt) -> Result<Extent, ClientError> {
        let header = QueueHeader { topic: at.queue.topic.clone(), queue_id: at.queue.queue_id };
        let min = self.offset(at, Call::new(RequestCode::GET_MIN_OFFSET).header(&header)).await?;
        let max = self.offset(at, Call::new(RequestCode::GET_MAX_OFFSET).header(&header)).await?;
        Ok(Extent { min, max })
    }

    /// The first offset stored at or after a time, in ms; the end of the queue when there is none.
    pub async fn offset_by_time(&mut self, at: &QueueAt, timestamp: i64) -> Result<i64, ClientError> {
        let header = SearchOffset {
            topic: at.queue.topic.clone(),
            queue_id: at.queue.queue_id,
            timestamp,
            boundary_type: None,
        };
        self.offset(at, Call::new(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP).header(&header)).await
    }

    async fn offset(&mut self, at: &QueueAt, call: Call) -> Result<i64, ClientError> {
        Ok(self.call(&at.addr, call).await?.header::<OffsetResponse>()?.offset)
    }

    /// The message at a physical offset of the broker at `addr`.
    pub async fn message_at(
        &mut self,
        addr: &str,
        at: PhysicalOffset,
    ) -> Result<Option<StoredMessage>, ClientError> {
        let header = ViewMessage { offset: i64::try_from(at.0).unwrap_or(-1) };
        let answer = self.call(addr, Call::new(RequestCode::VIEW_MESSAGE_BY_ID).header(&header)).await?;
        Ok(StoredMessage::decode(&answer.body).ok())
    }

    /// Messages with a key on all brokers of the topic, newest first.
    pub async fn find_by_key(&mut self, search: &KeySearch) -> Result<Vec<FoundMessage>, ClientError> {
        let route = self.route(&search.topic).await?;
        self.find_by_key_on(&route::masters(&route), search).await
    }

    /// As [`find_by_key`](Self::find_by_key), on these brokers.
    pub async fn find_by_key_on(
        &mut self,
        brokers: &[BrokerAt],
        search: &KeySearch,
    ) -> Result<Vec<FoundMessage>, ClientError> {
        let header = QueryMessage {
            topic: search.topic.clone(),
            key: search.key.clone(),
            max_num: search.max,
            begin_timestamp: search.from_ms,
            end_timestamp: search.to_ms,
            unique_key_query: search.kind == KeyKind::UniqueKey,
            index_type: (search.kind == KeyKind::Tag).then(|| "T".to_owned()),
            last_key: None,
        };
        let mut found = Vec::new();
        for broker in brokers {
            let call = Call::new(RequestCode::QUERY_MESSAGE).header(&header);
            let answer = self.ask(&broker.addr, call).await?;
            if answer.code == ResponseCode::QUERY_NOT_FOUND {
                continue;
            }
            let messages = StoredMessage::decode_all(answer.success()?.body);
            let broker_name = &broker.broker_name;
            found.extend(
                messages
                    .into_iter()
                    .map(|message| FoundMessage { broker_name: broker_name.clone(), message }),
            );
        }
        found.sort_by_key(|found| std::cmp::Reverse(found.message.stored_at_ms));
        Ok(found)
    }
}
