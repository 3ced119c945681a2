//! The write half of the commit log, and what one turn of whoever has it does with it.

use std::sync::Arc;

use actix::prelude::*;
use serde_json::{Value, json};
use tracing::error;

use super::{AppendBatch, BatchAppended, FlushAtRest, LogPublished, PublishedSignal, StoredSend};
use crate::actors::flusher::{FlushWanted, LogFlushed};
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::message::PendingMessage;
use crate::store::commit_log::{AppendError, Appended, CommitLogAppender, LogTail};
use crate::store::retired_segments::RetiredSegments;
use crate::store::segment::SegmentError;
use crate::types::{PhysicalOffset, QueueOffset};

/// Appends to the log, and tells whom it concerns at the end of a turn. Between turns nothing is under way, so that
/// another actor may go on with it.
pub struct WriteHalf {
    appender: CommitLogAppender,
    dispatcher: Recipient<LogPublished>,
    flusher: Recipient<FlushWanted>,
    signal: PublishedSignal,
    clock: SharedClock,
    refusing: Option<String>,
    unpublished: bool,
    /// Outcomes of this turn, told when they are published.
    answers: Vec<(Arc<Recipient<BatchAppended>>, BatchAppended)>,
    turn: Turn,
    /// Who of this turn is told when it is on disk.
    wait_for_disk: Vec<Arc<Recipient<LogFlushed>>>,
    /// The last append failed for the disk's sake, which was logged: one line for a disk that fails, not one for each send.
    disk_fails: bool,
}

/// The send requests of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Turn {
    pub sends: usize,
    /// Of them, those whose sender waits for the disk.
    pub waiting: usize,
}

impl Turn {
    /// Most wait for the disk; they are better off where the worker flushes.
    pub fn most_wait(&self) -> bool {
        self.waiting * 2 > self.sends
    }
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

impl WriteHalf {
    pub fn new(
        appender: CommitLogAppender,
        dispatcher: Recipient<LogPublished>,
        flusher: Recipient<FlushWanted>,
        signal: PublishedSignal,
        clock: SharedClock,
    ) -> Self {
        Self {
            appender,
            dispatcher,
            flusher,
            signal,
            clock,
            refusing: None,
            disk_fails: false,
            unpublished: false,
            answers: Vec::new(),
            turn: Turn::default(),
            wait_for_disk: Vec::new(),
        }
    }

    pub fn append_batch(&mut self, batch: AppendBatch) {
        self.wait_for_disk.extend(batch.flushed_to);
        self.turn.sends += batch.sends.len();
        self.turn.waiting += if batch.sender_waits { batch.sends.len() } else { 0 };
        // The answer is where a failed write finds what it takes back.
        let place = self.answers.len();
        self.answers.push((batch.reply_to, BatchAppended::new(batch.first_queue_offset, batch.sends.len())));
        for messages in &batch.sends {
            let outcome = self.append(messages, self.answers[place].1.next_queue_offset);
            self.unpublished |= outcome.is_ok();
            self.answers[place].1.push(outcome);
        }
    }

    pub fn retire_before(&mut self, offset: PhysicalOffset, max_segments: usize) -> RetiredSegments {
        self.appender.retire_before(offset, max_segments)
    }

    pub fn refuse_writes(&mut self, cause: Option<String>) {
        self.refusing = cause;
    }

    /// Publishes what was appended, and tells where that ends.
    pub fn tail(&mut self) -> LogTail {
        self.publish();
        self.appender.tail()
    }

    /// For whoever has just flushed, and knows that the disk has nothing to do.
    pub fn zero_ahead_at_rest(&mut self) {
        self.appender.zero_ahead_at_rest();
    }

    /// Publishes, and tells queues, flusher and dispatcher. With `at_rest` those that wait for the disk are handed
    /// to it, and not to the flusher; it tells the dispatcher of them. Returns what the turn had, and whether `at_rest` is to be looked at from now on.
    pub fn end_turn(&mut self, at_rest: Option<&mut FlushAtRest>) -> (Turn, bool) {
        let turn = std::mem::take(&mut self.turn);
        if !std::mem::take(&mut self.unpublished) && self.answers.is_empty() {
            return (turn, false);
        }
        self.publish();
        for (queue, answer) in self.answers.drain(..) {
            queue.do_send(answer);
        }
        let at_rest = at_rest.filter(|_| turn.waiting > 0);
        let all_are_at_rest = at_rest.is_some() && turn.waiting == turn.sends;
        let mut begin_looking = false;
        match at_rest {
            Some(at_rest) => begin_looking = at_rest.wait(self.wait_for_disk.drain(..), turn.sends),
            None if self.wait_for_disk.is_empty() => {}
            // Bypasses its capacity: losing it would leave senders without an answer, and there is one a turn.
            None => self.flusher.do_send(FlushWanted { tell: std::mem::take(&mut self.wait_for_disk) }),
        }
        if !all_are_at_rest && self.signal.raise() {
            self.dispatcher.do_send(LogPublished);
        }
        (turn, begin_looking)
    }

    /// For who looks at the actors.
    pub fn facts(&self) -> Value {
        json!({ "refusesFor": self.refusing, "diskFails": self.disk_fails })
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
