//! Bytes to types and back; no I/O, no clock.

mod binary_header;
mod json_header;

pub mod command;
pub mod ext_fields;
pub mod frame;
pub mod header;
pub mod fastjson;
