//! Handlers of requests: each reads its header, asks the owners, and makes the answer. Nothing is kept here.

#[cfg(test)]
pub(super) mod testing;

pub mod actors;
pub mod assignment;
pub mod broker;
pub mod consumed;
pub mod dead_letters;
pub mod drain;
pub mod group_why;
pub mod groups;
pub mod membership;
pub mod messages;
pub mod name_server;
pub mod offsets;
pub mod progress;
pub mod pull;
pub mod relays;
pub mod replies;
pub mod resets;
pub mod runtime_info;
pub mod send;
pub mod timers;
pub mod topics;
pub mod transactions;
pub mod why;
