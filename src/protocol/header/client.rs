//! What clients ask beside sending and pulling: offsets, membership.

use super::field::header;
use crate::types::{ClientId, GroupName, TopicName};

header! {
    /// QUERY_CONSUMER_OFFSET (14).
    pub struct QueryConsumerOffset {
        pub consumer_group: GroupName => "consumerGroup",
        pub topic: TopicName => "topic",
        pub queue_id: i32 => "queueId",
        pub set_zero_if_not_found: Option<bool> => "setZeroIfNotFound",
    }

    /// UPDATE_CONSUMER_OFFSET (15).
    pub struct UpdateConsumerOffset {
        pub consumer_group: GroupName => "consumerGroup",
        pub topic: TopicName => "topic",
        pub queue_id: Option<i32> => "queueId",
        pub commit_offset: Option<i64> => "commitOffset",
    }

    /// SEARCH_OFFSET_BY_TIMESTAMP (29).
    pub struct SearchOffset {
        pub topic: TopicName => "topic",
        pub queue_id: i32 => "queueId",
        pub timestamp: i64 => "timestamp",
        /// LOWER or UPPER in any case; anything else counts as LOWER.
        pub boundary_type: Option<String> => "boundaryType",
    }

    /// GET_MAX_OFFSET (30), GET_MIN_OFFSET (31), GET_EARLIEST_MSG_STORETIME (32).
    ///
    /// ```
    /// use telstar::client::Call;
    /// use telstar::protocol::{OffsetResponse, QueueHeader, RequestCode};
    /// use telstar::testing::{Scenario, calls::send_to};
    ///
    /// # #[actix::main]
    /// # async fn main() -> Result<(), telstar::client::ClientError> {
    /// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
    /// let mut shop = broker.client("shop");
    /// shop.succeed(send_to("orders", 0, "pay 7")).await;
    /// let queue = QueueHeader { topic: "orders".into(), queue_id: 0 };
    /// let most = shop.succeed(Call::new(RequestCode::GET_MAX_OFFSET).header(&queue)).await;
    /// assert_eq!(most.header::<OffsetResponse>()?.offset, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub struct QueueHeader {
        /// The topic.
        pub topic: TopicName => "topic",
        /// The queue, from 0.
        pub queue_id: i32 => "queueId",
    }

    /// The answer to 14, 29, 30, 31.
    ///
    /// ```
    /// use telstar::protocol::OffsetResponse;
    /// use telstar::testing::{Scenario, calls::*};
    ///
    /// # #[actix::main]
    /// # async fn main() -> Result<(), telstar::client::ClientError> {
    /// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
    /// let mut bank = broker.client("bank");
    /// bank.consumes("payers", &["orders"]).await;
    /// bank.succeed(send_to("orders", 0, "pay 7")).await;
    /// bank.succeed(commit_offset("payers", "orders", 0, 1)).await;
    /// let committed = bank.succeed(query_offset("payers", "orders", 0)).await;
    /// assert_eq!(committed.header::<OffsetResponse>()?, OffsetResponse { offset: 1 });
    /// # Ok(())
    /// # }
    /// ```
    pub struct OffsetResponse {
        /// A queue offset.
        pub offset: i64 => "offset",
    }

    /// The answer to 32.
    pub struct TimestampResponse {
        /// ms, -1 when the queue is empty.
        pub timestamp: i64 => "timestamp",
    }

    /// VIEW_MESSAGE_BY_ID (33).
    pub struct ViewMessage {
        /// Physical offset.
        pub offset: i64 => "offset",
    }

    /// QUERY_MESSAGE (12).
    pub struct QueryMessage {
        pub topic: TopicName => "topic",
        pub key: String => "key",
        pub max_num: i32 => "maxNum" or 32,
        /// Store time, ms, both ends included.
        pub begin_timestamp: i64 => "beginTimestamp" or 0,
        pub end_timestamp: i64 => "endTimestamp" or i64::MAX,
        pub unique_key_query: bool => "_UNIQUE_KEY_QUERY" or false,
        /// `T`: the key is a tag; `K`, `U`, absent: a key or a unique key.
        pub index_type: Option<String> => "indexType",
        /// The last message of an earlier answer, `STORED_AT@TOPIC@TYPE@KEY@UNIQUE_KEY@PHYSICAL_OFFSET`: go on behind
        /// it.
        pub last_key: Option<String> => "lastKey",
    }

    /// The answer to 12.
    pub struct QueryMessageResponse {
        pub index_last_update_timestamp: i64 => "indexLastUpdateTimestamp",
        pub index_last_update_phyoffset: i64 => "indexLastUpdatePhyoffset",
    }

    /// CONSUME_MESSAGE_DIRECTLY (309), relayed to the client.
    pub struct ConsumeDirectly {
        pub consumer_group: GroupName => "consumerGroup",
        pub client_id: Option<ClientId> => "clientId",
        /// Offset message id.
        pub msg_id: Option<String> => "msgId",
        pub topic: Option<TopicName> => "topic",
    }

    /// UNREGISTER_CLIENT (35); an empty group counts as none.
    pub struct UnregisterClient {
        pub client_id: ClientId => "clientID",
        pub producer_group: Option<String> => "producerGroup",
        pub consumer_group: Option<String> => "consumerGroup",
    }

    /// GET_CONSUMER_LIST_BY_GROUP (38), GET_CONSUMER_CONNECTION_LIST (203), NOTIFY_CONSUMER_IDS_CHANGED (40).
    pub struct ConsumerGroupHeader {
        pub consumer_group: GroupName => "consumerGroup",
    }

    /// GET_PRODUCER_CONNECTION_LIST (204).
    pub struct ProducerGroupHeader {
        pub producer_group: GroupName => "producerGroup",
    }

    /// GET_CONSUMER_RUNNING_INFO (307), relayed to the client.
    pub struct ConsumerRunningInfoHeader {
        pub consumer_group: GroupName => "consumerGroup",
        pub client_id: ClientId => "clientId",
        pub jstack_enable: Option<bool> => "jstackEnable",
    }
}
