//! Names of topics and groups: what is allowed, what is reserved, what is derived from them.
//!
//! RocketMQ: `TopicValidator`, `MixAll`, `KeyBuilder`. The texts of the refusals are Java's, since people search for them.

use std::fmt;

use crate::types::{GroupName, TopicName};

/// Longest name of an ordinary topic, in characters.
pub const TOPIC_MAX_LEN: usize = 127;
/// Longest name of a retry or dead letter topic, in characters.
pub const DERIVED_TOPIC_MAX_LEN: usize = 255;
/// Longest name of a group, in characters.
pub const GROUP_MAX_LEN: usize = 120;

pub const RETRY_PREFIX: &str = "%RETRY%";
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";
pub const LMQ_PREFIX: &str = "%LMQ%";
pub const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";
pub const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";

/// The topic whose settings automatically created topics inherit.
pub const DEFAULT_TOPIC: &str = "TBW102";
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
pub const BENCHMARK_TOPIC: &str = "BenchmarkTest";
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
pub const OP_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Half and op topic of Java's second transaction engine. Nothing is kept there here; the names stay reserved.
pub const ROCKSDB_HALF_TOPIC: &str = "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC";
pub const ROCKSDB_OP_TOPIC: &str = "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC";
/// The group that stands for how far halves are settled.
pub const TRANSACTION_GROUP: &str = "CID_RMQ_SYS_TRANS";
pub const TRANSACTION_CHECK_MAX_TIME_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
pub const SELF_TEST_TOPIC: &str = "SELF_TEST_TOPIC";
pub const OFFSET_MOVED_TOPIC: &str = "OFFSET_MOVED_EVENT";
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";
pub const CHECKPOINT_TOPIC: &str = "CHECKPOINT_TOPIC";
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";

/// Topics of the broker itself, whatever its name and cluster. Nobody may create, alter or delete them.
pub const SYSTEM_TOPICS: [&str; 12] = [
    DEFAULT_TOPIC,
    SCHEDULE_TOPIC,
    BENCHMARK_TOPIC,
    HALF_TOPIC,
    OP_TOPIC,
    ROCKSDB_HALF_TOPIC,
    ROCKSDB_OP_TOPIC,
    TRANSACTION_CHECK_MAX_TIME_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_TOPIC,
    TRACE_TOPIC,
    CHECKPOINT_TOPIC,
];

/// Topics that clients may not send to.
pub const NO_SEND_TOPICS: [&str; 8] = [
    SCHEDULE_TOPIC,
    HALF_TOPIC,
    OP_TOPIC,
    ROCKSDB_HALF_TOPIC,
    ROCKSDB_OP_TOPIC,
    TRANSACTION_CHECK_MAX_TIME_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_TOPIC,
];

/// Groups that exist from the start.
pub const SYSTEM_GROUPS: [&str; 8] = [
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    TRANSACTION_GROUP,
];

/// What a refused name was meant to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameKind {
    Topic,
    Group,
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameKind::Topic => "topic",
            NameKind::Group => "group",
        })
    }
}

/// Why a name is refused. The texts are Java's, capitals and full stops included: clients show them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    #[error("The specified {kind} is blank.")]
    Blank { kind: NameKind },
    #[error("The specified {kind}: {name}, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    IllegalCharacters { kind: NameKind, name: String },
    #[error("The specified {kind}: {name}, is longer than {kind} max length: {max_len}")]
    TooLong { kind: NameKind, name: String, max_len: usize },
    #[error("The topic[{name}] is conflict with system topic.")]
    SystemTopic { name: String },
    #[error("Sending message to topic[{name}] is forbidden.")]
    SendForbidden { name: String },
}

/// The names of this broker and its cluster, which are topics too, and reserved.
#[derive(Clone, Copy, Debug)]
pub struct OwnNames<'a> {
    pub cluster: &'a str,
    pub broker: &'a str,
}

/// Checks the form of a topic's name; [`check_not_system_topic`] checks its meaning.
pub fn check_topic(name: &str) -> Result<(), NameError> {
    let derived = name.starts_with(RETRY_PREFIX) || name.starts_with(DEAD_LETTER_PREFIX);
    check(NameKind::Topic, name, if derived { DERIVED_TOPIC_MAX_LEN } else { TOPIC_MAX_LEN })
}

/// Checks the form of a group's name.
pub fn check_group(name: &str) -> Result<(), NameError> {
    check(NameKind::Group, name, GROUP_MAX_LEN)
}

fn check(kind: NameKind, name: &str, max_len: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank { kind });
    }
    if !name.bytes().all(is_allowed) {
        return Err(NameError::IllegalCharacters { kind, name: name.to_owned() });
    }
    // Only ASCII is left, so bytes are characters.
    if name.len() > max_len {
        return Err(NameError::TooLong { kind, name: name.to_owned(), max_len });
    }
    Ok(())
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-')
}

/// Refuses the topics that belong to the broker.
pub fn check_not_system_topic(name: &str, own: OwnNames<'_>) -> Result<(), NameError> {
    if is_system_topic(name, own) {
        return Err(NameError::SystemTopic { name: name.to_owned() });
    }
    Ok(())
}

/// Refuses the topics that only the broker writes to.
pub fn check_send_allowed(name: &str) -> Result<(), NameError> {
    if NO_SEND_TOPICS.contains(&name) {
        return Err(NameError::SendForbidden { name: name.to_owned() });
    }
    Ok(())
}

pub fn is_system_topic(name: &str, own: OwnNames<'_>) -> bool {
    SYSTEM_TOPICS.contains(&name)
        || name.starts_with(SYSTEM_TOPIC_PREFIX)
        || name == own.cluster
        || name == own.broker
        || name.strip_suffix("_REPLY_TOPIC").is_some_and(|cluster| cluster == own.cluster)
}

pub fn is_system_group(name: &str) -> bool {
    SYSTEM_GROUPS.contains(&name) || name.starts_with(SYSTEM_GROUP_PREFIX)
}

/// The topic that answers to requests are sent through.
pub fn reply_topic(cluster: &str) -> TopicName {
    format!("{cluster}_REPLY_TOPIC").into()
}

/// Where what `group` could not consume waits for its next attempt.
pub fn retry_topic(group: &GroupName) -> TopicName {
    format!("{RETRY_PREFIX}{group}").into()
}

/// Where what `group` could not consume at all is kept.
pub fn dead_letter_queue(group: &GroupName) -> TopicName {
    format!("{DEAD_LETTER_PREFIX}{group}").into()
}

pub fn is_retry_topic(topic: &str) -> bool {
    topic.starts_with(RETRY_PREFIX)
}

pub fn is_dead_letter_queue(topic: &str) -> bool {
    topic.starts_with(DEAD_LETTER_PREFIX)
}

/// The group whose retry topic this is. For a pop retry topic, the group and more: see [`pop_retry_topic`].
pub fn group_of_retry_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix(RETRY_PREFIX)
}

pub fn group_of_dead_letter_queue(topic: &str) -> Option<&str> {
    topic.strip_prefix(DEAD_LETTER_PREFIX)
}

/// The retry topic of popped messages, which keeps topics apart. RocketMQ: `KeyBuilder.buildPopRetryTopicV1`.
pub fn pop_retry_topic(group: &GroupName, topic: &TopicName) -> TopicName {
    format!("{RETRY_PREFIX}{group}_{topic}").into()
}

/// The same with a separator that no name may contain. RocketMQ: `KeyBuilder.buildPopRetryTopicV2`.
pub fn pop_retry_topic_v2(group: &GroupName, topic: &TopicName) -> TopicName {
    format!("{RETRY_PREFIX}{group}+{topic}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: OwnNames<'_> = OwnNames { cluster: "DefaultCluster", broker: "broker-a" };

    fn text(result: Result<(), NameError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn refusals_have_the_texts_of_java() {
        assert_eq!(text(check_topic(" ")), "The specified topic is blank.");
        assert_eq!(
            text(check_topic("a b")),
            "The specified topic: a b, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        );
        let long = "t".repeat(128);
        assert_eq!(
            text(check_topic(&long)),
            format!("The specified topic: {long}, is longer than topic max length: 127")
        );
        let long = "g".repeat(121);
        assert_eq!(
            text(check_group(&long)),
            format!("The specified group: {long}, is longer than group max length: 120")
        );
        assert_eq!(
            text(check_not_system_topic("TBW102", OWN)),
            "The topic[TBW102] is conflict with system topic."
        );
    }

    #[test]
    fn limits_are_inclusive_and_wider_for_derived_topics() {
        check_topic(&"t".repeat(127)).unwrap();
        check_group(&"g".repeat(120)).unwrap();
        check_topic(&format!("%RETRY%{}", "g".repeat(248))).unwrap();
        assert!(check_topic(&format!("%DLQ%{}", "g".repeat(251))).is_err());
        assert!(check_topic("caf\u{e9}").is_err());
        assert!(check_topic("%RETRY%g+t").is_err());
    }

    #[test]
    fn names_of_broker_and_cluster_are_system_topics() {
        for name in ["DefaultCluster", "broker-a", "DefaultCluster_REPLY_TOPIC", "rmq_sys_wheel_timer"] {
            assert!(is_system_topic(name, OWN), "{name}");
        }
        assert!(!is_system_topic("Other_REPLY_TOPIC", OWN));
        check_send_allowed(TIMER_TOPIC).unwrap();
        check_send_allowed(TRACE_TOPIC).unwrap();
        assert!(check_send_allowed(HALF_TOPIC).is_err());
    }

    #[test]
    fn derived_topics_lead_back_to_their_group() {
        let group = GroupName::from("orders");
        assert_eq!(group_of_retry_topic(&retry_topic(&group)), Some("orders"));
        assert_eq!(group_of_dead_letter_queue(&dead_letter_queue(&group)), Some("orders"));
        assert_eq!(group_of_retry_topic("orders"), None);
        assert_eq!(pop_retry_topic_v2(&group, &"T".into()).as_str(), "%RETRY%orders+T");
    }
}
