//! What a broker's port serves: a table of who answers what, not a hop.
//!
//! Sends of one read are gathered by queue and handed over together; pulls go to their queue at once; whatever
//! else is asked runs as a small task that asks the owners and replies.

use std::sync::Arc;

use actix::prelude::*;
use arc_swap::Guard;
use tracing::{Instrument, Span, debug, trace, trace_span, warn};

use super::connection::Service;
use super::dedup_window::SendOnce;
use super::request::{Answered, Reply, ReplyContent, ReplyTo, Request};
use super::requests::pull::PullTaken;
use super::requests::replies::{self, ReplyPeers};
use super::requests::send::{self, PreparedSend, SendRules};
use super::retry_router::SendToDeadLetterQueue;
use super::router::BrokerRouter;
use super::send_gate::SendGate;
use super::topic_queue::{SendMessages, SendReply, SendRequest};
use super::topic_table::{TopicEntry, TopicMap};
use super::topics::AutoCreateTopic;
use crate::error::Refusal;
use crate::protocol::header::SendHeader;
use crate::protocol::names;
use crate::protocol::request_code::RequestCode;
use crate::types::{GroupName, QueueId, TopicName};

/// Serves the ports of a broker.
pub struct BrokerService {
    router: Arc<BrokerRouter>,
    rules: Arc<SendRules>,
    gate: SendGate,
}

/// Sends of one read for one queue.
struct QueueSends {
    entry: Arc<TopicEntry>,
    queue_id: QueueId,
    sends: Vec<SendRequest>,
}

impl BrokerService {
    /// `gate`: while it is not open, sends are refused so that clients turn to another broker.
    pub fn new(router: Arc<BrokerRouter>, rules: Arc<SendRules>, gate: SendGate) -> Self {
        Self { router, rules, gate }
    }

    fn take_send(
        &self,
        request: Request,
        topics: &Guard<Arc<TopicMap>>,
        gathered: &mut Vec<QueueSends>,
    ) -> Result<(), (ReplyTo, Refusal)> {
        let to = request.reply_to();
        let taken = || -> Result<Option<PreparedSend>, Refusal> {
            let header = send::header_of(&request)?;
            if let Some(refusal) = self.gate.refusal(names::is_retry_topic(header.topic)) {
                return Err(refusal);
            }
            send::check_name(&header)?;
            self.router.check_broker_writable(&header, topics)?;
            let Some(entry) = topics.topics.get(header.topic) else { return Ok(None) };
            if self.router.hooks.decides_sends() {
                return Ok(None); // extensions are asked first
            }
            if names::is_retry_topic(header.topic) {
                return Ok(None); // may belong to the dead letter queue
            }
            let prepared = send::prepare(&request, &header, entry.clone(), topics, &self.rules)?;
            self.router.check_transactions_taken(&prepared)?;
            Ok(Some(prepared))
        };
        match taken() {
            Ok(Some(prepared)) => {
                let PreparedSend { entry, queue_id, send } = match self.router.send_once(prepared) {
                    Ok(Some(prepared)) => prepared,
                    Ok(None) => return Ok(()),
                    Err(refusal) => return Err((to, refusal)),
                };
                let known = gathered
                    .iter_mut()
                    .find(|known| known.queue_id == queue_id && Arc::ptr_eq(&known.entry, &entry));
                match known {
                    Some(known) => known.sends.push(send),
                    None => gathered.push(QueueSends { entry, queue_id, sends: vec![send] }),
                }
                Ok(())
            }
            Ok(None) => {
                self.send_with_care(request);
                Ok(())
            }
            Err(refusal) => Err((to, refusal)),
        }
    }

    /// A send that first needs its topic created, or goes to a retry topic, or is decided on by extensions.
    fn send_with_care(&self, request: Request) {
        let (router, rules) = (self.router.clone(), self.rules.clone());
        spawn_task(async move {
            let (link, to) = (request.from.clone(), request.reply_to());
            if let Err(refusal) = send_carefully(&router, &rules, request).await {
                link.reply(refused(to, refusal));
            }
        });
    }

    /// A pull of a group that is new, or while somebody has reset offsets.
    fn pull_with_care(&self, request: Request) {
        let router = self.router.clone();
        spawn_task(async move {
            let (link, to) = (request.from.clone(), request.reply_to());
            let topics = router.topics.load_full();
            if let Err(refusal) = router.pulls.pull_carefully(request, &topics).await {
                link.reply(refused(to, refusal));
            }
        });
    }

    /// A reply to a request that another client has sent as a message.
    fn send_reply(&self, request: Request) {
        let (router, rules, gate) = (self.router.clone(), self.rules.clone(), self.gate.clone());
        spawn_task(async move {
            let peers = ReplyPeers {
                producers: &router.producers,
                topics: &router.topics,
                rules: &rules,
                gate: &gate,
                stores: router.settings.load().store_replies,
                clock: &router.clock,
            };
            let answered = replies::send_reply(&request, &peers).await;
            finish(request, answered);
        });
    }

    fn spawn(&self, request: Request) {
        let router = self.router.clone();
        spawn_task(async move {
            let answered = router.answer_with_extensions(&request).await;
            finish(request, answered);
        });
    }
}

impl Service for BrokerService {
    fn serve(&self, requests: &mut Vec<Request>, replies: &mut Vec<Reply>) {
        let topics = self.router.topics.load();
        let mut gathered = Vec::new();
        for request in requests.drain(..) {
            let _span = span_of(&request).entered();
            match RequestCode::from_i32(request.command.head.code) {
                RequestCode::SEND_MESSAGE
                | RequestCode::SEND_MESSAGE_V2
                | RequestCode::SEND_BATCH_MESSAGE => {
                    if let Err((to, refusal)) = self.take_send(request, &topics, &mut gathered) {
                        replies.push(refused(to, refusal));
                    }
                }
                RequestCode::PULL_MESSAGE | RequestCode::LITE_PULL_MESSAGE => {
                    let to = request.reply_to();
                    match self.router.pulls.pull(request, &topics) {
                        Ok(PullTaken::HandedOver) => {}
                        Ok(PullTaken::NeedsCare(request)) => self.pull_with_care(request),
                        Err(refusal) => replies.push(refused(to, refusal)),
                    }
                }
                RequestCode::SEND_REPLY_MESSAGE | RequestCode::SEND_REPLY_MESSAGE_V2 => {
                    self.send_reply(request);
                }
                _ => self.spawn(request),
            }
        }
        for QueueSends { entry, queue_id, sends } in gathered {
            hand_over(&entry, queue_id, sends, replies);
        }
    }
}

/// The span of a request, which its task goes on in, if it has one. The target is off unless `log.level` names it.
fn span_of(request: &Request) -> Span {
    trace_span!(
        target: "telstar::requests",
        "request",
        code = %RequestCode::from_i32(request.command.head.code),
        opaque = request.command.head.opaque,
        connection = request.from.id.0,
        client = request.from.client.get(),
        peer = %request.from.peer
    )
}

/// Runs a task of a request, in its span.
fn spawn_task(task: impl Future<Output = ()> + 'static) {
    actix_rt::spawn(task.in_current_span());
}

/// Gives sends to their queue; a full one refuses them at once.
fn hand_over(entry: &TopicEntry, queue_id: QueueId, sends: Vec<SendRequest>, replies: &mut Vec<Reply>) {
    let sent = match entry.queue(queue_id) {
        Some(queue) => queue.try_send(SendMessages(sends)),
        // Delay levels may be more than the queues of their topic.
        None => {
            let (topic, queues) = (entry.name().clone(), entry.queue_nums());
            let refusal = Refusal::QueueOutOfRange { topic, queue_id: queue_id.0 as i32, queues };
            return refuse(sends, &refusal, replies);
        }
    };
    match sent {
        Ok(()) => {}
        Err(SendError::Full(SendMessages(sends))) => {
            let refusal = Refusal::Busy { actor: "the queue", waiting: sends.len() };
            refuse(sends, &refusal, replies);
        }
        Err(SendError::Closed(SendMessages(sends))) => {
            let hint = "it was deleted this moment".to_owned();
            refuse(sends, &Refusal::TopicUnknown { topic: entry.name().clone(), hint }, replies);
        }
    }
}

fn refuse(sends: Vec<SendRequest>, refusal: &Refusal, replies: &mut Vec<Reply>) {
    for send in sends {
        if let SendReply::Client { to, .. } = send.reply {
            replies.push(refused(to, refusal.clone()));
        }
    }
}

async fn send_carefully(router: &BrokerRouter, rules: &SendRules, request: Request) -> Result<(), Refusal> {
    let header = send::header_of(&request)?;
    let entry = match router.topics.get(header.topic) {
        Some(entry) => entry,
        None => router.create_topic_of(&header).await?,
    };
    let topics = router.topics.load();
    let mut prepared = send::prepare(&request, &header, entry, &topics, rules)?;
    drop(topics);
    router.hooks.decide_send(&request, header.producer_group, header.topic, &mut prepared).await?;
    router.check_transactions_taken(&prepared)?;
    if let Some(group) = names::group_of_retry_topic(header.topic) {
        let group = GroupName::from(group);
        if let Some(cause) = router.cause_of_death(&group, &header).await? {
            let client = router.consumers.table().name_of(&group, &request.from);
            let dead = SendToDeadLetterQueue { group, send: prepared.send, cause, client };
            return router.to_dead_letter_queue(dead).await;
        }
    }
    let Some(prepared) = router.send_once(prepared)? else { return Ok(()) };
    let mut refusals = Vec::new();
    hand_over(&prepared.entry, prepared.queue_id, vec![prepared.send], &mut refusals);
    for refusal in refusals {
        request.from.reply(refusal);
    }
    Ok(())
}

impl BrokerRouter {
    /// Gives a send back, unless its topic stores what is sent again only once and has taken it.
    fn send_once(&self, prepared: PreparedSend) -> Result<Option<PreparedSend>, Refusal> {
        let PreparedSend { entry, queue_id, send } = prepared;
        let key = match &send.reply {
            SendReply::Client { unique_key: Some(key), .. } => Some(key.clone()),
            _ => None,
        };
        let (Some(window_ms), Some(unique_key), Some(queue)) =
            (entry.dedup_window_ms(), key, entry.queue(queue_id).cloned())
        else {
            return Ok(Some(PreparedSend { entry, queue_id, send }));
        };
        let once = SendOnce { send, queue_id, queue, unique_key, window_ms };
        self.dedup.send_once(&entry, once).map(|()| None)
    }

    /// The topic of a send that has none yet.
    async fn create_topic_of(&self, header: &SendHeader<'_>) -> Result<Arc<TopicEntry>, Refusal> {
        let create = AutoCreateTopic {
            topic: TopicName::from(header.topic),
            default_topic: TopicName::from(header.default_topic),
            client_queue_nums: header.default_topic_queue_nums,
            topic_sys_flag: 0,
        };
        self.topics_actor.send(create).await.map_err(|_| Refusal::ShuttingDown)?
    }
}

fn refused(to: ReplyTo, refusal: Refusal) -> Reply {
    Reply { to, content: ReplyContent::Refused(refusal) }
}

/// Sends the outcome of a request to whoever asked.
pub fn finish(request: Request, answered: Answered) {
    let to = request.reply_to();
    trace!(target: "telstar::requests", refused = answered.is_err(), "answered");
    let content = match answered {
        Ok(Some(answer)) => ReplyContent::Answer(answer),
        Ok(None) => ReplyContent::Silence,
        Err(refusal) => {
            let code = RequestCode::from_i32(request.command.head.code);
            match refusal {
                Refusal::Failed(_) | Refusal::StoreFailed { .. } => {
                    warn!(request = %code, peer = %request.from.peer, %refusal, "request failed");
                }
                _ => debug!(request = %code, peer = %request.from.peer, %refusal, "request refused"),
            }
            ReplyContent::Refused(refusal)
        }
    };
    request.from.reply(Reply { to, content });
}

#[cfg(test)]
mod tests;
