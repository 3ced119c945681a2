//! Who consumes which queue, and by pull or pop (400, 401, 402).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::heartbeat::MessageModel;
use super::java_enum::java_enum;
use crate::types::{ClientId, GroupName, MessageQueue, TopicName};

java_enum! {
    /// How a group takes the messages of a topic. RocketMQ: `MessageRequestMode`.
    MessageRequestMode {
        #[default]
        Pull = "PULL",
        Pop = "POP",
    }
}

/// Asks for the queues of one client (400). RocketMQ: `QueryAssignmentRequestBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryAssignmentRequestBody {
    pub client_id: ClientId,
    pub consumer_group: GroupName,
    pub message_model: MessageModel,
    /// `AVG`, `AVG_BY_CIRCLE`, or one this broker does not know.
    pub strategy_name: String,
    pub topic: TopicName,
}

/// RocketMQ: `QueryAssignmentResponseBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryAssignmentResponseBody {
    /// None: the client keeps what it has. Empty: it drops every queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_queue_assignments: Option<Vec<MessageQueueAssignment>>,
}

/// RocketMQ: `MessageQueueAssignment`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueueAssignment {
    /// Queue id -1 stands for all queues of the broker, by pop.
    pub message_queue: MessageQueue,
    #[serde(default)]
    pub mode: MessageRequestMode,
}

/// Sets how a group takes a topic (401), and an entry of 402. RocketMQ: `SetMessageRequestModeRequestBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SetMessageRequestModeRequestBody {
    pub consumer_group: GroupName,
    pub mode: MessageRequestMode,
    /// How many other clients' queues a client pops from too; 0 and below: all.
    pub pop_share_queue_num: i32,
    pub topic: TopicName,
}

/// All modes that were set, for slaves (402). RocketMQ: `MessageRequestModeSerializeWrapper`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageRequestModeSerializeWrapper {
    /// Topic to group to mode.
    pub message_request_mode_map: BTreeMap<TopicName, BTreeMap<GroupName, SetMessageRequestModeRequestBody>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;

    #[test]
    fn assignment_request_and_response() {
        assert_golden(
            &QueryAssignmentRequestBody {
                client_id: "c".into(),
                consumer_group: "g".into(),
                message_model: MessageModel::Clustering,
                strategy_name: "AVG".into(),
                topic: "T".into(),
            },
            r#"{"clientId":"c","consumerGroup":"g","messageModel":"CLUSTERING","strategyName":"AVG","topic":"T"}"#,
        );
        let assignment = MessageQueueAssignment {
            message_queue: MessageQueue { broker_name: "b".into(), queue_id: -1, topic: "T".into() },
            mode: MessageRequestMode::Pop,
        };
        assert_golden(
            &QueryAssignmentResponseBody { message_queue_assignments: Some(vec![assignment]) },
            r#"{"messageQueueAssignments":[{"messageQueue":{"brokerName":"b","queueId":-1,"topic":"T"},"mode":"POP"}]}"#,
        );
        assert_golden(&QueryAssignmentResponseBody::default(), "{}");
    }

    #[test]
    fn request_modes() {
        let mode = SetMessageRequestModeRequestBody {
            consumer_group: "g".into(),
            mode: MessageRequestMode::Pop,
            pop_share_queue_num: 0,
            topic: "T".into(),
        };
        let text = r#"{"consumerGroup":"g","mode":"POP","popShareQueueNum":0,"topic":"T"}"#;
        assert_golden(&mode, text);
        assert_golden(
            &MessageRequestModeSerializeWrapper {
                message_request_mode_map: [("T".into(), [("g".into(), mode)].into())].into(),
            },
            &format!(r#"{{"messageRequestModeMap":{{"T":{{"g":{text}}}}}}}"#),
        );
    }
}
