//! Handlers of requests: each reads its header, asks the owners, and makes the answer. Nothing is kept here.

pub mod broker;
pub mod messages;
pub mod name_server;
pub mod pull;
pub mod runtime_info;
pub mod send;
pub mod topics;
