//! A client's end of a connection that has no socket, and requests as a connection would have received them.

use std::net::SocketAddr;
use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::CLOCK_BEGINS;
use super::transcript::Heard;
use super::wording;
use crate::actors::request::{
    CallClient, CallFailed, ClientAnswer, ClientLink, ClientName, CloseConnection, ConnectionClosed,
    ConnectionId, Replies, Reply, Request, WatchConnection,
};
use crate::protocol::command::{Command, FLAG_ONE_WAY, Head};
use crate::protocol::ext_fields::ExtFields;
use crate::protocol::fastjson;
use crate::protocol::frame::HeaderCodec;
use crate::protocol::request_code::RequestCode;

/// The test's end of a connection that has no socket.
pub struct FakeClient {
    /// Number of the connection.
    pub id: ConnectionId,
    /// Answers to requests.
    pub replies: UnboundedReceiver<Reply>,
    /// What the broker asks the client; answered by what [`answer_calls`](Self::answer_calls) was given last,
    /// otherwise with a time-out.
    pub calls: UnboundedReceiver<CallClient>,
    /// The broker wants the connection closed.
    pub closes: UnboundedReceiver<CloseConnection>,
    connection: Addr<FakeConnection>,
}

impl FakeClient {
    /// Closes the connection and returns how many were watching it. Later watchers are told at once.
    pub async fn close(&self) -> usize {
        self.connection.send(CloseNow).await.expect("the fake connection runs as long as the test")
    }

    /// Answers calls with `answer` from now on.
    pub async fn answer_calls(&self, answer: Result<ClientAnswer, CallFailed>) {
        self.connection
            .send(AnswerCalls(answer))
            .await
            .expect("the fake connection runs as long as the test");
    }
}

/// A client on port 50000 and its connection's number.
///
/// ```
/// use telstar::actors::request::{Answer, Reply, ReplyContent};
/// use telstar::protocol::request_code::RequestCode;
/// use telstar::testing::{fake_client, request};
///
/// # #[actix::main]
/// # async fn main() {
/// let (link, mut client) = fake_client();
/// let asked = request(RequestCode::GET_MAX_OFFSET).field("topic", "orders").field("queueId", 0).from(&link);
/// // Hand it to the handler under test, which does something like this:
/// let content = ReplyContent::Answer(Answer::success().with_field("offset", "7"));
/// asked.from.reply(Reply { to: asked.reply_to(), content });
/// let reply = client.replies.recv().await.unwrap();
/// assert!(matches!(reply.content, ReplyContent::Answer(answer) if answer.fields[0].1 == "7"));
/// # }
/// ```
pub fn fake_client() -> (Arc<ClientLink>, FakeClient) {
    fake_client_heard(None)
}

/// One whose answers and requests from the broker are written down; `heard` is the way to the broker.
pub(super) fn fake_client_heard(heard: Option<Heard>) -> (Arc<ClientLink>, FakeClient) {
    let id = ConnectionId::next();
    let (replies_taken, replies) = unbounded_channel();
    let (calls_taken, calls) = unbounded_channel();
    let (closes_taken, closes) = unbounded_channel();
    let connection = FakeConnection {
        id,
        replies: replies_taken,
        calls: calls_taken,
        closes: closes_taken,
        call_answer: Err(CallFailed::TimedOut),
        watchers: Vec::new(),
        closed: false,
        heard: heard.map(|heard| Heard { way: heard.way.back(), ..heard }),
    }
    .start();
    let link = ClientLink {
        id,
        client: ClientName::default(),
        peer: SocketAddr::from(([10, 0, 0, 9], 50_000u16.wrapping_add(id.0 as u16))),
        local: SocketAddr::from(([10, 0, 0, 1], 10_911)),
        replies: connection.clone().recipient(),
        calls: connection.clone().recipient(),
        watches: connection.clone().recipient(),
        closes: connection.clone().recipient(),
    };
    (Arc::new(link), FakeClient { id, replies, calls, closes, connection })
}

struct FakeConnection {
    id: ConnectionId,
    replies: UnboundedSender<Reply>,
    calls: UnboundedSender<CallClient>,
    closes: UnboundedSender<CloseConnection>,
    call_answer: Result<ClientAnswer, CallFailed>,
    watchers: Vec<Recipient<ConnectionClosed>>,
    closed: bool,
    /// Hears what comes from the broker.
    heard: Option<Heard>,
}

impl FakeConnection {
    fn note(&self, words: impl FnOnce() -> Option<String>) {
        if let Some(heard) = self.heard.as_ref().filter(|_| !self.closed)
            && let Some(words) = words()
        {
            heard.note(words);
        }
    }
}

impl Actor for FakeConnection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
    }
}

#[derive(Message)]
#[rtype(result = "usize")]
struct CloseNow;

#[derive(Message)]
#[rtype(result = "()")]
struct AnswerCalls(Result<ClientAnswer, CallFailed>);

impl Handler<Replies> for FakeConnection {
    type Result = ();

    fn handle(&mut self, Replies(replies): Replies, _: &mut Self::Context) {
        for reply in replies {
            self.note(|| wording::of_answer(&reply.content));
            let _ = self.replies.send(reply);
        }
    }
}

impl Handler<CallClient> for FakeConnection {
    type Result = Result<ClientAnswer, CallFailed>;

    fn handle(&mut self, call: CallClient, _: &mut Self::Context) -> Self::Result {
        if self.closed {
            return Err(CallFailed::Closed);
        }
        self.note(|| {
            let field =
                |name: &str| call.fields.iter().find(|(found, _)| found == name).map(|(_, value)| &**value);
            Some(wording::of_request(RequestCode::from_i32(call.code), field, &call.body))
        });
        let _ = self.calls.send(call);
        self.call_answer.clone()
    }
}

impl Handler<WatchConnection> for FakeConnection {
    type Result = ();

    fn handle(&mut self, watch: WatchConnection, _: &mut Self::Context) {
        if self.closed {
            watch.watcher.do_send(ConnectionClosed { id: self.id });
        } else {
            self.watchers.push(watch.watcher);
        }
    }
}

impl Handler<CloseConnection> for FakeConnection {
    type Result = ();

    fn handle(&mut self, close: CloseConnection, _: &mut Self::Context) {
        let _ = self.closes.send(close);
    }
}

impl Handler<CloseNow> for FakeConnection {
    type Result = usize;

    fn handle(&mut self, _: CloseNow, _: &mut Self::Context) -> usize {
        self.closed = true;
        for watcher in &self.watchers {
            watcher.do_send(ConnectionClosed { id: self.id });
        }
        std::mem::take(&mut self.watchers).len()
    }
}

impl Handler<AnswerCalls> for FakeConnection {
    type Result = ();

    fn handle(&mut self, AnswerCalls(answer): AnswerCalls, _: &mut Self::Context) {
        self.call_answer = answer;
    }
}

/// Builds a request as a connection would have received it.
#[derive(Clone, Debug)]
pub struct RequestBuilder {
    head: Head,
    fields: Vec<(String, String)>,
    body: Bytes,
}

/// A request without fields and body.
pub fn request(code: RequestCode) -> RequestBuilder {
    let head = Head { code: code.as_i32(), opaque: 7, version: 479, ..Head::default() };
    RequestBuilder { head, fields: Vec::new(), body: Bytes::new() }
}

impl RequestBuilder {
    /// Sets one ext field.
    pub fn field(mut self, name: &str, value: impl ToString) -> Self {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets the body.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Sets the body to JSON.
    pub fn json(self, body: &impl Serialize) -> Self {
        self.body(fastjson::to_vec(body).expect("bodies of tests have a JSON form"))
    }

    /// Wants no answer.
    pub fn one_way(mut self) -> Self {
        self.head.flag |= FLAG_ONE_WAY;
        self
    }

    /// The request, as it was received from that client.
    pub fn from(self, link: &Arc<ClientLink>) -> Request {
        let fields: ExtFields = self.fields.into_iter().collect();
        Request {
            command: Command { head: self.head, fields, body: self.body, codec: HeaderCodec::Json },
            from: link.clone(),
            received_at: CLOCK_BEGINS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake_sink;

    #[actix::test]
    async fn closed_client_tells_its_watchers_early_and_late() {
        let (link, client) = fake_client();
        let (watcher, mut told) = fake_sink::<ConnectionClosed>();
        link.watches.send(WatchConnection { watcher: watcher.clone() }).await.unwrap();
        assert_eq!(client.close().await, 1);
        link.watches.send(WatchConnection { watcher }).await.unwrap();
        for _ in 0..2 {
            assert_eq!(told.recv().await, Some(ConnectionClosed { id: client.id }));
        }
        let call = CallClient { code: 307, fields: Vec::new(), body: Bytes::new(), timeout: None };
        assert_eq!(link.calls.send(call).await.unwrap(), Err(CallFailed::Closed));
    }

    #[actix::test]
    async fn built_request_has_its_fields() {
        let (link, _client) = fake_client();
        let request = request(RequestCode::HEART_BEAT).field("a", 1).body("{}").one_way().from(&link);
        assert_eq!(request.command.fields.get("a"), Some("1"));
        assert!(request.command.is_one_way());
    }
}
