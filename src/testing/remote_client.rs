//! A client of a broker, without a socket: typed requests go to the broker's own service, and its answers pass
//! through the bytes that a socket would carry.

use std::collections::HashMap;
use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::calls;
use super::client::{FakeClient, fake_client_heard};
use super::transcript::Heard;
use super::wording;
use crate::actors::connection::Service;
use crate::actors::output::{MAX_SLICES, Output};
use crate::actors::request::{CallFailed, ClientAnswer, ClientLink, Reply, Request};
use crate::client::{Call, Response};
use crate::clock::SharedClock;
use crate::protocol::command::{Command, Head, Language};
use crate::protocol::ext_fields::ExtFields;
use crate::protocol::frame::{HeaderCodec, MAX_FRAME_BYTES, NextFrame, next_frame};
use crate::protocol::message::StoredMessage;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;

/// How long anything is waited for, by the clock of the scene.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// Version of the protocol that the client says it speaks: RocketMQ 5.3.0.
const VERSION: i32 = 479;

/// A client in a scene; see [`SceneBroker::client`](super::SceneBroker::client).
///
/// ```
/// use telstar::protocol::ResponseCode;
/// use telstar::testing::calls::{pull_from, send_to};
/// use telstar::testing::{Scenario, SceneClient};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut shop: SceneClient = broker.client("shop");
/// shop.succeed(send_to("orders", 0, "pay 7")).await; // panics with the refusal, if it is refused
/// let refused = shop.call(send_to("orders", 9, "pay 8")).await; // returns it
/// assert_eq!(refused.code, ResponseCode::INVALID_PARAMETER);
/// assert_eq!(shop.pull(pull_from("bank", "orders", 0, 0)).await[0].body, "pay 7");
/// # }
/// ```
pub struct SceneClient {
    name: Box<str>,
    link: Arc<ClientLink>,
    connection: FakeClient,
    service: Arc<dyn Service>,
    heard: Heard,
    clock: SharedClock,
    next_opaque: i32,
    /// Answers that came while another was waited for.
    answers: HashMap<i32, Response>,
}

impl fmt::Debug for SceneClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SceneClient").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A request that was sent, whose answer is to be waited for.
///
/// ```
/// use std::time::Duration;
/// use telstar::testing::calls::{pull_from, send_to};
/// use telstar::testing::{Asked, Scenario};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let (mut bank, mut shop) = (broker.client("bank"), broker.client("shop"));
/// let asked: Asked = bank.ask(pull_from("payers", "orders", 0, 0).held(Duration::from_secs(15)));
/// assert!(!bank.is_answered(asked)); // it is held until there is a message
/// shop.succeed(send_to("orders", 0, "pay 7")).await;
/// assert!(!bank.answer(asked).await.body.is_empty());
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "its answer is had by `answer`"]
pub struct Asked {
    opaque: i32,
}

/// What the broker asks a client.
///
/// ```
/// use telstar::protocol::RequestCode;
/// use telstar::testing::{BrokerCall, Scenario};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let (mut one, mut two) = (broker.client("one"), broker.client("two"));
/// one.consumes("payers", &["orders"]).await;
/// two.consumes("payers", &["orders"]).await;
/// let told: BrokerCall = one.asked().await; // to share the queues anew
/// assert_eq!(told.code, RequestCode::NOTIFY_CONSUMER_IDS_CHANGED);
/// assert_eq!(told.fields.get("consumerGroup"), Some("payers"));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BrokerCall {
    /// What is asked.
    pub code: RequestCode,
    /// The header.
    pub fields: ExtFields,
    /// The body.
    pub body: Bytes,
}

impl SceneClient {
    pub(super) fn new(name: &str, service: Arc<dyn Service>, heard: Heard, clock: SharedClock) -> Self {
        let (link, connection) = fake_client_heard(Some(heard.clone()));
        let (name, answers) = (name.into(), HashMap::new());
        Self { name, link, connection, service, heard, clock, next_opaque: 0, answers }
    }

    /// Asks the broker, and waits for the answer.
    ///
    /// # Panics
    /// When none comes within an hour.
    pub async fn call(&mut self, call: impl Into<Call>) -> Response {
        let asked = self.ask(call);
        self.answer(asked).await
    }

    /// Asks the broker, and goes on.
    pub fn ask(&mut self, call: impl Into<Call>) -> Asked {
        let (code, fields, body) = call.into().into_parts();
        let field = |name: &str| fields.iter().find(|(found, _)| found == name).map(|(_, value)| &**value);
        self.heard.note(wording::of_request(code, field, &body));
        self.next_opaque += 1;
        let head = Head {
            code: code.as_i32(),
            language: Language::JAVA,
            version: VERSION,
            opaque: self.next_opaque,
            ..Head::default()
        };
        let fields: ExtFields = fields.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
        let request = Request {
            command: Command { head, fields, body, codec: HeaderCodec::Json },
            from: self.link.clone(),
            received_at: self.clock.now(),
        };
        let mut replies = Vec::new();
        self.service.serve(&mut vec![request], &mut replies);
        for reply in replies {
            self.link.reply(reply);
        }
        Asked { opaque: self.next_opaque }
    }

    /// The answer to what was asked.
    ///
    /// # Panics
    /// When none comes within an hour.
    pub async fn answer(&mut self, asked: Asked) -> Response {
        loop {
            if let Some(answer) = self.answers.remove(&asked.opaque) {
                return answer;
            }
            match timeout(PATIENCE, self.connection.replies.recv()).await {
                Ok(Some(reply)) => self.take(reply),
                _ => panic!("{}: no answer came within {} s", self.name, PATIENCE.as_secs()),
            }
        }
    }

    /// Whether the answer is there.
    pub fn is_answered(&mut self, asked: Asked) -> bool {
        while let Ok(reply) = self.connection.replies.try_recv() {
            self.take(reply);
        }
        self.answers.contains_key(&asked.opaque)
    }

    fn take(&mut self, reply: Reply) {
        let mut output = Output::default();
        output.put_reply(reply);
        let mut bytes = BytesMut::new();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = output.slices(&mut slices);
            let before = bytes.len();
            slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
            let written = bytes.len() - before;
            output.advance(written);
        }
        if let Ok(NextFrame::Whole(frame)) = next_frame(&mut bytes, MAX_FRAME_BYTES) {
            let Command { head, fields, body, .. } = Command::decode(frame).expect("the broker's own bytes");
            let code = ResponseCode::from_i32(head.code);
            self.answers.insert(head.opaque, Response { code, remark: head.remark, fields, body });
        }
    }

    /// What the broker asks next. Time passes until it does.
    ///
    /// # Panics
    /// When it asks nothing within an hour.
    pub async fn asked(&mut self) -> BrokerCall {
        match timeout(PATIENCE, self.connection.calls.recv()).await {
            Ok(Some(call)) => BrokerCall {
                code: RequestCode::from_i32(call.code),
                fields: call.fields.into_iter().collect(),
                body: call.body,
            },
            _ => panic!("{}: the broker asks nothing within {} s", self.name, PATIENCE.as_secs()),
        }
    }

    /// Answers what the broker asks by this from now on; before, such requests time out.
    #[doc(hidden)]
    pub async fn answers(&self, answer: Result<ClientAnswer, CallFailed>) {
        self.connection.answer_calls(answer).await;
    }

    /// Loses the connection, as when its process dies.
    pub async fn die(self) {
        self.heard.transcript.note(format_args!("-- {} dies", self.name));
        self.connection.close().await;
    }

    /// Tells the broker that this client produces for a group.
    pub async fn produces(&mut self, group: &str) {
        let heartbeat = calls::heartbeat(&self.name).produces(group);
        self.succeed(heartbeat).await;
    }

    /// Joins a consumer group that shares the messages of `topics`.
    pub async fn consumes(&mut self, group: &str, topics: &[&str]) {
        let heartbeat = calls::heartbeat(&self.name).consumes(group, topics);
        self.succeed(heartbeat).await;
    }

    /// Asks what has to succeed.
    ///
    /// # Panics
    /// With the refusal, when it is refused.
    pub async fn succeed(&mut self, call: impl Into<Call>) -> Response {
        let name = self.name.clone();
        let answer = self.call(call).await;
        answer.success().unwrap_or_else(|refused| panic!("{name}: {refused}"))
    }

    /// Pulls, and returns the messages.
    pub async fn pull(&mut self, pull: calls::PullCall) -> Vec<StoredMessage> {
        StoredMessage::decode_all(self.call(pull).await.body)
    }
}
