//! Bytes to types and back; no I/O, no clock.

mod binary_header;
mod json_header;

pub mod attributes;
pub mod command;
pub mod data_version;
pub mod ext_fields;
pub mod fastjson;
pub mod frame;
pub mod header;
pub mod names;
pub mod request_code;
pub mod response_code;
pub mod subscription_group_config;
pub mod topic_config;
pub mod batch_body;
pub mod message;
pub mod message_id;
pub mod properties;
pub mod sys_flag;
