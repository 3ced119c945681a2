//! Administration of consumer groups and their offsets.

use super::field::header;
use crate::types::{ClientId, GroupName, TopicName};

header! {
    /// DELETE_SUBSCRIPTIONGROUP (207).
    pub struct DeleteGroup {
        pub group_name: GroupName => "groupName",
        pub clean_offset: bool => "cleanOffset" or false,
    }

    /// GET_ALL_SUBSCRIPTIONGROUP_CONFIG (201); without the paging fields everything is returned.
    pub struct GetAllGroupConfig {
        pub group_seq: Option<i32> => "groupSeq",
        pub data_version: Option<String> => "dataVersion",
        pub max_group_num: Option<i32> => "maxGroupNum",
    }

    pub struct GetAllGroupConfigResponse {
        pub total_group_num: i32 => "totalGroupNum",
    }

    /// GET_SUBSCRIPTIONGROUP_CONFIG (352), QUERY_TOPICS_BY_CONSUMER (343), STOP_REPLAY (29203),
    /// DESCRIBE_GROUP (29210).
    pub struct GroupHeader {
        pub group: GroupName => "group",
    }

    /// LIST_REPLAYS (29202); without a group all are meant.
    pub struct OptionalGroupHeader {
        pub group: Option<GroupName> => "group",
    }

    /// GET_CONSUME_STATS (208).
    pub struct ConsumeStatsHeader {
        pub consumer_group: GroupName => "consumerGroup",
        pub topic: Option<String> => "topic",
        /// Names joined by `;`, wins over `topic`.
        pub topic_list: Option<String> => "topicList",
    }

    /// GET_BROKER_CONSUME_STATS (317).
    pub struct BrokerConsumeStatsHeader {
        pub is_order: bool => "isOrder" or false,
    }

    /// INVOKE_BROKER_TO_RESET_OFFSET (222).
    pub struct ResetOffset {
        pub group: GroupName => "group",
        pub topic: TopicName => "topic",
        /// -1: all queues.
        pub queue_id: i32 => "queueId" or -1,
        pub offset: Option<i64> => "offset",
        /// ms; -1: the end of the queue.
        pub timestamp: i64 => "timestamp" or -1,
        pub is_force: bool => "isForce" or false,
    }

    /// INVOKE_BROKER_TO_GET_CONSUMER_STATUS (223).
    pub struct ConsumerStatusHeader {
        pub topic: TopicName => "topic",
        pub group: GroupName => "group",
        pub client_addr: Option<ClientId> => "clientAddr",
    }

    /// QUERY_SUBSCRIPTION_BY_CONSUMER (345), QUERY_CONSUME_TIME_SPAN (303).
    pub struct GroupAndTopic {
        pub group: GroupName => "group",
        pub topic: TopicName => "topic",
    }

    /// RESET_CONSUMER_CLIENT_OFFSET (220), sent to clients.
    pub struct ResetClientOffset {
        pub topic: TopicName => "topic",
        pub group: GroupName => "group",
        /// ms; -1: the end of the queue.
        pub timestamp: i64 => "timestamp" or -1,
        pub is_force: bool => "isForce" or false,
    }

    /// GET_CONSUMER_STATUS_FROM_CLIENT (221), sent to clients.
    pub struct ClientStatusHeader {
        pub topic: TopicName => "topic",
        pub group: GroupName => "group",
    }

    /// QUERY_CORRECTION_OFFSET (308).
    pub struct CorrectionOffsetHeader {
        /// Names joined by `,`.
        pub filter_groups: Option<String> => "filterGroups",
        pub compare_group: GroupName => "compareGroup",
        pub topic: TopicName => "topic",
    }

    /// UPDATE_AND_GET_GROUP_FORBIDDEN (353).
    pub struct GroupForbiddenHeader {
        pub group: GroupName => "group",
        pub topic: TopicName => "topic",
        /// Absent: nothing is changed.
        pub readable: Option<bool> => "readable",
    }

    /// CLONE_GROUP_OFFSET (314).
    pub struct CloneGroupOffset {
        pub src_group: GroupName => "srcGroup",
        pub dest_group: GroupName => "destGroup",
        pub topic: Option<TopicName> => "topic",
        pub offline: bool => "offline" or false,
    }
}
