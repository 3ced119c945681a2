//! Bytes to types and back; no I/O, no clock.

mod binary_header;
mod code;
mod json_header;

pub mod attributes;
pub mod batch_body;
pub mod body;
pub mod command;
pub mod data_version;
pub mod delay_level;
pub mod ext_fields;
pub mod fastjson;
pub mod frame;
pub mod header;
pub mod java_hash;
pub mod key_digest;
pub mod message;
pub mod message_body;
pub mod message_id;
pub mod names;
pub mod properties;
pub mod properties_text;
pub mod request_code;
pub mod response_code;
pub mod subscription_group_config;
pub mod sys_flag;
pub mod timer;
pub mod topic_config;
pub mod transaction;
