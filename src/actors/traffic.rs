//! Counting what passes, seen from the hot path: a counter is looked up once and bumped without a lock.

use std::fmt::Debug;
use std::sync::Arc;

use crate::types::{GroupName, TopicName};

/// Counts messages and their bytes.
pub trait Counter: Send + Sync + Debug {
    fn add(&self, messages: u64, bytes: u64);
}

/// Hands out counters.
pub trait Traffic: Send + Sync {
    /// What is stored in a topic.
    fn counter_of_topic(&self, topic: &TopicName) -> Arc<dyn Counter>;
    /// What a group gets of a topic.
    fn counter_of_group(&self, topic: &TopicName, group: &GroupName) -> Arc<dyn Counter>;
    /// A send was refused by the store.
    fn put_failed(&self);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncounted;

impl Counter for Uncounted {
    fn add(&self, _: u64, _: u64) {}
}

impl Traffic for Uncounted {
    fn counter_of_topic(&self, _: &TopicName) -> Arc<dyn Counter> {
        Arc::new(Uncounted)
    }

    fn counter_of_group(&self, _: &TopicName, _: &GroupName) -> Arc<dyn Counter> {
        Arc::new(Uncounted)
    }

    fn put_failed(&self) {}
}
