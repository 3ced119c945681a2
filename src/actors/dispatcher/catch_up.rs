//! What a start derives again although a check point has passed it: files that were taken away.

use std::collections::HashSet;

use crate::collections::HashMap;
use crate::store::derived_check::{Missing, MissingQueues};
use crate::types::{PhysicalOffset, QueueId, TopicName};

/// Which records below `until` still matter, and to whom. At and beyond it all do.
#[derive(Debug)]
pub struct CatchUp {
    until: PhysicalOffset,
    /// `None`: all of them.
    queues: Option<HashMap<TopicName, HashMap<QueueId, PhysicalOffset>>>,
    index_from: Option<PhysicalOffset>,
    timers_from: Option<PhysicalOffset>,
}

impl CatchUp {
    /// `None` when nothing is missing.
    pub fn of(missing: &Missing, until: PhysicalOffset) -> Option<Self> {
        if missing.is_nothing() {
            return None;
        }
        let queues = match &missing.queues {
            MissingQueues::All => None,
            MissingQueues::Some(lost) => {
                let mut queues: HashMap<TopicName, HashMap<QueueId, PhysicalOffset>> = HashMap::default();
                for ((topic, queue_id), begins_at) in lost {
                    queues.entry(topic.clone()).or_default().insert(*queue_id, *begins_at);
                }
                Some(queues)
            }
        };
        Some(Self { until, queues, index_from: missing.index_from, timers_from: missing.timers_from })
    }

    pub fn until(&self) -> PhysicalOffset {
        self.until
    }

    pub fn wants_unit(&self, at: PhysicalOffset, topic: &str, queue_id: QueueId) -> bool {
        let Some(queues) = self.queues.as_ref().filter(|_| at < self.until) else { return true };
        let begins_at = queues.get(topic).and_then(|queues| queues.get(&queue_id));
        begins_at.is_some_and(|begins_at| at >= *begins_at)
    }

    pub fn wants_keys(&self, at: PhysicalOffset) -> bool {
        at >= self.until || self.index_from.is_some_and(|from| at >= from)
    }

    pub fn wants_timers(&self, at: PhysicalOffset) -> bool {
        at >= self.until || self.timers_from.is_some_and(|from| at >= from)
    }
}

/// Records that recovery found damaged, though their fields can be read: their numbers become gaps.
pub type Damaged = HashSet<PhysicalOffset>;
