//! The door by which an extension asks the broker: the one that clients come through, without a socket.
//!
//! - Owns: the numbers of its requests under way, and who waits for each.
//! - Takes: `AskBroker`; [`Replies`] from whoever answers; what a connection takes besides, which it has nothing for.
//! - Sends: requests to the broker's [`Service`], as a connection does.
//! - Fails: a refusal is what a client would be told; a door whose broker has ended answers as one that shuts down.
//! - Invariants: whoever asks is answered once.
//!
//! It lives with the broker's own actors, not with the extension: what answers runs where it always does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::actors::connection::Service;
use crate::actors::context::{Context, observed};
use crate::actors::request::{
    CallClient, CallFailed, ClientAnswer, ClientLink, ClientName, CloseConnection, ConnectionId, Replies,
    Reply, ReplyContent, Request, WatchConnection,
};
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::command::{Command, Head};
use crate::protocol::frame::HeaderCodec;

/// Asks the broker something. Losing it leaves who asked without an answer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AskBroker {
    pub command: Command,
    pub answer: oneshot::Sender<ReplyContent>,
}

/// See the [module](self).
pub struct Door {
    id: ConnectionId,
    service: Arc<dyn Service>,
    /// What the messages of the extension say as their born host.
    peer: SocketAddr,
    clock: SharedClock,
    link: Option<Arc<ClientLink>>,
    next_opaque: i32,
    waiting: HashMap<i32, oneshot::Sender<ReplyContent>>,
    /// Answers of one request, kept for their room.
    replies: Vec<Reply>,
}

impl Door {
    /// Questions that may wait here.
    const MAILBOX_CAPACITY: usize = 4096;

    pub fn new(service: Arc<dyn Service>, peer: SocketAddr, clock: SharedClock) -> Self {
        Self {
            id: ConnectionId::next(),
            service,
            peer,
            clock,
            link: None,
            next_opaque: 0,
            waiting: HashMap::new(),
            replies: Vec::new(),
        }
    }

    /// By which the extension is known as a client.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    fn answer(&mut self, reply: Reply) {
        if let Some(waiting) = self.waiting.remove(&reply.to.opaque) {
            // Who asked may have stopped waiting.
            let _ = waiting.send(reply.content);
        }
    }
}

impl Actor for Door {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(Self::MAILBOX_CAPACITY);
        let address = ctx.address();
        self.link = Some(Arc::new(ClientLink {
            id: self.id,
            client: ClientName::default(),
            peer: self.peer,
            local: self.peer,
            replies: address.clone().recipient(),
            calls: address.clone().recipient(),
            watches: address.clone().recipient(),
            closes: address.recipient(),
        }));
    }
}

observed!(Door);

impl Handler<AskBroker> for Door {
    type Result = ();

    fn handle(&mut self, AskBroker { mut command, answer }: AskBroker, _: &mut Self::Context) {
        let Some(from) = self.link.clone() else { return };
        command.head.opaque = self.next_opaque;
        self.next_opaque = self.next_opaque.wrapping_add(1);
        self.waiting.insert(command.head.opaque, answer);
        let request = Request { command, from, received_at: self.clock.now() };
        let mut replies = std::mem::take(&mut self.replies);
        self.service.serve(&mut vec![request], &mut replies);
        replies.drain(..).for_each(|reply| self.answer(reply));
        self.replies = replies;
    }
}

impl Handler<Replies> for Door {
    type Result = ();

    fn handle(&mut self, Replies(replies): Replies, _: &mut Self::Context) {
        replies.into_iter().for_each(|reply| self.answer(reply));
    }
}

impl Handler<CallClient> for Door {
    type Result = Result<ClientAnswer, CallFailed>;

    fn handle(&mut self, _: CallClient, _: &mut Self::Context) -> Self::Result {
        Err(CallFailed::Closed) // an extension is a member of nothing
    }
}

impl Handler<WatchConnection> for Door {
    type Result = ();

    fn handle(&mut self, _: WatchConnection, _: &mut Self::Context) {}
}

impl Handler<CloseConnection> for Door {
    type Result = ();

    fn handle(&mut self, _: CloseConnection, _: &mut Self::Context) {}
}

/// Asks by way of a [`Door`].
pub async fn ask(door: &Addr<Door>, command: Command) -> Result<ReplyContent, Refusal> {
    let (answer, answered) = oneshot::channel();
    door.send(AskBroker { command, answer }).await?;
    answered.await.map_err(|_| Refusal::ShuttingDown)
}

/// A request without its number, which the door gives it.
pub fn command(
    code: i32,
    fields: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>,
    body: bytes::Bytes,
) -> Command {
    // As Java 5.x says it: what depends on the version of a client takes the newest way.
    let head = Head { code, version: 479, ..Head::default() };
    Command { head, fields: fields.into_iter().collect(), body, codec: HeaderCodec::Json }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::request::Answer;
    use crate::protocol::request_code::RequestCode;
    use crate::testing::RuntimeClock;

    /// Answers odd questions at once and even ones later, with what they brought.
    struct Echo;

    impl Service for Echo {
        fn serve(&self, requests: &mut Vec<Request>, replies: &mut Vec<Reply>) {
            for request in requests.drain(..) {
                let answer = Answer::success().with_body(request.command.body.clone());
                if request.command.head.opaque % 2 == 1 {
                    replies.push(Reply { to: request.reply_to(), content: ReplyContent::Answer(answer) });
                } else {
                    actix_rt::spawn(async move {
                        tokio::task::yield_now().await;
                        crate::actors::broker_service::finish(request, Ok(Some(answer)));
                    });
                }
            }
        }
    }

    #[actix::test]
    async fn everyone_gets_the_answer_to_what_they_asked() {
        let peer = SocketAddr::from(([10, 0, 0, 1], 10_911));
        let door = Door::new(Arc::new(Echo), peer, RuntimeClock::shared()).start();
        let ask = |body: &'static str| {
            let code = RequestCode::GET_MAX_OFFSET.as_i32();
            ask(&door, command(code, [("topic", "t")], body.into()))
        };
        let answers = futures::future::join3(ask("a"), ask("b"), ask("c")).await;
        for (answer, expected) in [(answers.0, "a"), (answers.1, "b"), (answers.2, "c")] {
            let Ok(ReplyContent::Answer(answer)) = answer else { panic!("answered") };
            assert_eq!(answer.body, expected);
        }
    }
}
