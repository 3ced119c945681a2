//! Bytes to types and back; no I/O, no clock.
//!
//! Shown is what clients, extensions and tests meet of RocketMQ's remoting protocol: codes, messages, subscriptions, settings,
//! and how a header becomes a type. The headers and bodies of all other requests are hidden, in `header` and `body`; any of
//! them can be asked with a header of one's own, see [`TypedHeader`], or field by field.

mod binary_header;
mod code;
mod json_header;

#[doc(hidden)]
pub mod attributes;
#[doc(hidden)]
pub mod batch_body;
#[doc(hidden)]
pub mod body;
#[doc(hidden)]
pub mod command;
#[doc(hidden)]
pub mod data_version;
#[doc(hidden)]
pub mod delay_level;
#[doc(hidden)]
pub mod ext_fields;
#[doc(hidden)]
pub mod fastjson;
#[doc(hidden)]
pub mod frame;
#[doc(hidden)]
pub mod header;
#[doc(hidden)]
pub mod java_hash;
#[doc(hidden)]
pub mod key_digest;
#[doc(hidden)]
pub mod message;
#[doc(hidden)]
pub mod message_body;
#[doc(hidden)]
pub mod message_id;
#[doc(hidden)]
pub mod names;
#[doc(hidden)]
pub mod properties;
#[doc(hidden)]
pub mod properties_text;
#[doc(hidden)]
pub mod request_code;
#[doc(hidden)]
pub mod response_code;
#[doc(hidden)]
pub mod subscription_group_config;
#[doc(hidden)]
pub mod sys_flag;
#[doc(hidden)]
pub mod timer;
#[doc(hidden)]
pub mod topic_config;
#[doc(hidden)]
pub mod transaction;

pub use attributes::Attributes;
pub use body::stats::{TopicOffset, TopicStatsTable};
pub use body::subscription::{SQL92, SubscriptionData, SubscriptionError, TAG};
pub use ext_fields::ExtFields;
pub use fastjson::QueueMap;
pub use frame::HeaderCodec;
pub use header::{FieldWriter, HeaderError, OffsetResponse, QueueHeader, TopicHeader, TypedHeader};
pub use message::StoredMessage;
pub use message_body::BodyError;
pub use request_code::RequestCode;
pub use response_code::ResponseCode;
pub use subscription_group_config::{
    CustomizedRetryPolicy, ExponentialRetryPolicy, GroupRetryPolicy, GroupRetryPolicyType,
    SimpleSubscriptionData, SubscriptionGroupConfig,
};
pub use topic_config::{Permission, TopicConfig, TopicFilterType};
pub use transaction::Decision;

/// Names of properties that producers set and consumers look at.
pub mod property {
    pub use super::properties::names::{DELAY, KEYS, TAGS, UNIQ_KEY};
}
