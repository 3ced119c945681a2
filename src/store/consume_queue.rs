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
//! Everything here is derived from the commit log. After a crash the queue is opened with the physical offset
//! up to which it had been flushed; what lies beyond is dropped and dispatched again.

mod glance;
mod segments;
mod unit;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use glance::QueueGlance;
use segments::Segments;
pub use segments::Unflushed;
use tracing::warn;
pub use unit::{ConsumeQueueUnit, UNIT_BYTES};

use super::file::StoreFiles;
use crate::types::{PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Sizes of the files of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumeQueueConfig {
    /// Units of a segment. RocketMQ: `mappedFileSizeConsumeQueue` / 20.
    pub segment_units: u64,
}

impl Default for ConsumeQueueConfig {
    fn default() -> Self {
        Self { segment_units: 300_000 }
    }
}

/// Why a queue cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeQueueError {
    /// The disk refused; whoever dispatches tries again or stops.
    #[error("cannot access consume queue file {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Units are missing between the end of the queue and what was to be appended.
    #[error("consume queue {} ends at {end}, cannot append at {first}", dir.display())]
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
    /// The number the next unit will have.
    pub end: QueueOffset,
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
        let min = segments.units().start;
        let mut queue = Self { segments, min, max };
        queue.min = queue.search(|unit| unit.is_filler())?;
        queue.close_files();
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
        if self.max <= self.segments.units().start {
            return Ok(None);
        }
        let unit = self.segments.read_one(QueueOffset(self.max.0 - 1))?;
        Ok(Some(unit).filter(|unit| !unit.is_filler()))
    }

    /// Appends `units`, the first of which has number `first`, with one write per segment touched.
    ///
    /// Units that the queue already has are left alone. The very first append may begin anywhere: its segment
    /// is filled up to there, as in Java. After an error nothing has been appended.
    pub fn append(
        &mut self,
        first: QueueOffset,
        units: &[ConsumeQueueUnit],
    ) -> Result<AppendOutcome, ConsumeQueueError> {
        // A file without units is what an append that failed left behind; the queue may begin elsewhere.
        let begins =
            self.segments.is_empty() || (self.max == self.segments.units().start && first > self.max);
        let duplicates = match self.max.0.checked_sub(first.0) {
            _ if begins => 0,
            Some(present) => (present as usize).min(units.len()),
            None => {
                let dir = self.segments.dir().to_owned();
                return Err(ConsumeQueueError::Gap { dir, end: self.max, first });
            }
        };
        let fresh = &units[duplicates..];
        if !fresh.is_empty() {
            if begins {
                self.segments.remove_all()?;
            }
            let at = if begins { first } else { self.max };
            self.segments.write(at, fresh)?;
            self.max = at.advance(fresh.len() as u64);
            if begins {
                self.min = first;
            }
        }
        Ok(AppendOutcome { appended: fresh.len(), duplicates, end: self.max })
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
        self.segments.read(from..end, units)
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
        Ok(Some(self.segments.read_one(at)?.physical_offset))
    }

    /// Deletes segments whose messages all lie before `log_min`, never the last one, and corrects the minimum.
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
        self.max = self.segments.truncate(at)?;
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
        self.segments.sync()
    }

    /// Hands over what [`flush`](Self::flush) would make durable, for another thread to do it.
    pub fn take_unflushed(&mut self) -> Result<Unflushed, ConsumeQueueError> {
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
            if before(&self.segments.read_one(QueueOffset(middle))?) {
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
    let synced = files.create_dir_all(root).and_then(|()| files.sync_file_system(root));
    synced.map_err(|source| ConsumeQueueError::Io { path: root.to_owned(), source })
}

/// Where the units of a queue lie, under `root` (`…/consumequeue`).
pub fn queue_dir(root: &Path, topic: &TopicName, queue_id: QueueId) -> PathBuf {
    root.join(topic.as_str()).join(queue_id.to_string())
}

#[cfg(test)]
mod tests;
