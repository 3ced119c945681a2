//! What extensions are asked on the way of a request, what requests they own, and how they answer.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use serde::Serialize;

use super::hooks::Taken;
use crate::protocol::message::StoredMessage;
use crate::protocol::message_body::{self, BodyError};
use crate::protocol::properties;
use crate::protocol::request_code::RequestCode;
use crate::types::{GroupName, QueueId, TopicName};

/// Codes that requests of extensions may have: no client of RocketMQ and no version of Telstar asks these.
pub const EXTENSION_CODES: std::ops::Range<i32> = 40_000..50_000;

/// How an extension is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecisionRules {
    /// How long it may take. What asks waits so long at most.
    pub deadline: Duration,
    /// What happens to a request that it does not decide on in time, or at all.
    pub on_failure: OnFailure,
    /// After so many failures in a row it is not asked for a while.
    pub failures_to_open: u32,
    /// How long that is. Then one request tries whether it answers again.
    pub open_for: Duration,
}

impl Default for DecisionRules {
    /// 50 ms; requests pass when it fails; 5 failures, 10 s.
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(50),
            on_failure: OnFailure::Pass,
            failures_to_open: 5,
            open_for: Duration::from_secs(10),
        }
    }
}

/// What happens to a request that an extension was to decide on, and did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It goes on as if nobody had been asked.
    Pass,
    /// It is refused; the refusal names the extension and what is wrong with it.
    Refuse,
}

/// Asks whether messages may be stored, before they are. All of one send come together; they are stored together or
/// not at all. Losing it is a failure of the extension. [Example](crate::extension#deciding-and-requests-of-ones-own).
#[derive(Message, Clone, Debug)]
#[rtype(result = "SendDecision")]
pub struct DecideSend {
    pub topic: TopicName,
    pub producer_group: String,
    /// Whose connection they came by.
    pub client: SocketAddr,
    pub messages: Vec<OfferedMessage>,
}

/// A message that is not stored yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfferedMessage {
    /// As the client sent it; compressed, perhaps: see [`plain_body`](Self::plain_body).
    pub body: Bytes,
    pub sys_flag: i32,
    /// Property text.
    pub properties: Bytes,
}

impl OfferedMessage {
    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<&str> {
        properties::get(&self.properties, name)
    }

    /// The body as the sender wrote it, decompressed if need be.
    pub fn plain_body(&self) -> Result<Cow<'_, [u8]>, BodyError> {
        message_body::open(&self.body, self.sys_flag)
    }
}

/// What becomes of a send.
#[derive(MessageResponse, Clone, PartialEq, Eq, Debug)]
pub enum SendDecision {
    Pass,
    /// Its messages are stored with these properties, in place of those of the same names. Those that the broker acts on
    /// (delays, transactions, keys of its own) cannot be set.
    SetProperties(Vec<(String, String)>),
    /// Nothing is stored; the sender is told why (MESSAGE_ILLEGAL), and clients do not try again.
    Refuse {
        reason: String,
    },
    /// Nothing is stored now; the sender is told why (SYSTEM_BUSY), and may try again.
    Later {
        reason: String,
    },
}

/// Asks whether messages may be handed to a consumer, before they are. Losing it is a failure of the extension.
/// [Example](crate::extension#deciding-and-requests-of-ones-own).
#[derive(Message, Clone, Debug)]
#[rtype(result = "DeliveryDecision")]
pub struct DecideDelivery {
    pub group: GroupName,
    pub topic: TopicName,
    pub queue_id: QueueId,
    pub client: SocketAddr,
    pub messages: Vec<StoredMessage>,
}

/// Which messages a consumer does not get; it goes on behind them, and does not get them later.
#[derive(MessageResponse, Clone, PartialEq, Eq, Default, Debug)]
pub struct DeliveryDecision {
    pub withheld: Vec<Withheld>,
}

/// A message that is not handed over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Withheld {
    /// Which of those that were asked for, counted from 0.
    pub index: usize,
    pub reason: String,
}

/// Asks whether something that is not a message may be changed: see [`RequestCode::is_administration`]. Losing it is a
/// failure of the extension. [Example](crate::extension#deciding-and-requests-of-ones-own).
#[derive(Message, Clone, Debug)]
#[rtype(result = "AdminDecision")]
pub struct DecideAdmin {
    pub request: RequestCode,
    pub client: SocketAddr,
    pub fields: Vec<(String, String)>,
    pub body: Bytes,
}

/// What becomes of a request to change something.
#[derive(MessageResponse, Clone, PartialEq, Eq, Debug)]
pub enum AdminDecision {
    Pass,
    /// Nothing is changed; who asked is told why (NO_PERMISSION).
    Refuse {
        reason: String,
    },
}

/// A request with a code that the extension owns. Losing it leaves who asked with a refusal.
/// [Example](crate::extension#deciding-and-requests-of-ones-own).
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<OwnAnswer, String>")]
pub struct OwnRequest {
    pub code: i32,
    pub client: SocketAddr,
    pub fields: Vec<(String, String)>,
    pub body: Bytes,
}

/// The answer to an [`OwnRequest`], a success.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct OwnAnswer {
    pub fields: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// A request for an HTTP path that the extension serves. Losing it leaves who asked with status 502.
/// [Example](crate::extension#deciding-and-requests-of-ones-own).
#[derive(Message, Clone, Debug)]
#[rtype(result = "HttpResponse")]
pub struct HttpRequest {
    /// `GET` and the like.
    pub method: String,
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub client: SocketAddr,
}

/// What is answered.
#[derive(MessageResponse, Clone, PartialEq, Eq, Debug)]
pub struct HttpResponse {
    pub status: u16,
    pub content_type: String,
    pub body: Bytes,
}

impl HttpResponse {
    /// Text, with status 200.
    pub fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: "text/plain; charset=utf-8".to_owned(), body: body.into().into() }
    }

    /// JSON, with status 200.
    pub fn json(body: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(body)?.into();
        Ok(Self { status: 200, content_type: "application/json".to_owned(), body })
    }

    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

/// Something that an extension can be asked, if it has hooked it.
pub trait Question: Message<Result: Send> + Send + 'static {
    /// Which of the actors of the extension is asked.
    fn asked<'a>(&self, taken: &'a Taken) -> Option<&'a Recipient<Self>>
    where
        Self: Sized;
}

/// A question whose answer decides what becomes of a request.
pub trait Decidable: Question + Unpin {
    /// What is decided on, for who looks at the broker.
    const ON: &'static str;

    fn verdict(answer: &Self::Result) -> Verdict;
}

/// What an answer comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Passed,
    Changed,
    Refused,
}

impl Decidable for DecideSend {
    const ON: &'static str = "sends";

    fn verdict(answer: &SendDecision) -> Verdict {
        match answer {
            SendDecision::Pass => Verdict::Passed,
            SendDecision::SetProperties(_) => Verdict::Changed,
            SendDecision::Refuse { .. } | SendDecision::Later { .. } => Verdict::Refused,
        }
    }
}

impl Decidable for DecideDelivery {
    const ON: &'static str = "deliveries";

    fn verdict(answer: &DeliveryDecision) -> Verdict {
        if answer.withheld.is_empty() { Verdict::Passed } else { Verdict::Changed }
    }
}

impl Decidable for DecideAdmin {
    const ON: &'static str = "administration";

    fn verdict(answer: &AdminDecision) -> Verdict {
        match answer {
            AdminDecision::Pass => Verdict::Passed,
            AdminDecision::Refuse { .. } => Verdict::Refused,
        }
    }
}

impl Question for DecideSend {
    fn asked<'a>(&self, taken: &'a Taken) -> Option<&'a Recipient<Self>> {
        taken.sends.as_ref().map(|deciding| &deciding.recipient)
    }
}

impl Question for DecideDelivery {
    fn asked<'a>(&self, taken: &'a Taken) -> Option<&'a Recipient<Self>> {
        taken.deliveries.as_ref().map(|deciding| &deciding.recipient)
    }
}

impl Question for DecideAdmin {
    fn asked<'a>(&self, taken: &'a Taken) -> Option<&'a Recipient<Self>> {
        taken.admin.as_ref().map(|deciding| &deciding.recipient)
    }
}

impl Question for OwnRequest {
    fn asked<'a>(&self, taken: &'a Taken) -> Option<&'a Recipient<Self>> {
        taken.codes.iter().find(|(code, _)| *code == self.code).map(|(_, recipient)| recipient)
    }
}

impl Question for HttpRequest {
    fn asked<'a>(&self, taken: &'a Taken) -> Option<&'a Recipient<Self>> {
        taken.paths.iter().find(|(path, _)| *path == self.path).map(|(_, recipient)| recipient)
    }
}
