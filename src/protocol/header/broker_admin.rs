//! Administration of a broker.

use super::field::header;
use crate::types::{GroupName, TopicName};

header! {
    /// The answer to GET_BROKER_CONFIG (26).
    pub struct BrokerConfigResponse {
        /// A DataVersion as JSON.
        pub version: String => "version",
    }

    /// VIEW_BROKER_STATS_DATA (315).
    pub struct ViewBrokerStats {
        pub stats_name: String => "statsName",
        pub stats_key: String => "statsKey",
    }

    /// DRAIN_BROKER (29001).
    pub struct DrainBroker {
        /// drain, undo or show.
        pub action: String => "action",
    }

    /// EXPLAIN_MESSAGE (29002).
    pub struct ExplainMessage {
        /// An offset message id, or a unique key.
        pub message_id: String => "messageId",
        /// Where to look for a unique key; everywhere if it is not said.
        pub topic: Option<TopicName> => "topic",
        /// The group to tell of; all that consume the topic if it is not said.
        pub consumer_group: Option<GroupName> => "consumerGroup",
    }

    /// LIST_ACTORS (29003).
    pub struct ListActors {
        /// What their names begin with.
        pub name: String => "name" or String::new(),
        /// tree, depth, busy, handled or longest.
        pub sort: String => "sort" or "tree".to_owned(),
        pub max: i32 => "max" or 100,
        /// Whether each tells of itself.
        pub facts: bool => "facts" or false,
        /// Whether their last messages are told.
        pub recorder: bool => "recorder" or false,
    }

    /// LIST_TRANSACTIONS (29101).
    pub struct ListTransactionsHeader {
        /// Queue offset of the first half message that is looked at.
        pub from: i64 => "from" or 0,
        pub group: Option<GroupName> => "group",
        pub topic: Option<TopicName> => "topic",
        pub transaction_id: Option<String> => "transactionId",
        pub min_age_ms: i64 => "minAgeMs" or 0,
        pub max: i32 => "max" or 100,
    }

    /// DECIDE_TRANSACTION (29102).
    pub struct DecideTransactionHeader {
        /// Queue offset of the half message.
        pub half_offset: i64 => "halfOffset",
        /// commit or rollback.
        pub decision: String => "decision",
    }

    /// QUERY_CONSUME_QUEUE (321).
    pub struct QueryConsumeQueue {
        pub topic: TopicName => "topic",
        pub queue_id: i32 => "queueId",
        /// Queue offset.
        pub index: i64 => "index" or 0,
        pub count: i32 => "count" or 10,
        pub consumer_group: Option<GroupName> => "consumerGroup",
    }
}
