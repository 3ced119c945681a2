//! The records that a timer message becomes: the one that delivers it, and those that settle it otherwise.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::actors::own_sends::copy_of;
use crate::actors::topic_table::TopicTable;
use crate::protocol::message::{PendingMessage, StoredMessage};
use crate::protocol::names::TIMER_TOPIC;
use crate::protocol::properties::{PropertyList, names as property};
use crate::protocol::timer::{RECALL_BODY, RECALL_TAG, TimerProperties, slot_of};
use crate::store::commit_log::CommitLogReader;
use crate::store::timers::{TimerEntry, TimerName};
use crate::types::{QueueId, TopicName};

/// Reads what is pending, and writes what becomes of it.
pub struct Copies {
    pub log: CommitLogReader,
    pub topics: TopicTable,
    pub store_host: SocketAddr,
}

impl Copies {
    /// The record of a pending message, if it is still what it was.
    pub fn read(&self, entry: &TimerEntry) -> Option<StoredMessage> {
        let record = self.log.read_record(entry.physical_offset)?;
        let stored = StoredMessage::decode(&record).ok()?;
        let due_ms = TimerProperties::of(&stored.properties).due_ms();
        let is_meant = &*stored.topic == TIMER_TOPIC
            && stored.queue_offset == entry.key.queue_offset
            && due_ms == Some(entry.key.due_ms);
        is_meant.then_some(stored)
    }

    pub fn is_named(&self, entry: &TimerEntry, name: &TimerName) -> bool {
        self.read(entry).is_some_and(|stored| {
            let said = TimerProperties::of(&stored.properties);
            said.real_topic == Some(name.topic.as_str()) && said.unique_key == Some(name.unique_key.as_str())
        })
    }

    /// The message as it goes to its real topic; `None` when it is gone or belongs nowhere.
    pub fn delivered(&self, entry: &TimerEntry, now_ms: i64) -> Option<PendingMessage> {
        let stored = self.read(entry)?;
        let mut properties = PropertyList::decode(&stored.properties);
        let topic = TopicName::from(properties.get(property::REAL_TOPIC)?);
        let mut queue_id = properties.get(property::REAL_QUEUE_ID)?.parse().ok()?;
        if let Some(queues) = self.topics.get(&topic).map(|topic| topic.queue_nums().max(1)) {
            queue_id %= queues; // the topic may have shrunk
        }
        properties.remove(property::TIMER_DUE_MS);
        properties.set(property::TIMER_ENQUEUE_MS, stored.stored_at_ms.to_string());
        properties.set(property::TIMER_DEQUEUE_MS, now_ms.to_string());
        properties.set(property::WAIT, "false");
        properties.set(property::TIMER_SETTLES, entry.key.to_string());
        Some(PendingMessage {
            properties: properties.encode(),
            ..copy_of(&stored, topic, QueueId(queue_id), self.store_host)
        })
    }

    /// The message in another place of the log, due as before.
    pub fn stored_anew(&self, entry: &TimerEntry) -> Option<PendingMessage> {
        let stored = self.read(entry)?;
        let mut properties = PropertyList::decode(&stored.properties);
        if properties.get(property::TIMER_DUE_MS).is_none() {
            properties.set(property::TIMER_DUE_MS, entry.key.due_ms.to_string());
        }
        let rolled = properties.get(property::TIMER_ROLL_TIMES).and_then(|times| times.parse::<u64>().ok());
        properties.set(property::TIMER_ROLL_TIMES, (rolled.unwrap_or(0) + 1).to_string());
        properties.set(property::TIMER_SETTLES, entry.key.to_string());
        let topic = TopicName::from(TIMER_TOPIC);
        Some(PendingMessage {
            properties: properties.encode(),
            ..copy_of(&stored, topic, QueueId(0), self.store_host)
        })
    }

    /// What takes a message back: Java's recall, which Java understands, and the exact message beside it.
    pub fn settling(&self, entry: &TimerEntry) -> PendingMessage {
        let mut properties = PropertyList::default();
        let slot = slot_of(entry.key.due_ms).to_string();
        let mut deleted = "-".to_owned();
        if let Some(stored) = self.read(entry) {
            let said = TimerProperties::of(&stored.properties);
            let (topic, key) = (said.real_topic.unwrap_or_default(), said.unique_key.unwrap_or_default());
            deleted = format!("{topic}{key}");
            properties.set(property::REAL_TOPIC, topic);
            properties.set(property::REAL_QUEUE_ID, "0");
            properties.set(property::UNIQ_KEY, key);
        }
        properties.set(property::TAGS, RECALL_TAG);
        properties.set(property::TIMER_OUT_MS, slot);
        properties.set(property::TIMER_DELETE_UNIQUE_KEY, deleted);
        properties.set(property::TIMER_SETTLES, entry.key.to_string());
        PendingMessage {
            topic: TIMER_TOPIC.into(),
            queue_id: QueueId(0),
            flag: 0,
            sys_flag: 0,
            born_at_ms: entry.key.due_ms,
            born_host: self.store_host,
            store_host: self.store_host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: Bytes::from_static(RECALL_BODY),
            properties: properties.encode(),
            extra_properties: Bytes::new(),
        }
    }
}
