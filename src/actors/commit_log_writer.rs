//! The one writer of the commit log, on a thread of its own.
//!
//! - Owns: the write half of the memory-mapped log.
//! - Takes: [`AppendBatch`], [`DeleteSegmentsBefore`], [`RefuseWrites`], [`QueryLogTail`].
//! - Sends: [`BatchAppended`] to the queue that asked; [`LogPublished`] to the dispatcher, once per turn.
//! - Fails: a full disk or a record that does not fit refuses that send alone; the log stays usable.
//! - Invariants: bytes first, position after; a position is published before anybody is told of it; a refused
//!   send has burned no queue offset.
//!
//! Answers bypass the capacity of a queue's mailbox: every queue has at most one batch in work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::prelude::*;
use tracing::{error, warn};

use super::turn::{ActsAtTurnEnd, TurnEnd};
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::message::PendingMessage;
use crate::store::commit_log::{AppendError, Appended, CommitLogAppender, LogTail};
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

/// Deletes whole segments below `offset`, at most `max_segments` of them.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<SegmentsDeleted, String>")]
pub struct DeleteSegmentsBefore {
    pub offset: PhysicalOffset,
    pub max_segments: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentsDeleted {
    pub count: usize,
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
        self.0.store(false, Ordering::Release);
    }
}

pub struct CommitLogWriter {
    appender: CommitLogAppender,
    dispatcher: Recipient<LogPublished>,
    signal: PublishedSignal,
    clock: SharedClock,
    mailbox_capacity: usize,
    refusing: Option<String>,
    unpublished: bool,
    answers: Vec<(Recipient<BatchAppended>, BatchAppended)>,
}

impl CommitLogWriter {
    pub fn new(
        appender: CommitLogAppender,
        dispatcher: Recipient<LogPublished>,
        signal: PublishedSignal,
        clock: SharedClock,
        mailbox_capacity: usize,
    ) -> Self {
        Self {
            appender,
            dispatcher,
            signal,
            clock,
            mailbox_capacity,
            refusing: None,
            unpublished: false,
            answers: Vec::new(),
        }
    }

    fn append(&mut self, messages: &[PendingMessage], first: QueueOffset) -> Result<StoredSend, Refusal> {
        if let Some(cause) = &self.refusing {
            return Err(Refusal::NotWritable { cause: cause.clone() });
        }
        match self.appender.append(messages, first, self.clock.now()) {
            Ok(Appended { end, positions, stored_at, .. }) => Ok(StoredSend {
                first_queue_offset: first,
                physical_offsets: positions,
                end,
                stored_at_ms: stored_at.0,
            }),
            Err(error) => Err(refusal_of(error)),
        }
    }
}

fn refusal_of(error: AppendError) -> Refusal {
    match error {
        AppendError::TopicTooLong { .. }
        | AppendError::PropertiesTooLong { .. }
        | AppendError::TooLarge { .. } => Refusal::MessageIllegal { what: error.to_string() },
        AppendError::DiskFull => {
            warn!("append refused: the disk is full");
            Refusal::NotWritable { cause: "the disk is full; free space, or shorten the retention".into() }
        }
        AppendError::Segment { .. } | AppendError::NotAtEnd { .. } => {
            error!(%error, "append failed");
            Refusal::StoreFailed { cause: error.to_string() }
        }
    }
}

impl Actor for CommitLogWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_capacity);
        ctx.spawn(TurnEnd);
    }
}

impl ActsAtTurnEnd for CommitLogWriter {
    fn turn_end(&mut self, _: &mut Context<Self>) {
        if !std::mem::take(&mut self.unpublished) && self.answers.is_empty() {
            return;
        }
        self.appender.publish();
        for (queue, answer) in self.answers.drain(..) {
            queue.do_send(answer);
        }
        if self.signal.raise() {
            self.dispatcher.do_send(LogPublished);
        }
    }
}

impl Handler<AppendBatch> for CommitLogWriter {
    type Result = ();

    fn handle(&mut self, batch: AppendBatch, _: &mut Self::Context) {
        let mut next = batch.first_queue_offset;
        let mut outcomes = Vec::with_capacity(batch.sends.len());
        let before = self.appender.end();
        for messages in &batch.sends {
            let outcome = self.append(messages, next);
            if outcome.is_ok() {
                next = next.advance(messages.len() as u64);
                self.unpublished = true;
            }
            outcomes.push(outcome);
        }
        let stored_bytes = self.appender.end().0 - before.0;
        self.answers
            .push((batch.reply_to, BatchAppended { outcomes, next_queue_offset: next, stored_bytes }));
    }
}

impl Handler<DeleteSegmentsBefore> for CommitLogWriter {
    type Result = Result<SegmentsDeleted, String>;

    fn handle(&mut self, delete: DeleteSegmentsBefore, _: &mut Self::Context) -> Self::Result {
        match self.appender.delete_before(delete.offset, delete.max_segments) {
            Ok(count) => Ok(SegmentsDeleted { count }),
            Err(error) => Err(error.to_string()),
        }
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
        self.appender.publish();
        MessageResult(self.appender.tail())
    }
}
