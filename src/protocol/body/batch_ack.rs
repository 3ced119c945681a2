//! Confirming many popped messages at once (200151).

use serde::{Deserialize, Serialize};

use crate::types::{BrokerName, GroupName, TopicName};

/// RocketMQ: `BatchAckMessageRequestBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchAckMessageRequestBody {
    pub acks: Vec<BatchAck>,
    pub broker_name: BrokerName,
}

/// Acks of one popped batch. Short names are written, long ones are read too. RocketMQ: `BatchAck`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchAck {
    /// Base64 of a little-endian bit set: bit `i` stands for queue offset `start_offset + i`.
    #[serde(rename = "b", alias = "bitSet")]
    pub bit_set: String,
    #[serde(rename = "c", alias = "consumerGroup")]
    pub consumer_group: GroupName,
    /// Milliseconds.
    #[serde(rename = "it", alias = "invisibleTime")]
    pub invisible_time: i64,
    /// Milliseconds since 1970.
    #[serde(rename = "pt", alias = "popTime")]
    pub pop_time: i64,
    #[serde(rename = "q", alias = "queueId")]
    pub queue_id: i32,
    /// Topic flag: `0` the topic itself, `1` its retry topic, `2` that of version 2.
    #[serde(rename = "r", alias = "retry")]
    pub retry: String,
    #[serde(rename = "rq", alias = "reviveQueueId")]
    pub revive_queue_id: i32,
    #[serde(rename = "so", alias = "startOffset")]
    pub start_offset: i64,
    #[serde(rename = "t", alias = "topic")]
    pub topic: TopicName,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;
    use crate::protocol::fastjson::from_slice;

    #[test]
    fn short_and_long_names() {
        let ack = BatchAck {
            bit_set: "Aw==".into(),
            consumer_group: "cg1".into(),
            invisible_time: 60_000,
            pop_time: 1_700_000_000_000,
            queue_id: 0,
            retry: "0".into(),
            revive_queue_id: 3,
            start_offset: 100,
            topic: "TopicA".into(),
        };
        let long = br#"{"consumerGroup":"cg1","topic":"TopicA","retry":0,"startOffset":100,"queueId":0,"reviveQueueId":3,"popTime":1700000000000,"invisibleTime":60000,"bitSet":"Aw=="}"#;
        assert_eq!(from_slice::<BatchAck>(long).unwrap(), ack);
        assert_golden(
            &BatchAckMessageRequestBody { acks: vec![ack], broker_name: "broker-a".into() },
            r#"{"acks":[{"b":"Aw==","c":"cg1","it":60000,"pt":1700000000000,"q":0,"r":"0","rq":3,"so":100,"t":"TopicA"}],"brokerName":"broker-a"}"#,
        );
    }
}
