//! The society: one actor per file, thin over `store` and the pure logic beside it.

pub mod broker_settings;
pub mod broker_stats;
pub mod connection;
pub mod listener;
pub mod output;
pub mod request;
pub mod requests;
pub mod topic_queue;
mod topic_queue_stub;
pub mod topic_table;
pub mod topics;
pub mod transport;
pub mod turn;
