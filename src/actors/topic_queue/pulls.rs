//! Pulls: what a queue answers a consumer now, and whether it holds the pull instead.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;
use tracing::error;

use super::TopicQueue;
use super::holds::{HeldFor, PullHold};
use crate::actors::broker_stats::{CountTraffic, Traffic, TrafficOf};
use crate::actors::request::{ClientLink, PulledReply, Reply, ReplyContent, ReplyTo};
use crate::error::Refusal;
use crate::protocol::header::PullResponse;
use crate::protocol::response_code::ResponseCode;
use crate::store::message_filter::MessageFilter;
use crate::store::pull::{PullStatus, Pulled, pull};
use crate::types::{GroupName, QueueOffset};

/// Asks for messages. Losing it leaves the consumer to its time-out.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PullMessages {
    pub link: Arc<ClientLink>,
    pub to: ReplyTo,
    /// First queue offset wanted, as the client says it: may be negative.
    pub from: i64,
    pub max_messages: usize,
    pub filter: MessageFilter,
    /// How long to hold the pull when it is at the end.
    pub hold: Option<Duration>,
    /// Which broker to pull from next.
    pub suggested_broker_id: i64,
    /// Whom the messages count for.
    pub group: GroupName,
}

impl TopicQueue {
    /// The outcome of a pull now.
    pub(super) fn pull_now(&mut self, request: &PullMessages) -> Result<Pulled, Refusal> {
        if self.is_compacted() {
            return self.pull_compacted_now(request);
        }
        self.expire_and_tell();
        let queue = match &mut self.queue {
            Ok(queue) => queue,
            Err(cause) => return Err(Refusal::StoreFailed { cause: cause.clone() }),
        };
        let PullMessages { from, max_messages, filter, .. } = request;
        let limits = self.parts.config.pull;
        if !self.unwritten.is_empty() && *from > queue.max_offset().0 as i64 {
            // Not gone: its unit waits for the disk. A consumer that was told so would go back to the beginning.
            return Ok(Pulled::nothing(PullStatus::OffsetOverflowOne, QueueOffset(*from as u64)));
        }
        pull(queue, &self.parts.log, *from, *max_messages, filter, limits, &mut self.units).map_err(|error| {
            error!(topic = %self.topic, queue_id = self.queue_id.0, %error, "queue cannot be read");
            Refusal::Failed(error.to_string())
        })
    }

    /// Whether there is more than a pull wants.
    fn is_backlog(&self, request: &PullMessages) -> bool {
        let end = self.extent().1;
        u64::try_from(request.from).is_ok_and(|from| from.saturating_add(request.max_messages as u64) < end.0)
    }

    /// The reply to a pull of a backlog, whose turn it is.
    pub(super) fn backlog_reply(&mut self, request: &PullMessages) -> Reply {
        let begun = Instant::now();
        let pulled = self.pull_now(request);
        let mut reply = self.pull_reply(request, pulled);
        if let ReplyContent::Pulled(pulled) = &mut reply.content {
            pulled.backlog = Some(self.parts.pace.clone());
        }
        self.parts.pace.read_took(begun.elapsed());
        reply
    }

    pub(super) fn pull_reply(&mut self, request: &PullMessages, pulled: Result<Pulled, Refusal>) -> Reply {
        let content = match pulled {
            Ok(pulled) => {
                self.count_pull(&request.group, &pulled);
                let (min, max) = self.extent();
                ReplyContent::Pulled(PulledReply {
                    code: response_code(pulled.status, request.from),
                    status: pulled.status.name(),
                    header: PullResponse {
                        suggest_which_broker_id: request.suggested_broker_id,
                        next_begin_offset: pulled.next.0 as i64,
                        min_offset: min.0 as i64,
                        max_offset: max.0 as i64,
                    },
                    records: pulled.records,
                    backlog: None,
                })
            }
            Err(refusal) => ReplyContent::Refused(refusal),
        };
        Reply { to: request.to, content }
    }

    fn count_pull(&mut self, group: &GroupName, pulled: &Pulled) {
        if pulled.count == 0 {
            self.parts.counters.missed();
            return;
        }
        let (messages, bytes) = (pulled.count as u64, pulled.bytes as u64);
        self.parts.counters.found(messages, bytes, Duration::ZERO);
        if let Some(traffic) = self.gets.get(group) {
            traffic.add(messages, bytes);
            return;
        }
        let traffic = Arc::new(Traffic::default());
        traffic.add(messages, bytes);
        let of = TrafficOf::GroupGets { topic: self.topic.clone(), group: group.clone() };
        self.parts.count(CountTraffic { of, traffic: traffic.clone() });
        self.gets.insert(group.clone(), traffic);
    }
}

/// What a pull's status means to the client.
pub(super) fn response_code(status: PullStatus, from: i64) -> ResponseCode {
    match status {
        PullStatus::Found => ResponseCode::SUCCESS,
        PullStatus::NoMatchedMessage | PullStatus::MessageWasRemoving => ResponseCode::PULL_RETRY_IMMEDIATELY,
        PullStatus::NoMessageInQueue if from == 0 => ResponseCode::PULL_NOT_FOUND,
        PullStatus::OffsetOverflowOne => ResponseCode::PULL_NOT_FOUND,
        PullStatus::NoMessageInQueue | PullStatus::OffsetOverflowBadly | PullStatus::OffsetTooSmall => {
            ResponseCode::PULL_OFFSET_MOVED
        }
    }
}

impl Handler<PullMessages> for TopicQueue {
    type Result = ();

    fn handle(&mut self, request: PullMessages, ctx: &mut Self::Context) {
        let now = Instant::now();
        self.pullers.note(&request, now);
        let has_room = self.holds.len() < self.parts.config.max_holds;
        if self.is_backlog(&request) {
            let wait = self.parts.pace.turn_in(now);
            if wait.is_zero() || !has_room {
                let reply = self.backlog_reply(&request);
                request.link.reply(reply);
            } else {
                self.hold(PullHold { pull: request, deadline: now + wait, held_for: HeldFor::Turn }, ctx);
            }
            return;
        }
        let pulled = self.pull_now(&request);
        let at_end = matches!(&pulled, Ok(pulled) if response_code(pulled.status, request.from) == ResponseCode::PULL_NOT_FOUND);
        match request.hold {
            Some(hold) if at_end && !hold.is_zero() && has_room => {
                let deadline = Instant::now() + hold;
                self.hold(PullHold { pull: request, deadline, held_for: HeldFor::Message }, ctx);
            }
            _ => {
                let reply = self.pull_reply(&request, pulled);
                request.link.reply(reply);
            }
        }
    }
}
