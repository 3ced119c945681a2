//! Handlers of requests: each reads its header, asks the owners, and makes the answer. Nothing is kept here.

pub mod broker;
pub mod name_server;
pub mod runtime_info;
pub mod send;
pub mod topics;
