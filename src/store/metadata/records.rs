//! What the tables store of settings. Kept apart from the JSON types, so that a change of the wire does
//! not silently change the files; a change here needs a new [`Record::VERSION`].

use serde::{Deserialize, Serialize};

use super::table::Record;
use crate::protocol::attributes::Attributes;
use crate::protocol::data_version::DataVersion;
use crate::protocol::subscription_group_config::{
    CustomizedRetryPolicy, ExponentialRetryPolicy, GroupRetryPolicy, GroupRetryPolicyType,
    SimpleSubscriptionData, SubscriptionGroupConfig,
};
use crate::protocol::topic_config::{Permission, TopicConfig, TopicFilterType};
use crate::types::{GroupName, QueueOffset, TopicName};

impl Record for QueueOffset {}
impl Record for DataVersion {}

/// Java's bits of what a group may not do with a topic.
impl Record for i32 {}

#[derive(Serialize, Deserialize)]
pub struct TopicRecord {
    name: TopicName,
    read_queue_nums: u32,
    write_queue_nums: u32,
    perm: i32,
    filter_type: TopicFilterType,
    sys_flag: i32,
    order: bool,
    attributes: Attributes,
}

impl Record for TopicRecord {}

impl From<&TopicConfig> for TopicRecord {
    fn from(config: &TopicConfig) -> Self {
        Self {
            name: config.topic_name.clone(),
            read_queue_nums: config.read_queue_nums,
            write_queue_nums: config.write_queue_nums,
            perm: config.perm.0,
            filter_type: config.topic_filter_type,
            sys_flag: config.topic_sys_flag,
            order: config.order,
            attributes: config.attributes.clone(),
        }
    }
}

impl From<TopicRecord> for TopicConfig {
    fn from(record: TopicRecord) -> Self {
        Self {
            attributes: record.attributes,
            order: record.order,
            perm: Permission(record.perm),
            read_queue_nums: record.read_queue_nums,
            topic_filter_type: record.filter_type,
            topic_name: record.name,
            topic_sys_flag: record.sys_flag,
            write_queue_nums: record.write_queue_nums,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub struct SubscriptionGroupRecord {
    name: GroupName,
    consume_enable: bool,
    consume_from_min_enable: bool,
    consume_broadcast_enable: bool,
    consume_message_orderly: bool,
    notify_consumer_ids_changed_enable: bool,
    retry_queue_nums: i32,
    retry_max_times: i32,
    retry_policy: RetryPolicyRecord,
    broker_id: i64,
    which_broker_when_consume_slowly: i64,
    sys_flag: i32,
    consume_timeout_minute: i32,
    subscriptions: Option<Vec<SubscriptionRecord>>,
    attributes: Attributes,
}

#[derive(Serialize, Deserialize)]
struct RetryPolicyRecord {
    kind: GroupRetryPolicyType,
    customized_ms: Option<Vec<i64>>,
    exponential: Option<ExponentialRecord>,
}

#[derive(Serialize, Deserialize)]
struct ExponentialRecord {
    initial_ms: i64,
    max_ms: i64,
    multiplier: i64,
}

#[derive(Serialize, Deserialize)]
struct SubscriptionRecord {
    topic: TopicName,
    expression_type: String,
    expression: String,
    version: i64,
}

impl Record for SubscriptionGroupRecord {}

impl From<&SubscriptionGroupConfig> for SubscriptionGroupRecord {
    fn from(config: &SubscriptionGroupConfig) -> Self {
        let subscription = |data: &SimpleSubscriptionData| SubscriptionRecord {
            topic: data.topic.clone(),
            expression_type: data.expression_type.clone(),
            expression: data.expression.clone(),
            version: data.version,
        };
        Self {
            name: config.group_name.clone(),
            consume_enable: config.consume_enable,
            consume_from_min_enable: config.consume_from_min_enable,
            consume_broadcast_enable: config.consume_broadcast_enable,
            consume_message_orderly: config.consume_message_orderly,
            notify_consumer_ids_changed_enable: config.notify_consumer_ids_changed_enable,
            retry_queue_nums: config.retry_queue_nums,
            retry_max_times: config.retry_max_times,
            retry_policy: RetryPolicyRecord::from(&config.group_retry_policy),
            broker_id: config.broker_id,
            which_broker_when_consume_slowly: config.which_broker_when_consume_slowly,
            sys_flag: config.group_sys_flag,
            consume_timeout_minute: config.consume_timeout_minute,
            subscriptions: config
                .subscription_data_set
                .as_ref()
                .map(|set| set.iter().map(subscription).collect()),
            attributes: config.attributes.clone(),
        }
    }
}

impl From<SubscriptionGroupRecord> for SubscriptionGroupConfig {
    fn from(record: SubscriptionGroupRecord) -> Self {
        let subscription = |record: SubscriptionRecord| SimpleSubscriptionData {
            expression: record.expression,
            expression_type: record.expression_type,
            topic: record.topic,
            version: record.version,
        };
        Self {
            attributes: record.attributes,
            broker_id: record.broker_id,
            consume_broadcast_enable: record.consume_broadcast_enable,
            consume_enable: record.consume_enable,
            consume_from_min_enable: record.consume_from_min_enable,
            consume_message_orderly: record.consume_message_orderly,
            consume_timeout_minute: record.consume_timeout_minute,
            group_name: record.name,
            group_retry_policy: record.retry_policy.into(),
            group_sys_flag: record.sys_flag,
            notify_consumer_ids_changed_enable: record.notify_consumer_ids_changed_enable,
            retry_max_times: record.retry_max_times,
            retry_queue_nums: record.retry_queue_nums,
            subscription_data_set: record
                .subscriptions
                .map(|set| set.into_iter().map(subscription).collect()),
            which_broker_when_consume_slowly: record.which_broker_when_consume_slowly,
        }
    }
}

impl From<&GroupRetryPolicy> for RetryPolicyRecord {
    fn from(policy: &GroupRetryPolicy) -> Self {
        Self {
            kind: policy.kind,
            customized_ms: policy.customized_retry_policy.as_ref().map(|policy| policy.next.clone()),
            exponential: policy.exponential_retry_policy.as_ref().map(|policy| ExponentialRecord {
                initial_ms: policy.initial,
                max_ms: policy.max,
                multiplier: policy.multiplier,
            }),
        }
    }
}

impl From<RetryPolicyRecord> for GroupRetryPolicy {
    fn from(record: RetryPolicyRecord) -> Self {
        Self {
            customized_retry_policy: record.customized_ms.map(|next| CustomizedRetryPolicy { next }),
            exponential_retry_policy: record.exponential.map(|record| ExponentialRetryPolicy {
                initial: record.initial_ms,
                max: record.max_ms,
                multiplier: record.multiplier,
            }),
            kind: record.kind,
        }
    }
}
