//! What may be asked of a message queue: its extent, where a time lies in it, units and records. Answering changes
//! nothing.

use actix::prelude::*;
use bytes::Bytes;
use serde_json::{Value, json};

use super::TopicQueue;
use super::holds::HeldFor;
use crate::error::Refusal;
use crate::store::consume_queue::{ConsumeQueueUnit, TimeBoundary};
use crate::types::{PhysicalOffset, QueueOffset};

impl TopicQueue {
    /// For who looks at the actors.
    pub(super) fn facts(&self) -> Value {
        json!({
            "next": self.next.0,
            "waitingSends": self.waiting.len(),
            "appendInWork": self.in_work.is_some(),
            "waitForDisk": self.unflushed.len(),
            "unwrittenUnits": self.unwritten.iter().map(|dispatched| dispatched.units.len()).sum::<usize>(),
            "holds": self.holds.len(),
            "holdsForTurn": self.holds.iter().filter(|hold| hold.held_for == HeldFor::Turn).count(),
            "compacted": self.compacted_figures(),
            "refusesFor": self.queue.as_ref().err(),
        })
    }
}

/// The extent of the queue: `[min, max)`.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "QueueExtent")]
pub struct QueryExtent;

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueExtent {
    pub min: QueueOffset,
    pub max: QueueOffset,
    /// Store time of the newest message, ms; `None` while the queue is empty.
    pub last_stored_at_ms: Option<i64>,
    /// The message at offset 0 is there and young enough to be in memory: new groups begin at 0.
    pub begins_young: bool,
}

/// The first offset stored at or after a time (LOWER), or the last at or before it (UPPER).
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<QueueOffset, Refusal>")]
pub struct SearchOffsetByTime {
    pub timestamp_ms: i64,
    pub upper: bool,
}

/// Store time of the message at an offset, ms; `None` when it is not there.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Option<i64>")]
pub struct QueryStoredAt {
    pub offset: QueueOffset,
}

/// Where in the log the first message at or behind an offset begins; `None` when there is none.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<Option<PhysicalOffset>, Refusal>")]
pub struct LocateOffset {
    pub offset: QueueOffset,
}

/// The records of up to `max` messages from `offset` on, as they lie in the log.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Vec<Bytes>")]
pub struct ReadRecords {
    pub offset: QueueOffset,
    pub max: u32,
}

/// Up to `max` units from `offset` on.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Vec<ConsumeQueueUnit>")]
pub struct ReadUnits {
    pub offset: QueueOffset,
    pub max: u32,
}

impl TopicQueue {
    /// The offset a time stands for, by what the log has.
    pub(super) fn queue_offset_by_time(
        &mut self,
        timestamp_ms: i64,
        boundary: TimeBoundary,
    ) -> Result<QueueOffset, Refusal> {
        let log = self.parts.log.clone();
        let queue = self.queue.as_mut().map_err(|cause| Refusal::StoreFailed { cause: cause.clone() })?;
        queue
            .offset_by_time(timestamp_ms, boundary, |at, _| log.store_time_at(at).map(|at| at.0))
            .map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// Whether message 0 is there, and close enough to the end of the log to be in memory.
    fn begins_young(&mut self) -> bool {
        let near = self.parts.log.published().0.saturating_sub(self.parts.config.in_memory_bytes);
        let Ok(queue) = &mut self.queue else { return false };
        if queue.min_offset() > QueueOffset(0) {
            return false;
        }
        self.units.clear();
        if queue.read(QueueOffset(0), 1, &mut self.units).is_err() {
            return false;
        }
        // An empty queue begins now.
        self.units.first().is_none_or(|unit| unit.physical_offset.0 >= near)
    }
}

impl Handler<QueryExtent> for TopicQueue {
    type Result = QueueExtent;

    fn handle(&mut self, _: QueryExtent, _: &mut Self::Context) -> QueueExtent {
        self.expire_and_tell();
        // One that cannot be opened has said so; the queue is told as the log has it.
        let _ = self.compacted();
        let (min, max) = self.extent();
        let last_stored_at_ms = self.last_stored_at_ms.filter(|_| max > min);
        QueueExtent { min, max, last_stored_at_ms, begins_young: self.begins_young() }
    }
}

impl Handler<SearchOffsetByTime> for TopicQueue {
    type Result = Result<QueueOffset, Refusal>;

    fn handle(&mut self, search: SearchOffsetByTime, _: &mut Self::Context) -> Self::Result {
        self.expire_and_tell();
        let boundary = if search.upper { TimeBoundary::Upper } else { TimeBoundary::Lower };
        match self.compacted_offset_by_time(search.timestamp_ms, boundary)? {
            Some(offset) => Ok(offset),
            None => self.queue_offset_by_time(search.timestamp_ms, boundary),
        }
    }
}

impl Handler<QueryStoredAt> for TopicQueue {
    type Result = Option<i64>;

    fn handle(&mut self, query: QueryStoredAt, _: &mut Self::Context) -> Self::Result {
        self.expire_and_tell();
        // In the place of one that is gone stands the one behind it.
        if let Some(unit) = self.compacted().ok()?.and_then(|compacted| compacted.first_from(query.offset)) {
            return Some(unit.stored_at_ms);
        }
        self.units.clear();
        self.queue.as_mut().ok()?.read(query.offset, 1, &mut self.units).ok()?;
        self.parts.log.store_time_at(self.units.first()?.physical_offset).map(|at| at.0)
    }
}

impl Handler<ReadUnits> for TopicQueue {
    type Result = Vec<ConsumeQueueUnit>;

    fn handle(&mut self, read: ReadUnits, _: &mut Self::Context) -> Self::Result {
        self.expire_and_tell();
        let mut units = Vec::new();
        if let Ok(queue) = &mut self.queue {
            // What cannot be read now is asked for again.
            let _ = queue.read(read.offset, read.max as usize, &mut units);
        }
        units
    }
}

impl Handler<LocateOffset> for TopicQueue {
    type Result = Result<Option<PhysicalOffset>, Refusal>;

    fn handle(&mut self, locate: LocateOffset, _: &mut Self::Context) -> Self::Result {
        // What is copied outlives the log.
        let copied_to = self.compacted()?.map(|compacted| compacted.copied_to());
        let offset = locate.offset.max(copied_to.unwrap_or_default());
        let queue = self.queue.as_mut().map_err(|cause| Refusal::StoreFailed { cause: cause.clone() })?;
        queue.locate(offset).map_err(|error| Refusal::Failed(error.to_string()))
    }
}

impl Handler<ReadRecords> for TopicQueue {
    type Result = Vec<Bytes>;

    fn handle(&mut self, read: ReadRecords, ctx: &mut Self::Context) -> Self::Result {
        if let Ok(Some(compacted)) = self.compacted()
            && read.offset < compacted.copied_to()
        {
            return compacted.read(read.offset, read.max as usize);
        }
        let units = self.handle(ReadUnits { offset: read.offset, max: read.max }, ctx);
        units
            .iter()
            .filter(|unit| !unit.is_gap())
            .filter_map(|unit| self.parts.log.read(unit.physical_offset, unit.size_bytes as usize))
            .collect()
    }
}
