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
pub mod fastjson;
pub mod names;
pub mod request_code;
pub mod response_code;
pub mod subscription_group_config;
pub mod topic_config;
