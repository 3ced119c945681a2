//! What is told of timer messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocol::data_version::DataVersion;
use crate::types::TopicName;

/// The answer to GET_TIMER_METRICS (61). RocketMQ: `TimerMetrics.TimerMetricsSerializeWrapper`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimerMetrics {
    pub data_version: DataVersion,
    pub timing_count: BTreeMap<TopicName, TimerMetric>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimerMetric {
    pub count: i64,
    /// When it was counted, milliseconds.
    pub time_stamp: i64,
}

/// The answer to LIST_TIMERS (29010). Ours: the Java broker has no such request.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimerList {
    pub timers: Vec<ListedTimer>,
    /// Pending on this broker, whatever was asked.
    pub pending: i64,
    /// Where to ask on; both are missing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<i64>,
}

/// One timer message.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListedTimer {
    pub topic: TopicName,
    /// The message id its producer was told.
    pub unique_key: String,
    pub keys: String,
    /// Wall time to deliver at, milliseconds.
    pub due_ms: i64,
    pub stored_at_ms: i64,
    pub body_bytes: usize,
    /// In the queue of the timer topic.
    pub queue_offset: u64,
    /// Of its record in the commit log.
    pub physical_offset: u64,
}
