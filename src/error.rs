//! Refusals: every way a request can be answered without success. Each says what was refused, why, the
//! limit or the state, and what to do; one table turns them into response codes.

use std::time::Duration;

use thiserror::Error;

use crate::protocol::header::HeaderError;
use crate::protocol::names::NameError;
use crate::protocol::response_code::ResponseCode;
use crate::types::{ClientId, GroupName, QueueOffset, TopicName};

/// Why a request is refused. Nothing was stored or changed by a refused request, but for [`Refusal::NotDurable`].
#[derive(Clone, Debug, Error)]
pub enum Refusal {
    // -- requests that this server does not know
    #[error(" request type {code} not supported")]
    UnknownRequest { code: i32 },
    #[error("{what} is not supported by this version of Telstar: {instead}")]
    NotSupported { what: &'static str, instead: &'static str },

    // -- requests that cannot be read
    #[error("request {request}: {error}")]
    Header { request: &'static str, error: HeaderError },
    /// A field that the request cannot do without, and that Java checks after other things.
    #[error("request {request}: {error}")]
    FieldIllegal { request: &'static str, error: HeaderError },
    #[error("request {request}: the body is not {expected}: {error}")]
    Body { request: &'static str, expected: &'static str, error: String },
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("{what} is {value}, allowed is {allowed}")]
    OutOfRange { what: &'static str, value: i64, allowed: String },
    #[error("{0}")]
    Attribute(String),

    // -- topics
    #[error("topic[{topic}] not exist, apply first please! {hint}")]
    TopicUnknown { topic: TopicName, hint: String },
    #[error("No topic route info in name server for the topic: {topic}. {hint}")]
    NoRoute { topic: TopicName, hint: String },
    #[error("request queueId {queue_id} is illegal: topic {topic} has {queues} queues, use 0 to {}", queues.saturating_sub(1))]
    QueueOutOfRange { topic: TopicName, queue_id: i32, queues: u32 },
    #[error(
        "MIXED message type is not supported. Topic {topic} was not created; choose one type, or set enableMixedMessageType"
    )]
    MixedMessageType { topic: TopicName },
    #[error(
        "topic {topic} would be kept by key (cleanup.policy=COMPACTION) and by age (retention.ms) at once; nothing was changed, set one of them"
    )]
    KeptByKeyAndAge { topic: TopicName },
    #[error("{what} has no permission: {remedy}")]
    NoPermission { what: String, remedy: &'static str },

    // -- messages
    #[error("the message is illegal: {what}")]
    MessageIllegal { what: String },
    #[error(
        "the message body is {len_bytes} bytes, the limit is {max_bytes}; send less, or raise message.max_body_bytes"
    )]
    BodyTooLarge { len_bytes: usize, max_bytes: usize },
    #[error(
        "the message properties are {len_bytes} bytes encoded, the limit is {max_bytes}; use fewer or shorter ones"
    )]
    PropertiesTooLarge { len_bytes: usize, max_bytes: usize },
    #[error("the recall handle is illegal: {what}; take the one that the send was answered with")]
    RecallHandleIllegal { what: String },
    #[error(
        "nothing was recalled: no message {unique_key} of topic {topic} waits for {due_ms}; it was delivered, recalled before, or never sent to this broker"
    )]
    NothingToRecall { topic: TopicName, unique_key: String, due_ms: i64 },
    #[error("not stored: the store does not take writes now: {cause}")]
    NotWritable { cause: String },
    #[error("not stored: {cause}")]
    StoreFailed { cause: String },
    #[error(
        "[REJECTREQUEST] not stored: {actor} has {waiting} requests waiting, its limit; send again after a moment, or to another broker"
    )]
    Busy { actor: &'static str, waiting: usize },
    #[error("the broker is shutting down; use another broker")]
    ShuttingDown,
    #[error(
        "the broker is draining and takes no new messages; use another broker (telstar drain --undo ends it)"
    )]
    Draining,
    #[error(
        "the broker is recovering, {percent} %; nothing was done, try again in a moment or use another broker"
    )]
    Recovering { percent: u64 },

    // -- extensions
    #[error("refused by extension {extension}: {reason}")]
    ExtensionRefused { extension: &'static str, reason: String },
    #[error("refused by extension {extension} for now: {reason}; try again later")]
    ExtensionBusy { extension: &'static str, reason: String },
    #[error("not allowed by extension {extension}: {reason}")]
    ExtensionForbids { extension: &'static str, reason: String },
    #[error(
        "extension {extension} has not decided on the request: {why}; nothing was done, try again in a moment"
    )]
    ExtensionUndecided { extension: &'static str, why: String },
    #[error("extension {extension} {what}; nothing was done, tell who wrote it")]
    ExtensionMistaken { extension: &'static str, what: String },

    // -- replies to requests
    #[error(
        "push reply message fail, channel of <{client_id}> not found: it is no producer that is online here"
    )]
    AskerOffline { client_id: ClientId },
    #[error("push reply message to {client_id} fail: {cause}")]
    ReplyNotTaken { client_id: ClientId, cause: String },

    // -- transactions
    #[error(
        "the transaction of half message {half} was {done} and cannot be {asked}: the first final decision counts"
    )]
    TransactionDecided { half: QueueOffset, done: &'static str, asked: &'static str },
    #[error(
        "the half message {half} is {age_ms} ms old, and asked not to be checked for {limit_ms} ms only: what its producer answers to the check decides"
    )]
    TransactionLate { half: QueueOffset, age_ms: i64, limit_ms: i64 },
    #[error("{cause}; nothing was changed")]
    TransactionUnknown { cause: String },

    // -- groups and consumers
    #[error(
        "subscription group [{group}] does not exist, and broker.auto_create_groups is off; create it: telstar group create, mqadmin updateSubGroup"
    )]
    GroupUnknown { group: GroupName },
    #[error(
        "subscription group [{group}] does not exist, and cannot be created: {error} Give the group another name"
    )]
    GroupNotCreatable { group: GroupName, error: NameError },
    #[error(
        "subscription group [{group}] does not exist: its first heartbeat or pull creates it, or telstar group create, mqadmin updateSubGroup"
    )]
    GroupNeverSeen { group: GroupName },
    #[error("the consumer group [{group}] not online")]
    GroupOffline { group: GroupName },
    #[error("no consumer for this group, {group}: no client has sent a heartbeat for it")]
    NoConsumer { group: GroupName },
    #[error("the producer group[{group}] not exist: no client has sent a heartbeat for it")]
    NoProducer { group: GroupName },
    #[error("The Consumer <{group}> <{client_id}> not online")]
    ClientOffline { group: GroupName, client_id: ClientId },
    #[error("the consumer <{group}> <{client_id}> did not answer within {} ms", timeout.as_millis())]
    ClientSilent { group: GroupName, client_id: ClientId, timeout: Duration },
    #[error(
        "the consumer's subscription {problem}; the client's next heartbeat mends it, at most 30 s from now"
    )]
    SubscriptionUnknown { problem: String },
    #[error(
        "the consumer's subscription is older than the one it pulls with ({known} < {asked}); the next heartbeat mends it"
    )]
    SubscriptionOutdated { known: i64, asked: i64 },
    #[error(
        "Target offset {offset} of topic {topic}, queue {queue_id}, not in consume queue range [{min}-{max}]; nothing was reset"
    )]
    ResetOutOfRange { topic: TopicName, queue_id: i32, offset: i64, min: u64, max: u64 },
    #[error(
        "group {group} has no offset of topic {topic}, queue {queue_id}; nothing was reset. Its consumers commit one, or set useServerSideResetOffset=true"
    )]
    ResetOfUnknownOffset { group: GroupName, topic: TopicName, queue_id: i32 },
    #[error(
        "Consumer not online, so can not reset offset, Group: {group}: start a consumer, or set useServerSideResetOffset=true"
    )]
    ResetOffline { group: GroupName },
    #[error("No queues to reset: topic {topic} has no queue that can be read")]
    NothingToReset { topic: TopicName },
    #[error("parse the consumer's subscription failed: {error}")]
    SubscriptionMalformed { error: String },
    #[error("nothing was begun: the SQL92 condition is wrong at {error}")]
    ConditionMalformed { error: String },
    #[error(
        "The broker's consumer filter data is not exist!Your expression may be wrong! Group {group} subscribed to {topic} with an SQL92 condition that is wrong at {error}"
    )]
    FilterMissing { group: GroupName, topic: TopicName, error: String },
    #[error(
        "The broker does not support consumer to filter message by SQL92: filter.sql (enablePropertyFilter) is off; turn it on, or filter by tags"
    )]
    FilterOff,

    // -- registrations and settings of the name server
    #[error("register broker failed: {cause}")]
    RegistrationRefused { cause: String },
    #[error("crc32 not match: the body has {computed}, the header says {stated}; nothing was registered")]
    ChecksumMismatch { computed: i32, stated: i32 },
    #[error("disable: the name server answers this only while {setting} is true")]
    SwitchedOff { setting: &'static str },
    #[error("nothing was changed: {key} is no setting of this name server.{hint}")]
    NameServerSettingUnknown { key: String, hint: String },
    #[error("nothing was changed: {key} is fixed while the name server runs, or has no meaning here")]
    NameServerSettingFixed { key: String },

    // -- lookups
    #[error(
        "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first: group {group} has no offset of topic {topic}, queue {queue_id}, and the queue does not begin with a young message; the client's consumeFromWhere decides"
    )]
    OffsetUnknown { group: GroupName, topic: TopicName, queue_id: i32 },
    #[error("{0}")]
    NotFound(String),

    #[error("The stats <{name}> <{key}> not exist: nothing was counted under it since the broker started")]
    StatsUnknown { name: String, key: String },

    // -- settings of the broker
    #[error("Can not update config in black list. Nothing was changed: {key} cannot be set at run time")]
    SettingForbidden { key: String },
    #[error("nothing was changed: {key} is no setting of this broker{hint}")]
    SettingUnknown { key: String, hint: String },
    #[error("nothing was changed: {key} cannot be set while the broker runs; {remedy}")]
    SettingFixed { key: String, remedy: &'static str },
    #[error("nothing was changed: {key} cannot be {value:?}, allowed is {allowed}")]
    SettingInvalid { key: String, value: String, allowed: &'static str },

    // -- our own trouble
    #[error("nothing was changed: {what} cannot be saved: {cause}")]
    NotSaved { what: &'static str, cause: String },
    #[error(
        "{what} holds, but is lost if the power fails now: it cannot be brought to disk: {cause}; ask again until it can"
    )]
    NotDurable { what: &'static str, cause: String },
    #[error("{0}")]
    Failed(String),
}

/// Why a broker has not done what an extension asked of it: the code and the sentence that a client gets, too.
///
/// ```
/// use telstar::extension::Refused;
/// use telstar::protocol::ResponseCode;
///
/// /// Whether it is worth another try in a moment.
/// fn may_pass(refused: &Refused) -> bool {
///     matches!(refused.code, ResponseCode::SYSTEM_BUSY | ResponseCode::SERVICE_NOT_AVAILABLE)
/// }
/// let refused = Refused { code: ResponseCode::SYSTEM_BUSY, remark: "the disk is full".into() };
/// assert!(may_pass(&refused));
/// assert_eq!(refused.to_string(), "the disk is full");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{remark}")]
pub struct Refused {
    /// What kind of refusal it is.
    pub code: ResponseCode,
    /// What was refused, why, and what to do.
    pub remark: String,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code(), remark: refusal.to_string() }
    }
}

impl Refusal {
    /// The response code a client sees. Exhaustive on purpose.
    pub fn code(&self) -> ResponseCode {
        use Refusal::*;
        match self {
            UnknownRequest { .. } | NotSupported { .. } => ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
            Header { .. } | Body { .. } | Attribute(_) | Failed(_) | StoreFailed { .. } => {
                ResponseCode::SYSTEM_ERROR
            }
            ResetOutOfRange { .. } | NothingToReset { .. } | ResetOfUnknownOffset { .. } => {
                ResponseCode::SYSTEM_ERROR
            }
            StatsUnknown { .. } | NotSaved { .. } | NotDurable { .. } => ResponseCode::SYSTEM_ERROR,
            NoConsumer { .. } | NoProducer { .. } | ClientOffline { .. } => ResponseCode::SYSTEM_ERROR,
            Name(NameError::SendForbidden { .. }) => ResponseCode::NO_PERMISSION,
            Name(_) | FieldIllegal { .. } | OutOfRange { .. } | QueueOutOfRange { .. } => {
                ResponseCode::INVALID_PARAMETER
            }
            TopicUnknown { .. } | NoRoute { .. } => ResponseCode::TOPIC_NOT_EXIST,
            MixedMessageType { .. } | KeptByKeyAndAge { .. } => ResponseCode::INVALID_PARAMETER,
            SettingUnknown { .. } | SettingFixed { .. } | SettingInvalid { .. } => {
                ResponseCode::INVALID_PARAMETER
            }
            NoPermission { .. } | SettingForbidden { .. } => ResponseCode::NO_PERMISSION,
            MessageIllegal { .. } | BodyTooLarge { .. } | PropertiesTooLarge { .. } => {
                ResponseCode::MESSAGE_ILLEGAL
            }
            RecallHandleIllegal { .. } | NothingToRecall { .. } => ResponseCode::ILLEGAL_OPERATION,
            NotWritable { .. } | ShuttingDown | Draining | Recovering { .. } => {
                ResponseCode::SERVICE_NOT_AVAILABLE
            }
            Busy { .. } | ExtensionBusy { .. } => ResponseCode::SYSTEM_BUSY,
            ExtensionRefused { .. } => ResponseCode::MESSAGE_ILLEGAL,
            ExtensionForbids { .. } => ResponseCode::NO_PERMISSION,
            ExtensionUndecided { .. } => ResponseCode::SERVICE_NOT_AVAILABLE,
            ExtensionMistaken { .. } => ResponseCode::SYSTEM_ERROR,
            TransactionDecided { .. } | TransactionLate { .. } => ResponseCode::ILLEGAL_OPERATION,
            TransactionUnknown { .. } => ResponseCode::SYSTEM_ERROR,
            AskerOffline { .. } | ReplyNotTaken { .. } => ResponseCode::SYSTEM_ERROR,
            GroupUnknown { .. } | GroupNotCreatable { .. } | GroupNeverSeen { .. } => {
                ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST
            }
            GroupOffline { .. } | ResetOffline { .. } => ResponseCode::CONSUMER_NOT_ONLINE,
            ClientSilent { .. } => ResponseCode::CONSUME_MSG_TIMEOUT,
            SubscriptionUnknown { .. } => ResponseCode::SUBSCRIPTION_NOT_EXIST,
            SubscriptionOutdated { .. } => ResponseCode::SUBSCRIPTION_NOT_LATEST,
            SubscriptionMalformed { .. } | ConditionMalformed { .. } => {
                ResponseCode::SUBSCRIPTION_PARSE_FAILED
            }
            FilterMissing { .. } => ResponseCode::FILTER_DATA_NOT_EXIST,
            FilterOff => ResponseCode::SYSTEM_ERROR,
            NotFound(_) | OffsetUnknown { .. } => ResponseCode::QUERY_NOT_FOUND,
            RegistrationRefused { .. } | ChecksumMismatch { .. } | SwitchedOff { .. } => {
                ResponseCode::SYSTEM_ERROR
            }
            NameServerSettingUnknown { .. } | NameServerSettingFixed { .. } => {
                ResponseCode::INVALID_PARAMETER
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::protocol::names::NameKind;

    fn x() -> String {
        "x".to_owned()
    }

    /// No wildcard: a new refusal does not compile until it is in the table below.
    fn name(refusal: &Refusal) -> &'static str {
        use Refusal::*;
        match refusal {
            UnknownRequest { .. } => "UnknownRequest",
            NotSupported { .. } => "NotSupported",
            Header { .. } => "Header",
            FieldIllegal { .. } => "FieldIllegal",
            Body { .. } => "Body",
            Name(_) => "Name",
            OutOfRange { .. } => "OutOfRange",
            Attribute(_) => "Attribute",
            TopicUnknown { .. } => "TopicUnknown",
            NoRoute { .. } => "NoRoute",
            QueueOutOfRange { .. } => "QueueOutOfRange",
            MixedMessageType { .. } => "MixedMessageType",
            KeptByKeyAndAge { .. } => "KeptByKeyAndAge",
            NoPermission { .. } => "NoPermission",
            MessageIllegal { .. } => "MessageIllegal",
            BodyTooLarge { .. } => "BodyTooLarge",
            PropertiesTooLarge { .. } => "PropertiesTooLarge",
            RecallHandleIllegal { .. } => "RecallHandleIllegal",
            NothingToRecall { .. } => "NothingToRecall",
            NotWritable { .. } => "NotWritable",
            StoreFailed { .. } => "StoreFailed",
            Busy { .. } => "Busy",
            ShuttingDown => "ShuttingDown",
            Draining => "Draining",
            Recovering { .. } => "Recovering",
            ExtensionRefused { .. } => "ExtensionRefused",
            ExtensionBusy { .. } => "ExtensionBusy",
            ExtensionForbids { .. } => "ExtensionForbids",
            ExtensionUndecided { .. } => "ExtensionUndecided",
            ExtensionMistaken { .. } => "ExtensionMistaken",
            AskerOffline { .. } => "AskerOffline",
            ReplyNotTaken { .. } => "ReplyNotTaken",
            TransactionDecided { .. } => "TransactionDecided",
            TransactionLate { .. } => "TransactionLate",
            TransactionUnknown { .. } => "TransactionUnknown",
            GroupUnknown { .. } => "GroupUnknown",
            GroupNotCreatable { .. } => "GroupNotCreatable",
            GroupNeverSeen { .. } => "GroupNeverSeen",
            GroupOffline { .. } => "GroupOffline",
            NoConsumer { .. } => "NoConsumer",
            NoProducer { .. } => "NoProducer",
            ClientOffline { .. } => "ClientOffline",
            ClientSilent { .. } => "ClientSilent",
            SubscriptionUnknown { .. } => "SubscriptionUnknown",
            SubscriptionOutdated { .. } => "SubscriptionOutdated",
            ResetOutOfRange { .. } => "ResetOutOfRange",
            NothingToReset { .. } => "NothingToReset",
            ResetOfUnknownOffset { .. } => "ResetOfUnknownOffset",
            ResetOffline { .. } => "ResetOffline",
            SubscriptionMalformed { .. } => "SubscriptionMalformed",
            ConditionMalformed { .. } => "ConditionMalformed",
            FilterMissing { .. } => "FilterMissing",
            FilterOff => "FilterOff",
            RegistrationRefused { .. } => "RegistrationRefused",
            ChecksumMismatch { .. } => "ChecksumMismatch",
            SwitchedOff { .. } => "SwitchedOff",
            NameServerSettingUnknown { .. } => "NameServerSettingUnknown",
            NameServerSettingFixed { .. } => "NameServerSettingFixed",
            OffsetUnknown { .. } => "OffsetUnknown",
            NotFound(_) => "NotFound",
            StatsUnknown { .. } => "StatsUnknown",
            SettingForbidden { .. } => "SettingForbidden",
            SettingUnknown { .. } => "SettingUnknown",
            SettingFixed { .. } => "SettingFixed",
            SettingInvalid { .. } => "SettingInvalid",
            NotSaved { .. } => "NotSaved",
            NotDurable { .. } => "NotDurable",
            Failed(_) => "Failed",
        }
    }

    /// Clients act on these numbers: one that has been shipped never changes.
    #[test]
    fn every_refusal_has_its_response_code() {
        use Refusal::*;
        let golden = [
            (3, UnknownRequest { code: -1 }),
            (3, NotSupported { what: "x", instead: "x" }),
            (1, Header { request: "x", error: HeaderError::Missing { field: "x" } }),
            (29, FieldIllegal { request: "x", error: HeaderError::Missing { field: "x" } }),
            (1, Body { request: "x", expected: "x", error: x() }),
            (29, Name(NameError::Blank { kind: NameKind::Topic })),
            (16, Name(NameError::SendForbidden { name: x() })),
            (29, OutOfRange { what: "x", value: -1, allowed: x() }),
            (1, Attribute(x())),
            (17, TopicUnknown { topic: "T".into(), hint: x() }),
            (17, NoRoute { topic: "T".into(), hint: x() }),
            (29, QueueOutOfRange { topic: "T".into(), queue_id: -1, queues: 1 }),
            (29, MixedMessageType { topic: "T".into() }),
            (29, KeptByKeyAndAge { topic: "T".into() }),
            (16, NoPermission { what: x(), remedy: "x" }),
            (13, MessageIllegal { what: x() }),
            (13, BodyTooLarge { len_bytes: 1, max_bytes: 1 }),
            (13, PropertiesTooLarge { len_bytes: 1, max_bytes: 1 }),
            (604, RecallHandleIllegal { what: x() }),
            (604, NothingToRecall { topic: "T".into(), unique_key: x(), due_ms: 1 }),
            (14, NotWritable { cause: x() }),
            (1, StoreFailed { cause: x() }),
            (2, Busy { actor: "x", waiting: 1 }),
            (14, ShuttingDown),
            (14, Draining),
            (13, ExtensionRefused { extension: "x", reason: x() }),
            (2, ExtensionBusy { extension: "x", reason: x() }),
            (16, ExtensionForbids { extension: "x", reason: x() }),
            (14, ExtensionUndecided { extension: "x", why: x() }),
            (1, ExtensionMistaken { extension: "x", what: x() }),
            (1, AskerOffline { client_id: "c".into() }),
            (1, ReplyNotTaken { client_id: "c".into(), cause: x() }),
            (604, TransactionDecided { half: QueueOffset(1), done: "x", asked: "x" }),
            (604, TransactionLate { half: QueueOffset(1), age_ms: 2, limit_ms: 1 }),
            (1, TransactionUnknown { cause: x() }),
            (26, GroupUnknown { group: "g".into() }),
            (26, GroupNotCreatable { group: "g".into(), error: NameError::Blank { kind: NameKind::Topic } }),
            (26, GroupNeverSeen { group: "g".into() }),
            (206, GroupOffline { group: "g".into() }),
            (1, NoConsumer { group: "g".into() }),
            (1, NoProducer { group: "g".into() }),
            (1, ClientOffline { group: "g".into(), client_id: "c".into() }),
            (207, ClientSilent { group: "g".into(), client_id: "c".into(), timeout: Duration::ZERO }),
            (24, SubscriptionUnknown { problem: x() }),
            (25, SubscriptionOutdated { known: -1, asked: -1 }),
            (1, ResetOutOfRange { topic: "T".into(), queue_id: -1, offset: -1, min: 1, max: 1 }),
            (1, NothingToReset { topic: "T".into() }),
            (1, ResetOfUnknownOffset { group: "g".into(), topic: "T".into(), queue_id: -1 }),
            (206, ResetOffline { group: "g".into() }),
            (23, SubscriptionMalformed { error: x() }),
            (23, ConditionMalformed { error: x() }),
            (27, FilterMissing { group: "g".into(), topic: "T".into(), error: x() }),
            (1, FilterOff),
            (1, RegistrationRefused { cause: x() }),
            (1, ChecksumMismatch { computed: -1, stated: -1 }),
            (1, SwitchedOff { setting: "x" }),
            (29, NameServerSettingUnknown { key: x(), hint: x() }),
            (29, NameServerSettingFixed { key: x() }),
            (22, OffsetUnknown { group: "g".into(), topic: "T".into(), queue_id: -1 }),
            (22, NotFound(x())),
            (1, StatsUnknown { name: x(), key: x() }),
            (16, SettingForbidden { key: x() }),
            (29, SettingUnknown { key: x(), hint: x() }),
            (29, SettingFixed { key: x(), remedy: "x" }),
            (29, SettingInvalid { key: x(), value: x(), allowed: "x" }),
            (1, NotSaved { what: "x", cause: x() }),
            (1, NotDurable { what: "x", cause: x() }),
            (1, Failed(x())),
        ];
        for (code, refusal) in &golden {
            assert_eq!(refusal.code().as_i32(), *code, "{}", name(refusal));
            assert!(!refusal.to_string().trim().is_empty());
        }
        let names: BTreeSet<_> = golden.iter().map(|(_, refusal)| name(refusal)).collect();
        assert_eq!(names.len(), 67, "every refusal is in the table");
    }
}
