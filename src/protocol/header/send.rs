//! SEND_MESSAGE (10) with long names, SEND_MESSAGE_V2 (310) and SEND_BATCH_MESSAGE (320) with one-letter
//! names, and their response.

use bytes::Bytes;

use super::field::{HeaderError, HeaderField, header};
use crate::protocol::ext_fields::ExtFields;

/// The header of a send, texts borrowed from the command: it is on the way of every message.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SendHeader<'a> {
    pub producer_group: &'a str,
    pub topic: &'a str,
    /// The topic whose settings an auto-created topic takes, normally `TBW102`.
    pub default_topic: &'a str,
    pub default_topic_queue_nums: i32,
    /// Negative: the broker picks one.
    pub queue_id: i32,
    pub sys_flag: i32,
    pub born_at_ms: i64,
    /// The user's own flag, stored as is.
    pub flag: i32,
    /// Encoded properties; empty when absent.
    pub properties: Bytes,
    pub reconsume_times: i32,
    /// Only looked at for retry topics.
    pub max_reconsume_times: Option<i32>,
    /// The body is a batch. This decides, not the request code.
    pub batch: bool,
}

impl<'a> SendHeader<'a> {
    /// Reads long names; request code 10.
    pub fn from_long_names(fields: &'a ExtFields) -> Result<Self, HeaderError> {
        Self::read(fields, |name| {
            Some(match name {
                b"producerGroup" => Part::ProducerGroup,
                b"topic" => Part::Topic,
                b"defaultTopic" => Part::DefaultTopic,
                b"defaultTopicQueueNums" => Part::DefaultTopicQueueNums,
                b"queueId" => Part::QueueId,
                b"sysFlag" => Part::SysFlag,
                b"bornTimestamp" => Part::BornTimestamp,
                b"flag" => Part::Flag,
                b"properties" => Part::Properties,
                b"reconsumeTimes" => Part::ReconsumeTimes,
                b"maxReconsumeTimes" => Part::MaxReconsumeTimes,
                b"batch" => Part::Batch,
                _ => return None,
            })
        })
    }

    /// Reads one-letter names; request codes 310, 320.
    pub fn from_short_names(fields: &'a ExtFields) -> Result<Self, HeaderError> {
        Self::read(fields, |name| {
            let [letter] = name else { return None };
            Some(match letter {
                b'a' => Part::ProducerGroup,
                b'b' => Part::Topic,
                b'c' => Part::DefaultTopic,
                b'd' => Part::DefaultTopicQueueNums,
                b'e' => Part::QueueId,
                b'f' => Part::SysFlag,
                b'g' => Part::BornTimestamp,
                b'h' => Part::Flag,
                b'i' => Part::Properties,
                b'j' => Part::ReconsumeTimes,
                b'l' => Part::MaxReconsumeTimes,
                b'm' => Part::Batch,
                _ => return None,
            })
        })
    }

    fn read(fields: &'a ExtFields, part_of: impl Fn(&[u8]) -> Option<Part>) -> Result<Self, HeaderError> {
        let mut header = Self { queue_id: -1, ..Self::default() };
        let mut has_topic = false;
        for (name, value) in fields.spans() {
            let Some(part) = part_of(name) else { continue };
            let text = || fields.text(value);
            match part {
                Part::Properties => header.properties = fields.bytes(value),
                Part::ProducerGroup => header.producer_group = text(),
                Part::Topic => {
                    header.topic = text();
                    has_topic = true;
                }
                Part::DefaultTopic => header.default_topic = text(),
                Part::DefaultTopicQueueNums => {
                    header.default_topic_queue_nums =
                        HeaderField::read("defaultTopicQueueNums", Some(text()))?
                }
                Part::QueueId => header.queue_id = HeaderField::read("queueId", Some(text()))?,
                Part::SysFlag => header.sys_flag = HeaderField::read("sysFlag", Some(text()))?,
                Part::BornTimestamp => header.born_at_ms = HeaderField::read("bornTimestamp", Some(text()))?,
                Part::Flag => header.flag = HeaderField::read("flag", Some(text()))?,
                Part::ReconsumeTimes => {
                    header.reconsume_times = Option::read("reconsumeTimes", Some(text()))?.unwrap_or(0)
                }
                Part::MaxReconsumeTimes => {
                    header.max_reconsume_times = HeaderField::read("maxReconsumeTimes", Some(text()))?
                }
                // Only "true" means yes here: the C++ client marks with "1" what Java stores as one message.
                Part::Batch => header.batch = text().eq_ignore_ascii_case("true"),
            }
        }
        if has_topic { Ok(header) } else { Err(HeaderError::Missing { field: "topic" }) }
    }
}

enum Part {
    ProducerGroup,
    Topic,
    DefaultTopic,
    DefaultTopicQueueNums,
    QueueId,
    SysFlag,
    BornTimestamp,
    Flag,
    Properties,
    ReconsumeTimes,
    MaxReconsumeTimes,
    Batch,
}

header! {
    /// What a send is answered with; all three are always there when the message is stored.
    pub struct SendResponse {
        /// Offset message ids, joined by commas for a batch.
        pub msg_id: String => "msgId",
        pub queue_id: i32 => "queueId",
        /// Queue offset of the (first) message.
        pub queue_offset: i64 => "queueOffset",
        /// Unique key of the message.
        pub transaction_id: Option<String> => "transactionId",
    }

    /// SEND_MESSAGE_V2 (310) and SEND_BATCH_MESSAGE (320), as we send it ourselves.
    pub struct SendMessageV2 {
        pub producer_group: String => "a",
        pub topic: String => "b",
        pub default_topic: String => "c",
        pub default_topic_queue_nums: i32 => "d",
        pub queue_id: i32 => "e",
        pub sys_flag: i32 => "f",
        pub born_at_ms: i64 => "g",
        pub flag: i32 => "h",
        pub properties: String => "i",
        pub reconsume_times: i32 => "j" or 0,
        pub unit_mode: bool => "k" or false,
        pub max_reconsume_times: Option<i32> => "l",
        pub batch: bool => "m" or false,
    }

    /// PUSH_REPLY_MESSAGE_TO_CLIENT (326).
    pub struct PushReply {
        pub producer_group: String => "producerGroup",
        pub topic: String => "topic",
        pub default_topic: String => "defaultTopic",
        pub default_topic_queue_nums: i32 => "defaultTopicQueueNums",
        pub queue_id: i32 => "queueId",
        pub sys_flag: i32 => "sysFlag",
        pub born_at_ms: i64 => "bornTimestamp",
        pub flag: i32 => "flag",
        pub properties: String => "properties",
        pub reconsume_times: i32 => "reconsumeTimes",
        pub unit_mode: bool => "unitMode",
        /// Who replied, `ip:port`.
        pub born_host: String => "bornHost",
        /// This broker, likewise.
        pub store_host: String => "storeHost",
        pub stored_at_ms: i64 => "storeTimestamp",
    }

    /// END_TRANSACTION (37).
    pub struct EndTransactionHeader {
        pub producer_group: crate::types::GroupName => "producerGroup",
        /// Queue offset of the half message.
        pub tran_state_table_offset: i64 => "tranStateTableOffset",
        /// Physical offset of the half message.
        pub commit_log_offset: i64 => "commitLogOffset",
        /// 8 commit, 12 rollback, 0 not known yet.
        pub commit_or_rollback: i32 => "commitOrRollback",
        /// The answer to a check.
        pub from_transaction_check: bool => "fromTransactionCheck" or false,
        pub msg_id: Option<String> => "msgId",
        pub transaction_id: Option<String> => "transactionId",
        /// Absent from Go and old clients.
        pub topic: Option<String> => "topic",
    }

    /// CHECK_TRANSACTION_STATE (39), to a producer.
    pub struct CheckTransactionState {
        pub topic: crate::types::TopicName => "topic",
        pub tran_state_table_offset: i64 => "tranStateTableOffset",
        pub commit_log_offset: i64 => "commitLogOffset",
        /// Unique key of the message, both.
        pub msg_id: Option<String> => "msgId",
        pub transaction_id: Option<String> => "transactionId",
        pub offset_msg_id: String => "offsetMsgId",
        pub broker_name: crate::types::BrokerName => "bname",
    }

    /// RESUME_CHECK_HALF_MESSAGE (323).
    pub struct ResumeCheck {
        pub topic: Option<String> => "topic",
        /// Offset message id of the message that was given up.
        pub msg_id: String => "msgId",
    }

    /// CONSUMER_SEND_MSG_BACK (36).
    pub struct SendBack {
        /// Physical offset of the message.
        pub offset: i64 => "offset",
        pub group: crate::types::GroupName => "group",
        /// -1 straight to the dead letter queue, 0 the broker's ladder, n that delay level.
        pub delay_level: i32 => "delayLevel" or 0,
        pub origin_msg_id: Option<String> => "originMsgId",
        pub origin_topic: Option<String> => "originTopic",
        /// Honoured for clients from version 121 (V3_4_9) on.
        pub max_reconsume_times: Option<i32> => "maxReconsumeTimes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::header::{FieldWriter, TypedHeader};

    #[test]
    fn long_and_short_names_mean_the_same() {
        let long: ExtFields = [
            ("producerGroup", "pg"),
            ("topic", "T"),
            ("defaultTopic", "TBW102"),
            ("defaultTopicQueueNums", "4"),
            ("queueId", "3"),
            ("sysFlag", "1"),
            ("bornTimestamp", "1700000000000"),
            ("flag", "7"),
            ("properties", "KEYS\u{1}k\u{2}"),
            ("reconsumeTimes", "2"),
            ("maxReconsumeTimes", "16"),
            ("batch", "true"),
        ]
        .into_iter()
        .collect();
        let short: ExtFields =
            "abcdefghijlm".chars().map(String::from).zip(long.iter().map(|(_, value)| value)).collect();
        let header = SendHeader::from_long_names(&long).unwrap();
        assert_eq!(header, SendHeader::from_short_names(&short).unwrap());
        assert_eq!((header.topic, header.queue_id, header.batch), ("T", 3, true));
        assert_eq!(&header.properties[..], b"KEYS\x01k\x02");
    }

    #[test]
    fn what_may_be_absent_has_a_default_and_the_topic_may_not() {
        let fields: ExtFields = [("b", "T")].into_iter().collect();
        let header = SendHeader::from_short_names(&fields).unwrap();
        assert_eq!((header.queue_id, header.batch, header.max_reconsume_times), (-1, false, None));
        assert_eq!(
            SendHeader::from_short_names(&ExtFields::default()).unwrap_err(),
            HeaderError::Missing { field: "topic" }
        );
    }

    #[test]
    fn the_one_of_the_cpp_client_is_no_batch() {
        let fields: ExtFields = [("b", "T"), ("m", "1")].into_iter().collect();
        assert!(!SendHeader::from_short_names(&fields).unwrap().batch);
    }

    #[test]
    fn typed_headers_survive_the_wire() {
        let back = SendBack {
            offset: 77,
            group: "g".into(),
            delay_level: -1,
            origin_msg_id: None,
            origin_topic: Some("T".into()),
            max_reconsume_times: Some(16),
        };
        let fields: ExtFields = FieldWriter::of(&back).into_pairs().into_iter().collect();
        assert_eq!(SendBack::from_fields(&fields).unwrap(), back);
    }
}
