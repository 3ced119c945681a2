//! Timer messages: taking one back, looking at them.

use super::field::header;
use crate::types::TopicName;

header! {
    /// RECALL_MESSAGE (370).
    pub struct RecallMessage {
        pub producer_group: Option<String> => "producerGroup",
        pub topic: TopicName => "topic",
        /// As the send was answered.
        pub recall_handle: String => "recallHandle",
    }

    /// The answer to RECALL_MESSAGE (370).
    pub struct RecallMessageResponse {
        /// The unique key of the message.
        pub msg_id: String => "msgId",
    }

    /// LIST_TIMERS (29010).
    pub struct ListTimersHeader {
        /// Due times `[from, to)`, milliseconds.
        pub from_ms: i64 => "fromMs" or 0,
        pub to_ms: i64 => "toMs" or i64::MAX,
        /// Together with `from_ms`, where an earlier answer ended.
        pub from_offset: i64 => "fromOffset" or 0,
        pub topic: Option<TopicName> => "topic",
        /// A business key or the unique key.
        pub key: Option<String> => "key",
        pub max: i32 => "max" or 64,
    }

    /// CANCEL_TIMER (29011).
    pub struct CancelTimer {
        pub topic: TopicName => "topic",
        pub unique_key: String => "uniqueKey",
        pub due_ms: i64 => "dueMs",
    }
}
