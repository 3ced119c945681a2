//! Bytes to types and back; no I/O, no clock.

pub mod attributes;
pub mod data_version;
pub mod fastjson;
pub mod names;
pub mod subscription_group_config;
pub mod topic_config;
