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
///
/// ```
/// use telstar::extension::EXTENSION_CODES;
/// use telstar::protocol::RequestCode;
///
/// const COUNT: i32 = EXTENSION_CODES.start; // a code for a request of one's own, see `Hooks::owns_code`
/// assert_eq!(RequestCode::from_i32(COUNT).name(), "UNKNOWN");
/// assert!(!EXTENSION_CODES.contains(&RequestCode::POP_MESSAGE.as_i32()));
/// ```
pub const EXTENSION_CODES: std::ops::Range<i32> = 40_000..50_000;

/// How an extension is asked.
///
/// ```
/// use std::time::Duration;
/// use telstar::extension::{DecisionRules, OnFailure};
///
/// // A guard that must not be passed by, and needs a moment.
/// let rules = DecisionRules {
///     on_failure: OnFailure::Refuse,
///     deadline: Duration::from_millis(200),
///     ..DecisionRules::default()
/// };
/// assert_eq!((rules.failures_to_open, rules.open_for), (5, Duration::from_secs(10)));
/// ```
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
///
/// ```
/// use telstar::extension::{DecideSend, DecisionRules, OnFailure};
/// use telstar::testing::{Scenario, calls::send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (silent, _) = scene.fake::<DecideSend>("broker -> guard").start(); // drops what it is asked
/// let rules = DecisionRules { on_failure: OnFailure::Refuse, ..DecisionRules::default() };
/// let broker = scene.broker("broker").topic("orders", 1);
/// let broker = broker.hooks("guard", move |hooks| hooks.decides_sends(silent.clone(), rules)).start().await;
/// let refused = broker.client("shop").call(send_to("orders", 0, "pay 7")).await;
/// assert!(refused.remark.unwrap().contains("extension guard has not decided on the request"));
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It goes on as if nobody had been asked.
    Pass,
    /// It is refused; the refusal names the extension and what is wrong with it.
    Refuse,
}

/// Asks whether messages may be stored, before they are. All of one send come together; they are stored together or
/// not at all. Losing it is a failure of the extension.
///
/// ```
/// use actix::prelude::*;
/// use telstar::extension::{DecideSend, SendDecision};
///
/// /// Keeps the topic of salaries for one group.
/// struct Guard;
/// # impl Actor for Guard { type Context = Context<Self>; }
///
/// impl Handler<DecideSend> for Guard {
///     type Result = SendDecision;
///
///     fn handle(&mut self, asked: DecideSend, _: &mut Self::Context) -> SendDecision {
///         match asked.topic.as_str() == "salaries" && asked.producer_group != "payroll" {
///             true => SendDecision::Refuse { reason: format!("{} pays no salaries", asked.producer_group) },
///             false => SendDecision::Pass,
///         }
///     }
/// }
/// # #[actix::main]
/// # async fn main() {
/// let asked = DecideSend {
///     topic: "salaries".into(),
///     producer_group: "shop".into(),
///     client: ([10, 0, 0, 9], 50_000).into(),
///     messages: Vec::new(),
/// };
/// let decided = Guard.start().send(asked).await.unwrap();
/// assert_eq!(decided, SendDecision::Refuse { reason: "shop pays no salaries".into() });
/// # }
/// ```
#[derive(Message, Clone, Debug)]
#[rtype(result = "SendDecision")]
pub struct DecideSend {
    /// Where they are to be stored.
    pub topic: TopicName,
    /// The group of the producer, as it says.
    pub producer_group: String,
    /// Whose connection they came by.
    pub client: SocketAddr,
    /// All of the send, in their order.
    pub messages: Vec<OfferedMessage>,
}

/// A message that is not stored yet.
///
/// ```
/// use telstar::extension::OfferedMessage;
/// use telstar::protocol::property;
///
/// let message = OfferedMessage {
///     body: "pay 7".into(),
///     sys_flag: 0,
///     properties: "TAGS\u{1}cards\u{2}".into(),
/// };
/// assert_eq!(message.property(property::TAGS), Some("cards"));
/// assert_eq!(&*message.plain_body()?, b"pay 7");
/// # Ok::<(), telstar::protocol::BodyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfferedMessage {
    /// As the client sent it; compressed, perhaps: see [`plain_body`](Self::plain_body).
    pub body: Bytes,
    /// Bits about the body, its compression among them, and about transactions.
    pub sys_flag: i32,
    /// Property text: names and values, each ended by the byte 1 and the byte 2.
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
///
/// ```
/// use telstar::extension::{DecideSend, DecisionRules, SendDecision};
/// use telstar::testing::{Scenario, calls::*};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (clerk, _) = scene
///     .fake::<DecideSend>("broker -> clerk")
///     .answers(|asked| match &*asked.messages[0].body {
///         b"spam" => SendDecision::Refuse { reason: "nobody wants it".into() },
///         _ => SendDecision::SetProperties(vec![("checked".into(), "yes".into())]),
///     })
///     .start();
/// let broker = scene.broker("broker").topic("orders", 1);
/// let hooked = broker.hooks("clerk", move |hooks| hooks.decides_sends(clerk.clone(), DecisionRules::default()));
/// let broker = hooked.start().await;
/// let mut shop = broker.client("shop");
/// shop.succeed(send_to("orders", 0, "pay 7")).await;
/// assert!(shop.call(send_to("orders", 0, "spam")).await.success().is_err());
/// let stored = shop.pull(pull_from("bank", "orders", 0, 0)).await;
/// assert_eq!((stored.len(), stored[0].text("checked")), (1, "yes"));
/// # }
/// ```
#[derive(MessageResponse, Clone, PartialEq, Eq, Debug)]
pub enum SendDecision {
    /// Its messages are stored as they are.
    Pass,
    /// Its messages are stored with these properties, in place of those of the same names. Those that the broker acts on
    /// (delays, transactions, keys of its own) cannot be set.
    SetProperties(Vec<(String, String)>),
    /// Nothing is stored; the sender is told why (MESSAGE_ILLEGAL), and clients do not try again.
    Refuse {
        /// What the sender is told, behind the name of the extension.
        reason: String,
    },
    /// Nothing is stored now; the sender is told why (SYSTEM_BUSY), and may try again.
    Later {
        /// What the sender is told, behind the name of the extension.
        reason: String,
    },
}

/// Asks whether messages may be handed to a consumer, before they are. Losing it is a failure of the extension.
///
/// ```
/// use telstar::extension::{DecideDelivery, DecisionRules, DeliveryDecision, Withheld};
/// use telstar::testing::{Scenario, calls::*};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// // Whose tag is not the name of the group is not for it.
/// let (sorter, _) = scene
///     .fake::<DecideDelivery>("broker -> sorter")
///     .answers(|asked| {
///         let others = asked.messages.iter().enumerate().filter(|(_, message)| message.text("TAGS") != &*asked.group);
///         let withhold = |(index, _)| Withheld { index, reason: "of another group".into() };
///         DeliveryDecision { withheld: others.map(withhold).collect() }
///     })
///     .start();
/// let broker = scene.broker("broker").topic("orders", 1);
/// let rules = DecisionRules::default();
/// let broker = broker.hooks("sorter", move |hooks| hooks.decides_deliveries(sorter.clone(), rules)).start().await;
/// let mut shop = broker.client("shop");
/// shop.succeed(send_to("orders", 0, "pay 7").tag("bank")).await;
/// shop.succeed(send_to("orders", 0, "ship 7").tag("store")).await;
/// let for_store = shop.pull(pull_from("store", "orders", 0, 0)).await;
/// assert_eq!((for_store.len(), &for_store[0].body[..]), (1, &b"ship 7"[..]));
/// # }
/// ```
#[derive(Message, Clone, Debug)]
#[rtype(result = "DeliveryDecision")]
pub struct DecideDelivery {
    /// The group that consumes.
    pub group: GroupName,
    /// Where they were found.
    pub topic: TopicName,
    /// Where they were found.
    pub queue_id: QueueId,
    /// Whose connection they are to go by.
    pub client: SocketAddr,
    /// In their order.
    pub messages: Vec<StoredMessage>,
}

/// Which messages a consumer does not get; it goes on behind them, and does not get them later.
///
/// ```
/// use telstar::extension::{DeliveryDecision, Withheld};
///
/// let all = DeliveryDecision::default(); // the consumer gets all of them
/// let none_but_the_first = DeliveryDecision {
///     withheld: (1..3).map(|index| Withheld { index, reason: "one is enough".into() }).collect(),
/// };
/// assert_eq!((all.withheld.len(), none_but_the_first.withheld.len()), (0, 2));
/// ```
#[derive(MessageResponse, Clone, PartialEq, Eq, Default, Debug)]
pub struct DeliveryDecision {
    /// What it does not get, in any order.
    pub withheld: Vec<Withheld>,
}

/// A message that is not handed over.
///
/// ```
/// use telstar::extension::{DecideDelivery, Withheld};
///
/// /// Young people get no wine.
/// fn withheld(asked: &DecideDelivery) -> Vec<Withheld> {
///     let wine = asked.messages.iter().enumerate().filter(|(_, message)| message.text("TAGS") == "wine");
///     wine.map(|(index, _)| Withheld { index, reason: format!("{} is too young", asked.group) }).collect()
/// }
/// # let asked = DecideDelivery {
/// #     group: "school".into(),
/// #     topic: "drinks".into(),
/// #     queue_id: telstar::types::QueueId(0),
/// #     client: ([10, 0, 0, 9], 50_000).into(),
/// #     messages: Vec::new(),
/// # };
/// assert_eq!(withheld(&asked), []); // nothing was asked for
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Withheld {
    /// Which of those that were asked for, counted from 0.
    pub index: usize,
    /// Why, for the log of the broker.
    pub reason: String,
}

/// Asks whether something that is not a message may be changed: see [`RequestCode::is_administration`]. Losing it is a
/// failure of the extension.
///
/// ```
/// use telstar::extension::{AdminDecision, DecideAdmin};
/// use telstar::protocol::RequestCode;
///
/// /// Topics are deleted from the machine of the broker only.
/// fn decide(asked: &DecideAdmin) -> AdminDecision {
///     match asked.request {
///         RequestCode::DELETE_TOPIC_IN_BROKER if !asked.client.ip().is_loopback() => {
///             AdminDecision::Refuse { reason: format!("{} is not this machine", asked.client.ip()) }
///         }
///         _ => AdminDecision::Pass,
///     }
/// }
/// let asked = DecideAdmin {
///     request: RequestCode::DELETE_TOPIC_IN_BROKER,
///     client: ([10, 0, 0, 9], 50_000).into(),
///     fields: vec![("topic".into(), "orders".into())],
///     body: Default::default(),
/// };
/// assert_eq!(decide(&asked), AdminDecision::Refuse { reason: "10.0.0.9 is not this machine".into() });
/// ```
#[derive(Message, Clone, Debug)]
#[rtype(result = "AdminDecision")]
pub struct DecideAdmin {
    /// What is to be done.
    pub request: RequestCode,
    /// Who asks for it.
    pub client: SocketAddr,
    /// The header of the request, by the names that clients use.
    pub fields: Vec<(String, String)>,
    /// The body of the request.
    pub body: Bytes,
}

/// What becomes of a request to change something.
///
/// ```
/// use telstar::extension::{AdminDecision, DecideAdmin, DecisionRules};
/// use telstar::protocol::ResponseCode;
/// use telstar::testing::{Scenario, calls::create_topic};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (warden, _) = scene
///     .fake::<DecideAdmin>("broker -> warden")
///     .answers(|_| AdminDecision::Refuse { reason: "all stays as it is".into() })
///     .start();
/// let rules = DecisionRules::default();
/// let broker = scene.broker("broker").hooks("warden", move |hooks| hooks.decides_admin(warden.clone(), rules));
/// let refused = broker.start().await.client("admin").call(create_topic("orders", 1)).await;
/// assert_eq!(refused.code, ResponseCode::NO_PERMISSION);
/// assert_eq!(refused.remark.unwrap(), "not allowed by extension warden: all stays as it is");
/// # }
/// ```
#[derive(MessageResponse, Clone, PartialEq, Eq, Debug)]
pub enum AdminDecision {
    /// It is done.
    Pass,
    /// Nothing is changed; who asked is told why (NO_PERMISSION).
    Refuse {
        /// What who asked is told, behind the name of the extension.
        reason: String,
    },
}

/// A request with a code that the extension owns. Losing it leaves who asked with a refusal.
///
/// ```
/// use telstar::client::Call;
/// use telstar::extension::{EXTENSION_CODES, OwnAnswer, OwnRequest};
/// use telstar::protocol::RequestCode;
/// use telstar::testing::Scenario;
///
/// const ECHO: i32 = EXTENSION_CODES.start;
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (parrot, _) = scene
///     .fake::<OwnRequest>("broker -> parrot")
///     .answers(|asked| match asked.body.is_empty() {
///         true => Err("say something".into()), // the remark of a refusal
///         false => Ok(OwnAnswer { body: asked.body.clone(), ..OwnAnswer::default() }),
///     })
///     .start();
/// let broker = scene.broker("broker").hooks("parrot", move |hooks| hooks.owns_code(ECHO, parrot.clone()));
/// let broker = broker.start().await;
/// let mut client = broker.client("shop");
/// let echo = || Call::new(RequestCode::from_i32(ECHO));
/// assert_eq!(client.succeed(echo().body("hello")).await.body, "hello");
/// assert!(client.call(echo()).await.success().is_err());
/// # }
/// ```
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<OwnAnswer, String>")]
pub struct OwnRequest {
    /// One of those that it owns.
    pub code: i32,
    /// Who asks.
    pub client: SocketAddr,
    /// The header of the request.
    pub fields: Vec<(String, String)>,
    /// The body of the request.
    pub body: Bytes,
}

/// The answer to an [`OwnRequest`], a success.
///
/// ```
/// use telstar::extension::OwnAnswer;
///
/// let counted = OwnAnswer { fields: vec![("passed", 7.to_string())], ..OwnAnswer::default() };
/// assert!(counted.body.is_empty());
/// ```
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct OwnAnswer {
    /// The header of the answer.
    pub fields: Vec<(&'static str, String)>,
    /// The body of the answer.
    pub body: Bytes,
}

/// A request for an HTTP path that the extension serves. Losing it leaves who asked with status 502.
///
/// ```
/// use telstar::extension::{HttpRequest, HttpResponse};
///
/// fn serve(request: &HttpRequest) -> HttpResponse {
///     match (request.method.as_str(), request.query.strip_prefix("name=")) {
///         ("GET", Some(name)) => HttpResponse::text(format!("hello {name}")),
///         ("GET", None) => HttpResponse::text("who are you?").with_status(400),
///         _ => HttpResponse::text("").with_status(405),
///     }
/// }
/// let request = HttpRequest {
///     method: "GET".into(),
///     path: "/hello".into(),
///     query: "name=bank".into(),
///     headers: vec![("host".into(), "localhost:8080".into())],
///     body: Default::default(),
///     client: ([10, 0, 0, 9], 50_000).into(),
/// };
/// assert_eq!(serve(&request).body, "hello bank");
/// ```
#[derive(Message, Clone, Debug)]
#[rtype(result = "HttpResponse")]
pub struct HttpRequest {
    /// `GET` and the like.
    pub method: String,
    /// The path that is served, `/` before it.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// What was sent with it.
    pub body: Bytes,
    /// Who asks.
    pub client: SocketAddr,
}

/// What is answered.
///
/// ```
/// use telstar::extension::HttpResponse;
///
/// let counts = std::collections::BTreeMap::from([("orders", 7)]);
/// let answer = HttpResponse::json(&counts)?;
/// assert_eq!((answer.status, &*answer.content_type), (200, "application/json"));
/// assert_eq!(answer.body, r#"{"orders":7}"#);
/// let missing = HttpResponse::text("no such topic").with_status(404);
/// assert_eq!(missing.status, 404);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(MessageResponse, Clone, PartialEq, Eq, Debug)]
pub struct HttpResponse {
    /// The status, 200 for a success.
    pub status: u16,
    /// What the body is.
    pub content_type: String,
    /// What is sent back.
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

    /// The same with another status.
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
