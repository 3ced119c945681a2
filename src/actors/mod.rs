//! The society: one actor per file, thin over `store` and the pure logic beside it.

pub mod connection;
pub mod listener;
pub mod output;
pub mod request;
pub mod topic_queue;
pub mod topic_table;
pub mod transport;
pub mod turn;
