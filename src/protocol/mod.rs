//! Bytes to types and back; no I/O, no clock.

pub mod attributes;
pub mod body;
mod code;
pub mod data_version;
pub mod fastjson;
pub mod java_hash;
pub mod names;
pub mod properties_text;
pub mod request_code;
pub mod response_code;
pub mod subscription_group_config;
pub mod topic_config;
