//! Telstar: a message broker built of actors that speaks Apache RocketMQ's protocols.
//!
//! Folders are layers, and imports point downward only: `protocol` (bytes to types and back),
//! `filter` (conditions over messages), `store` (files and rules about them), `actors` (owners of everything mutable), and above them
//! the `client` and the command line.

pub mod actors;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod error;
pub mod fatal;
pub mod filter;
mod kill_point;
pub mod protocol;
pub mod store;
pub mod types;
