//! The index of one message queue: unit number n says where in the commit log its n-th message lies.
//!
//! Units lie in segment files of equal size, named by their first byte, byte for byte as Java writes them:
//!
//! ```text
//! consumequeue/TOPIC/QUEUE/00000000000000000000   units [0, 300000)
//!                          00000000000006000000   units [300000, 600000)
//! ```
//!
//! A segment is created in its full length without taking room, so zeros mean "never written". Reads and
//! writes are positioned: a queue holds no map, and no open file until it is used. RocketMQ: `ConsumeQueue`.
//!
//! The newest units are in memory alone, and are written many at once: when there are enough, and before a check
//! point. A crash loses nothing by it, since everything behind the check point is dispatched again.
//!
//! Everything here is derived from the commit log. After a crash the queue is opened with the physical offset
//! up to which it had been flushed; what lies beyond is dropped and dispatched again.

mod glance;
mod segments;
mod unit;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use glance::QueueGlance;
use segments::Segments;
pub use segments::Unflushed;
use tracing::warn;
pub use unit::{ConsumeQueueUnit, UNIT_BYTES};

use serde::{Deserialize, Serialize};

use super::file::{FileSystem, StoreFiles};
use crate::protocol::message::MIN_RECORD_BYTES;
use crate::types::{PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Sizes of the files of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumeQueueConfig {
    /// Units of a segment. RocketMQ: `mappedFileSizeConsumeQueue` / 20.
    pub segment_units: u64,
    /// Units that are in no file yet, at most; 0: each is written at once.
    pub max_unwritten_units: usize,
}

impl Default for ConsumeQueueConfig {
    fn default() -> Self {
        Self { segment_units: 300_000, max_unwritten_units: 256 }
    }
}

/// Why a queue cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeQueueError {
    /// The disk refused; whoever dispatches tries again or stops.
    #[error("cannot access consume queue file {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// More units are missing before what was to be appended than the log has room for: the number is damaged.
    #[error("consume queue {} ends at {end}, the log cannot hold a message {first}", dir.display())]
    Gap { dir: PathBuf, end: QueueOffset, first: QueueOffset },
    /// Written with another segment size, or damaged.
    #[error("consume queue file {} has {len_bytes} bytes instead of {expected_bytes}", path.display())]
    UnexpectedLength { path: PathBuf, len_bytes: u64, expected_bytes: u64 },
    /// The files do not follow one another.
    #[error("consume queue file {} is missing or misnamed", path.display())]
    MissingSegment { path: PathBuf },
    /// A unit within the queue was never written: the file is damaged, and the queue is to be rebuilt.
    #[error("consume queue {} has no unit at {offset}", dir.display())]
    EmptyUnit { dir: PathBuf, offset: QueueOffset },
}

/// What became of an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendOutcome {
    pub appended: usize,
    /// Units that were there already, and were left as they are.
    pub duplicates: usize,
    /// Numbers before the appended units whose messages are lost; pulls pass them.
    pub lost: u64,
    /// The number the next unit will have.
    pub end: QueueOffset,
}

/// What is kept of a queue at a check point, so that a start can tell that files are missing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KnownQueue {
    /// Segments that exist, counted from the one that holds unit 0.
    pub segments: Range<u64>,
    /// The number the next unit will have.
    pub max: u64,
    /// Where the messages of the first readable and of the last unit lie; 0 without units.
    pub first_physical: u64,
    pub last_physical: u64,
}

/// Which of several messages a time means. RocketMQ: `BoundaryType`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimeBoundary {
    /// The first message stored at or after the time.
    #[default]
    Lower,
    /// The last message stored at or before the time.
    Upper,
}

/// Units `[min, max)` of one message queue. One owner reads and writes, and flushes before it lets go: a queue
/// opened again does not know what its last owner left unflushed.
#[derive(Debug)]
pub struct ConsumeQueue {
    segments: Segments,
    /// The end of the units that are in files; the start of the segments when there are none.
    written: QueueOffset,
    /// The newest units, up to `max`, which are in no file yet.
    unwritten: Vec<ConsumeQueueUnit>,
    max_unwritten_units: usize,
    min: QueueOffset,
    max: QueueOffset,
}

impl ConsumeQueue {
    /// Opens the queue in `dir`, or begins an empty one that makes no file before its first unit.
    ///
    /// `truncate_at` is for a start after a crash: units at or beyond it are dropped. It must not be above the
    /// position whose units had been flushed, since a crash may leave holes between units that had not.
    pub fn open(
        files: Arc<dyn StoreFiles>,
        dir: PathBuf,
        config: ConsumeQueueConfig,
        truncate_at: Option<PhysicalOffset>,
    ) -> Result<Self, ConsumeQueueError> {
        let mut segments = Segments::open(files, dir, config.segment_units)?;
        let max = match truncate_at {
            Some(at) => segments.truncate(at)?,
            None => segments.find_end(|_unit| true)?,
        };
        let mut queue = Self::of(segments, max, config)?;
        queue.close_files();
        Ok(queue)
    }

    /// The queue that `segments` hold, up to `max`.
    fn of(
        segments: Segments,
        max: QueueOffset,
        config: ConsumeQueueConfig,
    ) -> Result<Self, ConsumeQueueError> {
        let mut queue = Self {
            min: segments.units().start,
            written: max,
            max,
            unwritten: Vec::new(),
            max_unwritten_units: config.max_unwritten_units,
            segments,
        };
        queue.min = queue.search(|unit| unit.is_filler())?;
        Ok(queue)
    }

    /// First unit whose message may still be read.
    pub fn min_offset(&self) -> QueueOffset {
        self.min
    }

    /// The number the next unit will have.
    pub fn max_offset(&self) -> QueueOffset {
        self.max
    }

    /// Where in the commit log the message of the last unit ends; `None` without units.
    pub fn max_physical(&mut self) -> Result<Option<PhysicalOffset>, ConsumeQueueError> {
        Ok(self.last_unit()?.map(|unit| unit.end()))
    }

    /// The last unit, even when its message is gone; `None` when there never was one.
    pub fn last_unit(&mut self) -> Result<Option<ConsumeQueueUnit>, ConsumeQueueError> {
        if !self.has_units() {
            return Ok(None);
        }
        let unit = self.unit_at(QueueOffset(self.max.0 - 1))?;
        Ok(Some(unit).filter(|unit| !unit.is_filler()))
    }

    /// Whether there is any unit, fillers included. A file without is what a write that failed left behind.
    fn has_units(&self) -> bool {
        !self.unwritten.is_empty() || self.has_written_units()
    }

    fn has_written_units(&self) -> bool {
        !self.segments.is_empty() && self.written > self.segments.units().start
    }

    /// Number of the first unit that is in no file.
    fn first_unwritten(&self) -> QueueOffset {
        QueueOffset(self.max.0 - self.unwritten.len() as u64)
    }

    /// The unit with number `at`, below max.
    fn unit_at(&mut self, at: QueueOffset) -> Result<ConsumeQueueUnit, ConsumeQueueError> {
        match at.0.checked_sub(self.first_unwritten().0) {
            Some(n) => Ok(self.unwritten[n as usize]),
            None => self.segments.read_one(at),
        }
    }

    /// Appends `units`, the first of which has number `first`.
    ///
    /// Units that the queue already has are left alone. The very first append may begin anywhere: its segment
    /// is filled up to there, as in Java. A later one that leaves numbers out has lost them to damage in the log;
    /// gaps take their places. After an error nothing has been appended.
    pub fn append(
        &mut self,
        first: QueueOffset,
        units: &[ConsumeQueueUnit],
    ) -> Result<AppendOutcome, ConsumeQueueError> {
        let begins = !self.has_units() && first >= self.max;
        let duplicates =
            if begins { 0 } else { (self.max.0.saturating_sub(first.0) as usize).min(units.len()) };
        let lost = if begins { 0 } else { first.0.saturating_sub(self.max.0) };
        let fresh = &units[duplicates..];
        let Some(next) = fresh.first() else {
            return Ok(AppendOutcome { appended: 0, duplicates, lost: 0, end: self.max });
        };
        let before = (self.min, self.max, self.unwritten.len());
        if lost > 0 {
            self.fill_gap(first, next)?;
        }
        if begins {
            (self.min, self.max) = (first, first);
        }
        if self.unwritten.capacity() - self.unwritten.len() < fresh.len() {
            // By a quarter rather than doubled: a broker may have very many queues with a few units each.
            self.unwritten.reserve_exact(fresh.len().max(self.unwritten.len() / 4 + 4));
        }
        self.unwritten.extend_from_slice(fresh);
        self.max = self.max.advance(fresh.len() as u64);
        if self.unwritten.len() > self.max_unwritten_units
            && let Err(error) = self.write()
        {
            (self.min, self.max) = (before.0, before.1);
            self.unwritten.truncate(before.2);
            return Err(error);
        }
        Ok(AppendOutcome { appended: fresh.len(), duplicates, lost, end: self.max })
    }

    /// Writes the units that are in no file yet, with one write per segment touched.
    fn write(&mut self) -> Result<(), ConsumeQueueError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        if !self.has_written_units() {
            self.segments.remove_all()?;
            self.written = self.segments.units().start;
        }
        self.segments.write(self.first_unwritten(), &self.unwritten)?;
        self.written = self.max;
        self.unwritten = Vec::new(); // most queues of a broker rest for long
        Ok(())
    }

    /// Takes the numbers up to `first`, whose unit will be `next`.
    fn fill_gap(&mut self, first: QueueOffset, next: &ConsumeQueueUnit) -> Result<(), ConsumeQueueError> {
        let lost = first.0 - self.max.0;
        let filling = match self.last_unit()? {
            // What lies before the first message is no gap.
            None => ConsumeQueueUnit::FILLER,
            Some(last) => {
                let room = next.physical_offset.0.saturating_sub(last.end().0);
                if lost > room / MIN_RECORD_BYTES as u64 {
                    let dir = self.segments.dir().to_owned();
                    return Err(ConsumeQueueError::Gap { dir, end: self.max, first });
                }
                ConsumeQueueUnit { tags_code: ConsumeQueueUnit::GAP_TAGS, ..*next }
            }
        };
        self.unwritten.resize(self.unwritten.len() + lost as usize, filling);
        if self.min == self.max && filling.is_filler() {
            self.min = first;
        }
        self.max = first;
        Ok(())
    }

    /// Lets the numbers go on at `next`, for a queue whose messages are all gone from the log. Writes at once: no check
    /// point waits for it.
    pub fn continue_at(&mut self, next: QueueOffset) -> Result<(), ConsumeQueueError> {
        if next <= self.max {
            return Ok(());
        }
        match self.last_unit()? {
            // Nothing to write: the first append may begin anywhere.
            None => {
                self.segments.remove_all()?;
                self.written = self.segments.units().start;
                (self.min, self.max) = (next, next);
            }
            Some(last) => {
                self.write()?;
                let gap = ConsumeQueueUnit { tags_code: ConsumeQueueUnit::GAP_TAGS, ..last };
                self.segments.write(self.max, &vec![gap; (next.0 - self.max.0) as usize])?;
                (self.written, self.max) = (next, next);
            }
        }
        Ok(())
    }

    /// What a check point keeps of this queue, all of which is in its files when this returns.
    pub fn known(&mut self) -> Result<KnownQueue, ConsumeQueueError> {
        self.write()?;
        let first = if self.min < self.max { Some(self.unit_at(self.min)?) } else { None };
        let position = |unit: Option<ConsumeQueueUnit>| unit.map_or(0, |unit| unit.physical_offset.0);
        Ok(KnownQueue {
            segments: self.segments.numbers(),
            max: self.max.0,
            first_physical: position(first),
            last_physical: position(self.last_unit()?),
        })
    }

    /// Adds up to `max_units` units from `from` on to `units`. Nothing is added outside `[min, max)`.
    pub fn read(
        &mut self,
        from: QueueOffset,
        max_units: usize,
        units: &mut Vec<ConsumeQueueUnit>,
    ) -> Result<(), ConsumeQueueError> {
        if from < self.min || from >= self.max {
            return Ok(());
        }
        let end = QueueOffset(self.max.0.min(from.0.saturating_add(max_units as u64)));
        let in_memory = self.first_unwritten();
        if from < in_memory {
            self.segments.read(from..end.min(in_memory), units)?;
        }
        if end > in_memory {
            let newest = from.0.saturating_sub(in_memory.0) as usize..(end.0 - in_memory.0) as usize;
            units.extend_from_slice(&self.unwritten[newest]);
        }
        Ok(())
    }

    /// Moves the minimum past every unit whose message lies before `log_min`. When all are gone, the minimum is
    /// the maximum: the queue is empty and keeps its numbering. The minimum never goes back.
    pub fn set_min_by(&mut self, log_min: PhysicalOffset) -> Result<(), ConsumeQueueError> {
        self.min = self.search(|unit| unit.is_filler() || unit.physical_offset < log_min)?;
        Ok(())
    }

    /// Hides the units before `offset`: their messages are too old for their topic, though the log has them.
    pub fn hide_before(&mut self, offset: QueueOffset) {
        self.min = self.min.max(offset.min(self.max));
    }

    /// Where in the commit log the first message at or behind `offset` begins; `None` when there is none.
    pub fn locate(&mut self, offset: QueueOffset) -> Result<Option<PhysicalOffset>, ConsumeQueueError> {
        let at = offset.max(self.min);
        if at >= self.max {
            return Ok(None);
        }
        Ok(Some(self.unit_at(at)?.physical_offset))
    }

    /// Deletes segments whose messages all lie before `log_min`, never the last file, and corrects the minimum.
    /// Returns how many were deleted.
    pub fn delete_before(&mut self, log_min: PhysicalOffset) -> Result<usize, ConsumeQueueError> {
        let mut deleted = 0;
        while let Some(last) = self.segments.last_of_first_segment() {
            let unit = self.segments.read_one(last)?;
            if !unit.is_filler() && unit.physical_offset >= log_min {
                break;
            }
            self.segments.remove_first()?;
            deleted += 1;
        }
        self.min = self.min.max(self.segments.units().start);
        self.set_min_by(log_min)?;
        Ok(deleted)
    }

    /// Drops units whose messages lie at or beyond `at`, for a log that was cut while the queue is in use.
    pub fn truncate(&mut self, at: PhysicalOffset) -> Result<(), ConsumeQueueError> {
        let first = self.first_unwritten();
        let kept = self.unwritten.partition_point(|unit| unit.physical_offset < at);
        self.unwritten.truncate(kept);
        self.max = first.advance(kept as u64);
        if kept == 0 {
            self.written = self.segments.truncate(at)?;
            self.max = self.written;
        }
        self.min = self.min.min(self.max);
        Ok(())
    }

    /// The offset a time stands for. `store_time` answers when the message at a position, of a size in bytes,
    /// was stored (milliseconds), or `None` when it is gone; gone messages count as older than any time.
    ///
    /// | time | `Lower` | `Upper` |
    /// |---|---|---|
    /// | before the first message | min | min |
    /// | of some messages | the first of them | the last of them |
    /// | between two messages | the later | the earlier |
    /// | after the last message | max | the last |
    pub fn offset_by_time(
        &mut self,
        timestamp: i64,
        boundary: TimeBoundary,
        mut store_time: impl FnMut(PhysicalOffset, u32) -> Option<i64>,
    ) -> Result<QueueOffset, ConsumeQueueError> {
        let mut stored_at =
            |unit: &ConsumeQueueUnit| store_time(unit.physical_offset, unit.size_bytes).unwrap_or(i64::MIN);
        match boundary {
            TimeBoundary::Lower => self.search(|unit| stored_at(unit) < timestamp),
            TimeBoundary::Upper => {
                let after = self.search(|unit| stored_at(unit) <= timestamp)?;
                Ok(QueueOffset(after.0.saturating_sub(1)).max(self.min))
            }
        }
    }

    /// Makes every appended unit durable.
    pub fn flush(&mut self) -> Result<(), ConsumeQueueError> {
        self.write()?;
        self.segments.sync()
    }

    /// Hands over what [`flush`](Self::flush) would make durable, for another thread to do it.
    pub fn take_unflushed(&mut self) -> Result<Unflushed, ConsumeQueueError> {
        self.write()?;
        self.segments.take_unflushed()
    }

    /// Closes the open files; the next use opens them again.
    pub fn close_files(&mut self) {
        self.segments.close_files();
    }

    /// Deletes the queue and its directory.
    pub fn destroy(self) -> Result<(), ConsumeQueueError> {
        self.segments.destroy()
    }

    /// The first unit in `[min, max)` for which `before` is false, or max; `before` must not turn true again.
    fn search(
        &mut self,
        mut before: impl FnMut(&ConsumeQueueUnit) -> bool,
    ) -> Result<QueueOffset, ConsumeQueueError> {
        let (mut low, mut high) = (self.min.0, self.max.0);
        // The minimum is usually still right, so it is looked at first.
        let mut middle = low;
        while low < high {
            if before(&self.unit_at(QueueOffset(middle))?) {
                low = middle + 1;
            } else {
                high = middle;
            }
            middle = low + (high - low) / 2;
        }
        Ok(QueueOffset(low))
    }
}

/// The queues that have a directory under `root` (`…/consumequeue`), by topic. Other names are passed over.
pub fn list_queues(
    files: &dyn StoreFiles,
    root: &Path,
) -> Result<BTreeMap<TopicName, Vec<QueueId>>, ConsumeQueueError> {
    let list =
        |dir: &Path| files.list(dir).map_err(|source| ConsumeQueueError::Io { path: dir.to_owned(), source });
    let mut queues = BTreeMap::new();
    for topic in list(root)?.into_iter().filter(|entry| entry.stat.is_dir) {
        let mut ids: Vec<QueueId> = list(&root.join(&topic.name))?
            .iter()
            .filter(|entry| entry.stat.is_dir)
            .filter_map(|entry| entry.name.parse().ok().map(QueueId))
            .collect();
        ids.sort();
        if !ids.is_empty() {
            queues.insert(TopicName::from(topic.name), ids);
        }
    }
    Ok(queues)
}

/// After a crash: drops the units at or beyond `at` of every queue under `root`, also of those that nobody asks for
/// today. Left alone, they would name other messages once the log has grown over the place they point to. Durable
/// when it returns; a queue that cannot be opened stays as it is, and says so when it is used.
pub fn truncate_queues(
    files: &Arc<dyn StoreFiles>,
    file_system: &dyn FileSystem,
    root: &Path,
    config: ConsumeQueueConfig,
    at: PhysicalOffset,
) -> Result<(), ConsumeQueueError> {
    for (topic, queue_ids) in list_queues(&**files, root)? {
        for queue_id in queue_ids {
            let dir = queue_dir(root, &topic, queue_id);
            if let Err(error) = ConsumeQueue::open(files.clone(), dir, config, Some(at)) {
                warn!(%topic, queue_id = queue_id.0, %error, "queue cannot be checked after the crash");
            }
        }
    }
    file_system.sync().map_err(|source| ConsumeQueueError::Io { path: root.to_owned(), source })
}

/// Where the units of a queue lie, under `root` (`…/consumequeue`).
pub fn queue_dir(root: &Path, topic: &TopicName, queue_id: QueueId) -> PathBuf {
    root.join(topic.as_str()).join(queue_id.to_string())
}

#[cfg(test)]
mod tests;
