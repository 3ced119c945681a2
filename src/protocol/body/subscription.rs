//! What a consumer group wants of a topic. RocketMQ: `SubscriptionData`, `FilterAPI`.

use serde::{Deserialize, Serialize};

use crate::protocol::java_hash::java_string_hash;
use crate::types::TopicName;

/// Expression type of tags, and of an absent type.
///
/// ```
/// use telstar::protocol::{SubscriptionData, TAG};
///
/// let paid = SubscriptionData::build("orders", "paid || refunded", TAG)?;
/// assert_eq!(paid.tags_set, ["paid", "refunded"]);
/// # Ok::<(), telstar::protocol::SubscriptionError>(())
/// ```
pub const TAG: &str = "TAG";
/// Expression type of SQL over properties.
///
/// ```
/// use telstar::protocol::{SQL92, SubscriptionData};
///
/// let large = SubscriptionData::build("orders", "amount > 1000 AND currency = 'EUR'", SQL92)?;
/// assert!(large.tags_set.is_empty()); // the broker reads it
/// # Ok::<(), telstar::protocol::SubscriptionError>(())
/// ```
pub const SQL92: &str = "SQL92";
/// The expression that takes every message.
pub const EVERY_TAG: &str = "*";

/// One topic of a group's subscription.
///
/// The C++ client leaves out `tagsSet`, `codeSet` and `expressionType`.
///
/// ```
/// use telstar::clock::{Clock, SystemClock};
/// use telstar::protocol::{SubscriptionData, TAG};
///
/// let subscription = SubscriptionData {
///     sub_version: SystemClock.now().0, // of two of the same group the later one counts
///     ..SubscriptionData::build("orders", "paid || refunded", TAG)?
/// };
/// assert_eq!(subscription.sub_string, "paid || refunded");
/// assert!(!subscription.is_every_tag());
/// assert!(SubscriptionData::parse("orders", "*")?.is_every_tag());
/// # Ok::<(), telstar::protocol::SubscriptionError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionData {
    /// Filtering by a class on a filter server; withdrawn long ago, always false.
    pub class_filter_mode: bool,
    /// Java hashes of the tags; empty for every message and for SQL.
    pub code_set: Vec<i32>,
    /// [`TAG`] or [`SQL92`]. Clients may name types this broker does not know.
    pub expression_type: String,
    /// The expression as the consumer wrote it.
    pub sub_string: String,
    /// Milliseconds since 1970 by the client's clock; the larger one wins.
    pub sub_version: i64,
    /// The tags by their names; empty for every message and for SQL.
    pub tags_set: Vec<String>,
    /// What is subscribed to.
    pub topic: TopicName,
}

impl Default for SubscriptionData {
    fn default() -> Self {
        Self {
            class_filter_mode: false,
            code_set: Vec::new(),
            expression_type: TAG.into(),
            sub_string: String::new(),
            sub_version: 0,
            tags_set: Vec::new(),
            topic: "".into(),
        }
    }
}

/// An expression of `||` and blanks only.
///
/// ```
/// use telstar::protocol::SubscriptionData;
///
/// let error = SubscriptionData::parse("orders", " || ").unwrap_err();
/// assert_eq!(error.to_string(), r#"subscription expression " || " of topic orders names no tag"#);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("subscription expression {expression:?} of topic {topic} names no tag")]
pub struct SubscriptionError {
    /// What was to be subscribed to.
    pub topic: TopicName,
    /// The expression, as it was given.
    pub expression: String,
}

impl SubscriptionData {
    /// A subscription by tags: `"A || B"`, or everything for `""` and `"*"`. The version is left at 0.
    pub fn parse(topic: impl Into<TopicName>, expression: &str) -> Result<Self, SubscriptionError> {
        let data = Self { topic: topic.into(), ..Self::default() };
        if expression.is_empty() || expression == EVERY_TAG {
            return Ok(Self { sub_string: EVERY_TAG.into(), ..data });
        }
        let tags_set = tags_of(expression);
        if tags_set.is_empty() {
            return Err(SubscriptionError { topic: data.topic, expression: expression.into() });
        }
        Ok(Self { sub_string: expression.into(), code_set: codes_of(&tags_set), tags_set, ..data })
    }

    /// As [`parse`](Self::parse) for tags; an expression of another type is kept for its own compiler.
    pub fn build(
        topic: impl Into<TopicName>,
        expression: &str,
        expression_type: &str,
    ) -> Result<Self, SubscriptionError> {
        if is_tag_type(expression_type) {
            return Self::parse(topic, expression);
        }
        Ok(Self {
            topic: topic.into(),
            sub_string: expression.into(),
            expression_type: expression_type.into(),
            ..Self::default()
        })
    }

    /// Fills in tags, codes and type that the client left out, from its expression.
    #[doc(hidden)]
    pub fn with_codes(mut self) -> Self {
        if self.expression_type.is_empty() {
            self.expression_type = TAG.into();
        }
        if self.is_tag_type() && !self.is_every_tag() {
            if self.tags_set.is_empty() {
                self.tags_set = tags_of(&self.sub_string);
            }
            if self.code_set.is_empty() {
                self.code_set = codes_of(&self.tags_set);
            }
        }
        self
    }

    /// Whether both let the same messages pass, by their text. Both must have their codes.
    #[doc(hidden)]
    pub fn filters_like(&self, other: &Self) -> bool {
        self.expression_type == other.expression_type
            && self.sub_string == other.sub_string
            && self.tags_set == other.tags_set
            && self.class_filter_mode == other.class_filter_mode
    }

    /// Whether it filters by tags.
    pub fn is_tag_type(&self) -> bool {
        is_tag_type(&self.expression_type)
    }

    /// Whether it takes every message of the topic.
    pub fn is_every_tag(&self) -> bool {
        self.is_tag_type() && matches!(self.sub_string.trim(), "" | EVERY_TAG)
    }

    /// Whether a message with this tags code may be wanted. A hash: the client compares the tag itself.
    #[doc(hidden)]
    pub fn matches_tags_code(&self, tags_code: i64) -> bool {
        self.is_every_tag() || self.code_set.iter().any(|code| i64::from(*code) == tags_code)
    }
}

fn is_tag_type(expression_type: &str) -> bool {
    matches!(expression_type, "" | TAG)
}

/// Tags in the order they are named, each once.
fn tags_of(expression: &str) -> Vec<String> {
    let mut tags: Vec<String> = Vec::new();
    for tag in expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()) {
        if !tags.iter().any(|known| known == tag) {
            tags.push(tag.into());
        }
    }
    tags
}

fn codes_of(tags: &[String]) -> Vec<i32> {
    let mut codes: Vec<i32> = tags.iter().map(|tag| java_string_hash(tag)).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::fastjson::from_slice;

    #[test]
    fn expression_becomes_tags_and_codes() {
        let data = SubscriptionData::parse("T", " QX || || TagA||QX").unwrap();
        assert_eq!(data.tags_set, ["QX", "TagA"]);
        assert_eq!(data.code_set, [2_599, 2_598_919]);
        assert_eq!(data.sub_string, " QX || || TagA||QX");
        assert!(data.matches_tags_code(2_599) && !data.matches_tags_code(0));
    }

    #[test]
    fn star_and_nothing_take_everything() {
        for expression in ["", "*"] {
            let data = SubscriptionData::parse("T", expression).unwrap();
            assert_eq!(data.sub_string, "*");
            assert!(data.tags_set.is_empty() && data.code_set.is_empty());
            assert!(data.matches_tags_code(0) && data.matches_tags_code(-1));
        }
    }

    #[test]
    fn expression_without_a_tag_is_an_error() {
        for expression in ["||", " || "] {
            assert!(SubscriptionData::parse("T", expression).is_err());
        }
    }

    #[test]
    fn sql_is_kept_for_its_compiler() {
        let data = SubscriptionData::build("T", "a > 1 || b", SQL92).unwrap();
        assert_eq!((data.expression_type.as_str(), data.tags_set.len()), (SQL92, 0));
        assert!(!data.is_every_tag());
        assert_eq!(data.clone().with_codes(), data);
    }

    #[test]
    fn what_the_client_left_out_is_filled_in() {
        let sent = br#"{"subString":"QX","subVersion":"1700000000000","topic":"T"}"#;
        let data: SubscriptionData = from_slice(sent).unwrap();
        let parsed = SubscriptionData::parse("T", "QX").unwrap();
        assert_eq!(data.with_codes(), SubscriptionData { sub_version: 1_700_000_000_000, ..parsed });
    }
}
