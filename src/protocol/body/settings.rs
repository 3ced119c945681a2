//! Settings of topics and groups as admin tools and slaves see them (18, 201, 225, 351, 353).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::data_version::DataVersion;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::protocol::topic_config::TopicConfig;
use crate::types::{GroupName, TopicName};

/// One topic (351). RocketMQ: `TopicConfigAndQueueMapping`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfigAndQueueMapping {
    #[serde(flatten)]
    pub topic_config: TopicConfig,
    /// Static topics: `TopicQueueMappingDetail`, kept as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping_detail: Option<Value>,
}

/// Topics to create or alter together (18). RocketMQ: `CreateTopicListRequestBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateTopicListRequestBody {
    pub topic_config_list: Vec<TopicConfig>,
}

/// Groups to create or alter together (225). RocketMQ: `SubscriptionGroupList`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupList {
    pub group_config_list: Vec<SubscriptionGroupConfig>,
}

/// The groups of a broker (201). RocketMQ: `SubscriptionGroupWrapper`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupWrapper {
    pub data_version: DataVersion,
    /// Group to topic to bits; 4 forbids to read.
    pub forbidden_table: BTreeMap<GroupName, BTreeMap<TopicName, i32>>,
    pub subscription_group_table: BTreeMap<GroupName, SubscriptionGroupConfig>,
}

/// Whether a group may read a topic (353). RocketMQ: `GroupForbidden`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupForbidden {
    pub group: GroupName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readable: Option<bool>,
    pub topic: TopicName,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;

    #[test]
    fn topic_with_and_without_mapping() {
        let plain =
            TopicConfigAndQueueMapping { topic_config: TopicConfig::new("T", 8), mapping_detail: None };
        let text = r#"{"attributes":{},"order":false,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":8}"#;
        assert_golden(&plain, text);
        let mapped = TopicConfigAndQueueMapping {
            mapping_detail: Some(serde_json::json!({"bname":"b","totalQueues":8})),
            ..plain
        };
        let text = text.replace(
            r#""writeQueueNums":8"#,
            r#""writeQueueNums":8,"mappingDetail":{"bname":"b","totalQueues":8}"#,
        );
        assert_golden(&mapped, &text);
    }

    #[test]
    fn groups_of_a_broker() {
        let wrapper = SubscriptionGroupWrapper {
            data_version: DataVersion { counter: 1, state_version: 0, timestamp: 1_700_000_000_000 },
            forbidden_table: [("cg1".into(), [("T".into(), 4)].into())].into(),
            subscription_group_table: [("cg1".into(), SubscriptionGroupConfig::new("cg1"))].into(),
        };
        assert_golden(
            &wrapper,
            r#"{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":1700000000000},"forbiddenTable":{"cg1":{"T":4}},"subscriptionGroupTable":{"cg1":{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"cg1","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}}}"#,
        );
    }

    #[test]
    fn lists_to_create() {
        assert_golden(&CreateTopicListRequestBody::default(), r#"{"topicConfigList":[]}"#);
        assert_golden(&SubscriptionGroupList::default(), r#"{"groupConfigList":[]}"#);
        assert_golden(
            &GroupForbidden { group: "g".into(), readable: Some(false), topic: "T".into() },
            r#"{"group":"g","readable":false,"topic":"T"}"#,
        );
    }
}
