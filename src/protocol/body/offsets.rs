//! Consumer offsets: resets (220, 222), what clients hold (221, 223), and tables for slaves (43, 45).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocol::data_version::DataVersion;
use crate::protocol::fastjson::QueueMap;
use crate::types::{BrokerName, ClientId, MessageQueue, TopicName};

/// New offsets by queue. RocketMQ: `ResetOffsetBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetOffsetBody {
    pub offset_table: QueueMap<i64>,
}

/// The same for C++ consumers, who cannot read objects as keys. RocketMQ: `ResetOffsetBodyForC`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetOffsetBodyForC {
    pub offset_table: Vec<MessageQueueForC>,
}

/// A queue and its offset in one. RocketMQ: `MessageQueueForC`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageQueueForC {
    pub broker_name: BrokerName,
    pub offset: i64,
    pub queue_id: i32,
    pub topic: TopicName,
}

impl From<&ResetOffsetBody> for ResetOffsetBodyForC {
    fn from(body: &ResetOffsetBody) -> Self {
        let entry = |(queue, offset): (&MessageQueue, &i64)| MessageQueueForC {
            broker_name: queue.broker_name.clone(),
            offset: *offset,
            queue_id: queue.queue_id,
            topic: queue.topic.clone(),
        };
        Self { offset_table: body.offset_table.iter().map(entry).collect() }
    }
}

/// Offsets that clients hold: of one client in its answer to 221, by client in the answer to 223.
/// RocketMQ: `GetConsumerStatusBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetConsumerStatusBody {
    pub consumer_table: BTreeMap<ClientId, QueueMap<i64>>,
    pub message_queue_table: QueueMap<i64>,
}

/// Every consumer offset of a broker (43). RocketMQ: `ConsumerOffsetSerializeWrapper`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerOffsetSerializeWrapper {
    pub data_version: DataVersion,
    /// `topic@group` to queue id to consumer offset.
    pub offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// How far each delay level is delivered (45). RocketMQ: `DelayOffsetSerializeWrapper`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DelayOffsetSerializeWrapper {
    pub data_version: DataVersion,
    /// Delay level to queue offset.
    pub offset_table: BTreeMap<i32, i64>,
}

/// The smallest offsets among groups (308). RocketMQ: `QueryCorrectionOffsetBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryCorrectionOffsetBody {
    /// Queue id to offset.
    pub correction_offsets: BTreeMap<i32, i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;
    use crate::protocol::fastjson::from_slice;

    fn offsets() -> QueueMap<i64> {
        let queue = MessageQueue { broker_name: "b".into(), queue_id: 0, topic: "T".into() };
        [(queue, 5)].into_iter().collect()
    }

    #[test]
    fn reset_for_java_and_for_cpp() {
        let body = ResetOffsetBody { offset_table: offsets() };
        assert_golden(&body, r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:5}}"#);
        assert_golden(
            &ResetOffsetBodyForC::from(&body),
            r#"{"offsetTable":[{"brokerName":"b","offset":5,"queueId":0,"topic":"T"}]}"#,
        );
    }

    #[test]
    fn status_of_a_client_and_of_all() {
        let body = GetConsumerStatusBody {
            consumer_table: [("c".into(), offsets())].into(),
            message_queue_table: QueueMap::default(),
        };
        assert_golden(
            &body,
            r#"{"consumerTable":{"c":{{"brokerName":"b","queueId":0,"topic":"T"}:5}},"messageQueueTable":{}}"#,
        );
        let answer = br#"{"messageQueueTable":{{"brokerName":"b","queueId":0,"topic":"T"}:5}}"#;
        let status: GetConsumerStatusBody = from_slice(answer).unwrap();
        assert_eq!(status.message_queue_table, offsets());
    }

    #[test]
    fn tables_for_slaves() {
        let data_version = DataVersion { counter: 1, state_version: 0, timestamp: 2 };
        let consumer = ConsumerOffsetSerializeWrapper {
            data_version,
            offset_table: [("T@g".to_owned(), BTreeMap::from([(0, 12)]))].into(),
        };
        let text =
            r#"{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":2},"offsetTable":{"T@g":{"0":12}}}"#;
        assert_golden(&consumer, text);
        let bare = text.replace(r#""0""#, "0");
        assert_eq!(from_slice::<ConsumerOffsetSerializeWrapper>(bare.as_bytes()).unwrap(), consumer);
        assert_golden(
            &DelayOffsetSerializeWrapper { data_version, offset_table: [(3, 100)].into() },
            r#"{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":2},"offsetTable":{"3":100}}"#,
        );
        assert_golden(
            &QueryCorrectionOffsetBody { correction_offsets: [(0, 7)].into() },
            r#"{"correctionOffsets":{"0":7}}"#,
        );
    }
}
