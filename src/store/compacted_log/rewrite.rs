//! Rewrites the closed segments of a compacted log, so that of each key the latest message is left. Reads maps and
//! writes files of its own until it swaps, so that it can run beside whoever reads and appends.
//!
//! RocketMQ: `CompactionLog.compactAndReplace`.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::dirs::{CompactedDirs, CompactedSizes};
use super::latest_keys::LatestKeys;
use super::segment::{KeyedRecord, Segment, SegmentWriter, key_of};
use super::swap::{self, Swap};
use super::unit::CompactedUnit;
use super::work::WorkWriter;
use crate::protocol::message::RecordView;
use crate::types::QueueOffset;

/// A rewriting that is about to be done.
#[derive(Debug)]
pub struct Rewrite {
    pub dirs: CompactedDirs,
    pub sizes: CompactedSizes,
    /// Nobody appends to these any more.
    pub closed: Vec<Segment>,
    /// Where the first segment behind them begins.
    pub boundary: u64,
    /// Of the messages up to this one, the latest of each key are left already.
    pub compacted_to: Option<QueueOffset>,
    /// For the table of keys.
    pub memory_bytes: usize,
    /// Ends it early when it is set, with nothing changed.
    pub cancelled: Arc<AtomicBool>,
}

/// What a rewriting came to.
#[derive(Debug)]
pub struct Rewritten {
    /// What takes the place of the segments that were closed.
    pub segments: Vec<Segment>,
    pub compacted_to: Option<QueueOffset>,
    pub records_before: usize,
    pub records: usize,
    /// Not all closed segments found room in the table of keys: there is more to do.
    pub has_more: bool,
}

impl Rewrite {
    /// Waits for the disk.
    pub fn run(mut self) -> io::Result<Rewritten> {
        for segment in self.closed.iter_mut().filter(|segment| !segment.is_sealed()) {
            *segment = SegmentWriter::reopen(&self.dirs, segment)?.seal()?;
        }
        self.dirs.sync()?;
        let records_before = self.closed.iter().map(Segment::units).sum();
        let mut latest = LatestKeys::behind(self.compacted_to, self.memory_bytes);
        let newest = self.closed.last().and_then(Segment::last).map(|unit| unit.queue_offset);
        let taken = self.walk(|_, unit, record| match key_of(record) {
            Some(key) if !latest.take(key, unit.queue_offset) => ControlFlow::Break(()),
            Some(_) | None => ControlFlow::Continue(()),
        })?;
        let has_more = taken.is_break() && latest.through() > self.compacted_to;
        let mut rewritten = Rewritten {
            segments: Vec::new(),
            compacted_to: latest.through(),
            records_before,
            records: 0,
            has_more: has_more && latest.through() < newest,
        };
        let stays = |unit: &CompactedUnit, record: &RecordView<'_>| {
            key_of(record)
                .is_some_and(|key| latest.retains(key, unit.queue_offset, !record.body().is_empty()))
        };
        _ = self.walk(|_, unit, record| {
            rewritten.records += usize::from(stays(unit, record));
            ControlFlow::Continue(())
        })?;
        if rewritten.records == records_before {
            rewritten.segments = self.closed;
            return Ok(rewritten);
        }

        swap::prepare(&self.dirs)?;
        let mut work = WorkWriter::new(&self.dirs, self.sizes, 0, self.boundary);
        let mut outcome = Ok(());
        _ = self.walk(|segment, unit, record| {
            if let Some(bytes) = stays(unit, record).then(|| segment.record(unit)).flatten() {
                outcome = work.push(KeyedRecord::of(unit, bytes));
            }
            if outcome.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        outcome?;
        rewritten.segments = work.finish()?;
        let bases = |segments: &[Segment]| segments.iter().map(|segment| segment.base).collect();
        let swap = Swap { go: bases(&self.closed), come: bases(&rewritten.segments) };
        swap::commit(&self.dirs, &swap)?;
        Ok(rewritten)
    }

    /// Shows `look` every message that is closed. What cannot be read is passed over, and so left out.
    fn walk(
        &self,
        mut look: impl FnMut(&Segment, &CompactedUnit, &RecordView<'_>) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        for segment in &self.closed {
            for unit in (0..segment.units()).filter_map(|number| segment.unit(number)) {
                if self.cancelled.load(Ordering::Relaxed) {
                    return Err(io::Error::new(io::ErrorKind::Interrupted, "the broker is stopping"));
                }
                let Some(record) = segment.view(&unit) else { continue };
                if look(segment, &unit, &record).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
