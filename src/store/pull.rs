//! Reading a queue: what a pull is answered with.
//!
//! RocketMQ: `DefaultMessageStore.getMessage`. Pure but for the reads of the queue and the log.

use std::sync::Arc;

use bytes::Bytes;

use super::commit_log::CommitLogReader;
use super::consume_queue::{ConsumeQueue, ConsumeQueueError, ConsumeQueueUnit};
use crate::protocol::properties;
use crate::types::QueueOffset;

/// Which messages a consumer wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum MessageFilter {
    #[default]
    All,
    Tags(Arc<TagFilter>),
}

/// A set of tags; matched by hash in the queue and by text in the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagFilter {
    tags: Vec<(i64, String)>,
}

impl TagFilter {
    /// `codes` are sign-extended Java hashes of the tags.
    pub fn new(tags: impl IntoIterator<Item = String>) -> Self {
        let with_code = |tag: String| (properties::tags_code(Some(&tag)), tag);
        Self { tags: tags.into_iter().map(with_code).collect() }
    }

    fn has_code(&self, tags_code: i64) -> bool {
        self.tags.iter().any(|(code, _)| *code == tags_code)
    }

    fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|(_, wanted)| wanted == tag)
    }
}

impl MessageFilter {
    /// Whether a message with this hash may match; the text decides.
    pub fn may_match(&self, tags_code: i64) -> bool {
        match self {
            MessageFilter::All => true,
            MessageFilter::Tags(filter) => filter.has_code(tags_code),
        }
    }

    /// Whether the record matches, by its text.
    fn matches_record(&self, log: &CommitLogReader, unit: &ConsumeQueueUnit) -> bool {
        let MessageFilter::Tags(filter) = self else { return true };
        let matches = log.with_record(unit.physical_offset, |record| {
            properties::get(record.properties(), properties::names::TAGS)
                .is_some_and(|tag| filter.has_tag(tag))
        });
        // A record that is gone is skipped where it is read.
        matches.unwrap_or(true)
    }
}

/// Limits of one answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PullLimits {
    /// Messages of an answer, whatever the client asks for.
    pub max_messages: usize,
    /// Bytes of an answer; the first message is returned whatever its size.
    pub max_bytes: usize,
    /// Units looked at when few of them match.
    pub max_scanned_units: usize,
}

impl Default for PullLimits {
    fn default() -> Self {
        Self { max_messages: 1024, max_bytes: 1024 * 1024, max_scanned_units: 800 }
    }
}

/// How a pull ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PullStatus {
    Found,
    /// In range, but nothing matched.
    NoMatchedMessage,
    /// In range, but what matched is deleted from the log.
    MessageWasRemoving,
    /// Nothing was ever stored in the queue.
    NoMessageInQueue,
    /// At the end: a message may come any moment. The only one that is held.
    OffsetOverflowOne,
    OffsetOverflowBadly,
    OffsetTooSmall,
}

impl PullStatus {
    /// Java's name of it; clients show it.
    pub fn name(self) -> &'static str {
        match self {
            PullStatus::Found => "FOUND",
            PullStatus::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            PullStatus::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            PullStatus::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            PullStatus::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            PullStatus::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            PullStatus::OffsetTooSmall => "OFFSET_TOO_SMALL",
        }
    }
}

/// What a pull found.
#[derive(Clone, PartialEq, Debug)]
pub struct Pulled {
    pub status: PullStatus,
    /// Where to pull next.
    pub next: QueueOffset,
    /// Records, slices of the log; neighbours in one slice.
    pub records: Vec<Bytes>,
    pub count: usize,
    pub bytes: usize,
}

impl Pulled {
    fn nothing(status: PullStatus, next: QueueOffset) -> Self {
        Self { status, next, records: Vec::new(), count: 0, bytes: 0 }
    }
}

/// Reads up to `max_messages` messages that match `filter` from `from` on; a negative `from` is before the queue.
pub fn pull(
    queue: &mut ConsumeQueue,
    log: &CommitLogReader,
    from: i64,
    max_messages: usize,
    filter: &MessageFilter,
    limits: PullLimits,
    units: &mut Vec<ConsumeQueueUnit>,
) -> Result<Pulled, ConsumeQueueError> {
    let (min, max) = (queue.min_offset(), queue.max_offset());
    if max == QueueOffset(0) {
        return Ok(Pulled::nothing(PullStatus::NoMessageInQueue, QueueOffset(0)));
    }
    let from = match u64::try_from(from) {
        Ok(from) if from >= min.0 => QueueOffset(from),
        _ => return Ok(Pulled::nothing(PullStatus::OffsetTooSmall, min)),
    };
    if from == max {
        return Ok(Pulled::nothing(PullStatus::OffsetOverflowOne, max));
    }
    if from > max {
        return Ok(Pulled::nothing(PullStatus::OffsetOverflowBadly, max));
    }

    let max_messages = max_messages.clamp(1, limits.max_messages);
    let scanned = match filter {
        MessageFilter::All => max_messages,
        MessageFilter::Tags(_) => limits.max_scanned_units.max(max_messages),
    };
    units.clear();
    queue.read(from, scanned, units)?;

    let mut found = Pulled::nothing(PullStatus::NoMatchedMessage, from);
    let mut run = Run::default();
    let log_min = log.min_offset();
    for unit in units.iter() {
        let size = unit.size_bytes as usize;
        if unit.physical_offset < log_min || unit.is_filler() {
            found.status = PullStatus::MessageWasRemoving;
            found.next = found.next.advance(1);
            continue;
        }
        if filter.may_match(unit.tags_code) && filter.matches_record(log, unit) {
            if found.count > 0 && (found.count == max_messages || found.bytes + size > limits.max_bytes) {
                break;
            }
            run.push(unit, log, &mut found.records);
            found.count += 1;
            found.bytes += size;
        }
        found.next = found.next.advance(1);
        if found.count == max_messages {
            break;
        }
    }
    run.finish(log, &mut found.records);
    // What was deleted between the look at the minimum and the read is not in the answer.
    found.bytes = found.records.iter().map(Bytes::len).sum();
    if !found.records.is_empty() {
        found.status = PullStatus::Found;
    } else if found.count > 0 {
        found.status = PullStatus::MessageWasRemoving;
    }
    Ok(found)
}

/// Neighbouring records, read as one slice.
#[derive(Default)]
struct Run {
    start: crate::types::PhysicalOffset,
    len: usize,
}

impl Run {
    fn push(&mut self, unit: &ConsumeQueueUnit, log: &CommitLogReader, records: &mut Vec<Bytes>) {
        if self.len > 0
            && (unit.physical_offset != self.start.advance(self.len as u64)
                || unit.physical_offset.0.is_multiple_of(log.segment_bytes()))
        {
            self.finish(log, records);
        }
        if self.len == 0 {
            self.start = unit.physical_offset;
        }
        self.len += unit.size_bytes as usize;
    }

    fn finish(&mut self, log: &CommitLogReader, records: &mut Vec<Bytes>) {
        if self.len > 0 {
            records.extend(log.read(self.start, self.len));
            self.len = 0;
        }
    }
}
