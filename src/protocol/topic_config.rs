//! Settings of one topic on one broker, with Java's JSON names, and the pure rules about them.
//!
//! RocketMQ: `TopicConfig`, `PermName`, `TopicConfigManager.createTopicInSendMessageMethod`.

use serde::{Deserialize, Deserializer, Serialize};

use super::attributes::{self, AttributeError, Attributes, MESSAGE_TYPE};
use crate::types::TopicName;

/// Queues of a topic that nobody gave a number. RocketMQ: `TopicConfig.defaultReadQueueNums`.
pub const DEFAULT_QUEUE_NUMS: u32 = 16;

/// What may be done with a topic or a broker: a set of bits, as clients print it (6 is read and write).
///
/// ```
/// use telstar::protocol::Permission;
///
/// let perm = Permission(6);
/// assert_eq!(perm, Permission::READ_WRITE);
/// assert!(perm.allows(Permission::WRITE) && !perm.allows(Permission::INHERIT));
/// assert!(!Permission::READ.is_writable());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Permission(pub i32);

impl Permission {
    /// Topics may be created after its example.
    pub const INHERIT: Self = Self(1);
    /// Messages may be sent to it.
    pub const WRITE: Self = Self(1 << 1);
    /// Messages may be consumed from it.
    pub const READ: Self = Self(1 << 2);
    /// Both.
    pub const READ_WRITE: Self = Self(6);
    /// All of it.
    pub const READ_WRITE_INHERIT: Self = Self(7);

    /// Whether every bit of `other` is set.
    pub fn allows(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether messages may be consumed.
    pub fn is_readable(self) -> bool {
        self.allows(Self::READ)
    }

    /// Whether messages may be sent.
    pub fn is_writable(self) -> bool {
        self.allows(Self::WRITE)
    }

    #[doc(hidden)]
    pub fn is_inherited(self) -> bool {
        self.allows(Self::INHERIT)
    }

    #[doc(hidden)]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether Java takes the number for a permission: no bit above read.
    #[doc(hidden)]
    pub fn is_valid(self) -> bool {
        (0..8).contains(&self.0)
    }
}

/// How many tags a message may carry; only the first was ever built.
///
/// ```
/// use telstar::protocol::{TopicConfig, TopicFilterType};
///
/// assert_eq!(TopicConfig::new("orders", 8).topic_filter_type, TopicFilterType::SingleTag);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TopicFilterType {
    /// One.
    #[default]
    SingleTag,
    /// Several; kept as it was set, and treated as one.
    MultiTag,
}

/// Settings of one topic. Unknown JSON fields are ignored, missing ones take the default.
///
/// ```
/// use telstar::protocol::{Permission, TopicConfig};
///
/// let closed = TopicConfig::new("orders", 8).with_perm(Permission::READ);
/// assert_eq!((closed.read_queue_nums, closed.write_queue_nums), (8, 8));
/// assert_eq!(closed.message_type(), "NORMAL");
/// let text = r#"{"topicName":"steps","attributes":{"message.type":"FIFO"},"colour":"blue"}"#;
/// let fifo: TopicConfig = serde_json::from_str(text)?;
/// assert_eq!((fifo.message_type(), fifo.perm), ("FIFO", Permission::READ_WRITE));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    /// Further settings by name, such as `message.type` and `retention.ms`.
    #[serde(deserialize_with = "null_is_default")]
    pub attributes: Attributes,
    /// Whether its order is laid down over all brokers; the name server says how.
    pub order: bool,
    /// What clients may do with it.
    pub perm: Permission,
    /// Queues that consumers share; more than can be written while it shrinks.
    pub read_queue_nums: u32,
    /// Kept for Java's tools.
    #[serde(deserialize_with = "null_is_default")]
    pub topic_filter_type: TopicFilterType,
    /// Its name.
    pub topic_name: TopicName,
    /// Bits of Java's: whether it belongs to a unit of a data centre.
    pub topic_sys_flag: i32,
    /// Queues that producers send to.
    pub write_queue_nums: u32,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            attributes: Attributes::new(),
            order: false,
            perm: Permission::READ_WRITE,
            read_queue_nums: DEFAULT_QUEUE_NUMS,
            topic_filter_type: TopicFilterType::SingleTag,
            topic_name: TopicName::from(""),
            topic_sys_flag: 0,
            write_queue_nums: DEFAULT_QUEUE_NUMS,
        }
    }
}

impl TopicConfig {
    /// A topic with as many queues to read as to write, both allowed.
    pub fn new(topic_name: impl Into<TopicName>, queue_nums: u32) -> Self {
        Self {
            topic_name: topic_name.into(),
            read_queue_nums: queue_nums,
            write_queue_nums: queue_nums,
            ..Self::default()
        }
    }

    /// The same with another permission.
    pub fn with_perm(self, perm: Permission) -> Self {
        Self { perm, ..self }
    }

    /// What kind of messages it takes: the attribute `message.type`, or `NORMAL`.
    pub fn message_type(&self) -> &str {
        self.attributes.get(MESSAGE_TYPE).map_or("NORMAL", String::as_str)
    }

    /// The settings to store when `asked` (whose attributes carry signs) is to replace `current`.
    #[doc(hidden)]
    pub fn altered(current: Option<&TopicConfig>, asked: TopicConfig) -> Result<TopicConfig, AttributeError> {
        let attributes = match current {
            Some(current) => attributes::alter(
                attributes::TOPIC_ATTRIBUTES,
                attributes::Alteration::Change,
                &current.attributes,
                &asked.attributes,
            )?,
            None => attributes::alter(
                attributes::TOPIC_ATTRIBUTES,
                attributes::Alteration::Creation,
                &Attributes::new(),
                &asked.attributes,
            )?,
        };
        Ok(TopicConfig { attributes, ..asked })
    }
}

/// What a producer asks for when it sends to a topic that does not exist.
#[derive(Clone, Debug)]
pub struct AutoCreation {
    pub topic: TopicName,
    /// How many queues the client would like; the default topic's number is the limit.
    pub client_queue_nums: i32,
    pub topic_sys_flag: i32,
}

/// The topic that a send creates after the example of `default_topic`, unless that one lets nobody inherit.
pub fn auto_created(asked: AutoCreation, default_topic: &TopicConfig) -> Option<TopicConfig> {
    if !default_topic.perm.is_inherited() {
        return None;
    }
    let queue_nums = u32::try_from(asked.client_queue_nums).unwrap_or(0).min(default_topic.write_queue_nums);
    Some(TopicConfig {
        perm: default_topic.perm.without(Permission::INHERIT),
        topic_filter_type: default_topic.topic_filter_type,
        topic_sys_flag: asked.topic_sys_flag,
        ..TopicConfig::new(asked.topic, queue_nums)
    })
}

/// Takes `null` for a missing field: other languages write it where Java leaves the field out.
pub(super) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_example_of_java() {
        let json = r#"{"attributes":{"message.type":"NORMAL"},"order":false,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"TopicA","topicSysFlag":0,"writeQueueNums":8}"#;
        let config: TopicConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.topic_name.as_str(), "TopicA");
        assert_eq!(config.message_type(), "NORMAL");
        assert_eq!(serde_json::to_string(&config).unwrap(), json);
    }

    #[test]
    fn unknown_missing_and_null_fields_are_tolerated() {
        let config: TopicConfig =
            serde_json::from_str(r#"{"topicName":"T","attributes":null,"colour":"red"}"#).unwrap();
        assert_eq!(config, TopicConfig::new("T", DEFAULT_QUEUE_NUMS));
    }

    #[test]
    fn auto_created_topic_inherits_but_cannot_be_inherited() {
        let default_topic = TopicConfig::new("TBW102", 8).with_perm(Permission::READ_WRITE_INHERIT);
        let asked =
            |client_queue_nums| AutoCreation { topic: "T".into(), client_queue_nums, topic_sys_flag: 3 };
        let created = auto_created(asked(4), &default_topic).unwrap();
        assert_eq!(created, TopicConfig { topic_sys_flag: 3, ..TopicConfig::new("T", 4) });
        assert_eq!(auto_created(asked(16), &default_topic).unwrap().write_queue_nums, 8);
        assert_eq!(auto_created(asked(-1), &default_topic).unwrap().write_queue_nums, 0);
        let closed = default_topic.with_perm(Permission::READ_WRITE);
        assert_eq!(auto_created(asked(4), &closed), None);
    }

    #[test]
    fn alteration_takes_the_settings_asked_for_and_merges_attributes() {
        let asked = |key: &str, value: &str| TopicConfig {
            attributes: [(key.to_owned(), value.to_owned())].into(),
            ..TopicConfig::new("T", 4)
        };
        let created = TopicConfig::altered(None, asked("+message.type", "FIFO")).unwrap();
        assert_eq!(created.message_type(), "FIFO");
        let grown = TopicConfig { read_queue_nums: 9, ..asked("+reserve.time", "7") };
        let altered = TopicConfig::altered(Some(&created), grown).unwrap();
        assert_eq!((altered.message_type(), altered.read_queue_nums), ("FIFO", 9));
        assert!(TopicConfig::altered(Some(&created), asked("+queue.type", "BatchCQ")).is_err());
    }
}
