//! Who is connected (38, 203, 204, 328), and which groups use a topic (300).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::heartbeat::{ConsumeFromWhere, ConsumeType, MessageModel};
use super::subscription::SubscriptionData;
use crate::types::{ClientId, GroupName, TopicName};

/// One client of a group. RocketMQ: `Connection`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connection {
    pub client_addr: String,
    pub client_id: ClientId,
    /// Java's name of the language; an unknown one is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    pub version: i32,
}

/// The clients of a consumer group, and what the group subscribes to (203). RocketMQ: `ConsumerConnection`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerConnection {
    pub connection_set: Vec<Connection>,
    pub consume_from_where: ConsumeFromWhere,
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    pub subscription_table: BTreeMap<TopicName, SubscriptionData>,
}

/// The clients of a producer group (204). RocketMQ: `ProducerConnection`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerConnection {
    pub connection_set: Vec<Connection>,
}

/// All producers of a broker by group (328). RocketMQ: `ProducerTableInfo`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProducerTableInfo {
    pub data: BTreeMap<GroupName, Vec<ProducerInfo>>,
}

/// RocketMQ: `ProducerInfo`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerInfo {
    pub client_id: ClientId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Milliseconds since 1970 of the last heartbeat.
    pub last_update_timestamp: i64,
    /// `/ip:port`, with Java's slash.
    #[serde(rename = "remoteIP")]
    pub remote_ip: String,
    pub version: i32,
}

/// RocketMQ: `GroupList`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupList {
    pub group_list: Vec<GroupName>,
}

/// Client ids of a consumer group (38). RocketMQ: `GetConsumerListByGroupResponseBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerIdList {
    pub consumer_id_list: Vec<ClientId>,
}

/// What a group wants of a topic (345). RocketMQ: `QuerySubscriptionResponseBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuerySubscriptionResponseBody {
    pub group: GroupName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data: Option<SubscriptionData>,
    pub topic: TopicName,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;

    fn connection() -> Connection {
        Connection {
            client_addr: "10.0.0.9:51234".into(),
            client_id: "10.0.0.9@1#2".into(),
            language: Some("JAVA".into()),
            version: 479,
        }
    }

    #[test]
    fn connections_of_groups() {
        let subscription = SubscriptionData {
            sub_version: 1_700_000_000_000,
            ..SubscriptionData::parse("TopicA", "*").unwrap()
        };
        assert_golden(
            &ConsumerConnection {
                connection_set: vec![connection()],
                subscription_table: [("TopicA".into(), subscription)].into(),
                ..ConsumerConnection::default()
            },
            r#"{"connectionSet":[{"clientAddr":"10.0.0.9:51234","clientId":"10.0.0.9@1#2","language":"JAVA","version":479}],"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{"TopicA":{"classFilterMode":false,"codeSet":[],"expressionType":"TAG","subString":"*","subVersion":1700000000000,"tagsSet":[],"topic":"TopicA"}}}"#,
        );
        assert_golden(
            &ProducerConnection { connection_set: vec![connection()] },
            r#"{"connectionSet":[{"clientAddr":"10.0.0.9:51234","clientId":"10.0.0.9@1#2","language":"JAVA","version":479}]}"#,
        );
    }

    #[test]
    fn producer_table() {
        let producer = ProducerInfo {
            client_id: "c".into(),
            language: Some("GO".into()),
            last_update_timestamp: 1,
            remote_ip: "/10.0.0.9:51234".into(),
            version: 317,
        };
        assert_golden(
            &ProducerTableInfo { data: [("pg1".into(), vec![producer])].into() },
            r#"{"data":{"pg1":[{"clientId":"c","language":"GO","lastUpdateTimestamp":1,"remoteIP":"/10.0.0.9:51234","version":317}]}}"#,
        );
    }

    #[test]
    fn lists() {
        assert_golden(&GroupList { group_list: vec!["cg1".into()] }, r#"{"groupList":["cg1"]}"#);
        assert_golden(
            &ConsumerIdList { consumer_id_list: vec!["a".into(), "b".into()] },
            r#"{"consumerIdList":["a","b"]}"#,
        );
        assert_golden(
            &QuerySubscriptionResponseBody { group: "g".into(), subscription_data: None, topic: "T".into() },
            r#"{"group":"g","topic":"T"}"#,
        );
    }
}
