//! Why a command failed: one sentence that names the thing and the mend.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use crate::client::ClientError;
use crate::filter::FilterError;
use crate::protocol::attributes::AttributeError;
use crate::protocol::body::subscription::SubscriptionError;
use crate::protocol::message_body::BodyError;
use crate::protocol::names::NameError;
use crate::protocol::response_code::ResponseCode;
use crate::store::consume_queue::ConsumeQueueError;
use crate::store::java_export::JavaExportError;
use crate::store::metadata::MetadataError;
use crate::store::store_lock::LockError;
use crate::store::verify::VerifyError;
use crate::types::{BrokerName, GroupName, TopicName};

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("no name server at {addrs} ({cause}): start one with `telstar start`, or give --name-server")]
    NoNameServer { addrs: String, cause: String },
    #[error("no topic {topic} at {name_servers}: create it with `telstar topic create {topic}`")]
    TopicUnknown { topic: TopicName, name_servers: String },
    #[error(
        "no consumer group {group} on any broker: a consumer creates it by joining, or use `telstar group create {group}`"
    )]
    GroupUnknown { group: GroupName },
    #[error("{why}")]
    NoStory { why: String },
    #[error("group {group} has no dead letters on any broker: nothing of it was given up or tried too often")]
    NoDeadLetters { group: GroupName },
    #[error(
        "no message {id} waits for its time: it was delivered or taken back, has a delay level instead, or is on another broker"
    )]
    NoTimer { id: String },
    #[error(
        "no open transaction {id}: it is settled, or there never was one (`telstar tx list` has those that are open); one that was given up lies in TRANS_CHECK_MAX_TIME_TOPIC"
    )]
    NoTransaction { id: String },
    #[error("several brokers have such a transaction, {brokers}: name one with --on")]
    WhichTransaction { brokers: String },
    #[error("no message {what}: {hint}")]
    NoMessage { what: String, hint: &'static str },
    #[error(
        "group {group} has no offset in topic {topic} to count from; use --to-time, --to-offset, --to-latest or --to-earliest"
    )]
    NothingToMove { group: GroupName, topic: TopicName },
    #[error(
        "broker {broker} did something else than to set queue {queue_id}: is it older than 5.0? `telstar group show` has the offsets now"
    )]
    ResetElsewhere { broker: BrokerName, queue_id: i32 },
    #[error("moved {done} of {queues} queues, then: {cause}; `telstar group show` has the offsets now")]
    ResetStopped { done: usize, queues: usize, cause: String },
    #[error("topic {topic} has no such queue: `telstar topic show {topic}` has those there are")]
    NoQueue { topic: TopicName },
    #[error("no broker or cluster is called {name}: `telstar cluster` shows those there are")]
    BrokerUnknown { name: String },
    #[error("no broker is registered at {name_servers}: start one with `telstar start`")]
    NoBroker { name_servers: String },
    #[error("there are several brokers, {addrs}: name one with --broker")]
    WhichBroker { addrs: String },
    #[error("no broker at {addr} ({cause}): is it running? `telstar cluster` shows the brokers there are")]
    BrokerUnreachable { addr: String, cause: String },
    #[error("refused with {code}: {remark}")]
    Refused { code: ResponseCode, remark: String },
    #[error("{0}")]
    Client(ClientError),
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("{0}: write tags as 'A || B', or * for all")]
    Subscription(#[from] SubscriptionError),
    #[error("{0}")]
    Attribute(AttributeError),
    #[error("the condition is wrong at {0}")]
    Condition(#[from] FilterError),
    #[error("{0}")]
    Body(#[from] BodyError),
    #[error("{what} cannot be given twice: name it once, by its option or as a property")]
    GivenTwice { what: &'static str },
    #[error("cannot read the messages from standard input: {0}")]
    Input(io::Error),
    #[error("cannot write the result: {0}")]
    Output(io::Error),
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
    #[error("no store of telstar in {}: name the directory given to `telstar start --data-dir`", dir.display())]
    NoStore { dir: PathBuf },
    #[error("{0}: stop its broker first")]
    StoreLocked(#[from] LockError),
    #[error("{}", with_cause(.0))]
    Export(#[from] JavaExportError),
    #[error("{}", with_cause(.0))]
    Metadata(#[from] MetadataError),
    #[error("{}", with_cause(.0))]
    Verify(#[from] VerifyError),
    #[error("{}", with_cause(.0))]
    Queues(#[from] ConsumeQueueError),
    #[error("cannot remove {}: {source}", path.display())]
    NotRemoved { path: PathBuf, source: io::Error },
    #[error("{problems} problems in {}: telstar store repair tells what can be done", dir.display())]
    StoreUnsound { dir: PathBuf, problems: u64 },
    #[error("the benchmark stopped: {0}")]
    Bench(String),
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoNameServer { addrs, source } => {
                CliError::NoNameServer { addrs, cause: cause_of(&source) }
            }
            ClientError::NoRoute { topic, name_servers } => CliError::TopicUnknown { topic, name_servers },
            ClientError::Connect { ref addr, .. } | ClientError::ConnectTimedOut { ref addr, .. } => {
                CliError::BrokerUnreachable { addr: addr.clone(), cause: cause_of(&error) }
            }
            ClientError::Refused { code, remark } => {
                // Java's remarks may go on with a stack trace or a grammar.
                CliError::Refused { code, remark: remark.lines().next().unwrap_or_default().to_owned() }
            }
            other => CliError::Client(other),
        }
    }
}

/// An error and what caused it.
fn with_cause(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_cause(source)),
        None => error.to_string(),
    }
}

/// The part of an error that is not the address again.
fn cause_of(error: &ClientError) -> String {
    match error {
        ClientError::Connect { source, .. } => match source.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => source.to_string(),
        },
        ClientError::ConnectTimedOut { .. } => "no answer".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_name_server_is_named_with_the_mend() {
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        let source = Box::new(ClientError::Connect { addr: "h:1".to_owned(), source });
        let error = CliError::from(ClientError::NoNameServer { addrs: "h:1".to_owned(), source });
        assert_eq!(
            error.to_string(),
            "no name server at h:1 (connection refused): start one with `telstar start`, or give --name-server"
        );
    }
}
