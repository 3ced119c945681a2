//! The one writer of the commit log, on a thread of its own.
//!
//! - Owns: the write half of the memory-mapped log.
//! - Takes: [`AppendBatch`], [`RetireSegmentsBefore`], [`RefuseWrites`], [`QueryLogTail`].
//! - Sends: [`BatchAppended`] to the queue that asked; [`LogPublished`] to the dispatcher and [`FlushWanted`] to the
//!   flusher, once per turn.
//! - Fails: a full disk or a record that does not fit refuses that send alone; a write that fails refuses every
//!   send of the turn that was not written before. The log stays usable.
//! - Invariants: bytes first, position after; a position is published before anybody is told of it; a refused
//!   send has burned no queue offset.
//!
//! Answers bypass the capacity of a queue's mailbox: every queue has at most one batch in work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::prelude::*;
use serde_json::{Value, json};
use tracing::error;

use super::context::{Context, observed};
use super::flusher::{FlushWanted, LogFlushed};
use super::turn::{ActsAtTurnEnd, TurnEnd};
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::message::PendingMessage;
use crate::store::commit_log::{AppendError, Appended, CommitLogAppender, LogTail};
use crate::store::retired_segments::RetiredSegments;
use crate::store::segment::SegmentError;
use crate::types::{PhysicalOffset, QueueOffset};

/// Appends messages of one queue. Each send is stored whole or not at all; if this is lost, nobody was
/// promised anything.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AppendBatch {
    /// One entry per send; a client's batch holds several messages.
    pub sends: Vec<SendUnit>,
    /// Number that the first stored message gets.
    pub first_queue_offset: QueueOffset,
    pub reply_to: Recipient<BatchAppended>,
    /// Who is to be told when it is on disk; then it is flushed at once.
    pub flushed_to: Option<Recipient<LogFlushed>>,
}

/// The messages of one send request; nearly always a single one.
pub type SendUnit = Vec<PendingMessage>;

/// What became of an [`AppendBatch`], in its order. Losing it would stop its queue, so it bypasses capacities.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct BatchAppended {
    pub outcomes: Vec<Result<StoredSend, Refusal>>,
    /// Number that the next message of the queue gets.
    pub next_queue_offset: QueueOffset,
    /// Length of the records stored.
    pub stored_bytes: u64,
}

/// Where a send went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredSend {
    pub first_queue_offset: QueueOffset,
    pub physical_offsets: Vec<PhysicalOffset>,
    /// Behind the last record: durable once flushed up to here.
    pub end: PhysicalOffset,
    pub stored_at_ms: i64,
}

/// Something was published. Sent once until it is taken; losing it delays dispatch until the next append.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct LogPublished;

/// Takes whole segments below `offset` out of the log, at most `max_segments` of them. Their files are left to
/// whoever asks, since removing them takes the disk a while; if the answer is lost, they are there again after the
/// next start.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "RetiredSegments")]
pub struct RetireSegmentsBefore {
    pub offset: PhysicalOffset,
    pub max_segments: usize,
}

/// Refuses appends with a cause, or takes them again.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct RefuseWrites(pub Option<String>);

/// Where the log ends, after every append that was asked for before.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "LogTail")]
pub struct QueryLogTail;

/// Whether somebody was told of a publication and has not looked yet; coalesces [`LogPublished`].
#[derive(Clone, Debug, Default)]
pub struct PublishedSignal(Arc<AtomicBool>);

impl PublishedSignal {
    /// True for the first call after [`take`](Self::take): tell now.
    pub fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Call before looking at the published position.
    pub fn take(&self) {
        // A swap, not a store: a look may overtake a store, and miss what was published by somebody who tells nobody since
        // they still see the signal raised.
        self.0.swap(false, Ordering::AcqRel);
    }
}

pub struct CommitLogWriter {
    appender: CommitLogAppender,
    dispatcher: Recipient<LogPublished>,
    flusher: Recipient<FlushWanted>,
    signal: PublishedSignal,
    clock: SharedClock,
    mailbox_capacity: usize,
    refusing: Option<String>,
    unpublished: bool,
    /// Outcomes of this turn, told when they are published.
    answers: Vec<(Recipient<BatchAppended>, BatchAppended)>,
    /// Who of this turn waits for the disk.
    wait_for_disk: Vec<Recipient<LogFlushed>>,
    /// The last append failed for the disk's sake, which was logged: one line for a disk that fails, not one for each send.
    disk_fails: bool,
}

impl BatchAppended {
    fn new(first_queue_offset: QueueOffset, sends: usize) -> Self {
        Self { outcomes: Vec::with_capacity(sends), next_queue_offset: first_queue_offset, stored_bytes: 0 }
    }

    fn push(&mut self, outcome: Result<StoredSend, Refusal>) {
        if let Ok(stored) = &outcome {
            self.next_queue_offset = self.next_queue_offset.advance(stored.physical_offsets.len() as u64);
            self.stored_bytes += stored.len_bytes();
        }
        self.outcomes.push(outcome);
    }

    /// Refuses what was to end beyond `kept`; it is the newest of the batch, so its numbers are free again.
    fn take_back(&mut self, kept: PhysicalOffset, refusal: &Refusal) {
        for outcome in &mut self.outcomes {
            if let Ok(stored) = outcome
                && stored.end > kept
            {
                self.next_queue_offset =
                    QueueOffset(self.next_queue_offset.0 - stored.physical_offsets.len() as u64);
                self.stored_bytes -= stored.len_bytes();
                *outcome = Err(refusal.clone());
            }
        }
    }
}

impl StoredSend {
    /// A send lies in one segment: no blank is counted.
    fn len_bytes(&self) -> u64 {
        self.physical_offsets.first().map_or(0, |start| self.end.0 - start.0)
    }
}

impl CommitLogWriter {
    pub fn new(
        appender: CommitLogAppender,
        dispatcher: Recipient<LogPublished>,
        flusher: Recipient<FlushWanted>,
        signal: PublishedSignal,
        clock: SharedClock,
        mailbox_capacity: usize,
    ) -> Self {
        Self {
            appender,
            dispatcher,
            flusher,
            signal,
            clock,
            mailbox_capacity,
            refusing: None,
            disk_fails: false,
            unpublished: false,
            answers: Vec::new(),
            wait_for_disk: Vec::new(),
        }
    }

    fn append(&mut self, messages: &[PendingMessage], first: QueueOffset) -> Result<StoredSend, Refusal> {
        if let Some(cause) = &self.refusing {
            return Err(Refusal::NotWritable { cause: cause.clone() });
        }
        let end = self.appender.end();
        match self.appender.append(messages, first, self.clock.now()) {
            Ok(Appended { end, positions, stored_at, .. }) => {
                self.disk_fails = false;
                Ok(StoredSend {
                    first_queue_offset: first,
                    physical_offsets: positions,
                    end,
                    stored_at_ms: stored_at.0,
                })
            }
            Err(error) => {
                let refusal = self.refusal_of(error);
                if self.appender.end() < end {
                    self.take_back(&refusal);
                }
                Err(refusal)
            }
        }
    }

    /// The log ends earlier than it did: what lay beyond could not be written.
    fn take_back(&mut self, refusal: &Refusal) {
        let kept = self.appender.end();
        for (_, answer) in &mut self.answers {
            answer.take_back(kept, refusal);
        }
    }

    fn publish(&mut self) {
        self.appender.zero_ahead(!self.wait_for_disk.is_empty());
        if let Err(error) = self.appender.publish() {
            let refusal = self.refusal_of(error);
            self.take_back(&refusal);
        }
    }

    /// What the sender is told; what the disk does is logged, too, until it takes something again.
    fn refusal_of(&mut self, error: AppendError) -> Refusal {
        let refusal = match error {
            AppendError::TopicTooLong { .. }
            | AppendError::PropertiesTooLong { .. }
            | AppendError::TooLarge { .. } => return Refusal::MessageIllegal { what: error.to_string() },
            AppendError::DiskFull => Refusal::NotWritable {
                cause: "the disk is full; free space, or shorten the retention".into(),
            },
            AppendError::Write { ref source, .. }
            | AppendError::Segment { source: SegmentError::Io { ref source, .. } } => {
                Refusal::StoreFailed { cause: format!("{error}: {source}") }
            }
            AppendError::Segment { .. } | AppendError::NotAtEnd { .. } => {
                Refusal::StoreFailed { cause: error.to_string() }
            }
        };
        if !std::mem::replace(&mut self.disk_fails, true) {
            error!(%refusal, "sends are refused until the disk takes them again");
        }
        refusal
    }
}

impl Actor for CommitLogWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_capacity);
        ctx.spawn(TurnEnd);
    }
}

observed!(CommitLogWriter, CommitLogWriter::facts);

impl CommitLogWriter {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        json!({ "refusesFor": self.refusing, "diskFails": self.disk_fails })
    }
}

impl ActsAtTurnEnd for CommitLogWriter {
    fn turn_end(&mut self, _: &mut Context<Self>) {
        if !std::mem::take(&mut self.unpublished) && self.answers.is_empty() {
            return;
        }
        self.publish();
        for (queue, answer) in self.answers.drain(..) {
            queue.do_send(answer);
        }
        if !self.wait_for_disk.is_empty() {
            // Bypasses its capacity: losing it would leave senders without an answer, and there is one a turn.
            self.flusher.do_send(FlushWanted { tell: std::mem::take(&mut self.wait_for_disk) });
        }
        if self.signal.raise() {
            self.dispatcher.do_send(LogPublished);
        }
    }
}

impl Handler<AppendBatch> for CommitLogWriter {
    type Result = ();

    fn handle(&mut self, batch: AppendBatch, _: &mut Self::Context) {
        self.wait_for_disk.extend(batch.flushed_to);
        // The answer is where a failed write finds what it takes back.
        let place = self.answers.len();
        self.answers.push((batch.reply_to, BatchAppended::new(batch.first_queue_offset, batch.sends.len())));
        for messages in &batch.sends {
            let outcome = self.append(messages, self.answers[place].1.next_queue_offset);
            self.unpublished |= outcome.is_ok();
            self.answers[place].1.push(outcome);
        }
    }
}

impl Handler<RetireSegmentsBefore> for CommitLogWriter {
    type Result = MessageResult<RetireSegmentsBefore>;

    fn handle(&mut self, retire: RetireSegmentsBefore, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.appender.retire_before(retire.offset, retire.max_segments))
    }
}

impl Handler<RefuseWrites> for CommitLogWriter {
    type Result = ();

    fn handle(&mut self, RefuseWrites(cause): RefuseWrites, _: &mut Self::Context) {
        self.refusing = cause;
    }
}

impl Handler<QueryLogTail> for CommitLogWriter {
    type Result = MessageResult<QueryLogTail>;

    fn handle(&mut self, _: QueryLogTail, _: &mut Self::Context) -> Self::Result {
        self.publish();
        MessageResult(self.appender.tail())
    }
}

#[cfg(test)]
mod tests;
