//! PULL_MESSAGE (11), LITE_PULL_MESSAGE (361) and their response.

use super::field::header;
use crate::types::{GroupName, TopicName};

/// `sysFlag` of a pull (RocketMQ: `PullSysFlag`): commit `commit_offset` first.
pub const PULL_COMMIT_OFFSET: i32 = 1;
/// The pull may be held until a message arrives.
pub const PULL_SUSPEND: i32 = 2;
/// `subscription` of this request is the filter, not the one of the heartbeat.
pub const PULL_SUBSCRIPTION: i32 = 4;
/// Lite pull.
pub const PULL_LITE: i32 = 16;

header! {
    pub struct PullHeader {
        pub consumer_group: GroupName => "consumerGroup",
        pub topic: TopicName => "topic",
        pub queue_id: i32 => "queueId",
        /// The first queue offset wanted.
        pub queue_offset: i64 => "queueOffset",
        pub max_msg_nums: i32 => "maxMsgNums",
        /// Bits: see the constants beside this type.
        pub sys_flag: i32 => "sysFlag" or 0,
        pub commit_offset: i64 => "commitOffset" or 0,
        /// Longest time to hold the pull, ms.
        pub suspend_timeout_ms: i64 => "suspendTimeoutMillis" or 0,
        pub subscription: Option<String> => "subscription",
        /// Client time of the subscription, ms; a newer one than the broker knows is refused.
        pub sub_version: i64 => "subVersion" or 0,
        /// `TAG` when absent.
        pub expression_type: Option<String> => "expressionType",
    }

    /// What a pull is answered with; all four are there on every answer that clients read, found or not.
    pub struct PullResponse {
        pub suggest_which_broker_id: i64 => "suggestWhichBrokerId",
        pub next_begin_offset: i64 => "nextBeginOffset",
        pub min_offset: i64 => "minOffset",
        pub max_offset: i64 => "maxOffset",
    }
}
