//! Figures of topics, groups, queues and the broker, for admin tools.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::subscription::SubscriptionData;
use crate::protocol::fastjson::QueueMap;
use crate::types::{GroupName, MessageQueue};

/// Offsets of every queue of a topic (202). RocketMQ: `TopicStatsTable`.
///
/// ```
/// use telstar::client::Call;
/// use telstar::protocol::{RequestCode, TopicHeader, TopicStatsTable};
/// use telstar::testing::{Scenario, calls::send_to};
///
/// # #[actix::main]
/// # async fn main() -> Result<(), telstar::client::ClientError> {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 2).start().await;
/// let mut shop = broker.client("shop");
/// shop.succeed(send_to("orders", 1, "pay 7")).await;
/// let stats = Call::new(RequestCode::GET_TOPIC_STATS_INFO).header(&TopicHeader { topic: "orders".into() });
/// let stats: TopicStatsTable = shop.succeed(stats).await.json()?;
/// let mut queues = stats.offset_table.iter().map(|(queue, offsets)| (queue.queue_id, offsets.max_offset));
/// assert!(queues.eq([(0, 0), (1, 1)]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStatsTable {
    /// Of each queue.
    pub offset_table: QueueMap<TopicOffset>,
    /// Messages per second into the topic.
    pub topic_put_tps: f64,
}

/// How far one queue reaches. RocketMQ: `TopicOffset`.
///
/// ```
/// use telstar::protocol::TopicOffset;
///
/// let offsets = TopicOffset { min_offset: 3, max_offset: 10, last_update_timestamp: 1_700_000_000_000 };
/// assert_eq!(offsets.max_offset - offsets.min_offset, 7); // messages that can be read
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicOffset {
    /// Milliseconds since 1970 of the last message, 0 for none.
    pub last_update_timestamp: i64,
    /// Half-open: the queue holds `[minOffset, maxOffset)`.
    pub max_offset: i64,
    /// The oldest message that is still there.
    pub min_offset: i64,
}

/// How far a group is, queue by queue (208). RocketMQ: `ConsumeStats`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStats {
    /// Messages per second out of the broker.
    pub consume_tps: f64,
    pub offset_table: QueueMap<OffsetWrapper>,
}

/// RocketMQ: `OffsetWrapper`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OffsetWrapper {
    /// Max offset of the queue.
    pub broker_offset: i64,
    pub consumer_offset: i64,
    /// Milliseconds since 1970: when the message before the consumer offset was stored.
    pub last_timestamp: i64,
    /// Next offset to be pulled.
    pub pull_offset: i64,
}

/// Begins the keys, in the answer to 28, of what retention deleted before a group consumed it; `GROUP@TOPIC` ends them.
/// Ours.
pub const LOSS_PREFIX: &str = "unconsumedDeleted_";

/// All groups of a broker (317). RocketMQ: `ConsumeStatsList`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStatsList {
    pub broker_addr: String,
    /// One map per group, with one entry: the group's stats by topic.
    pub consume_stats_list: Vec<BTreeMap<GroupName, Vec<ConsumeStats>>>,
    pub total_diff: i64,
    pub total_inflight_diff: i64,
}

/// Times of what a group has still to consume (303). RocketMQ: `QueryConsumeTimeSpanBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryConsumeTimeSpanBody {
    pub consume_time_span_set: Vec<QueueTimeSpan>,
}

/// All times in milliseconds since 1970. RocketMQ: `QueueTimeSpan`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueTimeSpan {
    /// When the last consumed message was stored.
    #[serde(default)]
    pub consume_time_stamp: i64,
    /// Milliseconds that the group is behind.
    #[serde(default)]
    pub delay_time: i64,
    #[serde(default)]
    pub max_time_stamp: i64,
    pub message_queue: MessageQueue,
    #[serde(default)]
    pub min_time_stamp: i64,
}

/// Units of a consume queue as they are stored (321). RocketMQ: `QueryConsumeQueueResponseBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryConsumeQueueResponseBody {
    /// Text about the group's filter, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_data: Option<String>,
    pub max_queue_index: i64,
    pub min_queue_index: i64,
    pub queue_data: Vec<ConsumeQueueData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data: Option<SubscriptionData>,
}

/// One unit. RocketMQ: `ConsumeQueueData`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeQueueData {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bit_map: Option<String>,
    /// Whether the group's filter takes the message.
    pub eval: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extend_data_json: Option<String>,
    /// Why the message could not be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg: Option<String>,
    pub physic_offset: i64,
    /// Bytes.
    pub physic_size: i32,
    pub tags_code: i64,
}

/// One counter over three windows (315). RocketMQ: `BrokerStatsData`.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerStatsData {
    pub stats_day: BrokerStatsItem,
    pub stats_hour: BrokerStatsItem,
    pub stats_minute: BrokerStatsItem,
}

/// RocketMQ: `BrokerStatsItem`.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BrokerStatsItem {
    /// Average per time that something was counted.
    pub avgpt: f64,
    pub sum: i64,
    /// Per second.
    pub tps: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;

    fn queue() -> MessageQueue {
        MessageQueue { broker_name: "broker-a".into(), queue_id: 0, topic: "TopicA".into() }
    }

    fn consume_stats() -> ConsumeStats {
        let offsets = OffsetWrapper {
            broker_offset: 10,
            consumer_offset: 8,
            last_timestamp: 1_700_000_000_000,
            pull_offset: 8,
        };
        ConsumeStats { consume_tps: 1.5, offset_table: [(queue(), offsets)].into_iter().collect() }
    }

    #[test]
    fn topic_stats() {
        let offsets = TopicOffset { last_update_timestamp: 1_700_000_000_000, max_offset: 10, min_offset: 0 };
        assert_golden(
            &TopicStatsTable { offset_table: [(queue(), offsets)].into_iter().collect(), topic_put_tps: 0.5 },
            r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"TopicA"}:{"lastUpdateTimestamp":1700000000000,"maxOffset":10,"minOffset":0}},"topicPutTps":0.5}"#,
        );
    }

    #[test]
    fn consume_stats_of_a_group_and_of_all() {
        let text = r#"{"consumeTps":1.5,"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"TopicA"}:{"brokerOffset":10,"consumerOffset":8,"lastTimestamp":1700000000000,"pullOffset":8}}}"#;
        assert_golden(&consume_stats(), text);
        let list = ConsumeStatsList {
            broker_addr: "10.0.0.1:10911".into(),
            consume_stats_list: vec![[(GroupName::from("cg1"), vec![consume_stats()])].into()],
            total_diff: 2,
            total_inflight_diff: 0,
        };
        assert_golden(
            &list,
            &format!(
                r#"{{"brokerAddr":"10.0.0.1:10911","consumeStatsList":[{{"cg1":[{text}]}}],"totalDiff":2,"totalInflightDiff":0}}"#
            ),
        );
    }

    #[test]
    fn consume_time_span() {
        let span = QueueTimeSpan {
            consume_time_stamp: 3,
            delay_time: 1,
            max_time_stamp: 4,
            message_queue: queue(),
            min_time_stamp: 2,
        };
        assert_golden(
            &QueryConsumeTimeSpanBody { consume_time_span_set: vec![span] },
            r#"{"consumeTimeSpanSet":[{"consumeTimeStamp":3,"delayTime":1,"maxTimeStamp":4,"messageQueue":{"brokerName":"broker-a","queueId":0,"topic":"TopicA"},"minTimeStamp":2}]}"#,
        );
    }

    #[test]
    fn consume_queue_units() {
        assert_golden(
            &QueryConsumeQueueResponseBody {
                max_queue_index: 10,
                queue_data: vec![ConsumeQueueData { physic_size: 200, ..ConsumeQueueData::default() }],
                ..QueryConsumeQueueResponseBody::default()
            },
            r#"{"maxQueueIndex":10,"minQueueIndex":0,"queueData":[{"eval":false,"physicOffset":0,"physicSize":200,"tagsCode":0}]}"#,
        );
    }

    #[test]
    fn broker_stats() {
        assert_golden(
            &BrokerStatsData::default(),
            r#"{"statsDay":{"avgpt":0.0,"sum":0,"tps":0.0},"statsHour":{"avgpt":0.0,"sum":0,"tps":0.0},"statsMinute":{"avgpt":0.0,"sum":0,"tps":0.0}}"#,
        );
    }
}
