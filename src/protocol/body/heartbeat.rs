//! What a client tells every broker at least every 30 seconds (codes 34 and 46).

use serde::{Deserialize, Serialize};

use super::java_enum::java_enum;
use super::subscription::SubscriptionData;
use crate::types::{ClientId, GroupName};

/// Everything one client produces and consumes. RocketMQ: `HeartbeatData`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeartbeatData {
    #[serde(rename = "clientID")]
    pub client_id: ClientId,
    pub consumer_data_set: Vec<ConsumerData>,
    /// Not 0: heartbeat V2, a hash of the subscriptions.
    pub heartbeat_fingerprint: i32,
    pub producer_data_set: Vec<ProducerData>,
    /// V2: subscriptions are left out, only liveness is refreshed.
    pub without_sub: bool,
}

/// One producer group of the client. RocketMQ: `ProducerData`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    pub group_name: GroupName,
}

/// One consumer group of the client. RocketMQ: `ConsumerData`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    pub consume_from_where: ConsumeFromWhere,
    pub consume_type: ConsumeType,
    pub group_name: GroupName,
    pub message_model: MessageModel,
    pub subscription_data_set: Vec<SubscriptionData>,
    pub unit_mode: bool,
}

java_enum! {
    /// Who moves the messages. RocketMQ: `ConsumeType`.
    ConsumeType {
        /// Pull and lite pull.
        Actively = "CONSUME_ACTIVELY",
        /// Push.
        #[default]
        Passively = "CONSUME_PASSIVELY",
        Pop = "CONSUME_POP",
    }
}

java_enum! {
    /// Whether every client of the group gets every message, or they share them. RocketMQ: `MessageModel`.
    MessageModel {
        Broadcasting = "BROADCASTING",
        #[default]
        Clustering = "CLUSTERING",
    }
}

java_enum! {
    /// Where a group without consumer offsets begins. RocketMQ: `ConsumeFromWhere`.
    ConsumeFromWhere {
        #[default]
        LastOffset = "CONSUME_FROM_LAST_OFFSET",
        /// Deprecated; as the last offset.
        LastOffsetAndFromMinWhenBootFirst = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
        /// Deprecated; as the last offset.
        MinOffset = "CONSUME_FROM_MIN_OFFSET",
        /// Deprecated; as the last offset.
        MaxOffset = "CONSUME_FROM_MAX_OFFSET",
        FirstOffset = "CONSUME_FROM_FIRST_OFFSET",
        Timestamp = "CONSUME_FROM_TIMESTAMP",
    }
}

/// Asks whether an expression compiles (code 46). RocketMQ: `CheckClientRequestBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckClientRequestBody {
    pub client_id: ClientId,
    pub group: GroupName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub subscription_data: SubscriptionData,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;
    use crate::protocol::fastjson::from_slice;

    fn example() -> HeartbeatData {
        let subscription = SubscriptionData {
            sub_version: 1_700_000_000_000,
            ..SubscriptionData::parse("TopicA", "QX").unwrap()
        };
        HeartbeatData {
            client_id: "10.0.0.5@4242#7711".into(),
            producer_data_set: vec![ProducerData { group_name: "pg1".into() }],
            consumer_data_set: vec![ConsumerData {
                group_name: "cg1".into(),
                subscription_data_set: vec![subscription],
                ..ConsumerData::default()
            }],
            ..HeartbeatData::default()
        }
    }

    #[test]
    fn heartbeat_of_java() {
        assert_golden(
            &example(),
            r#"{"clientID":"10.0.0.5@4242#7711","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"cg1","messageModel":"CLUSTERING","subscriptionDataSet":[{"classFilterMode":false,"codeSet":[2599],"expressionType":"TAG","subString":"QX","subVersion":1700000000000,"tagsSet":["QX"],"topic":"TopicA"}],"unitMode":false}],"heartbeatFingerprint":0,"producerDataSet":[{"groupName":"pg1"}],"withoutSub":false}"#,
        );
    }

    #[test]
    fn heartbeat_of_cpp_has_ordinals_strings_and_gaps() {
        let text = br#"{
   "clientID" : "10.0.0.5@4242#7711",
   "consumerDataSet" : [ {
         "consumeFromWhere" : "4", "consumeType" : 1, "groupName" : "cg1", "messageModel" : 0,
         "subscriptionDataSet" : [ { "subString" : "QX", "subVersion" : "1700000000000", "topic" : "TopicA" } ] } ],
   "producerDataSet" : [ { "groupName" : "pg1" } ]
}
"#;
        let heartbeat: HeartbeatData = from_slice(text).unwrap();
        let group = &heartbeat.consumer_data_set[0];
        assert_eq!(group.consume_from_where, ConsumeFromWhere::FirstOffset);
        assert_eq!(group.consume_type, ConsumeType::Passively);
        assert_eq!(group.message_model, MessageModel::Broadcasting);
        let subscription = group.subscription_data_set[0].clone().with_codes();
        assert_eq!(subscription, example().consumer_data_set[0].subscription_data_set[0]);
    }

    #[test]
    fn unknown_enum_values_take_the_default() {
        for value in ["\"CONSUME_FROM_TOMORROW\"", "99", "-1", "null", "{}", "\"x\""] {
            let text = format!(r#"{{"consumeFromWhere":{value},"messageModel":{value}}}"#);
            let group: ConsumerData = from_slice(text.as_bytes()).unwrap();
            assert_eq!(group, ConsumerData::default());
        }
    }

    #[test]
    fn null_sets_are_empty() {
        let heartbeat: HeartbeatData =
            from_slice(br#"{"clientID":"c","consumerDataSet":null,"producerDataSet":[{"groupName":"pg1"}]}"#)
                .unwrap();
        assert_eq!((heartbeat.consumer_data_set.len(), heartbeat.producer_data_set.len()), (0, 1));
    }

    #[test]
    fn check_client_request() {
        assert_golden(
            &CheckClientRequestBody {
                client_id: "c".into(),
                group: "g".into(),
                namespace: None,
                subscription_data: SubscriptionData::build("T", "a > 1", "SQL92").unwrap(),
            },
            r#"{"clientId":"c","group":"g","subscriptionData":{"classFilterMode":false,"codeSet":[],"expressionType":"SQL92","subString":"a > 1","subVersion":0,"tagsSet":[],"topic":"T"}}"#,
        );
    }
}
