//! Why a call to a server did not succeed.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::protocol::fastjson::FastJsonError;
use crate::protocol::header::HeaderError;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::TopicName;

/// Why a call did not succeed. Only after [`TimedOut`](ClientError::TimedOut) and
/// [`Closed`](ClientError::Closed) may the server have done what was asked.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each says itself what it is
pub enum ClientError {
    #[error("cannot connect to {addr}")]
    Connect { addr: String, source: io::Error },
    #[error("cannot connect to {addr} within {} ms", timeout.as_millis())]
    ConnectTimedOut { addr: String, timeout: Duration },
    #[error("{addr} did not answer {request} within {} ms", timeout.as_millis())]
    TimedOut { addr: String, request: RequestCode, timeout: Duration },
    #[error("the connection to {addr} is closed: {cause}")]
    Closed { addr: String, cause: String },
    /// The server answered, without success.
    #[error("CODE: {} DESC: {remark}", code.as_i32())]
    Refused { code: ResponseCode, remark: String },
    #[error("no name server answers at {addrs}: {}", source)]
    NoNameServer { addrs: String, source: Box<ClientError> },
    #[error("topic {topic} is not known to the name server at {name_servers}")]
    NoRoute { topic: TopicName, name_servers: String },
    #[error("topic {topic} has no queue that can be {purpose}: no master broker, or no permission")]
    NoQueue { topic: TopicName, purpose: &'static str },
    #[error("topic {topic} has no queue {queue_id}: it has {queues} on each broker, counted from 0")]
    NoSuchQueue { topic: TopicName, queue_id: i32, queues: usize },
    #[error("the header of the answer cannot be read")]
    Header(#[from] HeaderError),
    #[error("the body of the answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<FastJsonError> for ClientError {
    fn from(error: FastJsonError) -> Self {
        Self::Body(Box::new(error))
    }
}
