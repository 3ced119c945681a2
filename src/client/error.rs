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
///
/// ```
/// use std::time::Duration;
/// use telstar::client::{ClientError, ConnectOptions, Servers};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let nobody = "127.0.0.1:1"; // nothing listens there
/// let mut servers = Servers::new(nobody, ConnectOptions::default(), Duration::from_secs(5));
/// let error = servers.masters(None).await.unwrap_err();
/// assert_eq!(error.to_string(), "no name server answers at 127.0.0.1:1: cannot connect to 127.0.0.1:1");
/// let ClientError::NoNameServer { source, .. } = error else { panic!("{error}") };
/// assert!(matches!(*source, ClientError::Connect { .. }));
/// # }
/// ```
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nothing listens at the address, or the way there is cut.
    #[error("cannot connect to {addr}")]
    Connect {
        /// The address, `host:port`.
        addr: String,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing has answered at the address.
    #[error("cannot connect to {addr} within {} ms", timeout.as_millis())]
    ConnectTimedOut {
        /// The address, `host:port`.
        addr: String,
        /// How long it was tried.
        timeout: Duration,
    },
    /// The request is under way, and no answer came in time.
    #[error("{addr} did not answer {request} within {} ms", timeout.as_millis())]
    TimedOut {
        /// Who was asked.
        addr: String,
        /// What was asked.
        request: RequestCode,
        /// How long the answer was waited for.
        timeout: Duration,
    },
    /// The connection ended before the answer came.
    #[error("the connection to {addr} is closed: {cause}")]
    Closed {
        /// Who was asked.
        addr: String,
        /// Why it ended.
        cause: String,
    },
    /// The server answered, without success.
    #[error("CODE: {} DESC: {remark}", code.as_i32())]
    Refused {
        /// What kind of refusal it is.
        code: ResponseCode,
        /// The reason, as the server words it.
        remark: String,
    },
    /// All of them were tried.
    #[error("no name server answers at {addrs}: {}", source)]
    NoNameServer {
        /// The addresses, as they were given.
        addrs: String,
        /// What went wrong with the last.
        source: Box<ClientError>,
    },
    /// No broker has registered the topic.
    #[error("topic {topic} is not known to the name server at {name_servers}")]
    NoRoute {
        /// The topic.
        topic: TopicName,
        /// Who was asked.
        name_servers: String,
    },
    /// The topic is there, but none of its queues is.
    #[error("topic {topic} has no queue that can be {purpose}: no master broker, or no permission")]
    NoQueue {
        /// The topic.
        topic: TopicName,
        /// `written` or `read`.
        purpose: &'static str,
    },
    /// A message was to go to a queue that its topic does not have.
    #[error("topic {topic} has no queue {queue_id}: it has {queues} on each broker, counted from 0")]
    NoSuchQueue {
        /// The topic.
        topic: TopicName,
        /// The queue.
        queue_id: i32,
        /// How many there are.
        queues: usize,
    },
    /// It lacks a field, or has one of another type.
    #[error("the header of the answer cannot be read")]
    Header(#[from] HeaderError),
    /// It is not the JSON that was expected.
    #[error("the body of the answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<FastJsonError> for ClientError {
    fn from(error: FastJsonError) -> Self {
        Self::Body(Box::new(error))
    }
}
