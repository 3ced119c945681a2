//! The society: one actor per file, thin over `store` and the pure logic beside it.

pub mod broker_service;
pub mod broker_settings;
pub mod broker_stats;
pub mod commit_log_writer;
pub mod connection;
pub mod consumer_group;
pub mod consumer_groups;
pub mod consumer_offsets;
pub mod dispatcher;
pub mod flusher;
pub mod group_table;
pub mod key_index;
pub mod listener;
pub mod membership;
pub mod offset_table;
pub mod output;
pub mod producers;
pub mod queue_locks;
pub mod request;
pub mod requests;
pub mod retention;
pub mod retry_router;
pub mod subscription_groups;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod topic_queue;
pub mod topic_table;
pub mod topics;
pub mod traffic;
pub mod transport;
pub mod turn;
