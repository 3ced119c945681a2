//! What a queue of a compacted topic does beside: its messages are copied to a compacted log, read from there as far as
//! they were, and from the commit log beyond. See [`CompactedLog`].
//!
//! It is opened when it is first asked for, which is after all that was stored is dispatched: only then is it known
//! which messages are in the queue.

use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix::prelude::*;
use tracing::{error, warn};

use super::{PullMessages, TopicQueue, WRITE_PAUSE};
use crate::actors::context::Context;
use crate::error::Refusal;
use crate::protocol::message::RecordView;
use crate::store::compacted_log::{
    CompactedDirs, CompactedLog, CompactedSizes, KeyedRecord, QueueBounds, Rewrite, Rewritten, Segment,
    SegmentCheck, key_of, pull_compacted,
};
use crate::store::consume_queue::TimeBoundary;
use crate::store::pull::{PullStatus, Pulled, pull};
use crate::types::{PhysicalOffset, QueueOffset};

/// Copied in one turn, at most: messages, and bytes of them but for the last.
const COPY_UNITS: usize = 1024;
const COPY_BYTES: usize = 1 << 20;
/// Turns' worth that is copied at once for who waits for it.
const COPIES_AT_ONCE: usize = 64;

/// What the queues of compacted topics are told; the same for all of a broker.
#[derive(Clone, Debug)]
pub struct CompactionParts {
    /// Of the store.
    pub root: PathBuf,
    pub sizes: CompactedSizes,
    pub check: SegmentCheck,
}

/// The compacted log of a queue.
#[derive(Debug)]
pub(super) enum Compaction {
    /// The topic has none.
    None,
    NotOpen,
    Open(CompactedLog),
}

/// Asks for what there is to rewrite; `None`: nothing. Losing it leaves that to the next round.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<Option<Box<Rewrite>>, Refusal>")]
pub struct BeginRewrite {
    pub compacted_to: Option<QueueOffset>,
    pub memory_bytes: usize,
    pub cancelled: Arc<AtomicBool>,
}

/// Ends what [`BeginRewrite`] began. Losing it leaves the queue reading files that nobody else has any more; the next
/// start finds the new ones.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct EndRewrite {
    pub boundary: u64,
    /// `None`: it failed, perhaps in the middle of a swap.
    pub rewritten: Option<Rewritten>,
}

/// Copies what is not copied yet, and hands over what is to be synced. Losing it makes retention wait.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<TakenCopies, Refusal>")]
pub struct TakeCopies;

#[derive(Debug, Default)]
pub struct TakenCopies {
    pub segments: Vec<Segment>,
    pub dirs: Option<CompactedDirs>,
    /// Where in the log the first message lies that is not copied; `None`: all are.
    pub oldest_uncopied: Option<PhysicalOffset>,
}

/// Asks for figures; `None`: the topic is not compacted.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<Option<CompactedFigures>, Refusal>")]
pub struct QueryCompacted;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CompactedFigures {
    pub records: usize,
    pub used_bytes: u64,
    pub segments: usize,
    pub copied_to: QueueOffset,
}

/// Goes on copying. A queue tells it itself; what is not copied is read from the log, which keeps it.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct CopyDue;

impl TopicQueue {
    pub(super) fn is_compacted(&self) -> bool {
        !matches!(self.compaction, Compaction::None)
    }

    /// `None`: the topic is not compacted, or nobody has asked for its compacted log yet.
    pub(super) fn compacted_figures(&self) -> Option<CompactedFigures> {
        let Compaction::Open(compacted) = &self.compaction else { return None };
        Some(CompactedFigures {
            records: compacted.records(),
            used_bytes: compacted.used_bytes(),
            segments: compacted.segments().len(),
            copied_to: compacted.copied_to(),
        })
    }

    /// The compacted log, opened now if it was not; `None`: the topic has none.
    pub(super) fn compacted(&mut self) -> Result<Option<&mut CompactedLog>, Refusal> {
        if matches!(self.compaction, Compaction::NotOpen) {
            let opened = self.open_compacted().inspect_err(|cause| {
                error!(topic = %self.topic, queue_id = self.queue_id.0, cause, "compacted log cannot be opened");
            });
            self.compaction = Compaction::Open(opened.map_err(|cause| Refusal::StoreFailed { cause })?);
        }
        match &mut self.compaction {
            Compaction::Open(compacted) => Ok(Some(compacted)),
            Compaction::None | Compaction::NotOpen => Ok(None),
        }
    }

    fn compaction_parts(&self) -> Option<&CompactionParts> {
        self.parts.compaction.as_ref().filter(|_| self.is_compacted())
    }

    fn compacted_dirs(&self) -> Option<CompactedDirs> {
        let parts = self.compaction_parts()?;
        Some(CompactedDirs::of(self.parts.files.clone(), &parts.root, &self.topic, self.queue_id))
    }

    fn open_compacted(&mut self) -> Result<CompactedLog, String> {
        let dirs = self.compacted_dirs().ok_or("the topic is not compacted")?;
        let CompactionParts { sizes, check, .. } =
            *self.compaction_parts().ok_or("the topic is not compacted")?;
        let queue = self.queue.as_mut().map_err(|cause| cause.clone())?;
        // A queue without any number says nothing of what was in it.
        let end = Some(queue.max_offset()).filter(|max| *max > QueueOffset(0));
        let bounds = QueueBounds { log_from: queue.min_offset(), end };
        let opened = CompactedLog::open(dirs, sizes, check, bounds).map_err(|error| error.to_string())?;
        if end.is_none() {
            queue.continue_at(opened.copied_to()).map_err(|error| error.to_string())?;
            self.next = self.next.max(queue.max_offset());
        }
        Ok(opened)
    }

    /// `[min, max)` of a queue whose compacted log is open.
    pub(super) fn compacted_extent(&self) -> Option<(QueueOffset, QueueOffset)> {
        let (Compaction::Open(compacted), Ok(queue)) = (&self.compaction, &self.queue) else { return None };
        let max = queue.max_offset();
        let uncopied = compacted.copied_to().max(queue.min_offset()).min(max);
        Some((compacted.min_offset().unwrap_or(uncopied), max))
    }

    /// The outcome of a pull now.
    pub(super) fn pull_compacted_now(&mut self, request: &PullMessages) -> Result<Pulled, Refusal> {
        self.compacted()?;
        let Some((min, max)) = self.compacted_extent() else {
            return Err(self
                .refused()
                .unwrap_or_else(|| Refusal::Failed("the compacted log is not open".into())));
        };
        // What lies before the first message is no error: that is what compacting does.
        let from = QueueOffset(u64::try_from(request.from).unwrap_or(0));
        if max == QueueOffset(0) {
            return Ok(Pulled::nothing(PullStatus::NoMessageInQueue, QueueOffset(0)));
        }
        if from == max {
            return Ok(Pulled::nothing(PullStatus::OffsetOverflowOne, max));
        }
        if from > max {
            let next = if min == QueueOffset(0) { min } else { max };
            return Ok(Pulled::nothing(PullStatus::OffsetOverflowBadly, next));
        }
        let (Compaction::Open(compacted), Ok(queue)) = (&self.compaction, &mut self.queue) else {
            return Err(Refusal::Failed("the compacted log is not open".into()));
        };
        let PullMessages { max_messages, filter, .. } = request;
        let limits = self.parts.config.pull;
        if from < compacted.copied_to() {
            let found = pull_compacted(compacted, from, *max_messages, filter, limits);
            if found.count > 0 || found.next < compacted.copied_to() || found.next >= max {
                return Ok(found);
            }
        }
        let from = from.max(compacted.copied_to()).max(queue.min_offset()).0 as i64;
        let (log, units) = (&self.parts.log, &mut self.units);
        pull(queue, log, from, *max_messages, filter, limits, units).map_err(|error| {
            error!(topic = %self.topic, queue_id = self.queue_id.0, %error, "queue cannot be read");
            Refusal::Failed(error.to_string())
        })
    }

    /// The offset a time stands for; the log answers for what is not copied.
    pub(super) fn compacted_offset_by_time(
        &mut self,
        timestamp_ms: i64,
        boundary: TimeBoundary,
    ) -> Result<Option<QueueOffset>, Refusal> {
        let Some(compacted) = self.compacted()? else { return Ok(None) };
        let (copied, copied_to) = (compacted.offset_by_time(timestamp_ms, boundary), compacted.copied_to());
        let Some((min, max)) = self.compacted_extent() else { return Ok(None) };
        let uncopied =
            (copied_to < max).then(|| self.queue_offset_by_time(timestamp_ms, boundary)).transpose()?;
        let uncopied = uncopied.filter(|offset| *offset >= copied_to);
        Ok(Some(match boundary {
            TimeBoundary::Lower => copied.or(uncopied).unwrap_or(max),
            TimeBoundary::Upper => uncopied.or(copied).unwrap_or(min),
        }))
    }

    /// Copies what was dispatched, a bounded part of it; the rest in turns to come.
    pub(super) fn go_on_copying(&mut self, ctx: &mut Context<Self>) {
        if self.copies_later {
            return;
        }
        match self.copy_some() {
            Ok(false) => {}
            Ok(true) => {
                self.copies_later = true;
                ctx.notify(CopyDue);
            }
            Err(cause) => {
                // Nothing is lost: until they are copied messages are read from the log, and the log keeps them.
                error!(topic = %self.topic, queue_id = self.queue_id.0, cause, "messages cannot be copied to the compacted log, trying again");
                self.copies_later = true;
                ctx.run_later(WRITE_PAUSE, |queue, ctx| {
                    queue.copies_later = false;
                    queue.go_on_copying(ctx);
                });
            }
        }
    }

    /// Returns whether there is more.
    fn copy_some(&mut self) -> Result<bool, String> {
        let (Compaction::Open(compacted), Ok(queue)) = (&mut self.compaction, &mut self.queue) else {
            return Ok(false);
        };
        let mut next = compacted.copied_to().max(queue.min_offset());
        self.units.clear();
        queue.read(next, COPY_UNITS, &mut self.units).map_err(|error| error.to_string())?;
        let (mut records, mut bytes, mut left_out) = (Vec::with_capacity(self.units.len()), 0, 0);
        for unit in &self.units {
            if bytes >= COPY_BYTES {
                break;
            }
            let offset = next;
            next = next.advance(1);
            let record = self.parts.log.read(unit.physical_offset, unit.size_bytes as usize);
            let Some(record) = record.filter(|_| !unit.is_gap() && !unit.is_filler()) else { continue };
            match RecordView::parse(&record) {
                Ok(view) if view.queue_offset() == offset && key_of(&view).is_some() => {
                    let (tags_code, stored_at_ms) = (unit.tags_code, view.stored_at_ms());
                    bytes += record.len();
                    records.push(KeyedRecord { record, queue_offset: offset, tags_code, stored_at_ms });
                }
                Ok(_) | Err(_) => left_out += 1,
            }
        }
        if left_out > 0 {
            warn!(topic = %self.topic, queue_id = self.queue_id.0, count = left_out, "messages without a key are left out of the compacted log");
        }
        compacted.append(&records).map_err(|error| error.to_string())?;
        compacted.pass(next);
        Ok(next < queue.max_offset())
    }

    /// Removes the compacted log; the topic is gone.
    pub(super) fn destroy_compacted(&mut self) {
        let dirs = self.compacted_dirs();
        self.compaction = Compaction::None;
        if let Some(Err(error)) = dirs.map(|dirs| dirs.remove_all()) {
            warn!(topic = %self.topic, queue_id = self.queue_id.0, %error, "compacted files of a deleted queue remain");
        }
    }
}

impl Handler<CopyDue> for TopicQueue {
    type Result = ();

    fn handle(&mut self, _: CopyDue, ctx: &mut Self::Context) {
        self.copies_later = false;
        self.go_on_copying(ctx);
    }
}

impl Handler<BeginRewrite> for TopicQueue {
    type Result = Result<Option<Box<Rewrite>>, Refusal>;

    fn handle(&mut self, begin: BeginRewrite, ctx: &mut Self::Context) -> Self::Result {
        self.compacted()?;
        self.go_on_copying(ctx);
        let Some(compacted) = self.compacted()? else { return Ok(None) };
        let (closed, boundary) = compacted.closed();
        let compacted_to = begin.compacted_to.filter(|position| compacted.can_be_compacted_to(*position));
        let newest = closed.iter().rev().find_map(Segment::last).map(|unit| unit.queue_offset);
        let (dirs, sizes) = (compacted.dirs().clone(), compacted.sizes());
        if newest.is_none() || newest <= compacted_to {
            return Ok(None);
        }
        let BeginRewrite { memory_bytes, cancelled, .. } = begin;
        Ok(Some(Box::new(Rewrite { dirs, sizes, closed, boundary, compacted_to, memory_bytes, cancelled })))
    }
}

impl Handler<EndRewrite> for TopicQueue {
    type Result = ();

    fn handle(&mut self, end: EndRewrite, _: &mut Self::Context) {
        match (&mut self.compaction, end.rewritten) {
            (Compaction::Open(compacted), Some(rewritten)) => {
                compacted.replace(rewritten.segments, end.boundary)
            }
            // Opened anew, it finishes a swap that was told.
            (Compaction::Open(_), None) => self.compaction = Compaction::NotOpen,
            (Compaction::None | Compaction::NotOpen, _) => {}
        }
    }
}

impl Handler<TakeCopies> for TopicQueue {
    type Result = Result<TakenCopies, Refusal>;

    fn handle(&mut self, _: TakeCopies, ctx: &mut Self::Context) -> Self::Result {
        if self.compacted()?.is_none() {
            return Ok(TakenCopies::default());
        }
        for _ in 0..COPIES_AT_ONCE {
            if !self.copy_some().map_err(|cause| Refusal::StoreFailed { cause })? {
                break;
            }
        }
        self.go_on_copying(ctx);
        let Some(compacted) = self.compacted()? else { return Ok(TakenCopies::default()) };
        let unsealed = compacted.segments().iter().filter(|segment| !segment.is_sealed());
        let segments: Vec<Segment> = unsealed.cloned().collect();
        let (dirs, copied_to) = (compacted.dirs().clone(), compacted.copied_to());
        let queue = self.queue.as_mut().map_err(|cause| Refusal::StoreFailed { cause: cause.clone() })?;
        let oldest = queue.locate(copied_to).map_err(|error| Refusal::Failed(error.to_string()))?;
        Ok(TakenCopies { segments, dirs: Some(dirs), oldest_uncopied: oldest })
    }
}

impl Handler<QueryCompacted> for TopicQueue {
    type Result = Result<Option<CompactedFigures>, Refusal>;

    fn handle(&mut self, _: QueryCompacted, _: &mut Self::Context) -> Self::Result {
        self.compacted()?;
        Ok(self.compacted_figures())
    }
}
