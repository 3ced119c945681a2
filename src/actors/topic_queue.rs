//! One message queue: numbers its messages, keeps its consume queue, answers and holds its pulls.
//!
//! - Owns: the consume queue, the next queue offset, the pulls that are held, the sends that wait for the disk; of a
//!   compacted topic the compacted log, too.
//! - Takes: [`SendMessages`], [`BatchAppended`](super::commit_log_writer::BatchAppended) from the writer,
//!   [`LogFlushed`](super::flusher::LogFlushed) from whoever flushes, [`PullMessages`], [`Dispatched`], [`TakeUnflushed`],
//!   [`LogTrimmed`], [`ContinueAt`], [`WakeHolds`], [`DeleteQueue`]; of compacted topics [`BeginRewrite`], [`EndRewrite`],
//!   [`TakeCopies`]; the questions [`QueryExtent`], [`SearchOffsetByTime`],
//!   [`QueryStoredAt`], [`LocateOffset`], [`ReadUnits`], [`ReadRecords`], [`QueryPulledLast`],
//!   [`QueryCompacted`].
//! - Sends: [`AppendBatch`] to the commit log writer, one at a time; [`Replies`](super::request::Replies) to connections,
//!   [`MessageStored`] to an actor that sent; [`CountTraffic`] once for each counter it begins; [`MessagesGone`] when its beginning moves.
//! - Fails: a full mailbox or too many waiting sends refuse as busy, with nothing stored; a consume queue that
//!   cannot be opened, read or written answers with the cause; opening it, and what was to be derived, is tried again.
//! - Invariants: queue offsets are consecutive, a refused send burns none; a held pull is answered exactly once,
//!   at the latest at its deadline, and never held again; what waits for its turn among readers of backlogs
//!   ([`BacklogPace`]) waits 10 ms at most.
//!
//! Started on first use; most queues of a broker never are.

mod compaction;
mod holds;
mod pullers;
mod pulls;
mod questions;
mod replies_by_client;
mod sends;
mod unflushed_sends;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use compaction::Compaction;
pub use compaction::{
    BeginRewrite, CompactedFigures, CompactionParts, EndRewrite, QueryCompacted, TakeCopies, TakenCopies,
};
use holds::PullHold;
use pullers::Pullers;
pub use pullers::{PulledLast, QueryPulledLast};
pub use pulls::PullMessages;
pub use questions::{
    LocateOffset, QueryExtent, QueryStoredAt, QueueExtent, ReadRecords, ReadUnits, SearchOffsetByTime,
};
use sends::InWork;
pub use sends::{MessageStored, Promise, SendMessages, SendReply, SendRequest};
use tokio::time::Instant;
use tracing::{error, info, warn};
use unflushed_sends::UnflushedSends;

use super::backlog_pace::BacklogPace;
use super::broker_stats::{CountTraffic, StoreCounters, Traffic, TrafficOf};
use super::commit_log_writer::{AppendBatch, BatchAppended};
use super::consumer_offsets::MessagesGone;
use super::context::{Context, observed};
use super::extensions::stream::EventTap;
use super::flusher::LogFlushed;
use super::message_expiry::MessageExpiry;
use super::request::{Reply, ReplyContent};
use super::turn::{ActsAtTurnEnd, TurnEnd};
use crate::collections::HashMap;
use crate::error::Refusal;
use crate::kill_point;
use crate::planted::{Planted, is_planted};
use crate::store::commit_log::CommitLogReader;
use crate::store::consume_queue::{
    ConsumeQueue, ConsumeQueueConfig, ConsumeQueueError, ConsumeQueueUnit, TimeBoundary, Unflushed, queue_dir,
};
use crate::store::file::StoreFiles;
use crate::store::known_derived::NamedQueue;
use crate::store::pull::PullLimits;
use crate::types::{GroupName, PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Pause before a disk that refused units is tried again.
const WRITE_PAUSE: Duration = Duration::from_secs(1);
/// Pause before files that could not be opened are tried again.
const OPEN_PAUSE: Duration = Duration::from_secs(5);

/// Units derived from the log, in its order. Losing it would lose messages from view: the dispatcher keeps it
/// until the mailbox takes it.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Dispatched {
    pub first: QueueOffset,
    pub units: Vec<ConsumeQueueUnit>,
    pub last_stored_at_ms: i64,
}

/// Everything dispatched so far is written; hands over what makes it durable.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<TakenQueue, String>")]
pub struct TakeUnflushed;

/// What a check point needs of a queue.
#[derive(Debug, Default)]
pub struct TakenQueue {
    pub unflushed: Unflushed,
    /// What is true once it is durable.
    pub known: Option<NamedQueue>,
}

/// What there is of the queue now, for the metadata to know.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<NamedQueue, String>")]
pub struct QueryKnown;

/// Lets the numbers go on at `next` if they would begin below: the messages before are all gone from the log.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<NamedQueue, String>")]
pub struct ContinueAt {
    pub next: QueueOffset,
}

/// The log begins at `log_min` now: drop what lies before.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct LogTrimmed {
    pub log_min: PhysicalOffset,
}

/// Deletes the consume queue from disk and stops the actor; held pulls are answered. The topic is gone.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct DeleteQueue;

/// Answers every held pull now, as at its deadline: the broker is stopping.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct WakeHolds;

/// What a queue is told of its limits.
#[derive(Clone, Copy, Debug)]
pub struct TopicQueueConfig {
    pub units: ConsumeQueueConfig,
    pub pull: PullLimits,
    /// Messages (of actors, each may hold several sends) that may wait in the mailbox.
    pub mailbox_capacity: usize,
    /// Sends that may wait for the append before them.
    pub max_waiting_sends: usize,
    /// Bytes of bodies handed to the writer at once.
    pub max_append_bytes: usize,
    /// How long a sender waits for the disk before it is told that the disk is late.
    pub sync_flush_timeout: Duration,
    /// Pulls held at once; more are answered without being held.
    pub max_holds: usize,
    /// Distance from the end of the log within which a message counts as in memory, bytes.
    pub in_memory_bytes: u64,
}

impl Default for TopicQueueConfig {
    fn default() -> Self {
        Self {
            units: ConsumeQueueConfig::default(),
            pull: PullLimits::default(),
            mailbox_capacity: 1024,
            max_waiting_sends: 1_000_000,
            max_append_bytes: 1024 * 1024,
            sync_flush_timeout: Duration::from_secs(5),
            max_holds: 8192,
            in_memory_bytes: 4 << 30,
        }
    }
}

/// What a queue is made of; all queues of a broker share it.
#[derive(Clone)]
pub struct QueueParts {
    pub files: Arc<dyn StoreFiles>,
    pub consume_queue_root: PathBuf,
    pub log: CommitLogReader,
    /// Each queue has a clone, and with it a place of its own in the mailbox.
    pub writer: Recipient<AppendBatch>,
    pub store_host: std::net::SocketAddr,
    pub config: TopicQueueConfig,
    pub counters: Arc<StoreCounters>,
    pub stats: Recipient<CountTraffic>,
    /// Which messages are too old to be shown.
    pub expiry: MessageExpiry,
    /// Who is told of messages that are gone; `None`: nobody.
    pub losses: Option<Recipient<MessagesGone>>,
    /// Where stored messages are told.
    pub events: EventTap,
    /// For queues of compacted topics; `None`: no topic is.
    pub compaction: Option<CompactionParts>,
    /// How fast backlogs are read while others send.
    pub pace: Arc<BacklogPace>,
}

impl QueueParts {
    /// Has a counter added to those of the broker.
    fn count(&self, count: CountTraffic) {
        // A clone has a place of its own in the mailbox. And figures only: a queue that is not counted works as well.
        let _ = self.stats.clone().try_send(count);
    }
}

pub struct TopicQueue {
    topic: TopicName,
    queue_id: QueueId,
    parts: Arc<QueueParts>,
    writer: Recipient<AppendBatch>,
    /// `None`: the files could not be opened; every request is refused with the cause.
    queue: Result<ConsumeQueue, String>,
    /// Number of the next message appended; ahead of the consume queue by what is not dispatched yet.
    next: QueueOffset,
    last_stored_at_ms: Option<i64>,
    /// Dispatched and not written yet: the disk has refused the first of them.
    unwritten: VecDeque<Dispatched>,
    /// The topic is gone; what the writer has is still answered.
    deleted: bool,
    waiting: VecDeque<SendRequest>,
    in_work: Option<InWork>,
    unflushed: UnflushedSends,
    unflushed_timer_set: bool,
    holds: Vec<PullHold>,
    hold_timer: Option<(Instant, SpawnHandle)>,
    /// To which the writer answers: made once, since a clone of an address is three allocations.
    appended_to: Option<Arc<Recipient<BatchAppended>>>,
    /// To which the disk is told, once a sender has waited for it.
    flushed_to: Option<Arc<Recipient<LogFlushed>>>,
    units: Vec<ConsumeQueueUnit>,
    /// The first message that is shown, and when it was stored, ms; kept for topics with a retention of their own.
    oldest: Option<(QueueOffset, i64)>,
    puts: Arc<Traffic>,
    gets: HashMap<GroupName, Arc<Traffic>>,
    pullers: Pullers,
    /// When the batch in work was handed to the writer.
    handed_over_at: Instant,
    compaction: Compaction,
    /// Copying goes on by itself.
    copies_later: bool,
    /// Nothing is stored until those who listen have room.
    held_by_listeners: bool,
}

impl TopicQueue {
    pub fn new(topic: TopicName, queue_id: QueueId, is_compacted: bool, parts: Arc<QueueParts>) -> Self {
        let queue = open_queue(&topic, queue_id, &parts);
        let puts = Arc::new(Traffic::default());
        let count = CountTraffic { of: TrafficOf::TopicPuts(topic.clone()), traffic: puts.clone() };
        parts.count(count);
        let compaction =
            if is_compacted && parts.compaction.is_some() { Compaction::NotOpen } else { Compaction::None };
        let mut opened = Self {
            topic,
            queue_id,
            writer: parts.writer.clone(),
            parts,
            next: queue.as_ref().map_or(QueueOffset(0), |queue| queue.max_offset()),
            queue,
            last_stored_at_ms: None,
            unwritten: VecDeque::new(),
            deleted: false,
            waiting: VecDeque::new(),
            in_work: None,
            unflushed: UnflushedSends::default(),
            unflushed_timer_set: false,
            holds: Vec::new(),
            hold_timer: None,
            appended_to: None,
            flushed_to: None,
            units: Vec::new(),
            oldest: None,
            puts,
            gets: HashMap::default(),
            pullers: Pullers::default(),
            handed_over_at: Instant::now(),
            compaction,
            copies_later: false,
            held_by_listeners: false,
        };
        // What went before we opened is nobody's news.
        opened.trim(opened.parts.log.min_offset());
        opened.expire();
        opened.last_stored_at_ms = opened.newest_stored_at();
        opened
    }

    /// Opens files that could not be opened before.
    fn reopen(&mut self, ctx: &mut Context<Self>) {
        if self.deleted || self.queue.is_ok() {
            return;
        }
        self.queue = open_queue(&self.topic, self.queue_id, &self.parts);
        let Ok(queue) = &self.queue else {
            ctx.run_later(OPEN_PAUSE, Self::reopen);
            return;
        };
        self.next = self.next.max(queue.max_offset());
        info!(topic = %self.topic, queue_id = self.queue_id.0, "queue is open again");
        self.trim(self.parts.log.min_offset());
        self.last_stored_at_ms = self.newest_stored_at();
        self.write_waiting_units(ctx);
    }

    fn known(&mut self) -> Result<NamedQueue, String> {
        let queue = self.queue.as_mut().map_err(|cause| cause.clone())?;
        let known = queue.known().map_err(|error| error.to_string())?;
        Ok((self.topic.clone(), self.queue_id, known))
    }

    fn newest_stored_at(&mut self) -> Option<i64> {
        let unit = self.queue.as_mut().ok()?.last_unit().ok()??;
        self.parts.log.store_time_at(unit.physical_offset).map(|at| at.0)
    }

    fn trim(&mut self, log_min: PhysicalOffset) {
        let Ok(queue) = &mut self.queue else { return };
        if let Err(error) = queue.delete_before(log_min) {
            warn!(topic = %self.topic, queue_id = self.queue_id.0, %error, "units of deleted messages remain");
        }
    }

    /// Hides what is too old for the topic.
    fn expire(&mut self) {
        if self.is_compacted() {
            return; // kept by key, not by age
        }
        let Some(begins_at_ms) = self.parts.expiry.begins_at_ms(&self.topic) else { return };
        let Ok(queue) = &mut self.queue else { return };
        let is_young = |(offset, at_ms)| offset == queue.min_offset() && at_ms >= begins_at_ms;
        if queue.min_offset() >= queue.max_offset() || self.oldest.is_some_and(is_young) {
            return;
        }
        let log = &self.parts.log;
        let stored_at = |at, _| log.store_time_at(at).map(|at| at.0);
        // Where the queue cannot be read, the request behind this says so.
        if let Ok(begin) = queue.offset_by_time(begins_at_ms, TimeBoundary::Lower, stored_at) {
            queue.hide_before(begin);
            let first = queue.locate(begin).ok().flatten().and_then(|at| log.store_time_at(at));
            self.oldest = first.map(|at| (begin, at.0));
        }
    }

    /// As [`expire`](Self::expire), and tells what is gone by it.
    fn expire_and_tell(&mut self) {
        let from = self.extent().0;
        self.expire();
        self.tell_gone(from);
    }

    /// The queue began at `from` before.
    fn tell_gone(&self, from: QueueOffset) {
        let to = self.extent().0;
        if let Some(losses) = self.parts.losses.as_ref().filter(|_| to > from) {
            let (topic, queue_id) = (self.topic.clone(), self.queue_id);
            losses.do_send(MessagesGone { topic, queue_id, from, to });
        }
    }

    /// Why nothing can be stored now.
    fn refused(&self) -> Option<Refusal> {
        let refused = |cause: &str| Refusal::StoreFailed { cause: cause.to_owned() };
        match &self.queue {
            Err(cause) => Some(refused(cause)),
            Ok(_) if self.has_unknown_numbers() => Some(refused(
                "the consume queue does not take the units of earlier messages, tried again every second",
            )),
            Ok(_) => None,
        }
    }

    /// Messages that lie in the log since before we opened have numbers that `next` does not know of yet. Only
    /// writing their units tells which of those numbers are real: that of a damaged record is not.
    fn has_unknown_numbers(&self) -> bool {
        let end = |dispatched: &Dispatched| dispatched.first.0 + dispatched.units.len() as u64;
        self.in_work.is_none() && self.unwritten.iter().any(|dispatched| end(dispatched) > self.next.0)
    }

    fn extent(&self) -> (QueueOffset, QueueOffset) {
        if let Some(extent) = self.compacted_extent() {
            return extent;
        }
        match &self.queue {
            Ok(queue) => (queue.min_offset(), queue.max_offset()),
            Err(_) => Default::default(),
        }
    }

    /// Writes what waits for that, in order.
    fn write_waiting_units(&mut self, ctx: &mut Context<Self>) {
        while let Some(dispatched) = self.unwritten.pop_front() {
            if !self.write_units(&dispatched, ctx) {
                self.unwritten.push_front(dispatched);
                return;
            }
        }
    }

    /// Writes what was dispatched, and answers the pulls that waited for it. False: it is to wait, until the queue is open
    /// or for the timer that is set.
    fn write_units(&mut self, dispatched: &Dispatched, ctx: &mut Context<Self>) -> bool {
        let Ok(queue) = &mut self.queue else { return false };
        let first = match is_planted(Planted::DoubleDispatch) {
            true => dispatched.first.max(queue.max_offset()),
            false => dispatched.first,
        };
        match queue.append(first, &dispatched.units) {
            Ok(outcome) => {
                kill_point::reach("queue.units_written");
                if outcome.lost > 0 {
                    let begin = outcome.end.0 - outcome.appended as u64 - outcome.lost;
                    error!(topic = %self.topic, queue_id = self.queue_id.0, begin, lost = outcome.lost, "messages are lost to damage in the log; their numbers are passed over");
                }
                self.last_stored_at_ms = Some(dispatched.last_stored_at_ms);
                self.next = self.next.max(outcome.end);
                self.pass_holds(&dispatched.units[outcome.duplicates..], outcome.end);
                true
            }
            // No such number can be: the record is damaged where no checksum covers it.
            Err(error @ ConsumeQueueError::Gap { .. }) => {
                let position = dispatched.units.first().map_or(0, |unit| unit.physical_offset.0);
                error!(topic = %self.topic, queue_id = self.queue_id.0, position, %error, "damaged record left out of its queue");
                true
            }
            Err(error) => {
                // The log has the messages; no check point claims their units until the disk takes them.
                error!(topic = %self.topic, queue_id = self.queue_id.0, %error, "units cannot be written, trying again");
                ctx.run_later(WRITE_PAUSE, Self::write_waiting_units);
                false
            }
        }
    }
}

fn open_queue(topic: &TopicName, queue_id: QueueId, parts: &QueueParts) -> Result<ConsumeQueue, String> {
    let dir = queue_dir(&parts.consume_queue_root, topic, queue_id);
    let opened = ConsumeQueue::open(parts.files.clone(), dir, parts.config.units, None);
    opened.map_err(|error| {
        error!(%topic, queue_id = queue_id.0, %error, "queue cannot be opened, trying again");
        error.to_string()
    })
}

impl Actor for TopicQueue {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.config.mailbox_capacity);
        self.appended_to = Some(Arc::new(ctx.address().recipient()));
        if self.queue.is_err() {
            ctx.run_later(OPEN_PAUSE, Self::reopen);
        }
        ctx.spawn(TurnEnd);
    }
}

observed!(TopicQueue, TopicQueue::facts);

impl ActsAtTurnEnd for TopicQueue {
    fn turn_end(&mut self, ctx: &mut Context<Self>) {
        if self.parts.events.holds_queues() && !self.waiting.is_empty() {
            self.wait_for_listeners(ctx);
        } else {
            self.append_waiting(ctx);
        }
    }
}

impl Handler<Dispatched> for TopicQueue {
    type Result = ();

    fn handle(&mut self, dispatched: Dispatched, ctx: &mut Self::Context) {
        if self.deleted {
            return;
        }
        // Those of a queue that is not open wait until it is.
        if !self.unwritten.is_empty() || !self.write_units(&dispatched, ctx) {
            self.unwritten.push_back(dispatched);
        }
        self.go_on_copying(ctx);
    }
}

impl Handler<TakeUnflushed> for TopicQueue {
    type Result = Result<TakenQueue, String>;

    fn handle(&mut self, _: TakeUnflushed, _: &mut Self::Context) -> Self::Result {
        if !self.unwritten.is_empty() {
            let cause = self.queue.as_ref().err().map(|cause| format!(": {cause}")).unwrap_or_default();
            let (topic, queue_id) = (&self.topic, self.queue_id);
            return Err(format!("units of topic {topic}, queue {queue_id} wait for the disk{cause}"));
        }
        if self.queue.is_err() {
            return Ok(TakenQueue::default());
        }
        let known = self.known()?; // writes what is in memory
        let queue = self.queue.as_mut().map_err(|cause| cause.clone())?;
        let unflushed = queue.take_unflushed().map_err(|error| error.to_string())?;
        Ok(TakenQueue { unflushed, known: Some(known) })
    }
}

impl Handler<QueryKnown> for TopicQueue {
    type Result = Result<NamedQueue, String>;

    fn handle(&mut self, _: QueryKnown, _: &mut Self::Context) -> Self::Result {
        self.known()
    }
}

impl Handler<ContinueAt> for TopicQueue {
    type Result = Result<NamedQueue, String>;

    fn handle(&mut self, ContinueAt { next }: ContinueAt, _: &mut Self::Context) -> Self::Result {
        let queue = self.queue.as_mut().map_err(|cause| cause.clone())?;
        queue.continue_at(next).map_err(|error| error.to_string())?;
        self.next = self.next.max(queue.max_offset());
        self.known()
    }
}

impl Handler<LogTrimmed> for TopicQueue {
    type Result = ();

    fn handle(&mut self, trimmed: LogTrimmed, _: &mut Self::Context) {
        let from = self.extent().0;
        self.trim(trimmed.log_min);
        self.expire();
        self.tell_gone(from);
    }
}

impl Handler<DeleteQueue> for TopicQueue {
    type Result = ();

    fn handle(&mut self, _: DeleteQueue, ctx: &mut Self::Context) {
        let gone = format!("topic {} was deleted", self.topic);
        let holds = std::mem::take(&mut self.holds);
        for hold in holds {
            let refusal = Refusal::TopicUnknown { topic: self.topic.clone(), hint: gone.clone() };
            hold.pull.link.reply(Reply { to: hold.pull.to, content: ReplyContent::Refused(refusal) });
        }
        let waiting = std::mem::take(&mut self.waiting);
        let refusal = Refusal::TopicUnknown { topic: self.topic.clone(), hint: gone.clone() };
        self.refuse_sends(waiting.into_iter().map(|send| send.reply), &refusal);
        if let Ok(queue) = std::mem::replace(&mut self.queue, Err(gone))
            && let Err(error) = queue.destroy()
        {
            warn!(topic = %self.topic, queue_id = self.queue_id.0, %error, "files of a deleted queue remain");
        }
        self.destroy_compacted();
        self.unwritten.clear();
        self.deleted = true;
        self.end_if_done(ctx);
    }
}

#[cfg(test)]
mod tests;
