//! How old a message of a topic may be and still be shown: the topic attribute `retention.ms`. A table, not a hop.
//!
//! The log is shared by all topics, so a shorter retention of one frees no room by itself: it moves the beginning
//! of the topic's queues, and hides older messages from pulls, look-ups by key and by position alike.

use crate::clock::SharedClock;

use super::topic_table::TopicTable;

/// Asks the topics for their retention. The default hides nothing. Cheap to clone.
#[derive(Clone, Default)]
pub struct MessageExpiry(Option<(TopicTable, SharedClock)>);

impl MessageExpiry {
    pub fn new(topics: TopicTable, clock: SharedClock) -> Self {
        Self(Some((topics, clock)))
    }

    /// Messages of the topic that were stored before this moment, in ms, are hidden; `None`: none is.
    pub fn begins_at_ms(&self, topic: &str) -> Option<i64> {
        let (topics, clock) = self.0.as_ref()?;
        let retention_ms = topics.load().topics.get(topic)?.retention_ms()?;
        Some(clock.now().0.saturating_sub(retention_ms))
    }

    /// Whether a message of the topic, stored at this moment, is hidden.
    pub fn hides(&self, topic: &str, stored_at_ms: i64) -> bool {
        self.begins_at_ms(topic).is_some_and(|begins_at_ms| stored_at_ms < begins_at_ms)
    }
}
