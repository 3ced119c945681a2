//! Bytes to types and back; no I/O, no clock.

pub mod fastjson;
