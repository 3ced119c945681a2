//! What DESCRIBE_GROUP (29210) is answered with: why a group is where it is. Ours: the Java broker has no such request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{BrokerName, GroupName, TopicName};

/// A group on one broker, at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupDescription {
    pub group: GroupName,
    pub broker_name: BrokerName,
    pub members: Vec<MemberDescription>,
    /// What is wrong with the group as a whole, in sentences.
    pub problems: Vec<String>,
    /// Sorted by topic and queue.
    pub queues: Vec<QueueDescription>,
    /// Messages in its dead letter queue.
    pub dead_letters: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberDescription {
    pub client_id: String,
    pub addr: String,
    pub language: String,
    pub version: i32,
    /// Since its last heartbeat.
    pub silent_for_ms: u64,
    /// Topic and expression, as this member sent them last.
    pub subscriptions: BTreeMap<TopicName, String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueDescription {
    pub topic: TopicName,
    pub queue_id: u32,
    pub min_offset: u64,
    pub max_offset: u64,
    /// The next offset to consume; none was ever committed without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer_offset: Option<u64>,
    pub lag: u64,
    /// Nothing will move here unless somebody does something.
    pub stuck: bool,
    /// Why the queue is where it is, in a sentence.
    pub cause: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<QueueHolder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_pull: Option<LastPull>,
    /// Since the consumer offset moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_ago_ms: Option<u64>,
    /// The next message to consume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stands_at: Option<StandsAt>,
}

/// Who may consume the queue in order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueHolder {
    pub client_id: String,
    pub for_ms: u64,
    pub renewed_ago_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastPull {
    /// Client id, or the address of one that is no member.
    pub by: String,
    pub ago_ms: u64,
    pub offset: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StandsAt {
    pub offset: u64,
    pub message_id: String,
    pub offset_message_id: String,
    pub keys: String,
    pub tag: String,
    pub stored_at_ms: i64,
    pub age_ms: u64,
    pub retries: i32,
}
