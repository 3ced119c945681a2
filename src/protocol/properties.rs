//! Message properties: the text `name 0x01 value 0x02 name 0x01 value 0x02 …`.
//!
//! Read with Java's tolerances (RocketMQ: `MessageDecoder.string2messageProperties`): the last separator
//! may be missing, pairs without a name or a value are skipped, and of several pairs with one name the
//! last counts. A pair that is not UTF-8 is skipped too.

use bytes::Bytes;

use super::java_hash::java_string_hash;

/// Ends a name.
pub const NAME_VALUE_SEPARATOR: u8 = 1;
/// Ends a value.
pub const PROPERTY_SEPARATOR: u8 = 2;
/// Longest property text of a record, bytes: its length is a signed 16-bit number.
pub const MAX_PROPERTIES_BYTES: usize = i16::MAX as usize;

/// Names of properties that broker and client give a meaning to (RocketMQ: `MessageConst`).
pub mod names {
    /// Business keys, blank separated: messages are found by them.
    ///
    /// ```
    /// use telstar::protocol::property;
    /// use telstar::testing::{Scenario, calls::*};
    ///
    /// # #[actix::main]
    /// # async fn main() {
    /// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
    /// let mut shop = broker.client("shop");
    /// shop.succeed(send_to("orders", 0, "pay 7").property(property::KEYS, "order-7 customer-3")).await;
    /// let stored = shop.pull(pull_from("bank", "orders", 0, 0)).await;
    /// assert_eq!(stored[0].text(property::KEYS).split(' ').count(), 2);
    /// # }
    /// ```
    pub const KEYS: &str = "KEYS";
    /// The tag that consumers choose messages by.
    ///
    /// ```
    /// use telstar::extension::OutgoingMessage;
    /// use telstar::protocol::property;
    ///
    /// let order = OutgoingMessage {
    ///     topic: "orders".into(),
    ///     body: "pay 7".into(),
    ///     properties: vec![(property::TAGS.into(), "paid".into())],
    ///     queue_id: None,
    /// };
    /// assert_eq!(order.properties[0].0, "TAGS");
    /// ```
    pub const TAGS: &str = "TAGS";
    /// "false": the sender does not wait until the message is stored durably.
    pub const WAIT: &str = "WAIT";
    /// Delay level, from 1: 1 s, 5 s, 10 s and so on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use telstar::protocol::property;
    /// use telstar::testing::{Scenario, calls::*};
    ///
    /// # #[actix::main]
    /// # async fn main() {
    /// let scene = Scenario::begin().await;
    /// let broker = scene.broker("broker").topic("orders", 1).start().await;
    /// let mut shop = broker.client("shop");
    /// shop.succeed(send_to("orders", 0, "remind").property(property::DELAY, "2")).await;
    /// scene.pass(Duration::from_secs(4)).await;
    /// assert!(shop.pull(pull_from("bank", "orders", 0, 0)).await.is_empty());
    /// scene.pass(Duration::from_secs(2)).await;
    /// assert_eq!(shop.pull(pull_from("bank", "orders", 0, 0)).await.len(), 1);
    /// # }
    /// ```
    pub const DELAY: &str = "DELAY";
    /// Message id made by the client: the same for each time that a message is sent.
    ///
    /// ```
    /// use telstar::protocol::property;
    /// use telstar::testing::{Scenario, calls::*};
    ///
    /// # #[actix::main]
    /// # async fn main() {
    /// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
    /// let mut shop = broker.client("shop");
    /// for _ in 0..2 {
    ///     shop.succeed(send_to("orders", 0, "pay 7").unique_key("7f000001")).await; // a producer that tries again
    /// }
    /// let mut seen = std::collections::HashSet::new();
    /// let mut pulled = shop.pull(pull_from("bank", "orders", 0, 0)).await;
    /// pulled.retain(|message| seen.insert(message.text(property::UNIQ_KEY).to_owned()));
    /// assert_eq!(pulled.len(), 1);
    /// # }
    /// ```
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    pub const EXTEND_UNIQ_INFO: &str = "EXTEND_UNIQ_INFO";
    pub const PRODUCER_GROUP: &str = "PGROUP";
    /// "true": a half message.
    pub const TRANSACTION_PREPARED: &str = "TRAN_MSG";
    pub const TRANSACTION_ID: &str = "__transactionId__";
    pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
    pub const TRANSACTION_PREPARED_QUEUE_OFFSET: &str = "TRAN_PREPARED_QUEUE_OFFSET";
    pub const CHECK_IMMUNITY_TIME_IN_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    pub const REAL_TOPIC: &str = "REAL_TOPIC";
    pub const REAL_QUEUE_ID: &str = "REAL_QID";
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
    pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
    pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    /// Why a message is in a dead letter queue, in words; who gave it up; how often it was tried again before. Ours.
    pub const DLQ_REASON: &str = "DLQ_REASON";
    pub const DLQ_CLIENT: &str = "DLQ_CLIENT";
    pub const DLQ_RETRIES: &str = "DLQ_RETRIES";
    pub const MIN_OFFSET: &str = "MIN_OFFSET";
    pub const MAX_OFFSET: &str = "MAX_OFFSET";
    pub const CONSUME_START_TIME: &str = "CONSUME_START_TIME";
    pub const MSG_REGION: &str = "MSG_REGION";
    pub const TRACE_SWITCH: &str = "TRACE_ON";
    pub const CLUSTER: &str = "CLUSTER";
    /// Message group of ordered messages.
    pub const SHARDING_KEY: &str = "__SHARDINGKEY";
    pub const INSTANCE_ID: &str = "INSTANCE_ID";
    pub const CORRELATION_ID: &str = "CORRELATION_ID";
    pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
    pub const TTL: &str = "TTL";
    pub const ARRIVE_TIME: &str = "ARRIVE_TIME";
    pub const PUSH_REPLY_TIME: &str = "PUSH_REPLY_TIME";
    pub const MESSAGE_TYPE: &str = "MSG_TYPE";
    pub const POP_CK: &str = "POP_CK";
    pub const POP_CK_OFFSET: &str = "POP_CK_OFFSET";
    pub const FIRST_POP_TIME: &str = "1ST_POP_TIME";
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
    pub const TIMER_ENQUEUE_MS: &str = "TIMER_ENQUEUE_MS";
    pub const TIMER_DEQUEUE_MS: &str = "TIMER_DEQUEUE_MS";
    pub const TIMER_ROLL_TIMES: &str = "TIMER_ROLL_TIMES";
    pub const TIMER_DELAY_LEVEL: &str = "TIMER_DELAY_LEVEL";
    /// Ours: the exact time to deliver at, where no property of the client's tells it.
    pub const TIMER_DUE_MS: &str = "TIMER_DUE_MS";
    /// Ours: the timer message that this message delivers, recalls or stores anew.
    pub const TIMER_SETTLES: &str = "TIMER_SETTLES";
    pub const TIMER_DELETE_UNIQUE_KEY: &str = "TIMER_DEL_UNIQKEY";
    pub const INNER_NUM: &str = "INNER_NUM";
    pub const INNER_BASE: &str = "INNER_BASE";
    pub const INNER_MULTI_DISPATCH: &str = "INNER_MULTI_DISPATCH";
    pub const INNER_MULTI_QUEUE_OFFSET: &str = "INNER_MULTI_QUEUE_OFFSET";
    /// Of later versions of RocketMQ.
    pub const PRIORITY: &str = "_SYS_MSG_PRIORITY_";
    pub const LITE_TOPIC: &str = "__LITE_TOPIC";
    pub const DUP_INFO: &str = "DUP_INFO";
    pub const CRC32: &str = "__CRC32#";
    pub const BORN_HOST: &str = "__BORNHOST";
    pub const BORN_TIMESTAMP: &str = "BORN_TIMESTAMP";
    pub const TRACE_CONTEXT: &str = "TRACE_CONTEXT";
    pub const BUYER_ID: &str = "BUYER_ID";
    pub const TRANSFER_FLAG: &str = "TRANSFER_FLAG";
    pub const CORRECTION_FLAG: &str = "CORRECTION_FLAG";
    pub const MQ2_FLAG: &str = "MQ2_FLAG";
    pub const REDIRECT: &str = "REDIRECT";
    pub const FORWARD_QUEUE_ID: &str = "PROPERTY_FORWARD_QUEUE_ID";
    /// Properties whose names begin so are never stored.
    pub const TRANSIENT_PREFIX: &str = "__RMQ.TRANSIENT.";
}

/// Pairs of a property text, in its order, without copying.
#[derive(Clone, Debug)]
pub struct PropertyPairs<'a> {
    rest: &'a [u8],
}

/// Walks the pairs of `text`.
pub fn pairs(text: &[u8]) -> PropertyPairs<'_> {
    PropertyPairs { rest: text }
}

/// The value of `name` in `text`.
pub fn get<'a>(text: &'a [u8], name: &str) -> Option<&'a str> {
    // Names are compared as bytes: a pull with a filter asks this of every message.
    let mut found = None;
    let mut rest = text;
    while !rest.is_empty() {
        let end = memchr::memchr(PROPERTY_SEPARATOR, rest).unwrap_or(rest.len());
        let (pair, behind) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
        if let Some(value) = pair.strip_prefix(name.as_bytes())
            && let Some((&NAME_VALUE_SEPARATOR, value)) = value.split_first()
            && let Ok(value) = str::from_utf8(value)
            && !value.is_empty()
        {
            found = Some(value);
        }
        rest = behind;
    }
    found.filter(|_| !name.is_empty())
}

/// Appends one pair. Name and value must not contain the separators; an empty value will not be read back.
pub fn push(text: &mut Vec<u8>, name: &str, value: &str) {
    text.reserve(name.len() + value.len() + 2);
    text.extend_from_slice(name.as_bytes());
    text.push(NAME_VALUE_SEPARATOR);
    text.extend_from_slice(value.as_bytes());
    text.push(PROPERTY_SEPARATOR);
}

/// The text of some pairs.
pub fn encode<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Bytes {
    let mut text = Vec::new();
    for (name, value) in pairs {
        push(&mut text, name, value);
    }
    text.into()
}

impl<'a> Iterator for PropertyPairs<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let pair = match memchr::memchr(PROPERTY_SEPARATOR, self.rest) {
                Some(end) => {
                    let pair = &self.rest[..end];
                    self.rest = &self.rest[end + 1..];
                    pair
                }
                None => std::mem::take(&mut self.rest),
            };
            if let Some(pair) = split_pair(pair) {
                return Some(pair);
            }
        }
        None
    }
}

fn split_pair(pair: &[u8]) -> Option<(&str, &str)> {
    let (name, value) = str::from_utf8(pair).ok()?.split_once(char::from(NAME_VALUE_SEPARATOR))?;
    (!name.is_empty() && !value.is_empty()).then_some((name, value))
}

/// Properties to be changed: few, ordered, each name once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PropertyList {
    pairs: Vec<(String, String)>,
}

impl PropertyList {
    /// Reads `text`, with the tolerances of [`pairs`].
    pub fn decode(text: &[u8]) -> Self {
        let mut list = Self::default();
        for (name, value) in pairs(text) {
            list.set(name, value);
        }
        list
    }

    pub fn encode(&self) -> Bytes {
        encode(self.iter())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Gives `name` a value, in its old place or behind all others.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.pairs.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((name.to_owned(), value)),
        }
    }

    /// Takes `name` out; returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(found, _)| found == name)?;
        Some(self.pairs.remove(at).1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// What a consume queue unit holds of a tag: its Java hash, sign-extended; 0 without a tag.
pub fn tags_code(tags: Option<&str>) -> i64 {
    tags.map_or(0, |tags| i64::from(java_string_hash(tags)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> Vec<(&str, &str)> {
        pairs(text).collect()
    }

    #[test]
    fn pairs_are_read_as_java_reads_them() {
        assert_eq!(read(b"TAGS\x01a\x02KEYS\x01k1 k2\x02"), [("TAGS", "a"), ("KEYS", "k1 k2")]);
        assert_eq!(read(b"TAGS\x01a"), [("TAGS", "a")], "the last separator may be missing");
        assert_eq!(read(b"\x02\x02a\x02a\x01\x02\x01b\x02c\x01d\x02"), [("c", "d")], "halves are skipped");
        assert_eq!(read(b"a\x01b\x01c\x02"), [("a", "b\x01c")], "a value may hold the name separator");
        assert_eq!(read(b"a\x01\xFF\x02b\x01c"), [("b", "c")], "only the broken pair is lost");
        assert_eq!(get(b"a\x01b\x02a\x01c\x02", "a"), Some("c"), "the last one counts");
        assert_eq!(get(b"a\x01b\x02", "b"), None);
    }

    #[test]
    fn list_keeps_order_and_replaces_in_place() {
        let mut list = PropertyList::decode(b"a\x011\x02b\x012\x02a\x013");
        list.set("c", "4");
        assert_eq!(list.remove("b").as_deref(), Some("2"));
        assert_eq!(list.get("a"), Some("3"));
        assert_eq!(list.encode(), &b"a\x013\x02c\x014\x02"[..]);
    }

    #[test]
    fn tags_code_is_the_hash_with_its_sign() {
        assert_eq!(tags_code(None), 0);
        assert_eq!(tags_code(Some("polygenelubricants")), -2_147_483_648);
    }

    proptest! {
        #[test]
        fn any_bytes_are_readable(text: Vec<u8>) {
            for (name, value) in pairs(&text) {
                prop_assert!(!name.is_empty() && !value.is_empty());
            }
        }

        /// As among all pairs.
        #[test]
        fn the_last_pair_of_a_name_is_found(text in "[ab\x01\x02\u{e9}]{0,24}", name in "[ab\u{e9}]{0,2}") {
            let last = pairs(text.as_bytes()).filter(|(found, _)| *found == name).last();
            prop_assert_eq!(get(text.as_bytes(), &name), last.map(|(_, value)| value));
        }

        #[test]
        fn encoded_pairs_are_read_back(list in prop::collection::vec(("[^\x01\x02]{1,9}", "[^\x01\x02]{1,9}"), 0..9)) {
            let text = encode(list.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let expected: Vec<_> = list.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            prop_assert_eq!(read(&text), expected);
        }
    }
}
