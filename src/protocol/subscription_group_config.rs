//! Settings of one consumer group on one broker, with Java's JSON names.
//!
//! RocketMQ: `SubscriptionGroupConfig`, `GroupRetryPolicy`, `SimpleSubscriptionData`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::attributes::{self, AttributeError, Attributes};
use super::topic_config::null_is_default;
use crate::types::{GroupName, TopicName};

/// Settings of one group. Unknown JSON fields are ignored, missing ones take the default.
///
/// ```
/// use telstar::protocol::SubscriptionGroupConfig;
/// use telstar::testing::{Scenario, calls::create_group};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").start().await;
/// let payers = SubscriptionGroupConfig { retry_max_times: 3, ..SubscriptionGroupConfig::new("payers") };
/// assert!(payers.consume_enable);
/// broker.client("admin").succeed(create_group(&payers)).await;
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupConfig {
    /// Further settings by name, such as `consumed.window.ms`.
    #[serde(deserialize_with = "null_is_default")]
    pub attributes: Attributes,
    /// Broker to pull from as long as the consumer keeps up; 0 is the master.
    pub broker_id: i64,
    /// Whether members may consume everything each.
    pub consume_broadcast_enable: bool,
    /// Whether it may consume at all.
    pub consume_enable: bool,
    /// Whether it may begin with the oldest message; kept, and not looked at.
    pub consume_from_min_enable: bool,
    /// Whether each queue is consumed in order; kept, and not looked at.
    pub consume_message_orderly: bool,
    /// Minutes that consuming a message may take; kept, and not looked at.
    pub consume_timeout_minute: i32,
    /// Its name.
    pub group_name: GroupName,
    /// How long messages that were given back wait.
    #[serde(deserialize_with = "null_is_default")]
    pub group_retry_policy: GroupRetryPolicy,
    /// Bits of Java's about units of a data centre; kept, and not looked at.
    pub group_sys_flag: i32,
    /// Whether members are told when others come and go.
    pub notify_consumer_ids_changed_enable: bool,
    /// How often a message is tried again before it is a dead letter.
    pub retry_max_times: i32,
    /// Queues of the retry topic; 0 lets a send-back succeed and lose the message, as in Java.
    pub retry_queue_nums: i32,
    /// What the group may subscribe to, when that is laid down on the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data_set: Option<Vec<SimpleSubscriptionData>>,
    /// Broker to pull from once the consumer has fallen behind what memory holds.
    pub which_broker_when_consume_slowly: i64,
}

impl Default for SubscriptionGroupConfig {
    fn default() -> Self {
        Self {
            attributes: Attributes::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: GroupName::from(""),
            group_retry_policy: GroupRetryPolicy::default(),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            subscription_data_set: None,
            which_broker_when_consume_slowly: 1,
        }
    }
}

impl SubscriptionGroupConfig {
    /// The settings that a group has when nobody gives it any.
    pub fn new(group_name: impl Into<GroupName>) -> Self {
        Self { group_name: group_name.into(), ..Self::default() }
    }

    /// The settings to store when `asked` (whose attributes carry signs) is to replace `current`.
    #[doc(hidden)]
    pub fn altered(
        current: Option<&SubscriptionGroupConfig>,
        asked: SubscriptionGroupConfig,
    ) -> Result<SubscriptionGroupConfig, AttributeError> {
        let nothing = Attributes::new();
        let (alteration, attributes) = match current {
            Some(current) => (attributes::Alteration::Change, &current.attributes),
            None => (attributes::Alteration::Creation, &nothing),
        };
        let attributes =
            attributes::alter(attributes::GROUP_ATTRIBUTES, alteration, attributes, &asked.attributes)?;
        Ok(SubscriptionGroupConfig { attributes, ..asked })
    }
}

/// One subscription that the broker prescribes for a group.
///
/// ```
/// use telstar::protocol::{SimpleSubscriptionData, SubscriptionGroupConfig};
///
/// let orders = SimpleSubscriptionData { topic: "orders".into(), ..SimpleSubscriptionData::default() };
/// assert_eq!((&*orders.expression, &*orders.expression_type), ("*", "TAG"));
/// let payers = SubscriptionGroupConfig {
///     subscription_data_set: Some(vec![orders]),
///     ..SubscriptionGroupConfig::new("payers")
/// };
/// assert!(serde_json::to_string(&payers)?.contains("subscriptionDataSet"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SimpleSubscriptionData {
    /// As a consumer would write it.
    pub expression: String,
    /// [`TAG`](super::TAG) or [`SQL92`](super::SQL92).
    pub expression_type: String,
    /// What is subscribed to.
    pub topic: TopicName,
    /// When it was laid down, ms since 1970.
    pub version: i64,
}

impl Default for SimpleSubscriptionData {
    fn default() -> Self {
        Self { expression: "*".into(), expression_type: "TAG".into(), topic: TopicName::from(""), version: 0 }
    }
}

/// How long a failed message waits before its next attempt. With Java's broker it is for pop and gRPC consumers only; here
/// it is for all that leave the wait to the broker.
///
/// ```
/// use telstar::protocol::{ExponentialRetryPolicy, GroupRetryPolicy, GroupRetryPolicyType};
///
/// // 1 s, 2 s, 4 s, and so on, a minute at most.
/// let patient = GroupRetryPolicy {
///     kind: GroupRetryPolicyType::Exponential,
///     exponential_retry_policy: Some(ExponentialRetryPolicy { initial: 1_000, multiplier: 2, max: 60_000 }),
///     ..GroupRetryPolicy::default()
/// };
/// assert!(patient.customized_retry_policy.is_none());
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupRetryPolicy {
    /// The waits, where the kind is [`Customized`](GroupRetryPolicyType::Customized); `None`: the usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customized_retry_policy: Option<CustomizedRetryPolicy>,
    /// The growth, where the kind is [`Exponential`](GroupRetryPolicyType::Exponential); `None`: the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exponential_retry_policy: Option<ExponentialRetryPolicy>,
    /// Which of the two counts.
    #[serde(rename = "type", deserialize_with = "null_is_default")]
    pub kind: GroupRetryPolicyType,
}

/// How the waits of a [`GroupRetryPolicy`] are said.
///
/// ```
/// use telstar::protocol::{GroupRetryPolicy, GroupRetryPolicyType};
///
/// let policy: GroupRetryPolicy = serde_json::from_str(r#"{"type":"EXPONENTIAL"}"#)?;
/// assert_eq!(policy.kind, GroupRetryPolicyType::Exponential);
/// assert_eq!(GroupRetryPolicy::default().kind, GroupRetryPolicyType::Customized);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum GroupRetryPolicyType {
    /// One by one.
    #[default]
    Customized,
    /// By a factor.
    Exponential,
}

/// A list of waits, one per attempt, the last for all that follow.
///
/// ```
/// use telstar::protocol::CustomizedRetryPolicy;
///
/// let hasty = CustomizedRetryPolicy { next: vec![1_000, 5_000] };
/// assert!(hasty.next.len() < CustomizedRetryPolicy::default().next.len());
/// assert_eq!(CustomizedRetryPolicy::default().next[..2], [1_000, 5_000]); // as the levels of delay
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct CustomizedRetryPolicy {
    /// Milliseconds.
    pub next: Vec<i64>,
}

impl Default for CustomizedRetryPolicy {
    fn default() -> Self {
        const SECOND: i64 = 1_000;
        const MINUTE: i64 = 60 * SECOND;
        let seconds = [1, 5, 10, 30].map(|n| n * SECOND);
        let minutes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 60, 120].map(|n| n * MINUTE);
        Self { next: seconds.into_iter().chain(minutes).collect() }
    }
}

/// A wait that grows by a factor.
///
/// ```
/// use telstar::protocol::ExponentialRetryPolicy;
///
/// let ExponentialRetryPolicy { initial, multiplier, max } = ExponentialRetryPolicy::default();
/// assert!(initial * multiplier < max);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ExponentialRetryPolicy {
    /// The first wait, milliseconds.
    pub initial: i64,
    /// The longest wait, milliseconds.
    pub max: i64,
    /// By how much each is longer than the one before.
    pub multiplier: i64,
}

impl Default for ExponentialRetryPolicy {
    fn default() -> Self {
        Self { initial: 5_000, max: 2 * 3_600_000, multiplier: 2 }
    }
}

impl GroupRetryPolicy {
    /// The wait after `failed_times` failed attempts (0 after the first delivery).
    pub fn delay(&self, failed_times: u32) -> Duration {
        let ms = match (self.kind, &self.exponential_retry_policy) {
            (GroupRetryPolicyType::Exponential, Some(policy)) => policy.delay_ms(failed_times),
            _ => match &self.customized_retry_policy {
                Some(policy) => policy.delay_ms(failed_times),
                None => CustomizedRetryPolicy::default().delay_ms(failed_times),
            },
        };
        Duration::from_millis(ms.try_into().unwrap_or(0))
    }
}

impl CustomizedRetryPolicy {
    /// The list begins with the two waits that Java skips, so that the first retry comes after ten seconds.
    fn delay_ms(&self, failed_times: u32) -> i64 {
        let index = (failed_times as usize).saturating_add(2).min(self.next.len().saturating_sub(1));
        self.next.get(index).copied().unwrap_or(0)
    }
}

impl ExponentialRetryPolicy {
    fn delay_ms(&self, failed_times: u32) -> i64 {
        // RocketMQ: `ExponentialRetryPolicy.nextDelayDuration` counts no more than 32 attempts.
        self.initial.saturating_mul(self.multiplier.saturating_pow(failed_times.min(32))).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"cg1","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}"#;

    #[test]
    fn json_of_a_default_group_is_the_example_of_java() {
        let group = SubscriptionGroupConfig::new("cg1");
        assert_eq!(serde_json::to_string(&group).unwrap(), EXAMPLE);
        assert_eq!(serde_json::from_str::<SubscriptionGroupConfig>(EXAMPLE).unwrap(), group);
    }

    #[test]
    fn unknown_missing_and_null_fields_are_tolerated() {
        let json = r#"{"groupName":"cg1","groupRetryPolicy":null,"subscriptionDataSet":null,"x":1}"#;
        assert_eq!(
            serde_json::from_str::<SubscriptionGroupConfig>(json).unwrap(),
            SubscriptionGroupConfig::new("cg1")
        );
        let json = r#"{"subscriptionDataSet":[{"topic":"T","expressionType":"SQL92","expression":"a > 1"}]}"#;
        let group: SubscriptionGroupConfig = serde_json::from_str(json).unwrap();
        assert_eq!(group.subscription_data_set.unwrap()[0].expression_type, "SQL92");
    }

    #[test]
    fn retry_waits_follow_the_policy() {
        let policy = GroupRetryPolicy::default();
        assert_eq!(policy.delay(0), Duration::from_secs(10));
        assert_eq!(policy.delay(1_000), Duration::from_secs(7_200));
        let policy = GroupRetryPolicy {
            kind: GroupRetryPolicyType::Exponential,
            exponential_retry_policy: Some(ExponentialRetryPolicy::default()),
            customized_retry_policy: None,
        };
        assert_eq!(policy.delay(0), Duration::from_secs(5));
        assert_eq!(policy.delay(3), Duration::from_secs(40));
        assert_eq!(policy.delay(u32::MAX), Duration::from_secs(7_200));
    }
}
