//! Attributes of topics and groups: which keys exist, what values they take, how a change is asked for.
//!
//! A change is a list of signed keys, `+key=value` to set and `-key` to remove. RocketMQ: `AttributeUtil`,
//! `AttributeParser`, `TopicAttributes`, `SubscriptionGroupAttributes`; the texts of the refusals are Java's.

use std::collections::{BTreeMap, BTreeSet};

/// Settings of a topic or group by name: plain keys as they are stored, with a sign where a change is asked for.
///
/// ```
/// use telstar::protocol::{Attributes, SubscriptionGroupConfig};
/// use telstar::testing::{Scenario, calls::create_group};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").start().await;
/// let mut admin = broker.client("admin");
/// let attributes = Attributes::from([("+consumed.window.ms".into(), "600000".into())]);
/// let payers = SubscriptionGroupConfig { attributes, ..SubscriptionGroupConfig::new("payers") };
/// admin.succeed(create_group(&payers)).await;
/// let unsigned = Attributes::from([("consumed.window.ms".into(), "600000".into())]);
/// let refused = admin.call(create_group(&SubscriptionGroupConfig { attributes: unsigned, ..payers })).await;
/// assert!(refused.success().is_err());
/// # }
/// ```
pub type Attributes = BTreeMap<String, String>;

/// One known key.
#[derive(Clone, Copy, Debug)]
pub struct AttributeRule {
    pub key: &'static str,
    /// Whether it may be set or removed after creation.
    pub changeable: bool,
    pub values: AttributeValues,
}

/// What a key may be set to.
#[derive(Clone, Copy, Debug)]
pub enum AttributeValues {
    /// One of these, listed as Java's hash set prints them.
    OneOf(&'static [&'static str]),
    /// A whole number, both ends included.
    Range {
        min: i64,
        max: i64,
    },
    Boolean,
    Text,
}

pub const MESSAGE_TYPE: &str = "message.type";
pub const QUEUE_TYPE: &str = "queue.type";
pub const CLEANUP_POLICY: &str = "cleanup.policy";
pub const FLUSH_DISK_TYPE: &str = "flush.disk.type";
pub const RESERVE_TIME: &str = "reserve.time";
/// How long messages of the topic are shown, in milliseconds. Ours: Java has `reserve.time`, and does nothing by it.
pub const RETENTION_MS: &str = "retention.ms";
/// Whether SQL92 conditions may look into the topic's bodies, which are JSON then. Ours.
pub const BODY_FILTER: &str = "body.filter";
/// For how long a message that its producer sends again is stored only once, in milliseconds; at most a day. Ours.
pub const DEDUP_WINDOW_MS: &str = "dedup.window.ms";
pub const LITE_TOPIC_EXPIRATION: &str = "lite.topic.expiration";
pub const PRIORITY_FACTOR: &str = "priority.factor";
/// Rooms whose brokers a group consumes from by the assignment MACHINE_ROOM, joined by `;`. Ours: with Java's clients each
/// client has the list.
pub const ASSIGNMENT_ROOMS: &str = "assignment.rooms";
/// For how long the keys that a group marks as consumed are kept, in milliseconds; at most a week. Ours.
pub const CONSUMED_WINDOW_MS: &str = "consumed.window.ms";
pub const LITE_BIND_TOPIC: &str = "lite.bind.topic";

/// Attributes a topic may have.
pub const TOPIC_ATTRIBUTES: &[AttributeRule] = &[
    fixed(QUEUE_TYPE, AttributeValues::OneOf(&["SimpleCQ", "BatchCQ"])),
    fixed(CLEANUP_POLICY, AttributeValues::OneOf(&["DELETE", "COMPACTION"])),
    changeable(
        MESSAGE_TYPE,
        AttributeValues::OneOf(&[
            "UNSPECIFIED",
            "MIXED",
            "TRANSACTION",
            "PRIORITY",
            "FIFO",
            "DELAY",
            "LITE",
            "NORMAL",
        ]),
    ),
    // Ours: RocketMQ knows this choice for a whole broker only.
    changeable(FLUSH_DISK_TYPE, AttributeValues::OneOf(&["ASYNC_FLUSH", "SYNC_FLUSH"])),
    changeable(BODY_FILTER, AttributeValues::OneOf(&["NONE", "JSON"])),
    changeable(RESERVE_TIME, AttributeValues::Range { min: -1, max: i64::MAX }),
    changeable(DEDUP_WINDOW_MS, AttributeValues::Range { min: 1, max: 24 * 60 * 60 * 1_000 }),
    changeable(RETENTION_MS, AttributeValues::Range { min: 1, max: i64::MAX }),
    // Minutes, at most 30 days.
    changeable(LITE_TOPIC_EXPIRATION, AttributeValues::Range { min: -1, max: 30 * 24 * 60 }),
];

/// Attributes a subscription group may have.
pub const GROUP_ATTRIBUTES: &[AttributeRule] = &[
    changeable(PRIORITY_FACTOR, AttributeValues::Range { min: 0, max: 100 }),
    changeable(ASSIGNMENT_ROOMS, AttributeValues::Text),
    changeable(CONSUMED_WINDOW_MS, AttributeValues::Range { min: 1, max: 7 * 24 * 60 * 60 * 1_000 }),
    changeable(LITE_BIND_TOPIC, AttributeValues::Text),
    changeable("lite.sub.model", AttributeValues::OneOf(&["Shared", "Exclusive"])),
    changeable("lite.sub.reset.offset.exclusive", AttributeValues::Boolean),
    changeable("lite.sub.reset.offset.unsubscribe", AttributeValues::Boolean),
    changeable("lite.sub.client.quota", AttributeValues::Range { min: -1, max: i64::MAX }),
    changeable("lite.sub.client.max.event.cnt", AttributeValues::Range { min: -1, max: i64::MAX }),
];

const fn fixed(key: &'static str, values: AttributeValues) -> AttributeRule {
    AttributeRule { key, changeable: false, values }
}

const fn changeable(key: &'static str, values: AttributeValues) -> AttributeRule {
    AttributeRule { key, changeable: true, values }
}

/// Whether a topic of these attributes is to keep the latest message of each key only.
pub fn is_compacted(attributes: &Attributes) -> bool {
    attributes.get(CLEANUP_POLICY).is_some_and(|policy| policy == "COMPACTION")
}

/// Why a change of attributes is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AttributeError {
    #[error("unsupported key: {key}")]
    UnsupportedKey { key: String },
    #[error("value is not in set: [{}]", allowed.join(", "))]
    NotInSet { value: String, allowed: &'static [&'static str] },
    #[error("value is not in range({min}, {max})")]
    NotInRange { value: i64, min: i64, max: i64 },
    #[error("For input string: \"{value}\"")]
    NotANumber { value: String },
    #[error("boolean attribute format is wrong.")]
    NotABoolean { value: String },
    #[error("attempt to update an unchangeable attribute. key: {key}")]
    Unchangeable { key: String },
    #[error("attempt to delete a nonexistent key: {key}")]
    DeletesNothing { key: String },
    #[error("only add attribute is supported while creating topic. key: {key}")]
    OnlyAddOnCreation { key: String },
    #[error("alter duplication key. key: {key}")]
    Duplicate { key: String },
    #[error("wrong format key: {key}")]
    NoSign { key: String },
    #[error("kv string format wrong.")]
    BadKey { key: String },
    #[error("add/alter attribute format is wrong: {key}")]
    AddWithoutSign { key: String },
    #[error("delete attribute format is wrong: {key}")]
    DeleteWithoutSign { key: String },
    #[error("key duplication: {key}")]
    DuplicateInText { key: String },
}

/// Whether the attributes belong to something that exists already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alteration {
    Creation,
    Change,
}

/// Reads `+a=1,-b` into signed keys and their values (empty for `-`).
pub fn parse_change(text: &str) -> Result<Attributes, AttributeError> {
    let mut change = Attributes::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some((key, _)) if !key.contains('+') => {
                return Err(AttributeError::AddWithoutSign { key: key.to_owned() });
            }
            Some((key, value)) => (key, value),
            None if !part.contains('-') => {
                return Err(AttributeError::DeleteWithoutSign { key: part.to_owned() });
            }
            None => (part, ""),
        };
        if change.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(AttributeError::DuplicateInText { key: key.to_owned() });
        }
    }
    Ok(change)
}

/// What `current` becomes when `change` (signed keys) is applied; all of it or nothing.
pub fn alter(
    rules: &[AttributeRule],
    alteration: Alteration,
    current: &Attributes,
    change: &Attributes,
) -> Result<Attributes, AttributeError> {
    let mut altered = current.clone();
    let mut seen = BTreeSet::new();
    for (signed, value) in change {
        let (sign, key) = split_sign(signed)?;
        if !seen.insert(key) {
            return Err(AttributeError::Duplicate { key: key.to_owned() });
        }
        match (alteration, sign) {
            (_, '+') => {
                let rule = rule_of(rules, key)?;
                if alteration == Alteration::Change {
                    rule.check_changeable()?;
                }
                rule.check_value(value)?;
                altered.insert(key.to_owned(), value.clone());
            }
            (Alteration::Creation, _) => {
                return Err(AttributeError::OnlyAddOnCreation { key: key.to_owned() });
            }
            (Alteration::Change, '-') => {
                if altered.remove(key).is_none() {
                    return Err(AttributeError::DeletesNothing { key: key.to_owned() });
                }
                rule_of(rules, key)?.check_changeable()?;
            }
            (Alteration::Change, _) => return Err(AttributeError::NoSign { key: key.to_owned() }),
        }
    }
    Ok(altered)
}

/// The first character is taken for the sign, whatever it is, as Java does.
fn split_sign(signed: &str) -> Result<(char, &str), AttributeError> {
    let mut chars = signed.chars();
    let sign = chars.next().unwrap_or_default();
    let key = chars.as_str();
    if key.is_empty() || key.contains(['+', '-']) {
        return Err(AttributeError::BadKey { key: signed.to_owned() });
    }
    Ok((sign, key))
}

fn rule_of<'a>(rules: &'a [AttributeRule], key: &str) -> Result<&'a AttributeRule, AttributeError> {
    rules
        .iter()
        .find(|rule| rule.key == key)
        .ok_or_else(|| AttributeError::UnsupportedKey { key: key.to_owned() })
}

impl AttributeRule {
    fn check_changeable(&self) -> Result<(), AttributeError> {
        if self.changeable { Ok(()) } else { Err(AttributeError::Unchangeable { key: self.key.to_owned() }) }
    }

    fn check_value(&self, value: &str) -> Result<(), AttributeError> {
        match self.values {
            AttributeValues::OneOf(allowed) if allowed.contains(&value) => Ok(()),
            AttributeValues::OneOf(allowed) => {
                Err(AttributeError::NotInSet { value: value.to_owned(), allowed })
            }
            AttributeValues::Range { min, max } => {
                let number: i64 =
                    value.parse().map_err(|_| AttributeError::NotANumber { value: value.to_owned() })?;
                if (min..=max).contains(&number) {
                    Ok(())
                } else {
                    Err(AttributeError::NotInRange { value: number, min, max })
                }
            }
            AttributeValues::Boolean
                if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") =>
            {
                Ok(())
            }
            AttributeValues::Boolean => Err(AttributeError::NotABoolean { value: value.to_owned() }),
            AttributeValues::Text => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn create(change: &str) -> Result<Attributes, AttributeError> {
        alter(TOPIC_ATTRIBUTES, Alteration::Creation, &Attributes::new(), &parse_change(change)?)
    }

    fn change(current: &[(&str, &str)], change: &str) -> Result<Attributes, AttributeError> {
        alter(TOPIC_ATTRIBUTES, Alteration::Change, &attributes(current), &parse_change(change)?)
    }

    #[test]
    fn changes_add_replace_and_remove() {
        assert_eq!(create("+message.type=FIFO").unwrap(), attributes(&[("message.type", "FIFO")]));
        assert_eq!(
            change(&[("message.type", "FIFO"), ("reserve.time", "5")], "+message.type=DELAY,-reserve.time")
                .unwrap(),
            attributes(&[("message.type", "DELAY")])
        );
        assert_eq!(create("").unwrap(), Attributes::new());
    }

    #[test]
    fn refusals_have_the_texts_of_java() {
        let text = |result: Result<Attributes, AttributeError>| result.unwrap_err().to_string();
        assert_eq!(text(create("+colour=red")), "unsupported key: colour");
        assert_eq!(
            text(create("+message.type=X")),
            "value is not in set: [UNSPECIFIED, MIXED, TRANSACTION, PRIORITY, FIFO, DELAY, LITE, NORMAL]"
        );
        assert_eq!(text(create("+reserve.time=-2")), "value is not in range(-1, 9223372036854775807)");
        assert_eq!(text(create("+reserve.time=soon")), "For input string: \"soon\"");
        assert_eq!(
            text(create("-message.type")),
            "only add attribute is supported while creating topic. key: message.type"
        );
        assert_eq!(
            text(change(&[], "+queue.type=BatchCQ")),
            "attempt to update an unchangeable attribute. key: queue.type"
        );
        assert_eq!(text(change(&[], "-message.type")), "attempt to delete a nonexistent key: message.type");
        assert_eq!(text(create("message.type=X")), "add/alter attribute format is wrong: message.type");
        assert_eq!(text(create("message.type")), "delete attribute format is wrong: message.type");
    }

    #[test]
    fn group_attributes_have_their_own_keys() {
        let set = |text| {
            alter(GROUP_ATTRIBUTES, Alteration::Creation, &Attributes::new(), &parse_change(text).unwrap())
        };
        set("+priority.factor=100,+lite.bind.topic=T,+lite.sub.reset.offset.exclusive=TRUE").unwrap();
        assert!(set("+priority.factor=101").is_err());
        assert!(set("+message.type=FIFO").is_err());
    }
}
