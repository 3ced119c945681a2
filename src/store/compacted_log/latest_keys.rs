//! Which messages of a compacted log stay: of each key the latest, and none where that has no body. Pure.
//!
//! RocketMQ: `CompactionLog.OffsetMap` and `shouldRetainMsg`.

use std::collections::HashMap;

use crate::protocol::key_digest::KeyDigest;
use crate::types::QueueOffset;

/// Memory that a key takes here, bytes, with what a table leaves free.
const BYTES_PER_KEY: usize = 48;
const MIN_KEYS: usize = 100;

/// The latest offset of each key among the messages up to one, as far as there is room.
#[derive(Debug)]
pub struct LatestKeys {
    offsets: HashMap<KeyDigest, QueueOffset>,
    max_keys: usize,
    /// Every message up to this one is known.
    through: Option<QueueOffset>,
}

impl LatestKeys {
    /// For messages behind `through`; takes about `memory_bytes`.
    pub fn behind(through: Option<QueueOffset>, memory_bytes: usize) -> Self {
        let max_keys = (memory_bytes / BYTES_PER_KEY).max(MIN_KEYS);
        Self { offsets: HashMap::new(), max_keys, through }
    }

    /// Takes the next message, in the order of offsets. False: there is no room for its key, nor for any message behind.
    pub fn take(&mut self, key: &str, offset: QueueOffset) -> bool {
        if self.through.is_some_and(|through| offset <= through) {
            return true;
        }
        let key = KeyDigest::of(key.as_bytes());
        if self.offsets.len() >= self.max_keys && !self.offsets.contains_key(&key) {
            return false;
        }
        self.offsets.insert(key, offset);
        self.through = Some(offset);
        true
    }

    pub fn through(&self) -> Option<QueueOffset> {
        self.through
    }

    /// Whether a message stays. What lies behind the known ones does, whatever it is.
    pub fn retains(&self, key: &str, offset: QueueOffset, has_body: bool) -> bool {
        if self.through.is_none_or(|through| offset > through) {
            return true;
        }
        let latest = self.offsets.get(&KeyDigest::of(key.as_bytes()));
        has_body && latest.is_none_or(|latest| offset >= *latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(messages: &[(&str, u64)], memory_bytes: usize) -> LatestKeys {
        let mut latest = LatestKeys::behind(None, memory_bytes);
        for (key, offset) in messages {
            latest.take(key, QueueOffset(*offset));
        }
        latest
    }

    #[test]
    fn latest_message_of_a_key_stays() {
        let latest = known(&[("a", 1), ("b", 2), ("a", 5)], 1 << 20);
        let stays = |key, offset| latest.retains(key, QueueOffset(offset), true);
        assert!(!stays("a", 1) && stays("b", 2) && stays("a", 5));
        assert!(stays("c", 0), "of an earlier round, and nothing newer came");
        assert!(!stays("b", 0));
        assert!(stays("a", 6), "not looked at yet");
    }

    #[test]
    fn message_without_a_body_takes_its_key_away_and_goes_itself() {
        let latest = known(&[("a", 1), ("a", 2)], 1 << 20);
        assert!(!latest.retains("a", QueueOffset(1), true));
        assert!(!latest.retains("a", QueueOffset(2), false));
        assert!(latest.retains("a", QueueOffset(3), false), "not looked at yet");
    }

    #[test]
    fn what_finds_no_room_stays_until_it_is_looked_at() {
        let mut latest = LatestKeys::behind(None, 0);
        for n in 0..MIN_KEYS as u64 {
            assert!(latest.take(&n.to_string(), QueueOffset(n)));
        }
        let next = QueueOffset(MIN_KEYS as u64);
        assert!(!latest.take("one more", next), "full");
        assert!(latest.retains("0", QueueOffset(0), true));
        assert!(latest.retains("one more", next, true));
        assert!(latest.take("0", next), "a key that is known takes no room");
        assert!(!latest.retains("0", QueueOffset(0), true));
    }

    #[test]
    fn messages_of_earlier_rounds_are_not_counted_again() {
        let mut latest = LatestKeys::behind(Some(QueueOffset(10)), 0);
        assert!(latest.take("a", QueueOffset(9)) && latest.through() == Some(QueueOffset(10)));
        assert!(latest.retains("a", QueueOffset(3), true));
        assert!(latest.take("a", QueueOffset(11)));
        assert!(!latest.retains("a", QueueOffset(3), true));
    }
}
