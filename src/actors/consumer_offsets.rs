//! Consumer offsets: how far each consumer group has consumed each message queue.
//!
//! - Owns: the offset table and the sled tree of consumer offsets; the number of pending resets that
//!   [`PendingResets`] shows. Nobody else writes any of them.
//! - Takes: [`CommitOffset`], [`QueryOffset`], [`QueryTopicOffsets`], [`QueryMoves`], [`ListTopicsOfGroup`], [`ListGroupsOfTopic`],
//!   [`ListAllOffsets`], [`ResetOffsets`], [`TakeReset`], [`CloneOffsets`], [`DeleteGroupOffsets`], [`TopicDeleted`],
//!   [`SaveOffsets`], [`ObserveOffsets`]; of retention [`QuerySlowest`], [`ListConsumedQueues`], [`MessagesGone`],
//!   [`QueryLosses`].
//! - Sends: nothing; every request is answered by its reply.
//! - Fails: offsets that cannot be saved are kept and saved again after `flush_interval`, with a line in the log,
//!   and whoever waits for them is told; a deletion that cannot be saved is refused.
//! - Invariants: the tree never holds an offset that the table has not held; a crash loses at most
//!   `flush_interval` of commits, and a clean stop none; with [`FlushMode::Sync`] nothing that was
//!   answered is lost; pending resets do not outlive the process, the offsets they set do.
//!
//! Writing to the tree is done here; making it durable blocks for an fsync and is left to another thread. One flush is
//! under way at a time, and all who wait when it begins share it.

mod expiry;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::prelude::*;
use serde_json::{Value, json};
use tracing::{error, info};

use self::expiry::ExpiryRecord;
pub use self::expiry::{ListConsumedQueues, Losses, MessagesGone, QueryLosses, QuerySlowest, SlowestOffset};
use super::context::{Context, observed};
use super::offset_table::{Committed, OffsetKey, OffsetTable, QueueOffsets};
use super::shared_flush::SharedFlush;
use super::topics::TopicDeleted;
use crate::clock::{SharedClock, WallMs};
use crate::error::Refusal;
use crate::planted::{Planted, is_planted};
use crate::protocol::data_version::DataVersion;
use crate::store::metadata::{ConsumerOffset, ConsumerOffsetTable, Metadata, MetadataError};
use crate::types::{FlushMode, GroupName, QueueId, QueueOffset, TopicName};

/// Offsets written to the tree in one turn.
const WRITTEN_PER_TURN: usize = 4096;

/// Records that a group will next consume `offset` of a queue. Losing it repeats messages, never skips them.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<OffsetCommitted, Refusal>")]
pub struct CommitOffset {
    pub key: OffsetKey,
    pub offset: QueueOffset,
    /// Somebody waits for the answer, which is a promise as far as `flush_mode` says.
    pub awaited: bool,
}

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetCommitted {
    pub outcome: Committed,
}

/// The next offset of a queue; `None` when the group has none there.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Option<QueueOffset>")]
pub struct QueryOffset {
    pub key: OffsetKey,
}

/// All offsets of a group in one topic.
#[derive(Message, Clone, Debug)]
#[rtype(result = "QueueOffsets")]
pub struct QueryTopicOffsets {
    pub group: GroupName,
    pub topic: TopicName,
}

/// When a group committed other offsets last, by queue; what has not moved since the start is not named.
#[derive(Message, Clone, Debug)]
#[rtype(result = "OffsetMoves")]
pub struct QueryMoves {
    pub group: GroupName,
    pub topic: TopicName,
}

pub type OffsetMoves = BTreeMap<QueueId, WallMs>;

/// The topics in which a group has offsets, sorted.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Vec<TopicName>")]
pub struct ListTopicsOfGroup {
    pub group: GroupName,
}

/// The groups that have offsets in a topic, sorted.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Vec<GroupName>")]
pub struct ListGroupsOfTopic {
    pub topic: TopicName,
}

/// Every offset of every group.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<AllOffsets, Refusal>")]
pub struct ListAllOffsets;

#[derive(Clone, PartialEq, Debug)]
pub struct AllOffsets {
    /// Rises when offsets are saved.
    pub version: DataVersion,
    pub offsets: Vec<(OffsetKey, QueueOffset)>,
}

/// Sets offsets of a group and holds it to them until its next pull of each queue. Losing it loses the wish.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct ResetOffsets {
    pub group: GroupName,
    pub topic: TopicName,
    pub offsets: QueueOffsets,
}

/// Takes the pending reset of a queue, which is over then. Losing its reply leaves the group where it was; the
/// offset itself is committed all the same.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Option<QueueOffset>")]
pub struct TakeReset {
    pub key: OffsetKey,
}

/// Copies the offsets of one group in a topic to another, over those it has.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<OffsetsCloned, Refusal>")]
pub struct CloneOffsets {
    pub from: GroupName,
    pub to: GroupName,
    pub topic: TopicName,
}

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetsCloned {
    pub count: usize,
}

/// Forgets a group.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct DeleteGroupOffsets {
    pub group: GroupName,
}

/// Asks for the state, for tests and administration.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "OffsetsObserved")]
pub struct ObserveOffsets;

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetsObserved {
    pub offsets: usize,
    pub pending_resets: usize,
    pub has_unsaved: bool,
}

/// Writes every changed offset to the tree now; whoever asks makes it durable. For an orderly stop.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct SaveOffsets;

/// Time to write what has changed.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct FlushDue;

/// Time to make durable what somebody waits for.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct MakeDurable;

/// Whether any reset is pending at all: one atomic read on the way of every pull. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PendingResets(Arc<AtomicUsize>);

impl PendingResets {
    /// Only then is it worth to send [`TakeReset`].
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

#[derive(Clone, Copy, Debug)]
pub struct OffsetsConfig {
    /// Between two savings. Default 5 s.
    pub flush_interval: Duration,
    /// When a commit that is awaited, a reset, a copy or a deletion is answered: at once, so that a crash within
    /// `flush_interval` takes it back and messages repeat, or once it is on disk.
    pub flush_mode: FlushMode,
    pub mailbox_capacity: usize,
}

impl Default for OffsetsConfig {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(5),
            flush_mode: FlushMode::Async,
            mailbox_capacity: 16_384,
        }
    }
}

pub struct ConsumerOffsets {
    table: OffsetTable,
    stored: ConsumerOffsetTable,
    resets: PendingResets,
    config: OffsetsConfig,
    clock: SharedClock,
    flush: SharedFlush,
    /// [`MakeDurable`] is on its way.
    flush_asked: bool,
    expiry: ExpiryRecord,
}

impl ConsumerOffsets {
    /// Reads every offset.
    pub fn load(
        metadata: Metadata,
        config: OffsetsConfig,
        clock: SharedClock,
    ) -> Result<Self, MetadataError> {
        let stored = metadata.consumer_offsets()?;
        let mut table = OffsetTable::default();
        for ConsumerOffset { group, topic, queue_id, offset } in stored.all()? {
            table.load(OffsetKey { group, topic, queue_id }, offset);
        }
        info!(offsets = table.len(), "consumer offsets loaded");
        let expiry = ExpiryRecord::new(clock.now());
        Ok(Self {
            table,
            stored,
            resets: PendingResets::default(),
            config,
            clock,
            flush: SharedFlush::new(Arc::new(move || metadata.flush())),
            flush_asked: false,
            expiry,
        })
    }

    /// What the pull path looks at before it asks for resets.
    pub fn pending_resets(&self) -> PendingResets {
        self.resets.clone()
    }

    fn show_resets(&self) {
        self.resets.0.store(self.table.pending_resets(), Ordering::Release);
    }

    /// Writes up to `max` changed offsets to the tree. Returns how many; they are not durable yet.
    fn write(&mut self, max: usize) -> Result<usize, MetadataError> {
        let taken = self.table.take_unsaved(max);
        if taken.is_empty() {
            return Ok(0);
        }
        let record = |(key, offset): &(OffsetKey, QueueOffset)| ConsumerOffset {
            group: key.group.clone(),
            topic: key.topic.clone(),
            queue_id: key.queue_id,
            offset: *offset,
        };
        let records: Vec<_> = taken.iter().map(record).collect();
        let written = self.stored.put_all(&records).and_then(|()| {
            let version = self.stored.version()?;
            self.stored.put_version(version.next(version.state_version, self.clock.now()))
        });
        match written {
            Ok(()) => Ok(records.len()),
            Err(error) => {
                self.table.give_back(taken);
                Err(error)
            }
        }
    }

    /// Answers once what was changed is as safe as the settings promise.
    fn answer<T: 'static>(
        &mut self,
        answer: T,
        what: &'static str,
        ctx: &mut Context<Self>,
    ) -> Response<Result<T, Refusal>> {
        if self.config.flush_mode == FlushMode::Async {
            return Response::reply(Ok(answer));
        }
        let durable = self.flush.wait(what);
        self.ask_for_flush(ctx);
        Response::fut(async move { durable.await.map(|()| answer) })
    }

    /// Handled after the messages that wait now, which share the flush.
    fn ask_for_flush(&mut self, ctx: &mut Context<Self>) {
        if !self.flush.is_under_way() && !std::mem::replace(&mut self.flush_asked, true) {
            ctx.notify(MakeDurable);
        }
    }

    /// Has everything that was written made durable, for those who wait now.
    fn begin_flush(&mut self, ctx: &mut Context<Self>) {
        let flushed = self.flush.begin();
        ctx.spawn(flushed.into_actor(self).map(|flushed, offsets, ctx| {
            offsets.flush.end();
            Self::report(flushed);
            if offsets.flush.is_awaited() {
                offsets.ask_for_flush(ctx);
            }
        }));
    }

    /// A failure is not the end: the offsets are still in the table, and the next round tries again.
    fn report(what: Result<(), impl std::fmt::Display>) {
        if let Err(error) = what {
            error!(%error, "consumer offsets not saved, trying again");
        }
    }
}

impl Actor for ConsumerOffsets {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
        ctx.notify_later(FlushDue, self.config.flush_interval);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // A clean stop loses nothing.
        Self::report(self.write(usize::MAX).and_then(|_| self.flush.flush_now()));
    }
}

observed!(ConsumerOffsets, ConsumerOffsets::facts);

impl ConsumerOffsets {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        json!({ "offsets": self.table.len(), "hasUnsaved": self.table.has_unsaved(), "pendingResets": self.table.pending_resets() })
    }
}

impl Handler<SaveOffsets> for ConsumerOffsets {
    type Result = ();

    fn handle(&mut self, _: SaveOffsets, _: &mut Self::Context) {
        Self::report(self.write(usize::MAX).map(|_| ()));
    }
}

impl Handler<FlushDue> for ConsumerOffsets {
    type Result = ();

    fn handle(&mut self, _: FlushDue, ctx: &mut Self::Context) {
        match self.write(WRITTEN_PER_TURN) {
            Ok(WRITTEN_PER_TURN) => {
                // The rest follows after the messages that wait now.
                ctx.notify(FlushDue);
                return;
            }
            Ok(_) if !self.flush.is_under_way() => self.begin_flush(ctx),
            Ok(_) => {}
            Err(error) => Self::report(Err(error)),
        }
        ctx.notify_later(FlushDue, self.config.flush_interval);
    }
}

impl Handler<MakeDurable> for ConsumerOffsets {
    type Result = ();

    fn handle(&mut self, _: MakeDurable, ctx: &mut Self::Context) {
        self.flush_asked = false;
        if self.flush.is_under_way() || !self.flush.is_awaited() {
            return;
        }
        match self.write(usize::MAX) {
            Ok(_) => self.begin_flush(ctx),
            Err(error) => {
                self.flush.fail(&error.to_string());
                Self::report(Err(error));
            }
        }
    }
}

impl Handler<CommitOffset> for ConsumerOffsets {
    type Result = Response<Result<OffsetCommitted, Refusal>>;

    fn handle(&mut self, commit: CommitOffset, ctx: &mut Self::Context) -> Self::Result {
        let now = self.clock.now();
        self.expiry.committed(&commit.key.group, now);
        let offset = match is_planted(Planted::CommitAhead) {
            true => commit.offset.advance(1),
            false => commit.offset,
        };
        let outcome = self.table.commit(commit.key, offset, now);
        let committed = OffsetCommitted { outcome };
        if commit.awaited && outcome == Committed::Stored {
            self.answer(committed, "the consumer offset", ctx)
        } else {
            Response::reply(Ok(committed))
        }
    }
}

impl Handler<QueryMoves> for ConsumerOffsets {
    type Result = MessageResult<QueryMoves>;

    fn handle(&mut self, query: QueryMoves, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.table.moves(&query.group, &query.topic))
    }
}

impl Handler<QueryOffset> for ConsumerOffsets {
    type Result = Option<QueueOffset>;

    fn handle(&mut self, query: QueryOffset, _: &mut Self::Context) -> Self::Result {
        self.table.query(&query.key)
    }
}

impl Handler<QueryTopicOffsets> for ConsumerOffsets {
    type Result = MessageResult<QueryTopicOffsets>;

    fn handle(&mut self, query: QueryTopicOffsets, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.table.of_topic(&query.group, &query.topic))
    }
}

impl Handler<ListTopicsOfGroup> for ConsumerOffsets {
    type Result = Vec<TopicName>;

    fn handle(&mut self, list: ListTopicsOfGroup, _: &mut Self::Context) -> Self::Result {
        self.table.topics_of(&list.group)
    }
}

impl Handler<ListGroupsOfTopic> for ConsumerOffsets {
    type Result = Vec<GroupName>;

    fn handle(&mut self, list: ListGroupsOfTopic, _: &mut Self::Context) -> Self::Result {
        self.table.groups_of(&list.topic)
    }
}

impl Handler<ListAllOffsets> for ConsumerOffsets {
    type Result = Result<AllOffsets, Refusal>;

    fn handle(&mut self, _: ListAllOffsets, _: &mut Self::Context) -> Self::Result {
        let version = self.stored.version().map_err(|error| Refusal::Failed(error.to_string()))?;
        Ok(AllOffsets { version, offsets: self.table.all() })
    }
}

impl Handler<ResetOffsets> for ConsumerOffsets {
    type Result = Response<Result<(), Refusal>>;

    fn handle(&mut self, reset: ResetOffsets, ctx: &mut Self::Context) -> Self::Result {
        let ResetOffsets { group, topic, offsets } = reset;
        for (queue_id, offset) in offsets {
            info!(%group, %topic, queue_id = queue_id.0, offset = offset.0, "consumer offset reset");
            self.table.reset(OffsetKey { group: group.clone(), topic: topic.clone(), queue_id }, offset);
        }
        self.show_resets();
        self.answer((), "the reset of consumer offsets", ctx)
    }
}

impl Handler<TakeReset> for ConsumerOffsets {
    type Result = Option<QueueOffset>;

    fn handle(&mut self, take: TakeReset, _: &mut Self::Context) -> Self::Result {
        let taken = self.table.take_reset(&take.key);
        self.show_resets();
        taken
    }
}

impl Handler<CloneOffsets> for ConsumerOffsets {
    type Result = Response<Result<OffsetsCloned, Refusal>>;

    fn handle(&mut self, clone: CloneOffsets, ctx: &mut Self::Context) -> Self::Result {
        let count = self.table.copy(&clone.from, &clone.to, &clone.topic);
        info!(from = %clone.from, to = %clone.to, topic = %clone.topic, count, "consumer offsets cloned");
        self.answer(OffsetsCloned { count }, "the copy of consumer offsets", ctx)
    }
}

impl Handler<DeleteGroupOffsets> for ConsumerOffsets {
    type Result = Response<Result<(), Refusal>>;

    fn handle(&mut self, delete: DeleteGroupOffsets, ctx: &mut Self::Context) -> Self::Result {
        const WHAT: &str = "the deletion of consumer offsets";
        let deleted = match self.stored.delete_group(&delete.group) {
            Ok(deleted) => deleted,
            Err(error) => {
                return Response::reply(Err(Refusal::NotSaved { what: WHAT, cause: error.to_string() }));
            }
        };
        self.table.delete_group(&delete.group);
        self.expiry.forget(&delete.group);
        self.show_resets();
        info!(group = %delete.group, deleted, "consumer offsets deleted");
        self.answer((), WHAT, ctx)
    }
}

impl Handler<TopicDeleted> for ConsumerOffsets {
    type Result = ();

    fn handle(&mut self, deleted: TopicDeleted, _: &mut Self::Context) {
        self.table.delete_topic(&deleted.topic);
        self.show_resets();
        if let Err(error) = self.stored.delete_topic(&deleted.topic) {
            error!(topic = %deleted.topic, %error, "offsets of a deleted topic remain, and are back after a restart");
        }
    }
}

impl Handler<ObserveOffsets> for ConsumerOffsets {
    type Result = OffsetsObserved;

    fn handle(&mut self, _: ObserveOffsets, _: &mut Self::Context) -> Self::Result {
        OffsetsObserved {
            offsets: self.table.len(),
            pending_resets: self.table.pending_resets(),
            has_unsaved: self.table.has_unsaved(),
        }
    }
}

#[cfg(test)]
mod tests;
