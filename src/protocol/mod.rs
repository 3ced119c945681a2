//! Bytes to types and back; no I/O, no clock.

pub mod batch_body;
pub mod message;
pub mod message_id;
pub mod properties;
pub mod sys_flag;
