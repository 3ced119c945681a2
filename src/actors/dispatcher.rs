//! Derives from the commit log, in its order: units for the queues, entries for the key index, due times for
//! the delay scheduler and the timers. The only one who does; the running broker and recovery take the same way.
//!
//! - Owns: the dispatched position.
//! - Takes: [`LogPublished`], [`DispatchTo`], [`BeginCheckPoint`].
//! - Sends: [`Dispatched`] to each queue touched, one per turn; [`IndexEntries`]; [`UnitsScheduled`];
//!   [`TimersDispatched`], [`TransactionFacts`].
//! - Fails: a full mailbox stops it until there is room; a damaged record is named in the log, counted and passed
//!   over, and its number becomes a gap in its queue.
//! - Invariants: positions only grow; a unit is handed over before the position passes it; what must be on disk
//!   before it is consumed waits for that, and what lies behind it too.

mod catch_up;

use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
pub use catch_up::{CatchUp, Damaged};
use serde_json::{Value, json};
use tracing::{error, warn};

use super::commit_log_writer::{LogPublished, PublishedSignal};
use super::context::{Context, observed};
use super::facts::Progress;
use super::topic_queue::{Dispatched, TopicQueue};
use super::topic_table::{TopicEntry, TopicMap, TopicTable};
use crate::clock::WallMs;
use crate::collections::HashMap;
use crate::kill_point;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::message::RecordView;
use crate::protocol::names::{SCHEDULE_TOPIC, TIMER_TOPIC};
use crate::protocol::properties;
use crate::protocol::sys_flag::TransactionType;
use crate::protocol::transaction::TransactionFact;
use crate::store::commit_log::{CommitLogReader, LogTail};
use crate::store::consume_queue::ConsumeQueueUnit;
use crate::store::damage::DamagedEntry;
use crate::store::key_index::{hash_of, tag_key};
use crate::store::timers::TimerNews;
use crate::types::{FlushMode, PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Log dispatched in one turn, bytes.
const TURN_BYTES: u64 = 4 * 1024 * 1024;
/// Keys that are handed to the index together, or after [`INDEX_PAUSE`]: it is looked at by people, and each handing
/// over wakes a thread.
const INDEX_ENTRIES: usize = 1024;
const INDEX_PAUSE: Duration = Duration::from_millis(10);
/// Pause before a full mailbox is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Keys of messages, for the key index. Losing it loses finding, not messages; the dispatcher keeps it until
/// the mailbox takes it.
#[derive(Message, Debug, Default)]
#[rtype(result = "()")]
pub struct IndexEntries(pub Vec<IndexEntry>);

/// One key of one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// Of topic and key, see [`hash_of`].
    pub hash: u32,
    pub physical_offset: PhysicalOffset,
    pub stored_at_ms: i64,
}

/// Units of one delay level, their tags code being the time to deliver at (ms).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct UnitsScheduled {
    pub queue_id: QueueId,
    pub first: QueueOffset,
    pub units: Vec<ConsumeQueueUnit>,
}

/// What records say of transactions, in the order of the log. Losing it would lose transactions from view; the
/// dispatcher keeps it until the mailbox takes it.
#[derive(Message, Debug, Default)]
#[rtype(result = "()")]
pub struct TransactionFacts(pub Vec<TransactionFact>);

/// What records of the log say of timers, in their order. The dispatcher keeps it until the mailbox takes it.
#[derive(Message, Debug, Default)]
#[rtype(result = "()")]
pub struct TimersDispatched(pub Vec<TimerNews>);

/// Dispatches what is published now, and answers when it is handed over: how recovery waits.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct DispatchTo(pub PhysicalOffset);

/// Which position a check point may claim, and whom to flush before.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "CheckPointPlan")]
pub struct BeginCheckPoint;

#[derive(MessageResponse)]
pub struct CheckPointPlan {
    /// Everything below was handed over; `None` while something waits for room.
    pub dispatched: Option<LogTail>,
    /// Queues that got units since the last check point.
    pub queues: Vec<Addr<TopicQueue>>,
}

/// What the dispatcher is made of.
pub struct DispatcherParts {
    pub log: CommitLogReader,
    pub signal: PublishedSignal,
    pub topics: TopicTable,
    pub key_index: Option<Recipient<IndexEntries>>,
    pub scheduled: Option<Recipient<UnitsScheduled>>,
    pub transactions: Option<Recipient<TransactionFacts>>,
    pub timers: Option<Recipient<TimersDispatched>>,
    pub delay_levels: DelayLevels,
    /// Sync: consumers see only what is on disk.
    pub flush: FlushMode,
    pub progress: Progress,
    /// What lies before the check point and is derived all the same; no check point is taken until that is done.
    pub catch_up: Option<CatchUp>,
    pub damaged: Damaged,
    pub mailbox_capacity: usize,
}

pub struct Dispatcher {
    parts: DispatcherParts,
    /// Behind the last record read, with what the check point keeps of that record.
    tail: LogTail,
    gathered: Gathered,
    /// Handed over in order; the front waits for room in a mailbox.
    outgoing: VecDeque<Outgoing>,
    waiting: Vec<(PhysicalOffset, futures::channel::oneshot::Sender<()>)>,
    dirty: HashSet<Addr<TopicQueue>>,
    /// The same, in the order in which they were written to.
    dirty_in_order: Vec<Addr<TopicQueue>>,
    unknown_topics: HashSet<TopicName>,
    retry_set: bool,
    index_due_set: bool,
}

enum Outgoing {
    /// The queue is reached through its entry: a clone of an address has a slot of its own in the mailbox,
    /// and would never find it full.
    Units(Arc<TopicEntry>, QueueId, Dispatched),
    Index(IndexEntries),
    Scheduled(UnitsScheduled),
    Transactions(TransactionFacts),
    Timers(TimersDispatched),
}

/// What of a record is taken.
struct TakingRules<'a> {
    levels: &'a DelayLevels,
    indexes: bool,
    keeps_timers: bool,
    catch_up: Option<&'a CatchUp>,
    damaged: &'a Damaged,
}

/// Units of one turn by queue. Topics are looked up once per snapshot.
#[derive(Default)]
struct Gathered {
    snapshot: Option<Arc<TopicMap>>,
    slots: Vec<TopicSlot>,
    by_name: HashMap<TopicName, usize>,
    last_slot: usize,
    touched: Vec<(usize, u32)>,
    index: IndexEntries,
    facts: TransactionFacts,
    timers: TimersDispatched,
}

struct TopicSlot {
    name: TopicName,
    entry: Option<Arc<TopicEntry>>,
    queues: Vec<Dispatched>,
}

impl Dispatcher {
    pub fn new(parts: DispatcherParts, from: LogTail) -> Self {
        Self {
            parts,
            tail: from,
            gathered: Gathered::default(),
            outgoing: VecDeque::new(),
            waiting: Vec::new(),
            dirty: HashSet::new(),
            dirty_in_order: Vec::new(),
            unknown_topics: HashSet::new(),
            retry_set: false,
            index_due_set: false,
        }
    }

    /// One turn: hand over what waits, then read on.
    fn dispatch(&mut self, ctx: &mut Context<Self>) {
        self.parts.signal.take();
        if !self.hand_over(ctx) {
            return;
        }
        let from = self.tail.end;
        self.gathered.refresh(&self.parts.topics);
        let Self { parts, gathered, outgoing, unknown_topics, tail, waiting, .. } = self;
        let rules = TakingRules {
            levels: &parts.delay_levels,
            indexes: parts.key_index.is_some(),
            keeps_timers: parts.timers.is_some(),
            catch_up: parts.catch_up.as_ref(),
            damaged: &parts.damaged,
        };
        let flushed = parts.progress.flushed();
        let read = parts.log.walk_records(from, TURN_BYTES, |at, record| {
            let end = at.advance(record.total_len() as u64);
            if end > flushed && parts.flush.max(gathered.flush_of(record.topic())) == FlushMode::Sync {
                return ControlFlow::Break(()); // the flusher wakes us
            }
            tail.last_record = Some(at);
            tail.last_stored_at = WallMs(record.stored_at_ms());
            gathered.take(at, &record, &rules, outgoing, unknown_topics);
            ControlFlow::Continue(())
        });
        gathered.finish(outgoing, parts.scheduled.is_some());
        if !waiting.is_empty() {
            gathered.hand_out_index(outgoing); // handed over means to the last recipient
        }
        if !gathered.index.0.is_empty() && !std::mem::replace(&mut self.index_due_set, true) {
            ctx.run_later(INDEX_PAUSE, |dispatcher, ctx| {
                dispatcher.index_due_set = false;
                dispatcher.gathered.hand_out_index(&mut dispatcher.outgoing);
                dispatcher.hand_over(ctx);
            });
        }
        self.tail.end = match read {
            Ok(next) => next,
            Err(damage) => {
                let DamagedEntry { at, next, place, source } = self.parts.log.pass_damage(damage);
                let len_bytes = next.0 - at.0;
                error!(position = at.0, len_bytes, %place, error = %source, "damaged part of the log passed over; its messages are lost");
                self.parts.progress.count_damaged();
                next
            }
        };
        self.parts.catch_up.take_if(|catch_up| catch_up.until() <= self.tail.end);
        let position = self.tail.end;
        if self.hand_over(ctx) && position > from && position < self.parts.log.published() {
            ctx.notify(LogPublished);
        }
    }

    /// Sends what waits, in order; false when a mailbox is full and a retry is set.
    fn hand_over(&mut self, ctx: &mut Context<Self>) -> bool {
        while let Some(front) = self.outgoing.pop_front() {
            let refused = match front {
                Outgoing::Units(entry, id, units) => {
                    match entry.queue(id).map(|queue| (queue, queue.try_send(units))) {
                        Some((_, Err(SendError::Full(units)))) => Some(Outgoing::Units(entry, id, units)),
                        Some((queue, Ok(()))) => {
                            if !self.dirty.contains(queue) {
                                self.dirty.insert(queue.clone());
                                self.dirty_in_order.push(queue.clone());
                            }
                            None
                        }
                        // A queue that stops is a queue that was deleted.
                        Some((_, Err(SendError::Closed(_)))) | None => None,
                    }
                }
                Outgoing::Index(entries) => {
                    offer(self.parts.key_index.as_ref(), entries).map(Outgoing::Index)
                }
                Outgoing::Scheduled(units) => {
                    offer(self.parts.scheduled.as_ref(), units).map(Outgoing::Scheduled)
                }
                Outgoing::Transactions(facts) => {
                    offer(self.parts.transactions.as_ref(), facts).map(Outgoing::Transactions)
                }
                Outgoing::Timers(news) => offer(self.parts.timers.as_ref(), news).map(Outgoing::Timers),
            };
            if let Some(refused) = refused {
                self.outgoing.push_front(refused);
                if !std::mem::replace(&mut self.retry_set, true) {
                    ctx.run_later(FULL_PAUSE, |dispatcher, ctx| {
                        dispatcher.retry_set = false;
                        dispatcher.dispatch(ctx);
                    });
                }
                return false;
            }
        }
        kill_point::reach("dispatcher.handed_over");
        let position = self.tail.end;
        self.parts.progress.set_dispatched(position);
        for (wanted, waiting) in std::mem::take(&mut self.waiting) {
            if wanted <= position {
                // Whoever asked may have stopped waiting.
                let _ = waiting.send(());
            } else {
                self.waiting.push((wanted, waiting));
            }
        }
        true
    }
}

/// Sends unless the mailbox is full, and gives back what it did not take.
fn offer<M>(recipient: Option<&Recipient<M>>, message: M) -> Option<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    match recipient?.try_send(message) {
        Err(SendError::Full(message)) => Some(message),
        Ok(()) | Err(SendError::Closed(_)) => None,
    }
}

impl Gathered {
    fn refresh(&mut self, topics: &TopicTable) {
        let now = topics.load();
        if self.snapshot.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &now)) {
            self.slots.clear();
            self.by_name.clear();
            self.snapshot = Some(Arc::clone(&now));
        }
    }

    fn take(
        &mut self,
        at: PhysicalOffset,
        record: &RecordView<'_>,
        rules: &TakingRules<'_>,
        outgoing: &mut VecDeque<Outgoing>,
        unknown_topics: &mut HashSet<TopicName>,
    ) {
        let transaction = TransactionType::of(record.sys_flag());
        let topic = record.topic();
        let is_damaged = !rules.damaged.is_empty() && rules.damaged.contains(&at);
        if !is_damaged {
            self.facts.0.extend(TransactionFact::of(at, record));
        }
        let wants_unit =
            rules.catch_up.is_none_or(|catch_up| catch_up.wants_unit(at, topic, record.queue_id()));
        let wants_keys =
            rules.indexes && !is_damaged && rules.catch_up.is_none_or(|catch_up| catch_up.wants_keys(at));
        let wants_timers = rules.keeps_timers
            && !is_damaged
            && rules.catch_up.is_none_or(|catch_up| catch_up.wants_timers(at));
        if !wants_unit && !wants_keys && !wants_timers {
            return;
        }
        let mut keys = Keys::default();
        let mut is_of_timers = topic == TIMER_TOPIC;
        for (name, value) in properties::pairs(record.properties()) {
            match name {
                properties::names::TAGS => keys.tag = Some(value),
                properties::names::KEYS => keys.words = Some(value),
                properties::names::UNIQ_KEY => keys.unique = Some(value),
                properties::names::TIMER_SETTLES => is_of_timers = true,
                _ => {}
            }
        }
        if wants_timers && is_of_timers {
            self.timers.0.extend(TimerNews::of(at, record));
        }
        if wants_keys && transaction != TransactionType::Rollback {
            keys.put(&mut self.index, topic, at, record.stored_at_ms());
        }
        if !wants_unit || matches!(transaction, TransactionType::Prepared | TransactionType::Rollback) {
            return; // records of old stores, never consumed
        }
        let tags_code = match topic {
            _ if is_damaged => ConsumeQueueUnit::GAP_TAGS,
            SCHEDULE_TOPIC => {
                rules.levels.deliver_at_ms(record.queue_id().0 as usize + 1, record.stored_at_ms())
            }
            _ => properties::tags_code(keys.tag),
        };
        let unit = ConsumeQueueUnit { physical_offset: at, size_bytes: record.total_len() as u32, tags_code };

        let slot_at = self.slot_of(topic);
        let slot = &mut self.slots[slot_at];
        let Some(entry) = &slot.entry else {
            if !unknown_topics.contains(topic) {
                warn!(topic, "messages of a deleted topic are left in the log, out of reach");
                unknown_topics.insert(slot.name.clone());
            }
            return;
        };
        let queue_id = record.queue_id().0;
        if slot.queues.len() <= queue_id as usize {
            if entry.queue(QueueId(queue_id)).is_none() {
                return; // the topic has shrunk since; its queue comes back with its count
            }
            let empty = || Dispatched { first: QueueOffset(0), units: Vec::new(), last_stored_at_ms: 0 };
            slot.queues.resize_with(queue_id as usize + 1, empty);
        }
        let batch = &mut slot.queues[queue_id as usize];
        if batch.units.is_empty() {
            batch.first = record.queue_offset();
            self.touched.push((slot_at, queue_id));
        } else if batch.first.advance(batch.units.len() as u64) != record.queue_offset() {
            // Numbers that do not follow on come from another incarnation of the topic.
            let before = std::mem::replace(
                batch,
                Dispatched { first: record.queue_offset(), units: Vec::new(), last_stored_at_ms: 0 },
            );
            outgoing.push_back(Outgoing::Units(entry.clone(), QueueId(queue_id), before));
        }
        batch.units.push(unit);
        batch.last_stored_at_ms = record.stored_at_ms();
    }

    /// What the topic asks of the disk.
    fn flush_of(&mut self, topic: &str) -> FlushMode {
        let slot = self.slot_of(topic);
        self.slots[slot].entry.as_ref().map_or(FlushMode::Async, |entry| entry.flush)
    }

    fn slot_of(&mut self, topic: &str) -> usize {
        // Neighbours are often of one topic: a comparison instead of a hash.
        if self.slots.get(self.last_slot).is_some_and(|slot| *slot.name == *topic) {
            return self.last_slot;
        }
        if let Some(slot) = self.by_name.get(topic) {
            self.last_slot = *slot;
            return *slot;
        }
        let name = TopicName::from(topic);
        let entry = self.snapshot.as_ref().and_then(|map| map.topics.get(topic).cloned());
        self.slots.push(TopicSlot { name: name.clone(), entry, queues: Vec::new() });
        self.by_name.insert(name, self.slots.len() - 1);
        self.slots.len() - 1
    }

    fn finish(&mut self, outgoing: &mut VecDeque<Outgoing>, schedules: bool) {
        for (slot, queue_id) in self.touched.drain(..) {
            let slot = &mut self.slots[slot];
            let batch = &mut slot.queues[queue_id as usize];
            let empty = Dispatched { first: QueueOffset(0), units: Vec::new(), last_stored_at_ms: 0 };
            let batch = std::mem::replace(batch, empty);
            let Some(entry) = slot.entry.clone() else { continue };
            let scheduled = (schedules && &*slot.name == SCHEDULE_TOPIC).then(|| UnitsScheduled {
                queue_id: QueueId(queue_id),
                first: batch.first,
                units: batch.units.clone(),
            });
            outgoing.push_back(Outgoing::Units(entry, QueueId(queue_id), batch));
            outgoing.extend(scheduled.map(Outgoing::Scheduled));
        }
        if !self.facts.0.is_empty() {
            outgoing.push_back(Outgoing::Transactions(std::mem::take(&mut self.facts)));
        }
        if !self.timers.0.is_empty() {
            outgoing.push_back(Outgoing::Timers(std::mem::take(&mut self.timers)));
        }
        if self.index.0.len() >= INDEX_ENTRIES {
            self.hand_out_index(outgoing);
        }
    }

    fn hand_out_index(&mut self, outgoing: &mut VecDeque<Outgoing>) {
        if !self.index.0.is_empty() {
            outgoing.push_back(Outgoing::Index(std::mem::take(&mut self.index)));
        }
    }
}

/// The keys of one message.
#[derive(Default)]
struct Keys<'a> {
    unique: Option<&'a str>,
    words: Option<&'a str>,
    tag: Option<&'a str>,
}

impl Keys<'_> {
    fn put(&self, index: &mut IndexEntries, topic: &str, physical_offset: PhysicalOffset, stored_at_ms: i64) {
        let mut put =
            |key: &str| index.0.push(IndexEntry { hash: hash_of(topic, key), physical_offset, stored_at_ms });
        let words = self.words.into_iter().flat_map(|words| words.split(' ').filter(|word| !word.is_empty()));
        self.unique.into_iter().chain(words).for_each(&mut put);
        if let Some(tag) = self.tag.filter(|tag| !tag.is_empty()) {
            put(&tag_key(tag));
        }
    }
}

impl Actor for Dispatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
    }
}

observed!(Dispatcher, Dispatcher::facts);

impl Dispatcher {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        json!({
            "dispatchedTo": self.tail.end.0,
            "outgoing": self.outgoing.len(),
            "waitForIt": self.waiting.len(),
            "unflushedQueues": self.dirty.len(),
        })
    }
}

impl Handler<LogPublished> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: LogPublished, ctx: &mut Self::Context) {
        self.dispatch(ctx);
    }
}

impl Handler<DispatchTo> for Dispatcher {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, DispatchTo(position): DispatchTo, ctx: &mut Self::Context) -> Self::Result {
        let (waiting, handed_over) = futures::channel::oneshot::channel();
        self.gathered.hand_out_index(&mut self.outgoing);
        self.waiting.push((position, waiting));
        self.dispatch(ctx);
        // A dispatcher that stops has nobody wait for it.
        Box::pin(async move { handed_over.await.unwrap_or_default() })
    }
}

impl Handler<BeginCheckPoint> for Dispatcher {
    type Result = CheckPointPlan;

    fn handle(&mut self, _: BeginCheckPoint, ctx: &mut Self::Context) -> CheckPointPlan {
        self.gathered.hand_out_index(&mut self.outgoing);
        self.hand_over(ctx);
        // What still waits for room is not handed over, so there is nothing to claim yet; and what is caught up with
        // lies before what is claimed already.
        if !self.outgoing.is_empty() || self.parts.catch_up.is_some() {
            return CheckPointPlan { dispatched: None, queues: Vec::new() };
        }
        self.dirty.clear();
        let queues = std::mem::take(&mut self.dirty_in_order);
        CheckPointPlan { dispatched: Some(self.tail), queues }
    }
}

#[cfg(test)]
mod tests;
