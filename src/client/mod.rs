//! Talks to servers: to name servers and brokers, Java's or ours. Imports `protocol` only, so that actors and
//! the command line use it alike.

pub mod calendar;
pub mod consumed;
pub mod consumer;
pub mod error;
pub mod producer;
mod pull_loop;
pub mod queue_reader;
pub mod rebalance;
pub mod remoting;
pub mod route;
pub mod servers;
pub mod unique_key;

pub use consumed::ConsumedKeys;
pub use consumer::{ConsumeFrom, Consumer, ConsumerOptions, Membership, ReceivedMessage};
pub use error::ClientError;
pub use producer::{OutgoingMessage, Producer, SentMessage};
pub use remoting::{Call, ConnectOptions, RemotingConnection, Response, ServerRequest};
pub use servers::Servers;
