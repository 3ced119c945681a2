//! The society: one actor per file, thin over `store` and the pure logic beside it.

pub mod broker_service;
pub mod broker_settings;
pub mod broker_stats;
pub mod broker_tree;
pub mod commit_log_writer;
pub mod connection;
pub mod consumer_group;
pub mod consumer_groups;
pub mod consumer_offsets;
pub mod dispatcher;
pub mod facts;
pub mod flusher;
pub mod group_table;
pub mod key_index;
pub mod listener;
pub mod membership;
pub mod message_expiry;
pub mod name_server;
pub mod name_server_connection;
pub mod name_server_link;
pub mod name_server_service;
pub mod name_server_settings;
pub mod offset_table;
pub mod output;
#[cfg(test)]
mod power_loss;
pub mod producers;
pub mod queue_locks;
pub mod request;
pub mod requests;
pub mod retention;
pub mod retry_router;
pub mod root;
pub mod route_hint;
pub mod route_table;
pub mod router;
pub mod routes;
pub mod send_gate;
pub mod settling;
pub mod subscription_groups;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod topic_queue;
pub mod topic_table;
pub mod topics;
pub mod transport;
pub mod turn;
