//! Sends: taken, handed to the writer one batch at a time, and answered when what was promised of them holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::warn;

use super::TopicQueue;
use super::replies_by_client::RepliesByClient;
use crate::actors::backlog_pace::SendsUnderWay;
use crate::actors::commit_log_writer::{AppendBatch, BatchAppended, SendUnit, StoredSend};
use crate::actors::context::Context;
use crate::actors::extensions::events::{EventKind, StoredAt, StoredMessages};
use crate::actors::flusher::LogFlushed;
use crate::actors::request::{ClientLink, Kept, Reply, ReplyContent, ReplyTo, StoredReply};
use crate::actors::topic_table::TopicEntry;
use crate::actors::turn::ActsAtTurnEnd;
use crate::error::Refusal;
use crate::planted::{Planted, is_planted};
use crate::protocol::message::PendingMessage;
use crate::types::{FlushMode, QueueId, QueueOffset};

/// Before a queue looks again whether those who listen to it have room.
const LISTENERS_PAUSE: Duration = Duration::from_millis(1);

/// Stores messages. Losing it leaves senders to their time-out, with nothing stored.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SendMessages(pub Vec<SendRequest>);

/// One send, of a client or of an actor of ours.
pub struct SendRequest {
    pub messages: SendUnit,
    pub promise: Promise,
    pub reply: SendReply,
}

/// What the answer of success means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Promise {
    /// The message is in the log; it is brought to disk with those around it.
    #[default]
    Stored,
    /// The same, and it is brought to disk now: consumers see it no earlier.
    StoredAndFlushing,
    /// The message is on disk.
    OnDisk,
}

impl Promise {
    /// The stricter of broker and topic decides; `awaited` is whether the sender wants to wait for it.
    pub fn of(broker: FlushMode, topic: &TopicEntry, awaited: bool) -> Self {
        match (broker.max(topic.flush), awaited) {
            (FlushMode::Async, _) => Self::Stored,
            (FlushMode::Sync, false) => Self::StoredAndFlushing,
            (FlushMode::Sync, true) => Self::OnDisk,
        }
    }
}

/// Who is told of a send's fate.
pub enum SendReply {
    Client {
        link: Arc<ClientLink>,
        to: ReplyTo,
        /// The queue that the client is told: the real one of a message that waits for something first.
        queue_id: QueueId,
        /// Unique key of the first message, for the response.
        unique_key: Option<Bytes>,
        /// By which the message can be taken back, of one that waits for its time.
        recall_handle: Option<Box<str>>,
    },
    Actor {
        recipient: Recipient<MessageStored>,
        /// Whatever the sender knows it by.
        token: u64,
        /// Whether it is told when the disk is late, as clients are. Otherwise it waits for as long as that takes.
        told_late: bool,
    },
    /// A task that waits for it, and may have stopped to.
    Task(oneshot::Sender<Result<StoredSend, Refusal>>),
}

/// The fate of a message that one of our own actors sent. It bypasses capacities: who sends bounds its sends.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct MessageStored {
    pub token: u64,
    pub outcome: Result<StoredSend, Refusal>,
    /// Whether what is stored is as safe as was asked for.
    pub kept: Kept,
}

/// What the writer has of ours.
pub(super) struct InWork {
    replies: Vec<(SendReply, Promise)>,
    /// Number of the first message, if it is stored.
    first: QueueOffset,
    /// Pulls of backlogs wait for it.
    _under_way: SendsUnderWay,
}

impl TopicQueue {
    /// Hands the next sends to the writer, unless it has some of ours.
    pub(super) fn append_waiting(&mut self, ctx: &mut Context<Self>) {
        let Some(appended_to) = self.appended_to.clone() else { return };
        // A batch that is refused is done at once, and nothing would wake us for those behind it.
        while self.in_work.is_none() && !self.waiting.is_empty() {
            let mut sends = Vec::with_capacity(self.waiting.len().min(256));
            let mut replies = Vec::with_capacity(sends.capacity());
            let (mut bytes, mut flushes, mut sender_waits) = (0, false, false);
            while let Some(send) = self.waiting.pop_front() {
                bytes += send.messages.iter().map(PendingMessage::record_len).sum::<usize>();
                flushes |= send.promise != Promise::Stored;
                sender_waits |= send.promise == Promise::OnDisk;
                sends.push(send.messages);
                replies.push((send.reply, send.promise));
                if bytes >= self.parts.config.max_append_bytes {
                    break;
                }
            }
            let batch = AppendBatch {
                sends,
                first_queue_offset: self.next,
                reply_to: appended_to.clone(),
                flushed_to: flushes.then(|| self.flushed_to(ctx)),
                sender_waits,
            };
            match self.writer.try_send(batch) {
                Ok(()) => {
                    self.handed_over_at = Instant::now();
                    self.in_work =
                        Some(InWork { replies, first: self.next, _under_way: self.parts.pace.sends_begin() });
                }
                Err(refused) => {
                    let refusal = match refused {
                        SendError::Full(batch) => {
                            Refusal::Busy { actor: "the commit log writer", waiting: batch.sends.len() }
                        }
                        SendError::Closed(_) => Refusal::ShuttingDown,
                    };
                    self.refuse_sends(replies.into_iter().map(|(reply, _)| reply), &refusal);
                }
            }
        }
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new(); // most queues of a broker rest for long
        }
    }

    fn flushed_to(&mut self, ctx: &mut Context<Self>) -> Arc<Recipient<LogFlushed>> {
        self.flushed_to.get_or_insert_with(|| Arc::new(ctx.address().recipient())).clone()
    }

    /// Looks again in a moment whether those who listen have room for more.
    pub(super) fn wait_for_listeners(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.held_by_listeners, true) {
            ctx.run_later(LISTENERS_PAUSE, |queue, ctx| {
                queue.held_by_listeners = false;
                queue.turn_end(ctx);
            });
        }
    }

    /// Tells extensions what is stored as was promised.
    fn tell_stored(&self, fates: &[(SendReply, Result<StoredSend, Refusal>, Kept)]) {
        let mut messages = Vec::with_capacity(fates.len());
        for stored in fates.iter().filter_map(|(_, outcome, _)| outcome.as_ref().ok()) {
            let mut queue_offset = stored.first_queue_offset;
            for physical_offset in stored.physical_offsets.iter().copied() {
                messages.push(StoredAt { queue_offset, physical_offset, stored_at_ms: stored.stored_at_ms });
                queue_offset = queue_offset.advance(1);
            }
        }
        let (topic, queue_id) = (self.topic.clone(), self.queue_id);
        self.parts.events.tell_stored(StoredMessages { topic, queue_id, messages });
    }

    pub(super) fn refuse_sends(&self, replies: impl Iterator<Item = SendReply>, refusal: &Refusal) {
        self.answer_sends(replies.map(|reply| (reply, Err(refusal.clone()), Kept::Promised)));
    }

    /// Tells senders their fate; replies to one connection leave in one message.
    fn answer_sends(&self, fates: impl IntoIterator<Item = (SendReply, Result<StoredSend, Refusal>, Kept)>) {
        let mut outgoing = RepliesByClient::default();
        for (reply, outcome, kept) in fates {
            match reply {
                SendReply::Client { link, to, queue_id, unique_key, recall_handle } => {
                    let content = match outcome {
                        Ok(stored) => ReplyContent::Stored(StoredReply {
                            kept,
                            queue_id,
                            queue_offset: stored.first_queue_offset,
                            physical_offsets: stored.physical_offsets,
                            store_host: self.parts.store_host,
                            unique_key,
                            recall_handle,
                        }),
                        Err(refusal) => ReplyContent::Refused(refusal),
                    };
                    outgoing.push(link, Reply { to, content });
                }
                SendReply::Actor { recipient, token, .. } => {
                    recipient.do_send(MessageStored { token, outcome, kept })
                }
                SendReply::Task(waiting) => drop(waiting.send(outcome)),
            }
        }
        outgoing.send();
    }

    /// Stops the queue of a deleted topic once nobody waits for an answer.
    pub(super) fn end_if_done(&self, ctx: &mut Context<Self>) {
        if self.in_work.is_none() && self.unflushed.is_empty() {
            ctx.stop();
        }
    }

    /// Makes the timer ring when the next of those who wait for the disk is to be told that it is late.
    fn set_unflushed_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(deadline) = self.unflushed.next_deadline() else { return };
        if !std::mem::replace(&mut self.unflushed_timer_set, true) {
            ctx.run_later(deadline.saturating_duration_since(Instant::now()), |queue, ctx| {
                queue.unflushed_timer_set = false;
                let overdue = queue.unflushed.take_overdue(Instant::now());
                if !overdue.is_empty() {
                    warn!(topic = %queue.topic, queue_id = queue.queue_id.0, sends = overdue.len(), "the disk is late: stored, and not known to be on disk");
                }
                queue.answer_sends(overdue.into_iter().map(|send| (send.reply, Ok(send.stored), Kept::InMemory)));
                queue.set_unflushed_timer(ctx);
            });
        }
    }
}

impl Handler<SendMessages> for TopicQueue {
    type Result = ();

    fn handle(&mut self, SendMessages(sends): SendMessages, _: &mut Self::Context) {
        let waiting = self.waiting.len();
        let refusal = self.refused().or_else(|| {
            (waiting >= self.parts.config.max_waiting_sends)
                .then_some(Refusal::Busy { actor: "the queue", waiting })
        });
        match refusal {
            // Nearly always nothing waits: then they are taken as they came.
            None if self.waiting.is_empty() => self.waiting = sends.into(),
            None => self.waiting.extend(sends),
            Some(refusal) => {
                self.refuse_sends(sends.into_iter().map(|send| send.reply), &refusal);
            }
        }
    }
}

impl Handler<BatchAppended> for TopicQueue {
    type Result = ();

    fn handle(&mut self, appended: BatchAppended, ctx: &mut Self::Context) {
        let Some(InWork { replies, first, .. }) = self.in_work.take() else { return };
        debug_assert_eq!(replies.len(), appended.outcomes.len(), "every send has an outcome");
        // Dispatch may have been here before, and may have moved our own number on.
        let stored = appended.next_queue_offset.0 - first.0;
        self.next = appended.next_queue_offset;
        if stored > 0 {
            self.puts.add(stored, appended.stored_bytes);
            self.parts.counters.stored(stored, appended.stored_bytes, self.handed_over_at.elapsed());
        }
        let failed = appended.outcomes.iter().filter(|outcome| outcome.is_err()).count();
        if failed > 0 {
            self.parts.counters.put_failed(failed as u64);
        }
        let deadline = Instant::now() + self.parts.config.sync_flush_timeout;
        let mut answered = Vec::with_capacity(replies.len());
        for ((reply, promise), outcome) in replies.into_iter().zip(appended.outcomes) {
            match outcome {
                Ok(stored) if promise == Promise::OnDisk && !is_planted(Planted::AnswerBeforeFlush) => {
                    self.unflushed.park(stored, reply, deadline)
                }
                outcome => answered.push((reply, outcome, Kept::Promised)),
            }
        }
        if self.parts.events.wants(EventKind::MessageStored) {
            self.tell_stored(&answered);
        }
        self.answer_sends(answered);
        self.set_unflushed_timer(ctx);
        if self.deleted {
            self.end_if_done(ctx);
        }
    }
}

impl Handler<LogFlushed> for TopicQueue {
    type Result = ();

    fn handle(&mut self, flushed: LogFlushed, ctx: &mut Self::Context) {
        let sends = self.unflushed.take_flushed(flushed.up_to);
        let mut sends: Vec<_> = sends.map(|send| (send.reply, Ok(send.stored), Kept::Promised)).collect();
        if is_planted(Planted::ForgottenWaiter) && sends.len() > 1 {
            sends.pop();
        }
        if self.parts.events.wants(EventKind::MessageStored) {
            self.tell_stored(&sends);
        }
        self.answer_sends(sends);
        if self.deleted {
            self.end_if_done(ctx);
        }
    }
}
