//! Talks to servers: to name servers and brokers, Java's or ours. Imports `protocol` only, so that actors and
//! the command line use it alike.

pub mod error;
pub mod remoting;

pub use error::ClientError;
pub use remoting::{Call, ConnectOptions, RemotingConnection, Response, ServerRequest};
