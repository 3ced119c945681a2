//! The one writer of the commit log.
//!
//! - Owns: the write half of the memory-mapped log, unless its [`BusyWriter`] has it.
//! - Takes: [`AppendBatch`], [`RetireSegmentsBefore`], [`RefuseWrites`], [`QueryLogTail`]; [`LittleToWrite`] and
//!   [`HandedBack`] of the busy writer.
//! - Sends: [`BatchAppended`] to the queue that asked; [`LogPublished`] to the dispatcher and
//!   [`FlushWanted`](super::flusher::FlushWanted) to the flusher, once per turn, or where it flushes itself
//!   [`LogFlushed`] to those who wait for the disk; [`TakeOver`], [`Relayed`] and [`HandBack`] to the busy writer.
//! - Fails: a full disk or a record that does not fit refuses that send alone; a write that fails refuses every
//!   send of the turn that was not written before. The log stays usable.
//! - Invariants: bytes first, position after; a position is published before anybody is told of it; a refused
//!   send has burned no queue offset.
//!
//! Answers bypass the capacity of a queue's mailbox: every queue has at most one batch in work.
//!
//! Where cores are few the writer lives with queues and connections, so that a lone message wakes no other thread on
//! its way; nor do those whose senders wait for the disk, as long as the disk is quick: it is flushed once there is nothing else
//! to do ([`FlushAtRest`]). Where messages whose senders do not wait come in crowds, it hands the write half to a
//! [`BusyWriter`] on another thread, which works while this one reads the next. What it is asked then is relayed, and handled
//! in the order in which it came.

mod busy;
mod flush_at_rest;
mod write_half;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::prelude::*;
pub use busy::BusyWriter;
pub use flush_at_rest::{FlushAtRest, Look};
use futures::channel::oneshot;
use serde_json::{Value, json};
use tokio::task::yield_now;
pub use write_half::{Turn, WriteHalf};

use super::context::{Context, observed};
use super::flusher::LogFlushed;
use super::turn::{ActsAtTurnEnd, TurnEnd};
use crate::error::Refusal;
use crate::protocol::message::PendingMessage;
use crate::store::commit_log::LogTail;
use crate::store::retired_segments::RetiredSegments;
use crate::types::{PhysicalOffset, QueueOffset};

/// When the busy writer takes over, and when it gives back. A turn without sends counts for nothing.
#[derive(Clone, Copy, Debug)]
pub struct BusyRules {
    /// Send requests in one turn that are a crowd, without those whose sender waits for the disk; at least 2.
    pub crowd: usize,
    /// Turns in a row with a crowd each, after which the busy writer takes over.
    pub crowded_turns: u32,
    /// Turns in a row with but one send request each, or more that wait for the disk than do not, after which it gives back.
    pub lone_turns: u32,
}

impl Default for BusyRules {
    fn default() -> Self {
        Self { crowd: 3, crowded_turns: 4, lone_turns: 64 }
    }
}

/// Appends messages of one queue. Each send is stored whole or not at all; if this is lost, nobody was
/// promised anything.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AppendBatch {
    /// One entry per send; a client's batch holds several messages.
    pub sends: Vec<SendUnit>,
    /// Number that the first stored message gets.
    pub first_queue_offset: QueueOffset,
    /// Shared, since there is one for each batch: a clone of it would be three allocations.
    pub reply_to: Arc<Recipient<BatchAppended>>,
    /// Who is to be told when it is on disk; then it is flushed at once.
    pub flushed_to: Option<Arc<Recipient<LogFlushed>>>,
    /// Whether a sender waits for that.
    pub sender_waits: bool,
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
#[rtype(result = "Result<RetiredSegments, MailboxError>")]
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
#[rtype(result = "Result<LogTail, MailboxError>")]
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

/// What the writer is asked, whoever has the write half.
pub enum Ask {
    Append(AppendBatch),
    Retire(RetireSegmentsBefore, oneshot::Sender<RetiredSegments>),
    Refuse(RefuseWrites),
    Tail(oneshot::Sender<LogTail>),
}

/// Goes on with the write half; the busy writer does so until [`HandBack`]. Losing it would lose the write half: nothing
/// more could be stored until the next start. It bypasses capacities, as what goes with it does; there is one each time
/// the write half changes hands.
#[derive(Message)]
#[rtype(result = "()")]
pub struct TakeOver {
    pub half: Box<WriteHalf>,
    /// Who relays, and is handed it back.
    pub writer: Addr<CommitLogWriter>,
}

/// What somebody asked the writer. Losing it would leave them without an answer, so it bypasses capacities: those who
/// ask have at most one batch each in work.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Relayed(pub Ask);

/// Hands the write half back, after all that was relayed before. Losing it would leave without an answer all that is asked
/// from then on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HandBack;

/// There is nothing for a thread of its own in many turns. Said once; losing it would leave the writing on the other thread.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LittleToWrite;

/// The write half, with nothing under way. Losing it is losing [`TakeOver`].
#[derive(Message)]
#[rtype(result = "()")]
pub struct HandedBack(pub Box<WriteHalf>);

/// What a writer has that lives with queues and connections.
pub struct Helpers {
    /// Who writes while there is much to write. It lives on another thread.
    pub busy: Addr<BusyWriter>,
    pub at_rest: FlushAtRest,
}

pub struct CommitLogWriter {
    place: Place,
    /// Without them this actor writes, always, and the flusher flushes.
    helpers: Option<Helpers>,
    rules: BusyRules,
    /// Turns in a row with a crowd.
    crowded_turns: u32,
    mailbox_capacity: usize,
}

/// Where the write half is.
enum Place {
    Here(Box<WriteHalf>),
    Busy(Addr<BusyWriter>),
    /// On its way back; what is asked meanwhile comes after it.
    Awaited(Vec<Ask>),
}

impl Ask {
    fn put_to(self, half: &mut WriteHalf) {
        match self {
            Self::Append(batch) => half.append_batch(batch),
            Self::Refuse(RefuseWrites(cause)) => half.refuse_writes(cause),
            // Whoever asked may have stopped waiting; segments that nobody takes are there again after the next start.
            Self::Retire(RetireSegmentsBefore { offset, max_segments }, answer) => {
                let _ = answer.send(half.retire_before(offset, max_segments));
            }
            Self::Tail(answer) => {
                let _ = answer.send(half.tail());
            }
        }
    }
}

impl CommitLogWriter {
    pub fn new(half: WriteHalf, helpers: Option<Helpers>, rules: BusyRules, mailbox_capacity: usize) -> Self {
        Self { place: Place::Here(Box::new(half)), helpers, rules, crowded_turns: 0, mailbox_capacity }
    }

    fn ask(&mut self, ask: Ask) {
        match &mut self.place {
            Place::Here(half) => ask.put_to(half),
            Place::Busy(busy) => busy.do_send(Relayed(ask)),
            Place::Awaited(asked) => asked.push(ask),
        }
    }

    /// Asks what has an answer.
    fn question<T: 'static>(
        &mut self,
        ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
    ) -> ResponseFuture<Result<T, MailboxError>> {
        let (answer, answered) = oneshot::channel();
        self.ask(ask(answer));
        Box::pin(async { answered.await.map_err(|_| MailboxError::Closed) })
    }

    /// For who looks at the actors.
    fn facts(&self) -> Value {
        let mut facts = match &self.place {
            Place::Here(half) => half.facts(),
            Place::Busy(_) => json!({ "writes": "BusyWriter" }),
            Place::Awaited(asked) => json!({ "writes": "BusyWriter", "waiting": asked.len() }),
        };
        if let Some(Helpers { at_rest, .. }) = &self.helpers {
            facts["waitForDisk"] = at_rest.waiting().into();
        }
        facts
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

impl ActsAtTurnEnd for CommitLogWriter {
    fn turn_end(&mut self, ctx: &mut Context<Self>) {
        let Place::Here(half) = &mut self.place else { return };
        let Some(Helpers { busy, at_rest }) = &mut self.helpers else {
            half.end_turn(None);
            return;
        };
        let (turn, begin_looking) = half.end_turn(Some(at_rest));
        match turn.sends - turn.waiting {
            0 if turn.sends == 0 => {}
            crowd if crowd >= self.rules.crowd && !turn.most_wait() => self.crowded_turns += 1,
            _ => self.crowded_turns = 0,
        }
        if self.crowded_turns == self.rules.crowded_turns {
            self.crowded_turns = 0;
            let Place::Here(half) = std::mem::replace(&mut self.place, Place::Busy(busy.clone())) else {
                return;
            };
            busy.do_send(TakeOver { half, writer: ctx.address() });
        }
        if begin_looking {
            look_next_turn(self, ctx);
        }
    }
}

/// Looks at those who wait for the disk, once all that was ready has had its turn and the network was asked for more.
fn look_next_turn(writer: &CommitLogWriter, ctx: &mut Context<CommitLogWriter>) {
    ctx.spawn(yield_now().into_actor(writer).map(|(), writer: &mut CommitLogWriter, ctx| {
        let Some(Helpers { at_rest, .. }) = &mut writer.helpers else { return };
        let Look { again, has_flushed } = at_rest.look();
        if again {
            look_next_turn(writer, ctx);
        }
        // What the disk begins with now is done when the next flush comes.
        if let Place::Here(half) = &mut writer.place
            && has_flushed
        {
            half.zero_ahead_at_rest();
        }
    }));
}

impl Handler<AppendBatch> for CommitLogWriter {
    type Result = ();

    fn handle(&mut self, batch: AppendBatch, _: &mut Self::Context) {
        self.ask(Ask::Append(batch));
    }
}

impl Handler<RetireSegmentsBefore> for CommitLogWriter {
    type Result = ResponseFuture<Result<RetiredSegments, MailboxError>>;

    fn handle(&mut self, retire: RetireSegmentsBefore, _: &mut Self::Context) -> Self::Result {
        self.question(|answer| Ask::Retire(retire, answer))
    }
}

impl Handler<RefuseWrites> for CommitLogWriter {
    type Result = ();

    fn handle(&mut self, refuse: RefuseWrites, _: &mut Self::Context) {
        self.ask(Ask::Refuse(refuse));
    }
}

impl Handler<QueryLogTail> for CommitLogWriter {
    type Result = ResponseFuture<Result<LogTail, MailboxError>>;

    fn handle(&mut self, _: QueryLogTail, _: &mut Self::Context) -> Self::Result {
        self.question(Ask::Tail)
    }
}

impl Handler<LittleToWrite> for CommitLogWriter {
    type Result = ();

    fn handle(&mut self, _: LittleToWrite, _: &mut Self::Context) {
        if let Place::Busy(busy) = &self.place {
            busy.do_send(HandBack);
            self.place = Place::Awaited(Vec::new());
        }
    }
}

impl Handler<HandedBack> for CommitLogWriter {
    type Result = ();

    fn handle(&mut self, HandedBack(mut half): HandedBack, _: &mut Self::Context) {
        if let Place::Awaited(asked) = &mut self.place {
            asked.drain(..).for_each(|ask| ask.put_to(&mut half));
        }
        self.place = Place::Here(half);
    }
}

#[cfg(test)]
mod tests;
