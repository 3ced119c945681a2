//! Administration of topics.

use super::field::header;
use crate::types::TopicName;

header! {
    /// UPDATE_AND_CREATE_TOPIC (17).
    pub struct CreateTopic {
        pub topic: TopicName => "topic",
        pub default_topic: String => "defaultTopic" or String::new(),
        pub read_queue_nums: i32 => "readQueueNums" or 8,
        pub write_queue_nums: i32 => "writeQueueNums" or 8,
        pub perm: i32 => "perm" or 6,
        pub topic_filter_type: String => "topicFilterType" or "SINGLE_TAG".into(),
        pub topic_sys_flag: i32 => "topicSysFlag" or 0,
        pub order: bool => "order" or false,
        /// `+name=value,-name`.
        pub attributes: Option<String> => "attributes",
    }

    /// DELETE_TOPIC_IN_BROKER (215), GET_TOPIC_CONFIG (351), GET_TOPIC_STATS_INFO (202),
    /// QUERY_TOPIC_CONSUME_BY_WHO (300).
    ///
    /// ```
    /// use telstar::client::Call;
    /// use telstar::protocol::{RequestCode, TopicHeader};
    /// use telstar::testing::Scenario;
    ///
    /// # #[actix::main]
    /// # async fn main() {
    /// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
    /// let topic = TopicHeader { topic: "orders".into() };
    /// let config = Call::new(RequestCode::GET_TOPIC_CONFIG).header(&topic);
    /// let answer = broker.client("admin").succeed(config).await;
    /// assert!(String::from_utf8_lossy(&answer.body).contains(r#""writeQueueNums":1"#));
    /// # }
    /// ```
    pub struct TopicHeader {
        /// The topic.
        pub topic: TopicName => "topic",
    }

    /// GET_ALL_TOPIC_CONFIG (21); without the paging fields everything is returned.
    pub struct GetAllTopicConfig {
        pub topic_seq: Option<i32> => "topicSeq",
        pub data_version: Option<String> => "dataVersion",
        pub max_topic_num: Option<i32> => "maxTopicNum",
    }

    pub struct GetAllTopicConfigResponse {
        pub total_topic_num: i32 => "totalTopicNum",
    }
}
