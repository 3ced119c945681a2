//! What a record of the log says of timers.

use super::entry::{Settled, TimerEntry, TimerKey, topic_hash};
use crate::protocol::message::RecordView;
use crate::protocol::names::TIMER_TOPIC;
use crate::protocol::timer::TimerProperties;
use crate::store::index_file::hash_of;
use crate::types::{PhysicalOffset, TopicName};

/// What a record of the log says of timers. What it cancels is known by name only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimerNews {
    pub at: PhysicalOffset,
    pub settles: Option<Settled>,
    pub adds: Option<TimerEntry>,
    /// The slot of Java's wheel of what it adds or cancels.
    pub slot_ms: i64,
    pub cancels: Option<TimerName>,
}

/// A message by the names its client knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimerName {
    pub topic: TopicName,
    pub unique_key: String,
}

impl TimerName {
    pub fn hash(&self) -> u32 {
        hash_of(&self.topic, &self.unique_key)
    }
}

impl TimerNews {
    /// Reads a record of the timer topic, or one that has the property `TIMER_SETTLES`.
    pub fn of(at: PhysicalOffset, record: &RecordView<'_>) -> Option<Self> {
        let said = TimerProperties::of(record.properties());
        let is_timer = record.topic() == TIMER_TOPIC;
        let real_topic = if is_timer { said.real_topic } else { Some(record.topic()) };
        let settles = said.settles.and_then(|key| {
            let topic_hash = real_topic.map_or(0, topic_hash);
            Some(Settled { key: key.parse().ok()?, topic_hash })
        });
        let mut news = Self { at, settles, adds: None, slot_ms: said.slot_ms().unwrap_or(0), cancels: None };
        if let (true, Some(topic), Some(due_ms)) = (is_timer, real_topic, said.due_ms()) {
            let name = |key: &str| TimerName { topic: topic.into(), unique_key: key.to_owned() };
            if said.delete_key.is_none() {
                news.adds = Some(TimerEntry {
                    key: TimerKey { due_ms, queue_offset: record.queue_offset() },
                    physical_offset: at,
                    name_hash: hash_of(topic, said.unique_key.unwrap_or_default()),
                    topic_hash: topic_hash(topic),
                });
            }
            if settles.is_none() {
                // What Java stores anew, to wait for longer than its wheel turns, takes the place of the older record.
                let replaced = said.roll_times.and(said.unique_key);
                news.cancels = said.deleted_unique_key().or(replaced).map(name);
            }
        }
        (news.settles.is_some() || news.adds.is_some() || news.cancels.is_some()).then_some(news)
    }
}
