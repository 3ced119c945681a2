//! Shows pulled messages to the extensions that decide on deliveries, before their consumer gets them.
//!
//! - Owns: the pulls that are under way by it, and whose each is.
//! - Takes: [`ScreenPull`]; [`Replies`] from the queues that it has handed pulls to.
//! - Sends: [`PullMessages`] to queues, with itself as who is answered; what the extensions are asked; [`Replies`] to the
//!   connections that pulled.
//! - Fails: a queue that takes no pull refuses it; an extension that does not decide lets messages pass or refuses the pull,
//!   as it has chosen.
//! - Invariants: a pull is answered once; a message that is withheld is passed over, so that its consumer goes on behind it.
//!
//! No pull comes here while no extension decides on deliveries.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::{Actor, ActorFutureExt, Addr, AsyncContext, Handler, Message, SendError, WrapFuture};
use bytes::Bytes;
use tracing::debug;

use super::decisions::{DecideDelivery, DeliveryDecision};
use super::hook_table::HookTable;
use crate::actors::context::{Context, observed};
use crate::actors::request::{ClientLink, ClientName, PulledReply, Replies, Reply, ReplyContent, ReplyTo};
use crate::actors::topic_queue::{PullMessages, TopicQueue};
use crate::error::Refusal;
use crate::protocol::message::{RecordView, StoredMessage};
use crate::protocol::response_code::ResponseCode;
use crate::store::pull::PullStatus;
use crate::types::{GroupName, QueueId, TopicName};

/// Has a pull answered, once what it brings was looked at. Losing it leaves the consumer to its time-out.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ScreenPull {
    pub queue: Addr<TopicQueue>,
    pub topic: TopicName,
    pub queue_id: QueueId,
    pub pull: PullMessages,
}

/// Whose a pull is.
struct Screened {
    link: Arc<ClientLink>,
    to: ReplyTo,
    group: GroupName,
    topic: TopicName,
    queue_id: QueueId,
}

pub struct DeliveryScreen {
    hooks: HookTable,
    under_way: HashMap<i32, Screened>,
    next: i32,
    mailbox_capacity: usize,
}

impl DeliveryScreen {
    pub fn new(hooks: HookTable, mailbox_capacity: usize) -> Self {
        Self { hooks, under_way: HashMap::new(), next: 0, mailbox_capacity }
    }
}

impl Actor for DeliveryScreen {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_capacity);
    }
}

observed!(DeliveryScreen);

impl Handler<ScreenPull> for DeliveryScreen {
    type Result = ();

    fn handle(&mut self, screen: ScreenPull, ctx: &mut Self::Context) {
        let ScreenPull { queue, topic, queue_id, mut pull } = screen;
        let token = self.next;
        self.next = self.next.wrapping_add(1);
        let (link, to) = (pull.link.clone(), pull.to);
        pull.link = Arc::new(ClientLink {
            id: link.id,
            client: ClientName::default(),
            peer: link.peer,
            local: link.local,
            replies: ctx.address().recipient(),
            calls: link.calls.clone(),
            watches: link.watches.clone(),
            closes: link.closes.clone(),
        });
        pull.to = ReplyTo { opaque: token, ..to };
        let group = pull.group.clone();
        match queue.try_send(pull) {
            Ok(()) => _ = self.under_way.insert(token, Screened { link, to, group, topic, queue_id }),
            Err(error) => {
                let refusal = match error {
                    SendError::Full(_) => Refusal::Busy { actor: "the queue", waiting: 0 },
                    SendError::Closed(_) => {
                        Refusal::TopicUnknown { topic, hint: "it was deleted this moment".into() }
                    }
                };
                link.reply(Reply { to, content: ReplyContent::Refused(refusal) });
            }
        }
    }
}

impl Handler<Replies> for DeliveryScreen {
    type Result = ();

    fn handle(&mut self, Replies(replies): Replies, ctx: &mut Self::Context) {
        for reply in replies {
            let Some(screened) = self.under_way.remove(&reply.to.opaque) else { continue };
            match reply.content {
                ReplyContent::Pulled(pulled) if !pulled.records.is_empty() => {
                    let hooks = self.hooks.clone();
                    let asking = async move {
                        let content = match screen(&hooks, &screened, pulled).await {
                            Ok(pulled) => ReplyContent::Pulled(pulled),
                            Err(refusal) => ReplyContent::Refused(refusal),
                        };
                        screened.link.reply(Reply { to: screened.to, content });
                    };
                    ctx.spawn(asking.into_actor(self).map(|(), _, _| ()));
                }
                content => screened.link.reply(Reply { to: screened.to, content }),
            }
        }
    }
}

/// What the extensions leave of an answer.
async fn screen(
    hooks: &HookTable,
    screened: &Screened,
    mut pulled: PulledReply,
) -> Result<PulledReply, Refusal> {
    let mut records: Vec<Bytes> = pulled.records.into_iter().flat_map(single_records).collect();
    let deciders = hooks.hooked().map(|hooked| hooked.deliveries.as_slice()).unwrap_or_default();
    for decider in deciders.iter().filter(|decider| decider.own != screened.link.id) {
        if records.is_empty() {
            break;
        }
        let question = DecideDelivery {
            group: screened.group.clone(),
            topic: screened.topic.clone(),
            queue_id: screened.queue_id,
            client: screened.link.peer,
            messages: records.iter().filter_map(|record| StoredMessage::decode(record).ok()).collect(),
        };
        let Some(DeliveryDecision { withheld }) = decider.decide(question).await? else { continue };
        for message in &withheld {
            let (extension, index) = (decider.extension, message.index);
            debug!(extension, topic = %screened.topic, group = %screened.group, index, reason = message.reason, "message withheld");
        }
        decider.counters.count_withheld(withheld.len() as u64);
        let mut index = 0..records.len();
        records.retain(|_| index.next().is_some_and(|at| withheld.iter().all(|message| message.index != at)));
    }
    if records.is_empty() {
        // The consumer goes on behind them at once.
        pulled.code = ResponseCode::PULL_RETRY_IMMEDIATELY;
        pulled.status = PullStatus::NoMatchedMessage.name();
    }
    Ok(PulledReply { records, ..pulled })
}

/// Records that lie back to back, one by one.
fn single_records(mut run: Bytes) -> Vec<Bytes> {
    let mut records = Vec::new();
    while let Ok(len) = RecordView::parse(&run).map(|view| view.total_len()) {
        records.push(run.split_to(len));
    }
    records
}
